"""Parquet files with a column of images and one of masks as a source.

`nas.data.sources` calls `mask_parquet_source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data import mask_classes
from nas.data.columns import Column, holds_no_images, split_column
from nas.data.mask_classes import LISTS, MaskClasses
from nas.data.masks import MaskCode
from nas.data.metadata import split_rows
from nas.data.notes import counted
from nas.data.parquet import (
    ParquetRows,
    columns_of_file,
    shown_name,
    stamp_of_files,
    stamp_of_references,
    unreadable,
)
from nas.data.source import Encoded, EncodedImage, Pair, Source, SourceSplit
from nas.data.splits import TEST, TRAIN, chosen_test, split_files
from nas.data.tables import encoded
from nas.errors import InputError
from nas.extras import need
from nas.files import text_sha256

MASKS = (
    *("mask", "masks", "annotation", "annotations", "segmentation", "segmentation_mask", "label"),
    *("labels", "seg", "gt", "semantic", "semantic_segmentation", "label_image", "target"),
)
"""Names of columns of masks, the first one that exists before the others."""
_PROBED = 256
"""Masks whose palettes are compared where a list names the classes."""
IMAGES = ("image", "img", "images", "pixel_values", "picture", "photo", "rgb")
"""Names of columns of images beside one of masks."""


@dataclass
class PairTableSplit(SourceSplit):
    """Images of tables with their masks, by their rows.

    Attributes:
        images, masks: access to the rows; each reads its own column.
        columns: names of the two columns.
        rows: (N,) int64, the row of each image.
        code: what the values of the masks mean.
        labels: (N,) int64, all 0.
    """

    images: ParquetRows
    masks: ParquetRows
    columns: tuple[str, str]
    rows: NDArray[np.int64]
    code: MaskCode
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the encoded images and masks at some indices."""
        import pyarrow as pa

        rows = [int(self.rows[index]) for index in indices]
        try:
            images = _column(self.images, self.columns[0], rows)
            masks = _column(self.masks, self.columns[1], rows)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.where(indices[0]), error) from None
        return [Pair(image, mask, self.code) for image, mask in zip(images, masks, strict=True)]

    def blocks(self) -> NDArray[np.int64]:
        """Return the block (N,) of each image; see `SourceSplit.blocks`."""
        return self.images.blocks(self.rows)

    def where(self, index: int) -> str:
        """Return the file and the row of an image."""
        number, row = self.images.locate(int(self.rows[index]))
        return f"{self.images.shown[number]} row {row}"


def _column(table: ParquetRows, column: str, rows: Sequence[int]) -> list[EncodedImage]:
    """Return the encoded images of a column at some rows."""
    folders = [table.files[table.locate(row)[0]].parent for row in rows]
    return [
        encoded(value, folder)
        for value, folder in zip(table.values(column, rows), folders, strict=True)
    ]


def mask_parquet_source(data: str, files: Sequence[Path], root: Path) -> Source:
    """Return the source of parquet files, divided into splits by words in their paths or a column.

    Args:
        data: the data set by name, for messages.
        files: the files, sorted.
        root: the folder that holds them all.

    Raises:
        InputError: for a file that is no parquet file, and for splits, columns or classes that cannot
            be recognised.
    """
    need(f"data {data}", "train", "pyarrow")
    by_split = split_files(data, [path.relative_to(root).as_posix() for path in files])
    if TRAIN not in by_split:
        raise InputError(
            f"data {data}: there is no parquet file to train on (found: {', '.join(by_split)}). Fix:"
            " name it train.parquet"
        )
    notes: list[str] = []
    order = chosen_test((split, split) for split in by_split)
    for unused in order[1:]:
        notes.append(f"its split '{unused}' is not used; '{order[0]}' is the test split")
    parts = {TRAIN: by_split[TRAIN]} | ({TEST: by_split[order[0]]} if order else {})
    tables = {
        split: _Table(
            [files[i] for i in indices], [shown_name(data, root, files[i]) for i in indices]
        )
        for split, indices in parts.items()
    }
    columns = columns_of_file(files[parts[TRAIN][0]], tables[TRAIN].names[0])
    pair = _pair_of(data, columns)
    for split, table in tables.items():
        table.check(data, split, pair)
    references = [
        stamp_of_references(table.files, table.names, column)
        for table in tables.values()
        for column in columns
        if column.name in pair
    ]
    rows = {split: np.arange(len(table.rows()), dtype=np.int64) for split, table in tables.items()}
    by_column = split_column(data, columns, pair[1])
    if by_column is not None and set(tables) == {TRAIN}:
        values = list(tables[TRAIN].rows().values(by_column.name, rows[TRAIN].tolist()))
        chosen = split_rows(data, by_column, rows[TRAIN].tolist(), values, notes)
        rows = {split: np.array(each, dtype=np.int64) for split, each in chosen.items()}
        tables = dict.fromkeys(rows, tables[TRAIN])
    classes = _classes(data, root, tables[TRAIN], pair[1], rows[TRAIN])
    return Source(
        name=data,
        description=f"{counted(len(files), 'parquet file')} with masks at {data}",
        key=text_sha256(
            "".join([stamp_of_files(files), *references, repr((pair, by_column, classes))])
        ),
        classes=classes.names,
        splits={
            split: PairTableSplit(
                table.rows(),
                table.rows(),
                pair,
                rows[split],
                classes.code,
                np.zeros(len(rows[split]), dtype=np.int64),
            )
            for split, table in tables.items()
        },
        notes=(*notes, *classes.notes),
        has_masks=True,
    )


@dataclass
class _Table:
    """The files of one split, with their names for messages."""

    files: list[Path]
    names: list[str]

    def rows(self) -> ParquetRows:
        """Return access to the rows, with a place of its own in the files."""
        return ParquetRows(self.files, self.names)

    def check(self, data: str, split: str, pair: tuple[str, str]) -> None:
        """Raise InputError for a file that lacks one of the columns."""
        for path, name in zip(self.files, self.names, strict=True):
            there = [column.name for column in columns_of_file(path, name)]
            for column in pair:
                if column not in there:
                    raise InputError(
                        f"data {data}: {name} ({split}) has no column '{column}' (found:"
                        f" {', '.join(there)}). Fix: give all files the same columns"
                    )


def _pair_of(data: str, columns: Sequence[Column]) -> tuple[str, str]:
    """Return the names of the columns of images and of masks.

    Raises:
        InputError: when they cannot be told.
    """
    holding = [each.name for each in columns if each.is_image or each.is_encoded]
    masks = _usual(holding, MASKS)
    rest = [each for each in holding if each not in masks[:1]]
    images = _usual(rest, IMAGES)
    # A single other column of images needs no usual name.
    images = images or (rest if len(rest) == 1 else [])
    if not masks or not images:
        others = [each for each in columns if each.name not in holding]
        for found, usual in ((images, IMAGES), (masks, MASKS[:3])):
            called = next((each for each in others if each.name.lower() in usual), None)
            if not found and called is not None:
                raise holds_no_images(data, called)
        there = ", ".join(f"{each.name} ({each.type})" for each in columns)
        raise InputError(
            f"data {data}: cannot tell the columns of images and of masks among: {there}. Fix: call"
            " them 'image' and 'mask' (expected bytes or {bytes, path})"
        )
    return images[0], masks[0]


def _usual(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Return those of the names that are usual, in the order of these."""
    return sorted(
        (name for name in names if name.lower() in usual),
        key=lambda name: usual.index(name.lower()),
    )


def _classes(
    data: str, root: Path, table: _Table, column: str, rows: NDArray[np.int64]
) -> MaskClasses:
    """Return the classes by a list beside the files, or by the masks to train on."""
    lists = sorted(path for path in root.iterdir() if path.name.lower() in LISTS)
    # Encoded masks are in memory here; with a list a few of them show whether it fits.
    looked_at = rows[:_PROBED] if lists else rows
    masks = _column(table.rows(), column, looked_at.tolist())
    encoded = list(zip((f"row {row}" for row in looked_at), masks, strict=True))
    if lists:
        return mask_classes.check_palettes(data, encoded, mask_classes.listed(data, lists[0]))
    return mask_classes.scanned(data, encoded)
