"""Sources of images: digits, image folders, parquet files, the hub. Nothing is decoded here.

`nas.data.load_data` finds a source by name; `nas.data.cache` reads and decodes it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.images import note
from nas.errors import InputError, NasError, nearest
from nas.extras import need
from nas.files import lines_sha256, text_sha256

Encoded = bytes | str | NDArray[np.uint8] | None
"""An image before decoding: bytes or path of a file, pixels (H, W), or None where it is missing."""

_TEST_NAMES = ("test", "validation", "valid", "val", "dev")
"""Names of splits that may serve as the test split, by priority."""
_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
}
_LABELS = ("label", "labels", "fine_label", "class", "class_name", "target", "category", "y")
"""Usual names of label columns, by priority."""
_IMAGES = ("image", "img", "images", "picture", "photo", "bytes", "png", "jpg", "jpeg")
"""Usual names of columns of encoded images, by priority, where no column has the type Image."""


@dataclass(frozen=True)
class RawSplit:
    """One split before decoding.

    Attributes:
        labels: one raw label per image: a string, a whole number or None.
        names: names of the classes, where the data has a list that `labels` index; else None.
        fetch: returns the encoded images at given indices, each with its name for messages.
    """

    labels: Sequence[Any]
    names: tuple[str, ...] | None
    fetch: Callable[[Sequence[int]], list[tuple[str, Encoded]]]


@dataclass(frozen=True)
class Source:
    """A data set before it is read.

    Attributes:
        name: the argument of `load_data`.
        description: the data set in words, for provenance.
        key: a text that changes when the files change.
        read: returns the splits, 'train' and perhaps 'test'.
    """

    name: str
    description: str
    key: str
    read: Callable[[], dict[str, RawSplit]]


def find_source(name: str) -> Source:
    """Return the source that `name` means: `digits`, files that exist, or else a name on the hub.

    Raises:
        InputError: when there is no such source, or its files cannot be listed.
    """
    try:
        return _find(name)
    except OSError as error:
        raise InputError(
            f"data {name}: {error.filename or 'it'} cannot be read: {error.strerror or error}"
        ) from None


def _find(name: str) -> Source:
    if name == "digits":
        return Source(
            name, "digits of scikit-learn (1797 grey images of 8x8 pixels)", "digits", _read_digits
        )
    path = Path(name).expanduser()
    if "*" in name:
        return _parquet(name, [Path(file) for file in sorted(glob.glob(str(path), recursive=True))])
    if path.is_file() and path.suffix == ".parquet":
        return _parquet(name, [path])
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        return _parquet(name, files) if files else _folder(name, path)
    if path.exists():
        raise InputError(f"data {name}: is not a folder or a .parquet file")
    # A hub name is NAME or OWNER/NAME. Whatever looks like a path is never looked up on the hub.
    if (
        name.startswith((".", "/", "~"))
        or path.suffix == ".parquet"
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    ):
        raise InputError(f"data {name}: there is no such file or folder")
    return _hub(name)


def _read_digits() -> dict[str, RawSplit]:
    """Return scikit-learn's digits as one train split."""
    need("data digits", "train", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # scikit-learn's grey values are from 0 to 16.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    labels = [int(label) for label in digits.target]
    names = tuple(str(digit) for digit in range(10))
    return {
        "train": RawSplit(
            labels, names, lambda indices: [(f"digit {i}", pixels[i]) for i in indices]
        )
    }


def _parquet(name: str, files: Sequence[Path]) -> Source:
    """Return the source of parquet files; the start of a file's name gives its split."""
    splits: dict[str, list[Path]] = {"train": []}
    for file in files:
        splits.setdefault(_split_of(file.stem), []).append(file)
    if not splits["train"]:
        found = ", ".join(file.name for file in files) or "no file"
        raise InputError(f"data {name}: has no parquet file to train on (got {found})")
    chosen = _train_and_test(name, splits)
    data_files = {split: [_literal(path) for path in paths] for split, paths in chosen.items()}
    everything = [path for paths in chosen.values() for path in paths]
    return Source(
        name,
        f"{len(everything)} parquet files at {name}",
        _stamp(everything),
        lambda: _read(name, "parquet", data_files=data_files),
    )


def _split_of(stem: str) -> str:
    """Return the split named at the start of a parquet file (test-00000-of-00001), else train."""
    # No letter may follow: "valley.parquet" does not belong to a split "val".
    match = re.match(rf"({'|'.join(_TEST_NAMES)})(?![a-z])", stem.lower())
    return match[1] if match else "train"


def _folder(name: str, path: Path) -> Source:
    """Return the source of an image folder, with or without sub-folders for splits."""
    folders = {child.name.lower(): child for child in path.iterdir() if child.is_dir()}
    train = folders.get("train")
    # A folder called train without sub-folders is a class of trains, not a split.
    if train is not None and any(child.is_dir() for child in train.iterdir()):
        chosen = _train_and_test(name, folders)
    else:
        chosen = {"train": path}
    files = [
        file
        for folder in chosen.values()
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise InputError(
            f"data {name}: there are no images. Fix: put them into one sub-folder per class"
        )
    data_files = {split: f"{_literal(folder)}/**" for split, folder in chosen.items()}
    return Source(
        name,
        f"image folder {name} ({len(files)} files)",
        _stamp(files),
        # By default datasets drops the labels of a single class. Its name is needed for the error
        # that one class is too few.
        lambda: _read(
            name, "imagefolder", data_files=data_files, drop_labels=False, drop_metadata=True
        ),
    )


def _literal(path: Path) -> str:
    """Return a path as a pattern that matches only this path, as datasets takes patterns."""
    return glob.escape(str(path.resolve()))


def _train_and_test(name: str, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the train split and the first test split in the order of _TEST_NAMES, if any."""
    chosen = {"train": splits["train"]}
    there = [test for test in _TEST_NAMES if test in splits]
    if there:
        chosen["test"] = splits[there[0]]
    for unused in there[1:]:
        note(f"data {name}: the split '{unused}' is not used; '{there[0]}' is the test split")
    return chosen


def _stamp(files: Sequence[Path]) -> str:
    """Return a hash of paths, sizes and modification times, which changes when a file changes."""
    states = ((file.resolve(), file.stat()) for file in files)
    return lines_sha256(
        f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n" for path, status in states
    )


def _hub(name: str) -> Source:
    """Return a data set of the hub, which is downloaded now.

    Raises:
        InputError: when no data set has this name, or it has no train split.
    """
    note(
        f"data {name}: there is no such file or folder here; looking for it on the Hugging Face hub"
    )
    need(f"data {name}", "train", "datasets")
    try:
        dataset = _load_dataset(name)
    # datasets, huggingface_hub and httpx each raise their own errors, without a common base class.
    except Exception as error:
        raise InputError(
            f"data {name}: there is no such file or folder, and the hub does not provide it"
            f" ({_first_line(error)}){nearest(name, ['digits'])}, or the path of an image folder or"
            " of parquet files"
        ) from None
    if "train" not in dataset:
        raise InputError(f"data {name}: has no train split (got {', '.join(dataset)})")
    chosen = _train_and_test(name, dataset)
    files = [file["filename"] for split in chosen.values() for file in split.cache_files]
    key = text_sha256("\n".join(files))
    return Source(name, f"hub data set {name}", key, lambda: _raw_splits(name, chosen))


def _read(name: str, builder: str, **options: Any) -> dict[str, RawSplit]:
    """Return the splits that a builder of datasets reads from files.

    Raises:
        InputError: when the files cannot be read as such data.
        NasError: when the system fails, as on a full disk.
    """
    need(f"data {name}", "train", "datasets")
    try:
        dataset = _load_dataset(builder, **options)
    # The errors of pyarrow and datasets have no common base class.
    except Exception as error:
        # datasets wraps the original error.
        cause = error.__cause__ or error
        # A failure of the system, such as a full disk, does not mean that the input is wrong.
        kind = NasError if isinstance(cause, OSError) else InputError
        raise kind(f"data {name}: cannot be read as {builder}: {_first_line(cause)}") from None
    return _raw_splits(name, dataset)


def _load_dataset(path: str, **options: Any) -> Any:
    """Return the result of `datasets.load_dataset`, without progress bars, logs and telemetry.

    HF_HUB_OFFLINE is respected.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets.load_dataset(path, **options)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _raw_splits(name: str, dataset: Mapping[str, Any]) -> dict[str, RawSplit]:
    image, label = _columns(name, dataset["train"].features)
    return {split: _raw_split(name, split, table, image, label) for split, table in dataset.items()}


def _raw_split(name: str, split: str, table: Any, image: str, label: str) -> RawSplit:
    """Return a split of `datasets`, read from its columns `image` and `label`."""
    import datasets

    for column in (image, label):
        if column not in table.features:
            raise InputError(
                f"data {name}: the column '{column}' is missing in the split '{split}'"
            )
    # Images stay encoded here: `nas.data.cache` decodes them in threads and skips broken ones.
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    feature = table.features[label]
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    images = table.select_columns([image])

    def fetch(indices: Sequence[int]) -> list[tuple[str, Encoded]]:
        rows = images[list(indices)][image]
        return [_encoded(f"{split} row {i}", row) for i, row in zip(indices, rows, strict=True)]

    return RawSplit(table.with_format(None)[label][:], names, fetch)


def _encoded(where: str, value: Any) -> tuple[str, Encoded]:
    """Return the name and the data of an image, from a struct {bytes, path} or from bytes."""
    if isinstance(value, dict):
        path = value.get("path")
        return path or where, value.get("bytes") or path
    return where, value


def _columns(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the image column and of the label column.

    Columns are recognised by their type first and by their name second.

    Raises:
        InputError: when one of them cannot be recognised.
    """
    import datasets

    # By priority: columns of type Image, structs with bytes, binary columns with a usual name, any
    # binary columns.
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    images = images or [
        c
        for c, f in features.items()
        if isinstance(f, dict) and {"bytes", "path"} >= set(f) and "bytes" in f
    ]
    binary = [
        c for c, f in features.items() if getattr(f, "dtype", "") in ("binary", "large_binary")
    ]
    images = images or [c for c in _IMAGES if c in binary] or binary
    # Columns of type ClassLabel, else columns of whole numbers or strings. Usual names come first.
    plain = [
        c
        for c, f in features.items()
        if re.match(r"u?int|string|large_string", getattr(f, "dtype", "")) and c not in images
    ]
    labels = [
        column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ] or plain
    labels = sorted(
        labels, key=lambda column: _LABELS.index(column) if column in _LABELS else len(_LABELS)
    )
    usual = [column for column in labels if column in _LABELS]
    # A single column that could be the label is taken, whatever its name. Among several, a usual
    # name decides.
    if not images or not labels or (len(labels) > 1 and not usual):
        missing = "image" if not images else "label"
        raise InputError(
            f"data {name}: cannot recognise the {missing} column among: {', '.join(features)}. Fix:"
            f" name it '{missing}'"
            f" ({'bytes or {bytes, path}' if missing == 'image' else 'whole numbers or strings'})"
        )
    if len(images) > 1 or len(labels) > 1:
        note(
            f"data {name}: images are from the column '{images[0]}', labels from the column"
            f" '{labels[0]}'"
        )
    return images[0], labels[0]
