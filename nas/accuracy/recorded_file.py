"""The files of recorded scores: `scores.csv`, a row for each measured move, and `scores.yaml`, what they are from."""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from nas.accuracy.recorded import MoveName, RecordedScores, Score, wanted_keys
from nas.errors import InputError
from nas.files import YamlFile, number_in, read_text, write_text, write_yaml
from nas.space import Space
from nas.space.schema import space_from
from nas.specs import explain

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
)
_MEASURED = ("importance", "accuracy_drop", "standard_error", "loss_increase")
"""Columns that may be empty."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _ScoresFile(_Model):
    format: Literal["nas-scores-2"]
    space: dict[str, Any]
    provenance: str | list[str]
    baseline_accuracy: float | None = None
    images: PositiveInt | None = None
    supernet: str | None = None


def read_scores(path: Path) -> RecordedScores:
    """Reads a `scores.csv` and the `scores.yaml` beside it.

    Raises:
        InputError: naming file, line, column and reason.
    """
    file = YamlFile(path.with_name("scores.yaml"))
    try:
        data = _ScoresFile.model_validate(file.data)
    except ValidationError as error:
        raise file.error(error.errors(include_url=False)[0]["loc"], explain(error).split(": ", 1)[-1]) from None
    scored = space_from(file, data.space, ["space"])
    known = set(wanted_keys(scored))
    rows: dict[tuple[str, str, str], Score] = {}
    for line, record in _records(path):
        score = _score(f"{path}:{line}", record, scored, known)
        if score.key in rows:
            raise InputError(f"{path}:{line}: this move stands twice")
        rows[score.key] = score
    return RecordedScores(
        scored=scored, rows=tuple(rows.values()), path=str(path),
        notes=(data.provenance,) if isinstance(data.provenance, str) else tuple(data.provenance),
        baseline_accuracy=data.baseline_accuracy, images=data.images, supernet=data.supernet,
    )  # fmt: skip


def write_scores(scores: RecordedScores, folder: Path) -> None:
    """Writes both files; the inverse of `read_scores`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in scores.rows:
        writer.writerow(["" if (value := getattr(row, name)) is None else value for name in COLUMNS])
    write_yaml(folder / "scores.yaml", {
        "format": FORMAT, "provenance": list(scores.notes), "baseline_accuracy": scores.baseline_accuracy,
        "images": scores.images, "supernet": scores.supernet, "space": scores.scored.to_dict(),
    })  # fmt: skip
    write_text(folder / "scores.csv", text.getvalue())


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of every row."""
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise InputError(f"{path}:1: column '{missing[0]}' is missing; expected {','.join(COLUMNS)}")
        for fields in reader:
            if len(fields) != len(header):
                raise InputError(f"{path}:{reader.line_num}: {len(fields)} fields, expected {len(header)}")
            yield reader.line_num, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def _score(where: str, record: Mapping[str, str], space: Space, known: Container[tuple[str, str, str]]) -> Score:
    move, place, choice = record["move"], record["place"], record["choice"]
    if move not in get_args(MoveName):
        raise InputError(f"{where}: move: '{move}' is none of {', '.join(get_args(MoveName))}")
    score = Score(move, place, number_in(where, "cost", record["cost"]), choice, **{  # type: ignore[arg-type]
        name: number_in(where, name, record[name]) for name in _MEASURED if record[name]
    })  # fmt: skip
    if move == "narrow":
        widths = {f"stage{index}": stage.widths for index, stage in enumerate(space.stages, start=1)}
        if place not in widths:
            raise InputError(f"{where}: place: '{place}' is none of {', '.join(widths)}")
        if choice not in map(str, widths[place]):
            raise InputError(f"{where}: choice: '{choice}' is no width of {place}")
        if int(choice) == widths[place][-1] and score.cost:
            raise InputError(f"{where}: cost: {score.cost:g} for the largest width, which costs 0 by definition")
    elif score.key not in known:
        what = f"{place}{f', {choice}' if choice else ''}"
        raise InputError(f"{where}: place: the scored space has no move '{move}' at {what}")
    return score
