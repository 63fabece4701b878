"""CSV files that people write, often with a spreadsheet: `nas.latency.adjust` and others read them here."""

from __future__ import annotations

import csv
import io
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
    first = text.partition("\n")[0]
    semicolons = first.count(";") > first.count(",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if semicolons else ",", skipinitialspace=True)
    header: list[str] | None = None
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            if header is None:
                header = stripped
                _check_header(path, header, required, optional)
            elif any(stripped):
                record = dict.fromkeys((*required, *optional), "") | dict(zip(header, stripped, strict=False))
                yield (
                    reader.line_num,
                    {
                        name: value.replace(",", ".") if semicolons and _is_number(value) else value
                        for name, value in record.items()
                    },
                )
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None
    if header is None:
        _check_header(path, [], required, optional)


def _check_header(path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> None:
    for column in required:
        if column not in header:
            expected = ", ".join(required) + "".join(f", {name} (if any)" for name in optional)
            raise InputError(f"{path}:1: column '{column}' is missing; expected: {expected}")


def _is_number(text: str) -> bool:
    return text.replace(",", "", 1).replace(".", "", 1).isdigit()
