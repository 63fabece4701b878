"""`unsupported.csv` beside a table: operations that the device could not run, with what it said."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from nas.errors import InputError
from nas.files import read_text, write_text
from nas.latency.rows import Key

UNSUPPORTED_FILE = "unsupported.csv"
_COLUMNS = ("kind", "hyperparameters", "input", "message", "date")


def read_unsupported(folder: Path) -> dict[Key, str]:
    """The message of each operation that could not run; none where there is no such file.

    Raises:
        InputError: naming file and line.
    """
    path = folder / UNSUPPORTED_FILE
    if not path.is_file():
        return {}
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    found: dict[Key, str] = {}
    for values in reader:
        if reader.line_num == 1 and tuple(values) == _COLUMNS:
            continue
        if len(values) != len(_COLUMNS) or reader.line_num == 1:
            raise InputError(f"{path}:{reader.line_num}: expected the columns {','.join(_COLUMNS)}; mend or remove it")
        found[values[0], values[1], values[2]] = values[3]
    return found


def write_unsupported(folder: Path, failed: Mapping[Key, str]) -> None:
    """Writes the file, or removes it where nothing failed."""
    path = folder / UNSUPPORTED_FILE
    if not failed:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((*key, message, date.today().isoformat()) for key, message in failed.items())
    write_text(path, text.getvalue())
