"""Import latency files of other frameworks into tables, for `nas profile --import`.

Operations outside the vocabulary of blocks are skipped, with the reason.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nas import plugins, resources
from nas.blocks import Operation, Shape, parse
from nas.devices.info import DeviceInfo
from nas.errors import InputError
from nas.files import check_regular
from nas.latency.adjust import check_unit
from nas.latency.importing.common import SOURCE, Format, Reading, Skipped
from nas.latency.known_devices import IMPORTED, check_owner
from nas.latency.rows import PROVENANCES, Row, worst
from nas.latency.table import TABLE_FILE, LatencyTable, load_table
from nas.validation import explain

FORMATS: plugins.Registry[Format] = plugins.Registry(
    plugins.FORMATS,
    {
        "once-for-all": "nas.latency.importing.once_for_all:FORMAT",
        "fbnet": "nas.latency.importing.fbnet:FORMAT",
        "csv": "nas.latency.importing.plain_csv:FORMAT",
    },
    kind="nas.latency.importing.common:Format",
)
"""Formats by name; a further one is a file, named here or by an entry point of another package."""

UNKNOWN = "not stated"
MOST_BYTES = 100_000
"""Length of the beginning of a file that tells its format."""


@dataclass(frozen=True)
class Imported:
    """Outcome of an import.

    Attributes:
        table: with the rows of the folder's table and those of the file; not saved yet.
        added: number of rows that are new or replace less trustworthy ones.
        kept: number of rows of the file for which the table's own row was kept.
        skipped: entries of the file that did not become a row.
    """

    table: LatencyTable
    added: int
    kept: int
    skipped: list[Skipped]


def import_table(path: str | Path) -> tuple[list[Row], list[Skipped]]:
    """Return the rows and the skipped entries of a latency file; its content tells the format.

    Raises:
        InputError: for an unknown format or a malformed file, naming file, line or key, and reason.
    """
    reading = _read(Path(path))
    return reading.rows, reading.skipped


def import_into(path: str | Path, name: str, folder: str | Path) -> Imported:
    """Return the table of `folder`, or a new one, with the rows of the file at `path`.

    A row of the table stays, unless it was imported too or its provenance is worse than the file's.

    Args:
        path: of the file.
        name: of the device, for a new table.
        folder: of the table.

    Raises:
        InputError: as `import_table`; when no operation of the file can be imported; when the
            folder's table is of another device or precision than the file; when the file's figures
            are in another unit.
    """
    path = Path(path)
    folder = Path(folder)
    reading = _read(path)
    if not reading.rows:
        reasons = (
            f" (the first of {len(reading.skipped)} skipped entries: {reading.skipped[0]})"
            if reading.skipped
            else ""
        )
        raise InputError(f"{path}: none of its operations can be imported{reasons}")
    old = _old(folder, name, reading)
    _check_precision(path, old, reading)
    _check_unit(path, old, reading.rows)
    better = [row for row in reading.rows if _wins(row, old.rows.get(row.key))]
    rows = {**old.rows, **{row.key: row for row in better}}
    device = replace(
        old.device,
        source=_sources(old.device.source, f"imported: {reading.source}"),
        provenance=worst(row.provenance for row in rows.values()),
        date=datetime.date.today().isoformat(),
    )
    return Imported(
        replace(old, device=device, rows=rows),
        len(better),
        len(reading.rows) - len(better),
        reading.skipped,
    )


def _read(path: Path) -> Reading:
    """Read a file by what it holds, else by the ending of its name."""
    text = _beginning(path)
    for known in FORMATS.values():
        if known.holds is not None and known.holds(text):
            return known.read(path)
    ending = path.suffix.lower()
    for known in FORMATS.values():
        if ending in known.endings:
            return known.read(path)
    listed = ", ".join(
        f"{name} ({known.title})" for known in FORMATS.values() for name in known.endings
    )
    raise InputError(f"{path}: unknown ending (got '{ending}', expected one of {listed})")


def _beginning(path: Path) -> str:
    """Return the beginning of a file as text; empty where it cannot be read.

    The format's reader says what is wrong. A format of another package may be no text at all.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def _old(folder: Path, name: str, reading: Reading) -> LatencyTable:
    """Return the table of the folder, or an empty one with what the file says of its device."""
    if (folder / TABLE_FILE).is_file():
        table = load_table(folder / TABLE_FILE)
        check_owner(table.device, name, folder)
        return table
    # A table in ./latency_tables hides the shipped one of its name. So it begins as a copy: what
    # could be predicted before can be predicted after.
    shipped = resources.shipped(resources.TABLES) / name
    default = Path(resources.TABLES) / name
    if folder.resolve() == default.resolve() and (shipped / TABLE_FILE).is_file():
        return replace(load_table(shipped / TABLE_FILE), path=folder)
    fields: dict[str, Any] = dict.fromkeys(
        ("soc", "os", "runtime", "runtime_version", "compute_unit", "precision"), UNKNOWN
    )
    try:
        device = DeviceInfo(
            name=name,
            kind=IMPORTED,
            provenance="estimated",
            date=datetime.date.today().isoformat(),
            **(fields | reading.device),
        )
    except ValidationError as error:
        raise InputError(f"--device: {explain(error)}") from None
    return LatencyTable(device, {}, folder)


def _check_unit(path: Path, old: LatencyTable, rows: Sequence[Row]) -> None:
    """Raise InputError where the figures are in another unit than those of the table.

    Earlier imports do not count: theirs may be the wrong unit, which this file corrects.
    """
    own = {key: row for key, row in old.rows.items() if SOURCE not in dict(row.extra)}
    bare = replace(old, rows=own)
    pairs = []
    for row in rows:
        operation = Operation("", parse(row.kind, row.hyperparameters), Shape.parse(row.input))
        pairs.append((row.median_ms, bare.ms(operation) or 0.0))
    # Sums, as a single small operation may well be priced at a fraction of what it takes.
    known_ms = sum(known for _, known in pairs)
    if known_ms:
        check_unit(f"{path}: latency", sum(ms for ms, known in pairs if known) / known_ms)


def _check_precision(path: Path, old: LatencyTable, reading: Reading) -> None:
    stated = reading.device.get("precision")
    there = old.device.precision
    if stated and there not in (stated, UNKNOWN):
        raise InputError(
            f"{path}: precision differs from that of the table in {old.path} (got {stated},"
            f" expected {there}). Fix: --out with another folder"
        )


def _wins(new: Row, old: Row | None) -> bool:
    """Return whether a row of the file replaces the table's row of its operation."""
    # A later import replaces every imported row, so that a newer file counts.
    if old is None or SOURCE in dict(old.extra):
        return True
    return PROVENANCES.index(new.provenance) < PROVENANCES.index(old.provenance)


def _sources(old: str, new: str) -> str:
    """Return the sources with a further one; a file that is imported again is named once."""
    return old if new in old.split("; ") else "; ".join(filter(None, (old, new)))


__all__ = ["FORMATS", "Imported", "Skipped", "import_into", "import_table"]
