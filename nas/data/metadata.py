"""Labels of images that lie beside a table of them: metadata.csv, metadata.jsonl, as the hub has it.

`nas.data.folders` calls `read_metadata`. Documented at
https://huggingface.co/docs/hub/datasets-image: a column `file_name` with paths relative to the
table, and further columns, of which one holds the labels.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from nas.csv_files import separator
from nas.data.columns import Column, label_column, split_column
from nas.data.layout import Arranged, Item
from nas.data.listing import Folder, stamp_of
from nas.data.notes import counted, shown
from nas.data.splits import TEST, TRAIN, chosen_test, split_files, split_named
from nas.errors import InputError
from nas.files import check_regular

METADATA_FILES = ("metadata.csv", "metadata.jsonl")
_FILE_NAME = "file_name"


@dataclass
class _Row:
    """A row of a table: its image, with the other columns."""

    path: str
    values: dict[str, Any]


@dataclass
class _Table:
    """The rows of all tables of a folder, and their columns in order."""

    rows: list[_Row] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)


def metadata_files(root: Folder) -> list[str]:
    """Return the relative paths of the tables in a listed folder."""
    return sorted(
        folder.join(name)
        for folder in root.walk()
        for name in folder.others
        if name.lower() in METADATA_FILES
    )


def read_metadata(data: str, path: Path, root: Folder, files: Sequence[str]) -> Arranged | None:
    """Return the splits and labels that tables give; None where they have no labels.

    Args:
        data: the data set by name, for messages.
        path: the folder.
        root: its listing.
        files: relative paths of the tables.

    Raises:
        InputError: for a malformed table, and for columns that cannot be recognised in a folder
            whose images have no class folders.
    """
    table = _Table()
    # Class folders have the labels, and the tables have captions, boxes, or something else.
    has_classes = any(folder.filled for folder in root.filled) or len(root.filled) > 1
    there = {image for image, _ in root.images()}
    for file in files:
        for values in _rows(f"data {data}: {file}", path / file):
            if _FILE_NAME not in values and has_classes:
                return None
            name = values.pop(_FILE_NAME, None)
            if not isinstance(name, str):
                found = ", ".join(map(str, values))
                raise InputError(
                    f"data {data}: {file}: has a row without {_FILE_NAME} (found: {found}). Fix: give"
                    f" each row the path of its image in a column '{_FILE_NAME}'"
                )
            table.rows.append(_Row(_relative(file, name, there), values))
            table.columns.update(dict.fromkeys(values))
    if table.rows and not any(row.path in there for row in table.rows):
        raise InputError(
            f"data {data}: {file}: none of its {counted(len(table.rows), 'image')} is there"
            f" ({shown([row.path for row in table.rows])}). Fix: give paths relative to the table"
        )
    try:
        label = _label(data, files[0], table)
    except InputError:
        if has_classes:
            return None
        raise
    return _arranged(data, path, root, files, table, label)


def _relative(file: str, name: str, there: Collection[str]) -> str:
    """Return the path of an image in the folder; one that leaves the folder is in no listing.

    Args:
        file: the table, which paths are relative to.
        name: of the image in the table. Windows writes backslashes.
        there: paths of all images.
    """
    folder = posixpath.dirname(file)
    ways = [posixpath.normpath(posixpath.join(folder, n)) for n in (name, name.replace("\\", "/"))]
    return next((way for way in ways if way in there), ways[0])


def _label(data: str, file: str, table: _Table) -> str:
    columns = [Column(name, "text", is_text=True, is_label=True) for name in table.columns]
    if not columns:
        raise InputError(
            f"data {data}: {file} has no column of labels (found {_FILE_NAME} alone). Fix: add a"
            " column 'label'"
        )

    def distinct(name: str) -> tuple[int, int]:
        values = [str(row.values.get(name)) for row in table.rows]
        return len(set(values)), len(values)

    return label_column(f"{data}: {file}", columns, "", distinct)


def _arranged(
    data: str, path: Path, root: Folder, files: Sequence[str], table: _Table, label: str
) -> Arranged:
    """Return the images of the rows by split."""
    result = Arranged()
    stamps = dict(root.images())
    rows = [row for row in table.rows if row.path in stamps]
    missing = [row.path for row in table.rows if row.path not in stamps]
    if missing:
        result.notes.append(
            f"{counted(len(missing), 'image')} of {files[0]} not there or not read"
            f" ({shown(missing)})"
        )
    twice = len(rows) - len({row.path for row in rows})
    if twice:
        raise InputError(
            f"data {data}: {files[0]}: {counted(twice, 'image')} with several rows (expected one"
            " label per image)"
        )
    unlisted = sorted(stamps.keys() - {row.path for row in rows})
    if unlisted:
        result.notes.append(
            f"{counted(len(unlisted), 'image')} not in {files[0]} not used ({shown(unlisted)})"
        )
    several = next((v for row in rows if isinstance(v := row.values.get(label), list | dict)), None)
    if several is not None:
        raise InputError(
            f"data {data}: {files[0]}: column '{label}' has the value {json.dumps(several)[:60]}, which"
            " is no label (expected one class per image). Fix: call the column of the labels 'label'"
        )
    unlabelled = [row for row in rows if _text(row.values.get(label)) is None]
    if unlabelled:
        result.notes.append(f"{counted(len(unlabelled), 'image')} without a {label} not used")
    # The tables decide labels: a change of theirs changes the data as one of an image does.
    changed = b"".join(stamp_of((path / file).stat()) for file in files)
    for split, chosen in _splits(data, files[0], table, rows, label, result).items():
        result.splits[split] = sorted(
            (
                Item(row.path, stamps[row.path] + changed, text)
                for row in chosen
                if (text := _text(row.values.get(label))) is not None
            ),
            key=lambda item: item.path,
        )
    result.notes.append(f"labels are read from column '{label}' of {shown(list(files))}")
    return result


def _splits(
    data: str, file: str, table: _Table, rows: Sequence[_Row], label: str, result: Arranged
) -> dict[str, list[_Row]]:
    """Return the rows of each split, by a column of splits or by the folders of the images."""
    columns = [Column(name, "text", is_text=True, is_label=True) for name in table.columns]
    column = split_column(f"{data}: {file}", columns, label)
    if column is not None:
        values = [row.values.get(column.name) for row in rows]
        return split_rows(f"{data}: {file}", column, rows, values, result.notes)
    folders = [f"{posixpath.dirname(row.path)}/_".lstrip("/") for row in rows]
    found = split_files(data, folders)
    chosen = {split: [rows[i] for i in indices] for split, indices in found.items()}
    return _train_and_test(data, chosen, result.notes)


def split_rows(
    data: str, column: Column, rows: Sequence[Any], values: Sequence[Any], notes: list[str]
) -> dict[str, list[Any]]:
    """Return the rows of `train` and `test` by the values of a column of splits.

    Raises:
        InputError: for a value that names no split.
    """
    chosen: dict[str, list[Any]] = {}
    for row, value in zip(rows, values, strict=True):
        # The hub's ClassLabel has numbers in place of names.
        named = column.names is not None and value in range(len(column.names))
        text = column.names[value] if column.names is not None and named else str(value)
        split = split_named(text)
        if split is None:
            raise InputError(
                f"data {data}: column '{column.name}' has the value '{text}' (expected train,"
                " validation or test). Fix: rename the column, or the value"
            )
        chosen.setdefault(split, []).append(row)
    notes.append(f"splits are read from column '{column.name}'")
    return _train_and_test(data, chosen, notes)


def _train_and_test(
    data: str, chosen: dict[str, list[Any]], notes: list[str]
) -> dict[str, list[Any]]:
    """Return the train split and the better test split; note the other one."""
    if TRAIN not in chosen:
        there = ", ".join(sorted(chosen)) or "none"
        raise InputError(
            f"data {data}: there is no split to train on (found: {there}). Fix: name it train"
        )
    result = {TRAIN: chosen[TRAIN]}
    order = chosen_test((split, split) for split in chosen)
    if order:
        result[TEST] = chosen[order[0]]
    for unused in order[1:]:
        notes.append(f"its split '{unused}' is not used; '{order[0]}' is the test split")
    return result


def _text(value: Any) -> str | None:
    """Return a label as a text; None for an empty one, and for -1, which marks unlabelled rows."""
    if value is None or str(value).strip() in ("", "-1"):
        return None
    return str(value).strip()


def _rows(where: str, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table.

    Raises:
        InputError: for a malformed table.
    """
    try:
        check_regular(path)
        # Spreadsheets put a byte-order mark first; utf-8-sig drops it.
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _bounded(file)
            if path.suffix.lower() == ".jsonl":
                yield from (_json_row(line) for line in lines if line.strip())
                return
            header = next(lines, "")
            rows = csv.DictReader(chain([header], lines), delimiter=separator(header), strict=True)
            for row in rows:
                # Cells beyond the header are a list under None.
                row.pop(None, None)
                yield row
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: cannot be read: {reason}") from None


_MOST_LINE = 1 << 20
"""Characters of the longest line of a table; one of a million columns, or of zeros, is not one."""


def _bounded(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file; raise ValueError for one that is too long."""
    while line := file.readline(_MOST_LINE):
        if len(line) == _MOST_LINE:
            raise ValueError(f"a line has {_MOST_LINE} characters or more")
        yield line


def _json_row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is not a mapping")
    return row
