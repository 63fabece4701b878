"""Fine-tuning of a found network: its curve, and its accuracies once it has finished.

`nas.report.run` calls `read_fit`, `nas.report.page` draws `fits_figure`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nas.csv_files import read_columns
from nas.data.palette import colours
from nas.figures import Figure, Series, layer, lines, series_encoding, x_axis, y_axis
from nas.files import YamlFile
from nas.report.figure import STAR
from nas.report.labels import COLOURS
from nas.runs.schema import (
    FINETUNE_FILE,
    WEIGHTS_FILE,
    Amount,
    Number,
    Part,
    UsedImagesRecord,
)
from nas.tasks import metric_words
from nas.validation import validated

TEST = "test images"
"""The part of the data of a reported test, as `Accuracy.part`."""
FOLDERS = ("finetune", "finetune-scratch")
"""Default folders of `nas finetune` inside a run."""

_NETWORKS = {
    "raw": "trained",
    "ema": "moving average",
    "best": "best epoch",
    "start": "before training",
    "teacher": "teacher",
}


class _Figure(Part):
    accuracy: Number
    standard_error: Amount
    images: int
    by_class: dict[str, float | None] = Field(default_factory=dict)


class _Accuracies(Part):
    """Accuracies by network.

    Attributes:
        weights: the trained network that was kept, raw or ema.
        metric: of all accuracies.
    """

    weights: str
    metric: str = "top1"
    held_out: dict[str, Any]
    test: dict[str, Any] | None


class _Data(Part):
    """The data of a fine-tuning."""

    fingerprint: str | None = None
    classes: tuple[Any, ...] = ()


class _LeftOut(Part):
    """The number of test images that were left out, by the reason."""

    trained: int = 0
    held_out: int = 0


class FitImages(UsedImagesRecord):
    """The images that a fine-tuned network was trained on or chosen by, and those left out for it."""

    left_out_of_test: _LeftOut = _LeftOut()


class _Picture(Part):
    # Nothing else may be put into a page that is made of somebody else's run.
    file: str = Field(pattern=r"^examples/[0-9]+\.png$")
    image: int
    right: float | None


class _Examples(Part):
    part: str
    classes: tuple[int, ...]
    files: tuple[_Picture, ...]


class _Network(Part):
    name: str = ""


class _FinetuneFile(Part):
    """The file that `nas finetune` writes; accuracy and provenance are added at its end."""

    format: Literal["nas-finetune-1"]
    command: str
    start: str
    architecture: _Network = Field(default_factory=_Network)
    data: _Data | None = None
    images: FitImages | None = None
    accuracy: _Accuracies | None = None
    examples: _Examples | None = None
    provenance: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a network and its standard error, in percent.

    Attributes:
        part: the part of the data.
        images: its number of images.
        metric: as people write it.
        by_class: the metric of each class in percent by its name, None for a class on none of the
            images; empty where the metric is not one of classes.
    """

    network: str
    part: str
    accuracy: float
    standard_error: float
    images: int
    metric: str = "top-1"
    by_class: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A picture of an image, its mask and the network's answer, side by side.

    Attributes:
        source: the PNG file as a data URL.
        about: which image it is, and how many of its pixels are right.
    """

    source: str
    about: str


@dataclass(frozen=True)
class Examples:
    """The pictures of a fine-tuning.

    Attributes:
        part: the part of the data that the images are of.
        classes: names and colours of the classes that occur in them.
    """

    part: str
    classes: tuple[tuple[str, str], ...]
    pictures: tuple[Example, ...]


@dataclass(frozen=True)
class Fit:
    """One fine-tuning.

    Attributes:
        name: of its folder.
        start: inherited or scratch.
        epochs, loss, accuracy: the curve, one point per row of metrics.csv. Accuracy is in percent,
            on the augmented images of the training.
        results: accuracies of the trained networks, the start and the teacher; empty before the
            end.
        best: of the weights that were kept, on test images where there are some, else on held-out
            ones.
        provenance: the data and the length of the training, as text.
        data: fingerprint of the training images; None in older files.
        classes: number of classes.
        images: those that the network was trained on or chosen by; None before the end, and in
            older files.
        examples: pictures of its answers; None where it wrote none.
        network: name of the trained network.
    """

    name: str
    start: str
    epochs: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    results: tuple[Accuracy, ...]
    best: Accuracy | None
    provenance: str
    command: str
    data: str | None = None
    classes: int = 0
    images: FitImages | None = None
    examples: Examples | None = None
    network: str = ""


def read_fit(folder: Path) -> Fit | None:
    """Return the fine-tuning in a folder; None where there is none.

    Raises:
        InputError: for a damaged file, naming line, column or key, and reason.
    """
    path = folder / FINETUNE_FILE
    if not path.is_file():
        return None
    file = YamlFile(path)
    about = validated(file, _FinetuneFile, file.data)
    metrics = folder / "metrics.csv"
    rows = _curve(metrics) if metrics.is_file() else []
    # The weights are written last: without them the training is not finished.
    figures = about.accuracy if (folder / WEIGHTS_FILE).is_file() else None
    results = tuple(_results(file, figures)) if figures else ()
    # `_results` yields test images last, so the last entry is of these where there are any.
    kept = [
        result
        for result in results
        if figures and result.network == _NETWORKS.get(figures.weights, figures.weights)
    ]
    epochs, losses, accuracies = (
        tuple(row[key] for row in rows) for key in ("epoch", "loss", "accuracy")
    )
    return Fit(
        folder.name,
        about.start,
        epochs,
        losses,
        accuracies,
        results,
        kept[-1] if kept else None,
        about.provenance,
        about.command,
        about.data.fingerprint if about.data else None,
        len(about.data.classes) if about.data else 0,
        about.images,
        _examples(folder, about) if figures else None,
        about.architecture.name,
    )


def _curve(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a training's metrics.csv, which may still be written.

    Rows without a loss, where fp16 skipped every step, are left out.
    """
    figures = ("loss", "accuracy")  # there in every file, and empty in some rows
    rows = read_columns(path, ("epoch",), texts=figures, optional=figures, grows=True)
    return [row for row in rows if row["loss"] is not None and row["accuracy"] is not None]


def _examples(folder: Path, about: _FinetuneFile) -> Examples | None:
    """Return the pictures of a fine-tuning; those whose files are gone are left out."""
    drawn = about.examples
    if drawn is None or about.data is None:
        return None
    names = [str(name) for name in about.data.classes]
    palette = colours(len(names))
    pictures = tuple(
        Example(data_url(folder / each.file), _about(each))
        for each in drawn.files
        if (folder / each.file).is_file()
    )
    shown = tuple((names[index], palette[index]) for index in drawn.classes if index < len(names))
    return Examples(f"{drawn.part.replace('_', '-')} images", shown, pictures) if pictures else None


def _about(picture: _Picture) -> str:
    right = (
        "no pixel labelled" if picture.right is None else f"{picture.right:.1f} % of pixels right"
    )
    return f"image {picture.image + 1}: {right}"


def data_url(path: Path) -> str:
    """Return a PNG file as a URL that holds it, so that a page needs no other file."""
    return f"data:image/png;base64,{b64encode(path.read_bytes()).decode('ascii')}"


def _results(file: YamlFile, figures: _Accuracies) -> Iterator[Accuracy]:
    """Yield the accuracies of all networks on held-out and test images."""
    for part in ("held_out", "test"):
        networks: Mapping[str, Any] = getattr(figures, part) or {}
        for name, found in networks.items():
            if isinstance(found, dict):
                one = validated(file, _Figure, found, ["accuracy", part, name])
                yield Accuracy(
                    _NETWORKS.get(name, name),
                    f"{part.replace('_', '-')} images",
                    one.accuracy,
                    one.standard_error,
                    one.images,
                    metric_words(figures.metric),
                    one.by_class,
                )


def fits_figure(fits: Sequence[Fit], title: str = "Accuracy over the fine-tuning") -> Figure:
    """Return the figure: the training accuracy of each fine-tuning, and a star for its result."""
    curves = [
        Series(fit.name, COLOURS[index % len(COLOURS)], "stroke") for index, fit in enumerate(fits)
    ]
    results = [Series(f"{each.name}: result", each.colour, STAR) for each in curves]
    done = [(fit, series) for fit, series in zip(fits, results, strict=True) if fit.best]
    channels = series_encoding([*curves, *(series for _, series in done)])
    x = x_axis("epoch", scale={"zero": True})
    y = y_axis("accuracy on training images as augmented (%)", scale={"zero": False})
    epochs = [row for fit in fits for row in _epochs(fit)]
    # Points of a long training are invisible: only its line is shown.
    dots = {"type": "point", "filled": True, "size": 25, "opacity": 1 if len(epochs) < 60 else 0}
    line = {"type": "line", "strokeWidth": 1.6}
    layers = [layer(line, epochs, x=x, y=y, stroke=channels["stroke"])]
    # Points take the colours of their lines, but not the lines' symbol: a stroke cannot be filled.
    layers.append(layer(dots, epochs, x=x, y=y, fill=channels["fill"]))
    stars = [_result(fit, series) for fit, series in done]
    if stars:
        layers.append(
            layer({"type": "point", "size": 90, "opacity": 1}, stars, x=x, y=y, **channels)
        )
    note = "; ".join(
        f"{fit.name}: {fit.best.accuracy:.2f} % on {fit.best.images} {fit.best.part}"
        for fit in fits
        if fit.best
    )
    return Figure(title, {"height": 330, "layer": layers}, note)


def _epochs(fit: Fit) -> Iterator[dict[str, Any]]:
    for epoch, accuracy, loss in zip(fit.epochs, fit.accuracy, fit.loss, strict=True):
        about = (
            f"{fit.name}, epoch {epoch:.2f}",
            f"{accuracy:.2f} % of training images",
            f"loss {loss:.4g}",
        )
        yield {"x": epoch, "y": accuracy, "series": fit.name, "about": lines(about)}


def _result(fit: Fit, series: Series) -> dict[str, Any]:
    best = fit.best
    value = best.accuracy if best else None
    about = (fit.name, f"{best.accuracy:.2f} % on {best.images} {best.part}") if best else ()
    return {
        "x": max(fit.epochs, default=0.0),
        "y": value,
        "series": series.name,
        "about": lines(about),
    }
