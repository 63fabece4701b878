"""The fine-tuning of a found network: its curve, and its accuracy where it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas.csv_files import read_columns
from nas.files import YamlFile
from nas.report.pictures import figure_of, write_picture
from nas.runs.schema import FINETUNE_FILE, WEIGHTS_FILE, Part
from nas.validation import validated

FOLDERS = ("finetune", "finetune-scratch")
"""Where in a run folder `nas finetune` works by default."""

_NETWORKS = {"raw": "trained", "ema": "moving average", "start": "before training", "teacher": "teacher"}


class _Judged(Part):
    accuracy: float
    standard_error: float
    images: int


class _Accuracies(Part):
    """By network; `weights` is the trained one that was kept."""

    weights: str
    held_out: dict[str, Any]
    test: dict[str, Any] | None


class _Data(Part):
    """What was trained on."""

    fingerprint: str | None = None
    classes: tuple[Any, ...] = ()


class _FinetuneFile(Part):
    """What `nas finetune` writes; accuracy and provenance once it is done."""

    format: Literal["nas-finetune-1"]
    command: str
    start: str
    data: _Data | None = None
    accuracy: _Accuracies | None = None
    provenance: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 of a network and its standard error, in percent, over so many images of a part of the data."""

    network: str
    part: str
    accuracy: float
    standard_error: float
    images: int


@dataclass(frozen=True)
class Fit:
    """One fine-tuning.

    Attributes:
        name: of its folder.
        start: inherited or scratch.
        epochs, loss, accuracy: the curve, a point a row of metrics.csv; accuracy in percent, on the images that it
            was trained with, augmented.
        results: what it came to, and what it began with; empty where it is not done.
        best: of the weights that were kept, on test images where there are some, else on held-out ones.
        provenance: trained on what and how long, in words.
        data: fingerprint of the training images; None in older files.
        classes: how many there are.
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


def read_fit(folder: Path) -> Fit | None:
    """A fine-tuning's folder; None where there is none.

    Raises:
        InputError: for a damaged file, naming line, column or key, and reason.
    """
    path = folder / FINETUNE_FILE
    if not path.is_file():
        return None
    file = YamlFile(path)
    about = validated(file, _FinetuneFile, file.data)
    metrics = folder / "metrics.csv"
    rows = read_columns(metrics, ("epoch", "loss", "accuracy")) if metrics.is_file() else []
    # The weights are written last.
    judged = about.accuracy if (folder / WEIGHTS_FILE).is_file() else None
    results = tuple(_results(file, judged)) if judged else ()
    kept = [result for result in results if judged and result.network == _NETWORKS.get(judged.weights, judged.weights)]
    epochs, losses, accuracies = (tuple(row[key] for row in rows) for key in ("epoch", "loss", "accuracy"))
    return Fit(
        folder.name, about.start, epochs, losses, accuracies, results, kept[-1] if kept else None, about.provenance,
        about.command, about.data.fingerprint if about.data else None, len(about.data.classes) if about.data else 0,
    )  # fmt: skip


def _results(file: YamlFile, judged: _Accuracies) -> Iterator[Accuracy]:
    for part in ("held_out", "test"):
        networks: Mapping[str, Any] = getattr(judged, part) or {}
        for name, found in networks.items():
            if isinstance(found, dict):
                one = validated(file, _Judged, found, ["accuracy", part, name])
                yield Accuracy(_NETWORKS.get(name, name), f"{part.replace('_', '-')} images", one.accuracy,
                               one.standard_error, one.images)  # fmt: skip


def draw_fits(fits: Sequence[Fit], title: str, path: str | Path) -> None:
    """Writes the picture as PNG: the training accuracy of each fine-tuning, and a star for what it came to."""
    figure, axes = figure_of(8.0, 4.2)
    for fit in fits:
        (line,) = axes.plot(fit.epochs, fit.accuracy, label=fit.name)
        if fit.best:
            axes.scatter([max(fit.epochs, default=0.0)], [fit.best.accuracy], marker="*", s=90, color=line.get_color(),
                         zorder=3)  # fmt: skip
    axes.set(xlabel="epoch", ylabel="accuracy on training images as augmented (%)")
    done = (f"{fit.name}: {fit.best.accuracy:.2f} % on {fit.best.images} {fit.best.part}" for fit in fits if fit.best)
    write_picture(figure, title, "; ".join(done), path)
