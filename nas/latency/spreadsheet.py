"""CSV files that people write or edit, often with a spreadsheet: what readers of figures, tables and imports share."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nas.errors import InputError
from nas.files import read_text


def read_records(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the values of every line below the header, by column.

    Spreadsheets in many countries separate by semicolons and write 1,5 for 1.5; both are read. Blanks around values and
    a byte order mark are dropped. A column that a line or the file lacks is empty.

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
                    f"{path}:{reader.line_num}: too many values (got {len(stripped)}, expected {len(header)}). "
                    "Fix: write decimals with a point, as 1.5"
                )
            elif any(stripped):
                record = dict.fromkeys((*required, *optional), "") | dict(zip(header, stripped, strict=False))
                yield reader.line_num, {name: plain(value, delimiter) for name, value in record.items()}
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None
    if header is None:
        _check_header(path, [], required, optional)


def _check_header(path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> None:
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
