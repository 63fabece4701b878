"""Parquet files as a source, with a column of images. They are read in place; no copy is made.

`nas.data.sources` calls `parquet_source`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.data.columns import Column, image_column, label_column, split_column
from nas.data.decoding import readable_suffixes
from nas.data.labels import RawLabels
from nas.data.listing import stamp_of, suffix_of
from nas.data.metadata import split_rows
from nas.data.source import Encoded, Source, SourceSplit
from nas.data.splits import TEST, TRAIN, chosen_test, split_files
from nas.data.table_values import as_labels
from nas.data.tables import columns_of, encoded, first_line, merge, note_columns, table_source
from nas.errors import InputError, NasError
from nas.extras import need
from nas.files import text_sha256
from nas.resources import expanded

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH = 64
"""Rows that are decoded at once from a parquet file; a row group may hold a million images."""
_BUFFER = 1 << 20
"""Bytes read at once from a column; without it a column of a row group is read whole."""
_BLOCK = 256
"""Maximum number of consecutive rows that a store reads together."""
_LOOKED_AT = 100
"""Rows whose texts are looked at to recognise paths."""


@dataclass
class ParquetRows:
    """Access to the rows of parquet files, in the order of the files.

    Attributes:
        files: the files.
        shown: their names for messages.
    """

    files: Sequence[Path]
    shown: Sequence[str]
    _groups: list[tuple[int, int, int]] = field(default_factory=list, repr=False)
    _open: tuple[int, Iterator[Any], int, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # (first row, file, row group) of each row group.
        start = 0
        self._counts: list[int] = []
        for number, path in enumerate(self.files):
            metadata = _parquet(path, self.shown[number]).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((start, number, group))
                start += metadata.row_group(group).num_rows
            self._counts.append(start)
        self._starts = np.array([first for first, _, _ in self._groups], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}

    def __len__(self) -> int:
        return self._counts[-1] if self._counts else 0

    def locate(self, row: int) -> tuple[int, int]:
        """Return the file of a row, and the row's number in that file."""
        number = int(np.searchsorted(self._counts, row, side="right"))
        return number, row - (self._counts[number - 1] if number else 0)

    def blocks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the block (N,) of each row: `_BLOCK` rows, which lie in one row group."""
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        within = (rows - self._starts[groups]) // _BLOCK
        # One number per pair of (group, block within the group).
        _, numbers = np.unique(np.stack([groups, within]), axis=1, return_inverse=True)
        return numbers.reshape(-1).astype(np.int64)

    def values(self, column: str, rows: Sequence[int]) -> Iterator[Any]:
        """Yield the values of a column at some rows; ascending rows are read in one pass."""
        for row in rows:
            group = int(np.searchsorted(self._starts, row, side="right")) - 1
            if self._open is None or self._open[0] != group or row < self._open[2]:
                first, number, inner = self._groups[group]
                file = _parquet(self.files[number], self.shown[number])
                batches = file.iter_batches(_BATCH, row_groups=[inner], columns=[column])
                self._open = (group, batches, first, next(batches))
            _, batches, start, batch = self._open
            while row >= start + batch.num_rows:
                start += batch.num_rows
                batch = next(batches)
                self._open = (group, batches, start, batch)
            yield batch.column(0)[row - start].as_py()


def _parquet(path: Path, shown_name: str) -> pq.ParquetFile:
    """Return an opened parquet file.

    Raises:
        InputError: when it is not one.
        NasError: when the system fails.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except pa.ArrowException as error:
        raise unreadable(shown_name, error) from None
    except OSError as error:
        # pyarrow raises a plain OSError for a malformed file, and one with a number for the system.
        kind = NasError if error.errno else InputError
        raise kind(f"data {shown_name}: cannot be read as parquet: {first_line(error)}") from None


def unreadable(shown_name: str, error: Exception) -> InputError:
    """Return the error of a file or a row that pyarrow cannot read."""
    return InputError(f"data {shown_name}: cannot be read as parquet: {first_line(error)}")


@dataclass
class TableSplit(SourceSplit):
    """Images of tables, by their rows.

    Attributes:
        table: access to the rows.
        column: of the images or their paths.
        rows: (N,) int64, the row of each image.
        labels: (N,) int64.
    """

    table: ParquetRows
    column: str
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the encoded images at some indices, or their paths."""
        import pyarrow as pa

        rows = [int(self.rows[index]) for index in indices]
        try:
            return [
                encoded(value, self.table.files[self.table.locate(row)[0]].parent)
                for row, value in zip(rows, self.table.values(self.column, rows), strict=True)
            ]
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.where(indices[0]), error) from None

    def blocks(self) -> NDArray[np.int64]:
        """Return the block (N,) of each image; see `SourceSplit.blocks`."""
        return self.table.blocks(self.rows)

    def where(self, index: int) -> str:
        """Return the file and the row of an image."""
        number, row = self.table.locate(int(self.rows[index]))
        return f"{self.table.shown[number]} row {row}"


def parquet_source(data: str, files: Sequence[Path], root: Path) -> Source:
    """Return the source of parquet files, divided into splits by words in their paths.

    Args:
        data: the data set by name, for messages.
        files: the files, sorted.
        root: the folder that holds them all.

    Raises:
        InputError: for a file that is no parquet file, for splits and columns that cannot be
            recognised, and for labels that are none.
    """
    need(f"data {data}", "train", "pyarrow")
    paths = [path.relative_to(root).as_posix() for path in files]
    by_split = split_files(data, paths)
    if TRAIN not in by_split:
        found = ", ".join(paths) or "none"
        raise InputError(
            f"data {data}: there is no parquet file to train on (found: {found}). Fix: name it"
            " train.parquet, or give its path"
        )
    names = [shown_name(data, root, path) for path in files]
    parts = {
        split: Part([files[i] for i in indices], [names[i] for i in indices])
        for split, indices in by_split.items()
    }
    return source_of_parts(data, parts)


def source_of_parts(
    data: str, parts: Mapping[str, Part], description: str = "", features: str = ""
) -> Source:
    """Return the source of parquet files whose splits are known.

    Args:
        data: the data set by name, for messages.
        parts: the files of each split; `train` must be among them.
        description: the same in words; by default the number of files.
        features: what a data set's card declares of the columns, as JSON in the hub's form.

    Raises:
        InputError: see `parquet_source`.
    """
    order = chosen_test((split, split) for split in parts)
    # The test rows of a competition have no labels, its validation rows do.
    for number, test in enumerate([*order, None]):
        chosen = {TRAIN: parts[TRAIN], **({TEST: parts[test]} if test else {})}
        notes = [
            f"its split '{each}' is not used{f'; {test!r} is the test split' if test else ''}"
            for each in order
            if each != test
        ]
        reading = _Reading(data, chosen, notes, features)
        every = [path for part in chosen.values() for path in part.files]
        source = reading.source(
            description or f"{len(every)} parquet files at {data}",
            stamp_of_files(every) + reading.stamp_of_references(),
        )
        if TEST in source.splits or not order[number + 1 :]:
            break
    return source


def has_images(path: Path, paths_too: bool) -> bool:
    """Return whether a file is a parquet file with a column that may hold encoded images.

    Args:
        path: of the file.
        paths_too: whether paths of images count.
    """
    try:
        columns = columns_of(_parquet(path, str(path)).schema_arrow)
        if any(each.is_image or each.is_encoded for each in columns):
            return True
        table = ParquetRows([path], [str(path)])
        return paths_too and any(
            each.is_text and _holds_paths(table, each.name) for each in columns
        )
    except InputError:
        return False


def _holds_paths(table: ParquetRows, column: str) -> bool:
    """Return whether the first text of a column is the path of an image."""
    values = table.values(column, range(min(len(table), _LOOKED_AT)))
    first = next((value for value in values if value), None)
    return isinstance(first, str) and suffix_of(first) in readable_suffixes()


def columns_of_file(path: Path, shown: str) -> list[Column]:
    """Return the columns of a file, which messages name as `shown`.

    Raises:
        InputError: when it is no parquet file.
    """
    return columns_of(_parquet(path, shown).schema_arrow)


def shown_name(data: str, root: Path, path: Path) -> str:
    """Return how messages name a file: by the given path, without what the two share."""
    given = expanded(data)
    return data if given == path else str(path.relative_to(root))


def stamp_of_files(files: Sequence[Path]) -> str:
    """Return a hash of paths, sizes and times, which changes when a file does."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(path.resolve()) + b"\0" + stamp_of(path.stat()))
    return digest.hexdigest()


@dataclass
class Part:
    """The files of one split, and their names for messages."""

    files: list[Path]
    shown: list[str]


class _Reading:
    """The columns of parquet files, and what their labels say.

    Raises:
        InputError: see `parquet_source`.
    """

    def __init__(
        self, data: str, parts: Mapping[str, Part], notes: list[str], features: str
    ) -> None:
        self.data = data
        self.parts = parts
        self.notes = notes
        self.tables = {split: ParquetRows(part.files, part.shown) for split, part in parts.items()}
        first = parts[TRAIN]
        schema = _parquet(first.files[0], first.shown[0]).schema_arrow
        if features:
            # The card's names of classes are the ones that people know, whoever wrote the files.
            metadata = {**(schema.metadata or {}), b"huggingface": features.encode()}
            schema = schema.with_metadata(metadata)
        self.columns = columns_of(schema)
        self.image = image_column(
            data, self.columns, lambda column: _holds_paths(self.tables[TRAIN], column)
        )
        self.label = label_column(data, self.columns, self.image, self._distinct)
        self.names = next(each.names for each in self.columns if each.name == self.label)
        note_columns(self.columns, self.image, self.label, notes)

    def source(self, description: str, key: str) -> Source:
        """Return the source."""
        raw: dict[str, list[RawLabels]] = {}
        for split, part in self.parts.items():
            raw[split] = [
                self._labels(path, name, split)
                for path, name in zip(part.files, part.shown, strict=True)
            ]
        rows = {
            split: np.arange(sum(len(part.ids) for part in parts), dtype=np.int64)
            for split, parts in raw.items()
        }
        tables = dict(self.tables)
        column = split_column(self.data, self.columns, self.label)
        if column is not None and set(self.parts) == {TRAIN}:
            rows, raw = self._by_column(column, rows, raw)
            tables = dict.fromkeys(raw, self.tables[TRAIN])
        return table_source(
            self.data,
            description,
            text_sha256(key + repr((self.image, self.label, column and column.name))),
            raw,
            lambda split, kept, labels: TableSplit(
                tables[split], self.image, rows[split][kept], labels
            ),
            self.notes,
        )

    def _by_column(
        self,
        column: Column,
        rows: Mapping[str, NDArray[np.int64]],
        raw: Mapping[str, Sequence[RawLabels]],
    ) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[RawLabels]]]:
        """Return the rows and labels of each split, by the values of a column."""
        part = self.parts[TRAIN]
        values = [
            value
            for path, name in zip(part.files, part.shown, strict=True)
            for value in _read(path, name, column.name).to_pylist()
        ]
        chosen = split_rows(self.data, column, rows[TRAIN].tolist(), values, self.notes)
        merged = merge(raw[TRAIN])
        indices = {split: np.array(each, dtype=np.int64) for split, each in chosen.items()}
        labels = {split: [replace(merged, ids=merged.ids[each])] for split, each in indices.items()}
        return indices, labels

    def _labels(self, path: Path, shown_name: str, split: str) -> RawLabels:
        """Return the labels of a file."""
        schema = _parquet(path, shown_name).schema_arrow
        columns = {column.name: column for column in columns_of(schema)}
        for name in (self.image, self.label):
            if name not in columns:
                raise InputError(
                    f"data {self.data}: {shown_name} ({split}) has no column '{name}' (found:"
                    f" {', '.join(columns)})"
                )
        values = _read(path, shown_name, self.label)
        column = columns[self.label]
        # A file without the hub's metadata numbers its classes as the first file lists them.
        if column.names is None and not column.is_text and self.names is not None:
            column = replace(column, names=self.names)
        return as_labels(f"data {self.data}: {shown_name}", column, values)

    def stamp_of_references(self) -> str:
        """Return a hash of the image files that the rows refer to, which changes when one does."""
        column = next(each for each in self.columns if each.name == self.image)
        files = [path for part in self.parts.values() for path in part.files]
        names = [name for part in self.parts.values() for name in part.shown]
        return stamp_of_references(files, names, column)

    def _distinct(self, column: str) -> tuple[int, int]:
        part = self.parts[TRAIN]
        found: set[Any] = set()
        count = 0
        for path, name in zip(part.files, part.shown, strict=True):
            values = _read(path, name, column)
            found.update(values.unique().to_pylist())
            count += len(values)
        return len(found), count


def _read(path: Path, shown_name: str, column: str) -> pa.ChunkedArray:
    """Return a column of a file."""
    import pyarrow as pa

    try:
        return _parquet(path, shown_name).read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(shown_name, error) from None


def stamp_of_references(files: Sequence[Path], shown: Sequence[str], column: Column) -> str:
    """Return a hash of the image files that the rows refer to, which changes when one does.

    Args:
        files: parquet files.
        shown: their names for messages.
        column: of the images.
    """
    digest = hashlib.sha256()
    for path, name in zip(files, shown, strict=True):
        for reference in _references(path, name, column):
            try:
                stamp = stamp_of(os.stat(os.path.join(path.parent, reference)))
            except (OSError, ValueError):
                # Decoding reports files that are not there.
                stamp = b""
            digest.update(os.fsencode(reference) + b"\0" + stamp)
    return digest.hexdigest()


def _references(path: Path, shown_name: str, column: Column) -> list[str]:
    """Return the paths of images in a file's rows that hold none themselves."""
    import pyarrow as pa

    if column.is_text:
        return [each for each in _read(path, shown_name, column.name).to_pylist() if each]
    file = _parquet(path, shown_name)
    kind = file.schema_arrow.field(column.name).type
    names = {kind.field(i).name for i in range(kind.num_fields)}
    if not (pa.types.is_struct(kind) and {"bytes", "path"} <= names):
        return []
    if _has_all(file, f"{column.name}.bytes"):
        return []
    paths = _read(path, shown_name, f"{column.name}.path").to_pylist()
    return [each["path"] for each in paths if each and each.get("path")]


def _has_all(file: pq.ParquetFile, column: str) -> bool:
    """Return whether a column has a value in each row, by the statistics of the file."""
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        chunk = next((each for each in chunks if each.path_in_schema == column), None)
        statistics = chunk.statistics if chunk is not None else None
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return False
    return True
