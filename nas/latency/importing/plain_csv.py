"""Read latency files from any other source, as CSV.

Columns: kind, hyperparameters (as in a table: `expansion=4;kernel=5`; those left out have their
defaults), input (`48x56x56`), median_ms, and, where known, p10_ms, p90_ms, runs, date.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.blocks import Shape, parse
from nas.csv_files import MOST_DIGITS, read_records
from nas.devices.info import Provenance, iso_date
from nas.errors import InputError
from nas.latency.importing.common import Format, Reading, Times, make_row

NAME = "CSV"
REQUIRED = ("kind", "hyperparameters", "input", "median_ms")
OPTIONAL = ("p10_ms", "p90_ms", "runs", "date")


def read(path: Path) -> Reading:
    """Read the file.

    Rows with `runs` and `date` count as measured. Others count as estimated, as their origin is
    unknown.

    Raises:
        InputError: naming file, line, column and reason.
    """
    reading = Reading(f"{path.name} ({NAME})")
    for line, record in read_records(path, REQUIRED, OPTIONAL):
        where = f"line {line}"
        try:
            shape = _shape(record["input"])
            times = _times(record)
            date = _date(record)
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        try:
            spec = parse(record["kind"], record["hyperparameters"])
            provenance: Provenance = "measured" if times.runs and date else "estimated"
            row = make_row(spec, shape, times, provenance, reading.source, date=date)
        except ValueError as error:
            reading.skip(where, str(error))
            continue
        reading.add(row, where)
    return reading


def _shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except ValueError as error:
        raise ValueError(f"input: {error}") from None


def _times(record: Mapping[str, str]) -> Times:
    # The median stands in for missing percentiles.
    median = _number("median_ms", record["median_ms"])
    p10, p90 = (
        _number(name, record[name]) if record[name] else median for name in ("p10_ms", "p90_ms")
    )
    # pandas writes 50.0 in a column that lacks some numbers.
    runs = record["runs"].removesuffix(".0") or "0"
    if not (runs.isascii() and runs.isdigit() and len(runs) <= MOST_DIGITS):
        raise ValueError(f"runs: '{runs}' is not a whole number, 0 or more")
    return Times(median, p10, p90, int(runs))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: '{text}' is not a number") from None


def _date(record: Mapping[str, str]) -> str:
    try:
        return iso_date(record["date"]) if record["date"] else ""
    except ValueError as error:
        raise ValueError(f"date: {error}") from None


def holds(text: str) -> bool:
    """Return whether a text begins with a header that has the required columns."""
    header = text.lstrip()[:1000].lower()
    return all(name in header for name in REQUIRED)


FORMAT = Format(NAME, (".csv", ".tsv"), read, holds)
