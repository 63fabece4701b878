"""The files of a run folder as checked data: `run.yaml`, CSV files, and what later commands put beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nas.errors import InputError
from nas.files import YamlFile, number_in, read_text
from nas.search.run import FORMAT
from nas.specs import explain


class Part(BaseModel):
    """A part of a YAML file; keys that are not named are ignored, so that files may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class UsedFile(Part):
    """A file that went into a run, with its checksum; empty for what was made in memory."""

    file: str = ""
    sha256: str = ""


class UsedSpace(UsedFile):
    name: str
    resolution: tuple[int, int]
    classes: int


class UsedTable(UsedFile):
    """`expected_error` is in percent."""

    device: str
    soc: str
    os: str
    runtime: str
    provenance: str
    expected_error: float | None
    expected_error_source: str


class UsedScores(UsedFile):
    provenance: str


class ScoreBy(Part):
    """What slimming judged its moves by: table, alpha or evaluate; `judge` says in words what evaluated members."""

    name: str = "table"
    judge: str = ""


class Target(Part):
    """`latency_ms` is None for a search without a limit on latency; the others are its further limits."""

    latency_ms: float | None
    reason: str
    macs: float | None = None
    params: float | None = None
    memory_mb: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits beside latency, by name."""
        given = {"macs": self.macs, "params": self.params, "memory_mb": self.memory_mb}
        return {name: most for name, most in given.items() if most is not None}


class Engine(Part):
    name: str
    seed: int | None = None


class Result(Part):
    """The found member: predicted latency in ms, expected accuracy drop in points, and its shape.

    `accuracy` in percent and `drop` in points are of the supernet's slice, where the search evaluated members.
    """

    latency_ms: float
    cost: float
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attention: tuple[int, ...]
    params: int
    macs: int
    accuracy: float | None = None
    drop: float | None = None


class About(Part):
    """One search on one device, as its `run.yaml` tells."""

    format: Literal["nas-run-1"]
    command: str
    date: str
    versions: dict[str, str]
    supernet: str | None = None
    space: UsedSpace
    table: UsedTable
    scores: UsedScores
    score_by: ScoreBy = ScoreBy()
    target: Target
    engine: Engine
    result: Result


Model = TypeVar("Model", bound=BaseModel)


def validated(file: YamlFile, model: type[Model], data: Any, keys: Sequence[str | int] = ()) -> Model:
    """`data`, which stands at `keys` of `file`, as a model.

    Raises:
        InputError: naming file, line, key and reason.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        where = error.errors(include_url=False)[0]["loc"]
        reason = explain(error).removeprefix(f"{'.'.join(map(str, where))}: ")
        raise file.error([*keys, *where], reason) from None


def read_about(folder: Path) -> dict[str, About]:
    """The searches of a run folder by device; one, or one a device where several were searched together.

    Of several devices' searches the result is the member that keeps all targets, or each device's best where there is
    none.

    Raises:
        InputError: where there is no finished run, or its run.yaml is damaged.
    """
    path = folder / "run.yaml"
    if not path.is_file():
        what = "no finished run" if folder.is_dir() else "no run folder"
        raise InputError(f"{folder}: {what} here (there is no run.yaml); `nas search` writes one")
    file = YamlFile(path)
    if file.data.get("format") != FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{FORMAT}'; this is no run")
    if "devices" not in file.data:
        about = validated(file, About, file.data)
        return {about.table.device: about}
    return {about.table.device: about for about in _several(file)}


def _several(file: YamlFile) -> list[About]:
    devices, rows = file.data["devices"], file.data.get("result")
    if not isinstance(devices, list) or not isinstance(rows, dict):
        raise file.error(["devices"], "expected a list of devices, and the result as a mapping")
    found = []
    for index, entry in enumerate(devices):
        keys: list[str | int] = ["devices", index]
        shared = {key: file.data.get(key) for key in ("format", "command")}
        data = {**(entry if isinstance(entry, dict) else {}), **shared}
        name = validated(file, UsedTable, data.get("table"), [*keys, "table"]).device
        member = "best on all" if "best on all" in rows else f"best on {name}"
        row = rows.get(member)
        times = row.get("latency_ms") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not isinstance(times, dict):
            raise file.error(["result", member], "expected the found member with its latencies")
        found.append(validated(file, About, {**data, "result": {**row, "latency_ms": times.get(name)}}, keys))
    return found


def read_csv(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of a CSV file: `numbers` and `optional` as floats, `texts` as they are.

    An `optional` column may be missing or have empty fields; there the value is None.

    Raises:
        InputError: naming file, line, column and reason.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        missing = [name for name in (*texts, *numbers) if name not in header]
        if missing:
            raise InputError(f"{path}:1: column '{missing[0]}' is missing; found: {','.join(header) or 'nothing'}")
        for fields in reader:
            where = f"{path}:{reader.line_num}"
            if len(fields) != len(header):
                raise InputError(f"{where}: {len(fields)} fields, the header names {len(header)}; the file is damaged")
            record = dict(zip(header, fields, strict=True))
            row: dict[str, Any] = {name: record[name] for name in texts}
            row |= {name: number_in(where, name, record[name]) for name in numbers}
            rows.append(row | {n: number_in(where, n, record[n]) if record.get(n) else None for n in optional})
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None
    return rows
