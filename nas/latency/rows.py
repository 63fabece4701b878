"""Read and write a table's rows (`table.csv`) and the operations that a device cannot run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from nas.blocks import BlockSpec, Shape, parse
from nas.csv_files import (
    MOST_DIGITS,
    Writer,
    as_written,
    plain,
    separator,
    strict_records,
)
from nas.devices.info import Provenance, iso_date
from nas.errors import InputError
from nas.files import MOST_MS, read_text, write_text

UNSUPPORTED_FILE = "unsupported.csv"
_COLUMNS = ("kind", "hyperparameters", "input", "message", "date")


def read_unsupported(folder: Path) -> dict[Key, str]:
    """Return the message of each operation that could not run; empty without such a file.

    Raises:
        InputError: naming file and line.
    """
    path = folder / UNSUPPORTED_FILE
    if not path.is_file():
        return {}
    return {
        (record["kind"], record["hyperparameters"], record["input"]): record["message"]
        for _, record in strict_records(path, read_text(path), _COLUMNS)
    }


def write_unsupported(folder: Path, failed: Mapping[Key, str]) -> None:
    """Write the file, or remove it where nothing failed."""
    path = folder / UNSUPPORTED_FILE
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = Writer(text)
    writer.row(_COLUMNS)
    writer.rows((*key, message, date.today().isoformat()) for key, message in failed.items())
    write_text(path, text.getvalue())


Key = tuple[str, str, str]
"""Kind, hyperparameters and input shape, as text: `Operation.key`."""

PROVENANCES: tuple[Provenance, ...] = get_args(Provenance)
"""Origins of a latency, from the most to the least trustworthy."""
ROW_PROVENANCES: tuple[Provenance, ...] = tuple(name for name in PROVENANCES if name != "priced")
"""Origins that a row can have; a price stands in for a row."""


@dataclass(frozen=True)
class Row:
    """The latency of one operation.

    Attributes:
        kind: first part of the operation's key.
        hyperparameters: second part of the key.
        input: third part of the key, the shape of the input.
        output: shape of the output, which follows from the key.
        median_ms: median latency.
        p10_ms: 10th percentile of the runs where measured, of the error otherwise; in ms.
        p90_ms: 90th percentile of the same.
        runs: number of timed runs; 0 where nothing was timed.
        provenance: measured, interpolated or estimated.
        date: ISO date of the row.
        extra: further columns of the file, as pairs of name and value.
    """

    kind: str
    hyperparameters: str
    input: str
    output: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    provenance: Provenance
    date: str
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> Key:
        return self.kind, self.hyperparameters, self.input

    def to_dict(self) -> dict[str, Any]:
        """Return the row by column, further columns last."""
        return {name: getattr(self, name) for name in COLUMNS} | dict(self.extra)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row) if field.name != "extra")


def worst(provenances: Iterable[Provenance]) -> Provenance:
    """Return the least trustworthy provenance; `measured` where there are none."""
    return max(provenances, key=PROVENANCES.index, default="measured")


def read_rows(path: str | Path) -> dict[Key, Row]:
    """Read and validate a table's CSV file.

    Raises:
        InputError: naming file, line, column and reason.
    """
    return dict(_rows(str(path), read_text(Path(path))))


# A shipped table takes 0.1 to 0.2 s, and a notebook loads the same few again and again.
@lru_cache(maxsize=16)
def _rows(path: str, text: str) -> Mapping[Key, Row]:
    """Return the rows in the text of a table's CSV file. The caller must not change them."""
    rows: dict[Key, Row] = {}
    lines: dict[Key, int] = {}
    for line, record in _records(path, text):
        try:
            row = _row(record)
            if row.key in rows:
                raise ValueError(
                    f"{row.kind}({row.hyperparameters}) on {row.input} duplicates line"
                    f" {lines[row.key]}"
                )
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        rows[row.key], lines[row.key] = row, line
    return rows


def format_rows(rows: Iterable[Row], header: bool = True) -> str:
    """Return the CSV text of these rows, from which `read_rows` returns the same rows.

    Floats keep every digit for that.
    """
    rows = list(rows)
    # Rows of one table differ in their further columns: the file has all of them.
    extra = list(dict.fromkeys(name for row in rows for name, _ in row.extra))
    text = io.StringIO()
    writer = Writer(text)
    if header:
        writer.row([*COLUMNS, *extra])
    for row in rows:
        further: Mapping[str, str] = dict(row.extra)
        writer.row(
            [*(getattr(row, name) for name in COLUMNS), *(further.get(name, "") for name in extra)]
        )
    return text.getvalue()


def _records(path: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of every line below the header, and its values by column."""
    delimiter = separator(text)
    # `strict` raises at a stray quote, which would otherwise swallow the lines up to the next one.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(
                f"{path}:1: the file is empty (expected the columns {','.join(COLUMNS)})"
            )
        # Our columns come first, in order. Further ones are the user's, and are kept (`Row.extra`).
        header = [name.strip() for name in header]
        if tuple(header[: len(COLUMNS)]) != COLUMNS or len(set(header)) != len(header):
            raise InputError(
                f"{path}:1: unknown columns (got {','.join(header)}; expected {','.join(COLUMNS)}"
                " first)"
            )
        for values in reader:
            # Editors and spreadsheets leave empty lines.
            if not any(values):
                continue
            if len(values) != len(header):
                raise InputError(
                    f"{path}:{reader.line_num}: has {len(values)} values (expected {len(header)},"
                    " as in the header)"
                )
            texts = [as_written(value) for value in values]
            own = [plain(text, delimiter) for text in texts[: len(COLUMNS)]]
            yield reader.line_num, dict(zip(header, [*own, *texts[len(COLUMNS) :]], strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: malformed CSV: {error}") from None


def _row(record: Mapping[str, str]) -> Row:
    """Return the validated row. Raises ValueError that begins with the column's name."""
    # An empty kind is that column's fault, everything else that of the hyperparameters.
    spec = _column(
        record,
        "hyperparameters" if record["kind"] else "kind",
        lambda text: _spec(record["kind"], text),
    )
    # The output follows from block and input. A row that states another one was measured on another
    # block than the one that has this text today, or edited.
    _column(record, "input", lambda text: _same(text, _output(spec, text), record["output"]))
    times = [_column(record, name, _milliseconds) for name in ("p10_ms", "median_ms", "p90_ms")]
    if times != sorted(times):
        raise ValueError(
            f"median_ms: p10, median and p90 do not ascend (got {', '.join(map(str, times))})"
        )
    return Row(
        kind=record["kind"],
        hyperparameters=record["hyperparameters"],
        input=record["input"],
        output=record["output"],
        median_ms=times[1],
        p10_ms=times[0],
        p90_ms=times[2],
        runs=_column(record, "runs", _runs),
        provenance=_column(record, "provenance", _provenance),
        date=_column(record, "date", _date),
        extra=tuple((name, value) for name, value in record.items() if name not in COLUMNS),
    )


_TEXTS = ("kind", "hyperparameters", "input", "output", "provenance", "date")


def row_from(data: Any) -> Row:
    """Return the row in an entry of a journal, with the checks of a row in a file.

    Raises:
        ValueError: naming the key.
    """
    if not isinstance(data, dict):
        raise ValueError("row: is not a mapping")
    for name in COLUMNS:
        if type(data.get(name)) not in ((str,) if name in _TEXTS else (int, float)):
            raise ValueError(f"{name}: is missing or of another type")
    # JSON has made lists of the pairs.
    extra = data.get("extra")
    pairs = isinstance(extra, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in extra
    )
    if not pairs:
        raise ValueError("extra: is not a list of pairs of texts")
    # `repr` keeps every digit.
    record = {name: data[name] if name in _TEXTS else repr(data[name]) for name in COLUMNS}
    return replace(_row(record), extra=tuple((name, value) for name, value in data["extra"]))


def _column(record: Mapping[str, str], name: str, convert: Callable[[str], Any]) -> Any:
    """Return a converted value; a ValueError of `convert` gets the column's name in front."""
    try:
        return convert(record[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


# A table has thousands of rows, but few distinct specs, shapes and dates. Each is parsed once.
@lru_cache(maxsize=4096)
def _spec(kind: str, hyperparameters: str) -> BlockSpec:
    """Return the block of a row. ValueError unless its text is the one that `str(spec)` gives."""
    spec = parse(kind, hyperparameters)
    # The text is the key by which a search finds the row. In another order, or with a default left
    # out, it would never be found.
    if str(spec) != hyperparameters:
        raise ValueError(
            f"is not in full and in order (got '{hyperparameters}', expected '{spec}')"
        )
    return spec


@lru_cache(maxsize=65536)
def _output(spec: BlockSpec, text: str) -> str:
    """Return the operation's output shape as text; ValueError where the block refuses the input."""
    shape = Shape.parse(text)
    if str(shape) != text or any(
        0 in (level.channels, level.height, level.width) for level in shape.levels
    ):
        raise ValueError(f"'{text}' is not a shape of an activation")
    if shape.layout != spec.layout:
        raise ValueError(
            f"'{text}' is not an input of {spec.kind} (got layout {shape.layout}, expected"
            f" {spec.layout})"
        )
    spec.check(shape)
    return str(spec.output_shape(shape))


def _same(text: str, output: str, stated: str) -> None:
    if output != stated:
        raise ValueError(
            f"the column output does not follow from input {text} (got '{stated}', expected"
            f" '{output}')"
        )


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= MOST_MS:
        raise ValueError(f"{text} is not a latency (expected ms, 0 or more, at most {MOST_MS:.0f})")
    return value


def _runs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise ValueError(f"'{text}' is not a whole number, 0 or more")
    return int(text)


def _provenance(text: str) -> Provenance:
    if text not in ROW_PROVENANCES:
        raise ValueError(f"is unknown (got '{text}', expected one of {', '.join(ROW_PROVENANCES)})")
    return text


@lru_cache(maxsize=4096)
def _date(text: str) -> str:
    return iso_date(text)
