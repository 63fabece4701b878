"""CSV files: those of nas, and those that people write or edit with a spreadsheet, which marks
their byte order."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.errors import InputError
from nas.files import number_in, read_text


def read_records(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the values of every line below the header, by column.

    Spreadsheets in many countries separate by semicolons and write 1,5 for 1.5; both are read.
    Blanks around values and a byte order mark are dropped. A column that a line or the file lacks
    is empty.

    Raises:
        InputError: naming file, line and reason.
    """
    text = read_text(path)
    delimiter = separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    header: list[str] | None = None
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            if header is None:
                header = stripped
                _check_header(path, header, required, optional)
            elif len(stripped) > len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: too many values (got {len(stripped)}, expected"
                    f" {len(header)}). Fix: write decimals with a point, as 1.5"
                )
            elif any(stripped):
                record = dict.fromkeys((*required, *optional), "") | dict(
                    zip(header, stripped, strict=False)
                )
                yield (
                    reader.line_num,
                    {name: plain(value, delimiter) for name, value in record.items()},
                )
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None
    if header is None:
        _check_header(path, [], required, optional)


def read_strict(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the values of every line below the header of a file that nas wrote.

    Raises:
        InputError: naming file and line, where a line has another number of values than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in required if name not in header]
        if missing:
            raise InputError(
                f"{path}:1: column '{missing[0]}' is missing; expected {','.join(required)}"
            )
        for values in reader:
            if len(values) != len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: {len(values)} fields, the header names"
                    f" {len(header)}"
                )
            yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def read_columns(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the rows of a file that nas wrote: `numbers` and `optional` as floats, `texts` as they
    are.

    An `optional` column may be missing or have empty fields; there the value is None.

    Raises:
        InputError: naming file, line, column and reason.
    """
    rows = []
    for line, record in read_strict(path, (*texts, *numbers)):
        where = f"{path}:{line}"
        row: dict[str, Any] = {name: record[name] for name in texts}
        row |= {name: number_in(where, name, record[name]) for name in numbers}
        row |= {
            name: number_in(where, name, record[name]) if record.get(name) else None
            for name in optional
        }
        rows.append(row)
    return rows


def _check_header(
    path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> None:
    for column in required:
        if column not in header:
            expected = ", ".join(required) + "".join(f", {name} (if any)" for name in optional)
            raise InputError(f"{path}:1: column '{column}' is missing; expected: {expected}")


def separator(text: str) -> str:
    """Return what separates the columns of a CSV text, by its header: a comma or a semicolon."""
    header = text.partition("\n")[0]
    return ";" if header.count(";") > header.count(",") else ","


def plain(value: str, delimiter: str) -> str:
    """Return a value without blanks around it, and 1,5 as 1.5 where semicolons separate."""
    value = value.strip()
    number = delimiter == ";" and re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", value)
    return value.replace(",", ".") if number else value
