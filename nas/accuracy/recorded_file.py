"""The files of recorded scores, which `nas train` writes and `nas.accuracy.load_scores` reads.

scores.csv     one row per measured move
scores.yaml    the space, the images and the weights that they were measured on
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from nas.accuracy.recorded import RecordedScores
from nas.accuracy.single_moves import MeasuredWith, MoveName, Score, wanted_keys
from nas.csv_files import Writer, count_in, read_strict
from nas.errors import InputError
from nas.files import YamlFile, number_in, write_text, write_yaml
from nas.space import Space
from nas.space.place import Place
from nas.space.schema import space_from
from nas.tasks.classify import difference_error
from nas.validation import validated

FORMAT = "nas-scores-2"
COLUMNS = (
    "move",
    "place",
    "choice",
    "importance",
    "accuracy_drop",
    "standard_error",
    "cost",
    "loss_increase",
    "lost",
    "gained",
)
_NEW = ("lost", "gained")
"""Columns of counts, which older files lack."""
_MEASURED = ("importance", "accuracy_drop", "standard_error", "loss_increase")
"""Columns of numbers that may be empty."""
WEIGHTS_FILE = "supernet.safetensors"
"""File of the weights that scores were measured on, in the folder of a supernet."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _MeasuredWith(_Model):
    weights: str
    data: str
    images: PositiveInt
    calibration_images: NonNegativeInt
    widths: PositiveInt
    precision: str
    date: str


class _ScoresFile(_Model):
    format: Literal["nas-scores-2"]
    space: dict[str, Any]
    provenance: str | list[str]
    baseline_accuracy: float | None = Field(None, ge=0, le=100)
    images: PositiveInt | None = None
    supernet: str | None = None
    metric: Literal["top1", "miou"] = "top1"
    data: str | None = None
    measured_with: _MeasuredWith | None = None


def read_scores(path: Path, check_weights: bool = True) -> RecordedScores:
    """Read a `scores.csv` and the `scores.yaml` beside it.

    Args:
        path: path of `scores.csv`.
        check_weights: whether to refuse scores of other weights than those in the same folder.

    Raises:
        InputError: with file, line, column and reason.
    """
    file = YamlFile(path.with_name("scores.yaml"))
    data = validated(file, _ScoresFile, file.data)
    scored = space_from(file, data.space, ["space"])
    measured_with = MeasuredWith(**data.measured_with.model_dump()) if data.measured_with else None
    if check_weights and measured_with is not None:
        check_current(file, measured_with)
    known = set(wanted_keys(scored, every=True))
    rows: dict[tuple[str, str, str], Score] = {}
    lines: dict[tuple[str, str, str], int] = {}
    for line, record in _records(path):
        score = _score(f"{path}:{line}", record, scored, known, data.images)
        if score.key in rows:
            raise InputError(
                f"{path}:{line}: this move duplicates line {lines[score.key]}. Fix: remove one of"
                " the two lines"
            )
        rows[score.key] = score
        lines[score.key] = line
    return RecordedScores(
        scored=scored,
        rows=tuple(rows.values()),
        path=str(path),
        notes=(data.provenance,) if isinstance(data.provenance, str) else tuple(data.provenance),
        baseline_accuracy=data.baseline_accuracy,
        images=data.images,
        supernet=data.supernet,
        metric=data.metric,
        data=data.data,
        measured_with=measured_with,
    )


def check_current(file: YamlFile, measured_with: MeasuredWith) -> None:
    """Raise InputError unless the scores were measured on the weights in their folder.

    Only the folder of a supernet has weights. Shipped scores have none and are not checked.
    """
    weights = file.path.with_name(WEIGHTS_FILE)
    if weights.exists() and weights_digest(weights) != measured_with.weights:
        raise file.error(
            ["measured_with", "weights"],
            f"the scores were measured on other weights than those in {weights}. Fix:"
            f" {_training_command(file)}",
        )


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a safetensors file with a sorted header.

    safetensors writes the keys of its metadata in random order, so that equal weights may give
    different files. The digest is cached per process by size and modification time.
    """
    status = path.stat()
    return _digest(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        # A safetensors file is the length of its header (8 bytes, little endian), the header as
        # JSON, and the tensors.
        length = int.from_bytes(file.read(8), "little")
        if length < size:
            header = file.read(length)
            # The bytes of a file that is not a safetensors file are hashed as they are.
            with contextlib.suppress(ValueError):
                header = json.dumps(json.loads(header), sort_keys=True).encode()
            digest.update(header)
        else:
            file.seek(0)
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _training_command(scores: YamlFile) -> str:
    """Return the command that scores the folder's weights again, as recorded where it is."""
    description = scores.path.with_name("supernet.yaml")
    command = YamlFile(description).data.get("command") if description.exists() else None
    name = scores.data["space"]["name"]
    return str(command or f"nas train --space {name} --out {scores.path.parent}")


def write_scores(scores: RecordedScores, folder: Path) -> None:
    """Write `scores.csv` and `scores.yaml`, the inverse of `read_scores`."""
    text = io.StringIO()
    writer = Writer(text)
    writer.row(COLUMNS)
    for row in scores.rows:
        writer.row("" if (value := getattr(row, name)) is None else value for name in COLUMNS)
    about: dict[str, Any] = {
        "format": FORMAT,
        "provenance": list(scores.notes),
        "metric": scores.metric,
        "baseline_accuracy": scores.baseline_accuracy,
        "images": scores.images,
        "supernet": scores.supernet,
    }
    if scores.data is not None:
        about["data"] = scores.data
    if scores.measured_with is not None:
        about["measured_with"] = asdict(scores.measured_with)
    write_yaml(folder / "scores.yaml", {**about, "space": scores.scored.to_dict()})
    write_text(folder / "scores.csv", text.getvalue())


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and fields of every row of `scores.csv`."""
    return read_strict(path, [name for name in COLUMNS if name not in _NEW])


def _score(
    where: str,
    record: Mapping[str, str],
    space: Space,
    known: Container[tuple[str, str, str]],
    images: int | None,
) -> Score:
    move = record["move"]
    place = record["place"]
    choice = record["choice"]
    if move not in get_args(MoveName):
        raise InputError(f"{where}: move: '{move}' is not one of {', '.join(get_args(MoveName))}")
    measured: dict[str, Any] = {
        name: number_in(where, name, record[name]) for name in _MEASURED if record[name]
    }
    counts: dict[str, Any] = {
        name: count_in(where, name, record[name], "a whole number of images")
        for name in _NEW
        if record.get(name)
    }
    score = Score(
        move,  # type: ignore[arg-type]
        place,
        number_in(where, "cost", record["cost"]),
        choice,
        **measured,
        **counts,
    )
    score = _with_honest_error(where, score, images)
    # Recorded widths may be a selection (`variants`), so they are checked one by one. All other moves
    # are rows that the space must have.
    if move == "narrow":
        widths = {str(Place.whole(index)): stage.widths for index, stage in enumerate(space.stages)}
        if place not in widths:
            raise InputError(f"{where}: place: '{place}' is not one of {', '.join(widths)}")
        if choice not in map(str, widths[place]):
            raise InputError(f"{where}: choice: '{choice}' is not a width of {place}")
        if int(choice) == widths[place][-1] and score.cost:
            raise InputError(
                f"{where}: cost: {score.cost:g} for the largest width, which costs 0 by definition"
            )
    elif score.key not in known:
        what = f"{place}{f', {choice}' if choice else ''}"
        raise InputError(f"{where}: place: the scored space has no move '{move}' at {what}")
    return score


def _with_honest_error(where: str, score: Score, images: int | None) -> Score:
    """Return the score with a positive standard error; raise InputError for a negative one.

    Older versions recorded 0 where no image changed. That is replaced by `difference_error`, the
    standard error of a paired difference on so many images.
    """
    if score.standard_error is None:
        return score
    if score.standard_error < 0:
        raise InputError(
            f"{where}: standard_error: {score.standard_error:g} is negative, expected at least 0"
        )
    if score.standard_error > 0 or images is None:
        return score
    return replace(
        score, standard_error=round(difference_error(score.lost or 0, score.gained or 0, images), 3)
    )
