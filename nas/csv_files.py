"""CSV readers, a lenient and a strict one, for tables, scores, results and users' own files.

`read_records` reads files that people write or export from a spreadsheet, which may start with a
byte-order mark. `read_strict` and `read_columns` read files that nas wrote itself. `Writer` writes
all of them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from nas.errors import InputError
from nas.files import number_in, read_text


def read_records(
    path: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: value}) for every line below the header.

    Spreadsheets in many countries separate by semicolons or tabs and write 1,5 for 1.5. Both are
    read, as are columns without a name (a number per line) and a first line `sep=;`. Blanks around
    values and a byte-order mark are dropped. A column that a line or the file lacks is empty. Empty
    lines are skipped.

    Raises:
        InputError: naming file, line and reason; also for a column that is neither required nor
            optional, whose figures would be left out silently.
    """
    text = read_text(path)
    delimiter = separator(text)
    # `strict` raises at a stray quote, which would otherwise swallow the lines up to the next one.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    header: list[str] | None = None
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            if not any(stripped) or (
                header is None and _SEPARATOR.fullmatch(delimiter.join(values))
            ):
                continue
            where = f"{path}:{reader.line_num}"
            if header is None:
                header = _header(where, stripped, required, optional)
                continue
            while len(stripped) > len(header) and not stripped[-1]:
                stripped.pop()
            # A decimal comma in a file that separates by commas splits one number into two values.
            # Dropping the surplus would silently read 1,5 as 1.
            if len(stripped) > len(header):
                fix = (
                    "write decimals with a point, as 1.5"
                    if delimiter == ","
                    else f"put values that have a {delimiter!r} into double quotes"
                )
                raise InputError(
                    f"{where}: too many values (got {len(stripped)}, expected {len(header)})."
                    f" Fix: {fix}"
                )
            # Lines may be shorter than the header, as spreadsheets drop empty values at the end of
            # a line.
            record = dict(zip(header, stripped, strict=False))
            yield (
                reader.line_num,
                {name: plain(record.get(name, ""), delimiter) for name in (*required, *optional)},
            )
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None
    # An empty file has no header either: report its first required column as missing.
    if header is None:
        _header(f"{path}:1", [], required, optional)


def read_strict(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: value}) for every line of a file that nas wrote.

    Raises:
        InputError: naming file and line, for a missing column, or for a line whose number of values
            differs from the header's.
    """
    return strict_records(path, read_text(path), required)


def strict_records(
    path: Path, text: str, required: Sequence[str], short: bool = False
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, {column: value}) for every line of the text of a file that nas wrote.

    Args:
        path: of the file, for messages.
        text: its content.
        required: columns that the header must have.
        short: whether a line may have fewer values than the header, as a kill of an older version
            left it. The missing ones are empty.

    Raises:
        InputError: as `read_strict`.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [name for name in required if name not in header]
        if missing:
            raise InputError(
                f"{path}:1: column '{missing[0]}' is missing (expected {','.join(required)})"
            )
        twice = [name for name in header if header.count(name) > 1] if len(header) < 100 else []
        if twice or len(header) >= 100:
            reason = f"column '{twice[0]}' is a duplicate" if twice else f"{len(header)} columns"
            raise InputError(f"{path}:1: {reason} (expected {','.join(required)})")
        for values in reader:
            if len(values) > len(header) or (len(values) < len(header) and not short):
                raise InputError(
                    f"{path}:{reader.line_num}: has {len(values)} values (expected"
                    f" {len(header)}, as the header)"
                )
            texts = map(as_written, values)
            yield (
                reader.line_num,
                dict.fromkeys(header, "") | dict(zip(header, texts, strict=False)),
            )
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def read_columns(
    path: Path,
    numbers: Sequence[str],
    texts: Sequence[str] = (),
    optional: Sequence[str] = (),
    optional_texts: Sequence[str] = (),
    grows: bool = False,
) -> list[dict[str, Any]]:
    """Return the rows of a file that nas wrote, with numbers parsed.

    Args:
        numbers: columns that are returned as floats.
        texts: columns that are returned as text.
        optional: columns of numbers that may be missing or empty; the value is None then.
        optional_texts: columns of text that may be missing; the value is empty then.
        grows: whether rows are appended to the file. What a full disk or a running command has left
            of the last line, and a file without its header yet, are no damage then.

    Raises:
        InputError: naming file, line, column and reason.
    """
    text = read_text(path)
    if grows:
        text = text[: text.rfind("\n") + 1]
        if not text:
            return []
    rows = []
    for line, record in strict_records(path, text, (*texts, *numbers)):
        where = f"{path}:{line}"
        row: dict[str, Any] = {name: record[name] for name in texts}
        row |= {name: record.get(name, "") for name in optional_texts}
        row |= {name: number_in(where, name, record[name]) for name in numbers}
        row |= {
            name: number_in(where, name, record[name]) if record.get(name) else None
            for name in optional
        }
        rows.append(row)
    return rows


def _header(
    where: str, names: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> list[str]:
    """Return the names of the columns, in the case that the reader of the file expects.

    Raises:
        InputError: for a required column that is missing, and for one that is unknown or a duplicate.
    """
    known = {name.lower(): name for name in (*required, *optional)}
    header = [known.get(name.lower(), name) for name in names]
    expected = ", ".join(required)
    if optional:
        expected += f" and, where known, {', '.join(optional)}"
    for column in required:
        if column not in header:
            got = ", ".join(filter(None, names))[:100] or "none"
            raise InputError(
                f"{where}: column '{column}' is missing (got {got}; expected {expected})"
            )
    for column in filter(None, header):
        if column not in known.values():
            raise InputError(f"{where}: unknown column '{column[:40]}' (expected {expected})")
        if header.count(column) > 1:
            raise InputError(f"{where}: column '{column}' is a duplicate")
    return header


MOST_DIGITS = 15
"""Digits of the largest count: every whole number of so many is exact as a float too."""


def count_in(where: str, column: str, text: str, what: str = "a whole number") -> int:
    """Return a whole number, 0 or more, of a CSV file.

    Args:
        where: file and line, for the message.
        what: the number in words.

    Raises:
        InputError: naming `where` and the column.
    """
    # `int` alone would take ' 5', '1_000', '-1' and other alphabets' digits.
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        reason = f"{column}: '{text[:40]}' is not {what}, at least 0"
        raise InputError(f"{where}: {reason}", reason=reason)
    return int(text)


_FORMULA = re.compile(r"'*[=+\-@\t\n]")
"""Beginning of a cell that a spreadsheet takes for a formula, which may run a program.

A text that begins so behind apostrophes gets a further one, so that reading takes off just that."""


class Writer:
    """Writes CSV that a spreadsheet opens without running any of its cells.

    A name or a message from a file may begin as a formula does. Such a text gets an apostrophe in
    front, by which spreadsheets know a text, and `read_strict` takes it off again. Numbers stay as
    they are, also negative ones.
    """

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def row(self, values: Iterable[Any]) -> None:
        """Write one row."""
        self._writer.writerow([harmless(value) for value in values])

    def rows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write several rows."""
        for values in rows:
            self.row(values)


def harmless(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; numbers come back as they are."""
    if not isinstance(value, str):
        return value
    # `csv` writes a carriage return without quotes, and a reader ends the row at it.
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def as_written(value: str) -> str:
    """Return the text of which `harmless` made this cell."""
    return value[1:] if value.startswith("'") and _FORMULA.match(value) else value


_SEPARATOR = re.compile(r"sep=([,;\t])", re.IGNORECASE)
"""First line by which a spreadsheet is told the separator."""


def separator(text: str) -> str:
    """Return the separator of a CSV text, a comma, a semicolon or a tab, from its first line."""
    first = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    stated = _SEPARATOR.fullmatch(first)
    # Of equally frequent ones the first: a header of one column separates nothing.
    return stated[1] if stated else max(",;\t", key=first.count)


def plain(value: str, delimiter: str) -> str:
    """Return a value without surrounding blanks, and 1,5 as 1.5 unless commas separate values."""
    value = value.strip()
    # Only a value that is a number as a whole: other texts may contain commas.
    number = delimiter != "," and re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", value)
    return value.replace(",", ".") if number else value
