"""Data sets of the Hugging Face hub as a source. `nas.data.sources` calls `hub_source`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.data.columns import image_column, label_column
from nas.data.hub_files import HubFiles, find_files, local_files, record
from nas.data.labels import RawLabels
from nas.data.notes import note
from nas.data.parquet import Part, source_of_parts
from nas.data.source import Encoded, Source, SourceSplit
from nas.data.splits import SPLITS, TEST, TRAIN, VALIDATION, chosen_test
from nas.data.table_values import as_labels
from nas.data.tables import columns_of, encoded, first_line, note_columns, table_source
from nas.errors import InputError, nearest
from nas.extras import need
from nas.files import text_sha256

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class HubSplit(SourceSplit):
    """Images of a data set of `datasets`, by their rows.

    Attributes:
        name: of the split, for messages.
        dataset: the column of images alone, as Arrow data.
        column: its name.
        rows: (N,) int64.
        labels: (N,) int64.
    """

    name: str
    dataset: Any
    column: str
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the encoded images at some indices, or their paths."""
        rows = [int(self.rows[index]) for index in indices]
        values = self.dataset[rows].column(self.column).to_pylist()
        return [encoded(value, None) for value in values]

    def where(self, index: int) -> str:
        """Return the row of an image in its split."""
        return f"{self.name} row {self.rows[index]}"


def hub_source(name: str) -> Source:
    """Return the source of a data set of the hub, which is downloaded now.

    Raises:
        InputError: when there is none of this name, or it has no train split.
    """
    note(
        f"data {name}: there is no such file or folder here; looking for it on the Hugging Face hub"
    )
    need(f"data {name}", "train", "datasets")
    try:
        files = _parquet_files(name)
        if files is None:
            dataset = _load_dataset(name)
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own kinds, with no common base
        # Compute nodes of clusters often have no network. What another machine of the cluster has
        # downloaded into the shared home folder is used.
        files = local_files(name)
        if files is None:
            raise InputError(
                f"data {name}: no such file or folder, and not to be had from the hub"
                f" ({first_line(error)}){nearest(name, ['digits'])}, or the path of an image folder"
                " or of parquet files"
            ) from None
    if files is not None:
        return _parquet_source(name, *files)
    return _arrow_source(name, dataset)


def _parquet_files(name: str) -> tuple[HubFiles, Path] | None:
    """Return the parquet files of a data set and their folder; None where it has other files."""
    _quiet()
    import datasets

    files = find_files(datasets.load_dataset_builder(name))
    if files is None:
        return None
    folder = files.download()
    record(name, files)
    return files, folder


def _parquet_source(name: str, files: HubFiles, folder: Path) -> Source:
    """Return the source of a data set's parquet files, which are read in place."""
    parts = {
        split: Part([folder / path for path in paths], list(paths))
        for split, paths in files.splits.items()
    }
    _check_train(name, parts)
    known = {split: part for split, part in parts.items() if split in SPLITS}
    notes = [f"its split '{split}' is not used" for split in parts if split not in known]
    source = source_of_parts(
        name, known, f"hub data set {name}, revision {files.revision[:8]}", files.features
    )
    return replace(source, notes=(*notes, *source.notes))


def _arrow_source(name: str, dataset: Mapping[str, Any]) -> Source:
    """Return the source of a data set that `datasets` has loaded into Arrow data."""
    notes: list[str] = []
    chosen = _hub_splits(name, dataset, notes)
    tables = {split: each.with_format("arrow") for split, each in chosen.items()}
    columns = columns_of(chosen[TRAIN].features.arrow_schema)

    def values(split: str, column: str) -> pa.ChunkedArray:
        return tables[split].select_columns([column])[:].column(column)

    def distinct(column: str) -> tuple[int, int]:
        found = values(TRAIN, column)
        return len(found.unique()), len(found)

    image = image_column(name, columns, lambda column: False)
    label = label_column(name, columns, image, distinct)
    note_columns(columns, image, label, notes)
    raw: dict[str, list[RawLabels]] = {}
    for split, each in chosen.items():
        there = {column.name: column for column in columns_of(each.features.arrow_schema)}
        for column in (image, label):
            if column not in there:
                raise InputError(f"data {name}: split '{split}' has no column '{column}'")
        raw[split] = [as_labels(f"data {name}: {split}", there[label], values(split, label))]
    files = [file["filename"] for each in chosen.values() for file in each.cache_files]
    return table_source(
        name,
        f"hub data set {name}",
        text_sha256("\n".join(files) + repr((image, label))),
        raw,
        lambda split, kept, labels: HubSplit(
            split, tables[split].select_columns([image]), image, kept, labels
        ),
        notes,
    )


def _hub_splits(name: str, dataset: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the train split and the test split of a data set; note those that are not used."""
    _check_train(name, dataset)
    named = [(split, each) for each in dataset for split in (TEST, VALIDATION) if each == split]
    order = chosen_test(named)
    for each in dataset:
        if each != TRAIN and each not in order[:1]:
            notes.append(f"its split '{each}' is not used")
    return {TRAIN: dataset[TRAIN], **({TEST: dataset[order[0]]} if order else {})}


def _check_train(name: str, splits: Collection[str]) -> None:
    if TRAIN not in splits:
        raise InputError(f"data {name}: it has no train split (it has: {', '.join(splits)})")


def _load_dataset(path: str) -> Any:
    """Return `datasets.load_dataset`. HF_HUB_OFFLINE is respected."""
    _quiet()
    import datasets

    return datasets.load_dataset(path)


def _quiet() -> None:
    """Turn off telemetry, progress bars and logs of the hub's libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity(datasets.logging.CRITICAL)
