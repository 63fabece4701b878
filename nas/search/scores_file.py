"""The files of recorded scores: `scores.csv`, a row for each measured move, and `scores.yaml`, what they are from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from nas.errors import InputError
from nas.files import YamlFile, read_text, write_text, write_yaml
from nas.search.scores import Score, ScoredStage, Scores
from nas.specs import explain, from_dict

FORMAT = "nas-scores-1"
COLUMNS = (
    "move",
    "stage",
    "position",
    "width",
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


class _Stage(_Model):
    widths: Annotated[list[PositiveInt], Field(min_length=1)]
    depth: PositiveInt
    local: dict[str, Any]
    global_: dict[str, Any] | None = Field(default=None, alias="global")


class _ScoresFile(_Model):
    format: Literal["nas-scores-1"]
    space: str
    provenance: str | list[str]
    stages: Annotated[list[_Stage], Field(min_length=1)]
    baseline_accuracy: float | None = None
    classes: PositiveInt | None = None
    resolution: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    images: PositiveInt | None = None
    supernet: str | None = None


def read_scores(path: Path) -> Scores:
    """Reads a `scores.csv` and the `scores.yaml` beside it.

    Raises:
        InputError: naming file, line, column and reason.
    """
    file = YamlFile(path.with_name("scores.yaml"))
    try:
        data = _ScoresFile.model_validate(file.data)
    except ValidationError as error:
        raise file.error(error.errors(include_url=False)[0]["loc"], explain(error).split(": ", 1)[-1]) from None
    stages = tuple(_stage(file, index, stage) for index, stage in enumerate(data.stages))
    rows: dict[tuple[str, int, int | None], Score] = {}
    for line, record in _records(path):
        score = _score(f"{path}:{line}", record, stages)
        if score.key in rows:
            raise InputError(f"{path}:{line}: this move stands twice")
        rows[score.key] = score
    return Scores(
        space=data.space, stages=stages, rows=tuple(rows.values()), path=str(path),
        notes=(data.provenance,) if isinstance(data.provenance, str) else tuple(data.provenance),
        baseline_accuracy=data.baseline_accuracy, classes=data.classes, images=data.images, supernet=data.supernet,
        resolution=(data.resolution[0], data.resolution[1]) if data.resolution else None,
    )  # fmt: skip


def write_scores(scores: Scores, folder: Path) -> None:
    """Writes both files; the inverse of `read_scores`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in scores.rows:
        writer.writerow(["" if (value := getattr(row, name)) is None else value for name in COLUMNS])
    stages = [{"widths": list(stage.widths), "depth": stage.depth, "local": stage.local.to_dict(),
               "global": stage.global_.to_dict() if stage.global_ else None} for stage in scores.stages]  # fmt: skip
    write_yaml(folder / "scores.yaml", {
        "format": FORMAT, "space": scores.space, "provenance": list(scores.notes),
        "baseline_accuracy": scores.baseline_accuracy, "classes": scores.classes,
        "resolution": list(scores.resolution) if scores.resolution else None, "images": scores.images,
        "supernet": scores.supernet, "stages": stages,
    })  # fmt: skip
    write_text(folder / "scores.csv", text.getvalue())


def _stage(file: YamlFile, index: int, stage: _Stage) -> ScoredStage:
    keys: list[str | int] = ["stages", index]
    widths = tuple(stage.widths)
    if list(widths) != sorted(set(widths)):
        raise file.error([*keys, "widths"], "widths must ascend")
    local = file.parse(from_dict, [*keys, "local"], stage.local)
    global_ = file.parse(from_dict, [*keys, "global"], stage.global_) if stage.global_ else None
    return ScoredStage(widths, stage.depth, local, global_)


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


def _score(where: str, record: Mapping[str, str], stages: Sequence[ScoredStage]) -> Score:
    move = record["move"]
    if move not in ("drop", "narrow", "localise"):
        raise InputError(f"{where}: move: '{move}' is none of drop, narrow, localise")
    stage = _whole(where, "stage", record["stage"])
    if not 1 <= stage <= len(stages):
        raise InputError(f"{where}: stage: {stage} is outside 1..{len(stages)}")
    scored = stages[stage - 1]
    score = Score(move, stage, _number(where, "cost", record["cost"]), **{  # type: ignore[arg-type]
        name: _number(where, name, record[name]) for name in _MEASURED if record[name]
    })  # fmt: skip
    if move == "narrow":
        width = _whole(where, "width", record["width"])
        if width not in scored.widths:
            raise InputError(f"{where}: width: {width} is no width of stage {stage}")
        if width == scored.widths[-1] and score.cost:
            raise InputError(f"{where}: cost: {score.cost:g} for the largest width, which costs 0 by definition")
        return replace(score, width=width)
    position = _whole(where, "position", record["position"])
    if not 1 <= position <= scored.depth:
        raise InputError(f"{where}: position: {position} is outside 1..{scored.depth}")
    if move == "localise" and scored.global_ is None:
        raise InputError(f"{where}: move: stage {stage} has no global block to localise")
    return replace(score, position=position)


def _whole(where: str, column: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where}: {column}: '{text}' is no whole number") from None


def _number(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {column}: '{text}' is no finite number")
    return value
