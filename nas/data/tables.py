"""What tables have in common: columns from a schema, labels of all splits, encoded images.

`nas.data.parquet` and `nas.data.hub` make their sources with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.data.columns import Column
from nas.data.labels import RawLabels, unify
from nas.data.source import EncodedImage, Source, SourceSplit
from nas.data.table_values import column_of

if TYPE_CHECKING:
    import pyarrow as pa


def columns_of(schema: pa.Schema) -> list[Column]:
    """Return the columns of a table, with what the hub and pandas say of them in its metadata."""
    metadata = schema.metadata or {}
    features = _json(metadata, b"huggingface").get("info", {}).get("features", {})
    indices = _json(metadata, b"pandas").get("index_columns", [])
    return [column_of(field, features.get(field.name), field.name in indices) for field in schema]


def _json(metadata: Mapping[bytes, bytes], key: bytes) -> dict[str, Any]:
    """Return an entry of a schema's metadata; empty where it is missing or malformed."""
    try:
        value = json.loads(metadata.get(key, b"{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def note_columns(columns: Sequence[Column], image: str, label: str, notes: list[str]) -> None:
    """Note the chosen columns where others could have been meant."""
    images = [each for each in columns if each.is_image or each.is_encoded]
    labels = [each for each in columns if each.is_label and not each.is_index]
    if len(images) > 1 or len(labels) > 1:
        notes.append(f"images from column '{image}', labels from column '{label}'")


def table_source(
    data: str,
    description: str,
    key: str,
    raw: Mapping[str, Sequence[RawLabels]],
    split_of: Callable[[str, NDArray[np.int64], NDArray[np.int64]], SourceSplit],
    notes: Sequence[str],
) -> Source:
    """Return the source of tables from the labels of their files.

    Args:
        data: the data set by name.
        description: the same in words.
        key: see `Source`.
        raw: of each split the labels of its files.
        split_of: returns a split from its name, the indices of its usable rows and their labels.
        notes: sentences for people.
    """
    unified = unify(data, raw)
    splits: dict[str, SourceSplit] = {}
    for split, labels in unified.labels.items():
        kept = np.flatnonzero(labels >= 0)
        splits[split] = split_of(split, kept, labels[kept])
    return Source(data, description, key, unified.classes, splits, (*notes, *unified.notes))


def merge(parts: Sequence[RawLabels]) -> RawLabels:
    """Return the labels of several files as those of one."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    index = {name: position for position, name in enumerate(names)}
    arrays = [
        np.array([*(index[name] for name in part.names), -1], dtype=np.int64)[part.ids]
        for part in parts
    ]
    return RawLabels(
        names,
        np.concatenate(arrays),
        declared=any(part.declared for part in parts),
        numeric=all(part.numeric for part in parts),
    )


def encoded(value: Any, folder: Path | None) -> EncodedImage:
    """Return an image from bytes, a {bytes, path} struct or a path.

    Args:
        value: of the column.
        folder: that relative paths are relative to, if any.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and folder is not None:
        return os.path.join(folder, value)
    return value if isinstance(value, (bytes, str)) else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
