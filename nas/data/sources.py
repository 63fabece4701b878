"""Finds the source of images that a name means: digits, a folder, parquet files, or the hub.

`nas.data.load_data` calls `find_source`. Nothing is decoded here.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.folders import folder_source, list_images
from nas.data.hub import hub_source
from nas.data.mask_folders import holds_masks, mask_folder_source
from nas.data.mask_tables import mask_parquet_source
from nas.data.notes import counted, note, shown
from nas.data.parquet import has_images, parquet_source
from nas.data.scenes import DIGIT_SCENES, digit_scenes
from nas.data.source import Encoded, Source, SourceSplit
from nas.data.splits import TRAIN
from nas.errors import InputError
from nas.extras import need
from nas.resources import expanded

DIGITS = "digits"


def is_digits(name: str) -> bool:
    """Return whether a name means scikit-learn's digits: a folder of that name comes first."""
    return name == DIGITS and not Path(DIGITS).is_dir()


def is_scenes(name: str) -> bool:
    """Return whether a name means the scenes of digits: a folder of that name comes first."""
    return name == DIGIT_SCENES and not Path(DIGIT_SCENES).is_dir()


def find_source(name: str, masks: bool = False) -> Source:
    """Return the source that `name` means: files that exist, our own, or else a name on the hub.

    Args:
        name: of the data set.
        masks: whether images with masks are wanted.

    Raises:
        InputError: when there is no such source, or its files, splits, classes or columns cannot be
            recognised.
    """
    try:
        return _find_masks(name) if masks else _find(name)
    except OSError as error:
        raise InputError(
            f"data {name}: {error.filename or 'it'} cannot be read: {error.strerror or error}"
        ) from None


def _find_masks(name: str) -> Source:
    need(f"data {name}", "train", "PIL")
    if is_scenes(name):
        return digit_scenes()
    path = expanded(name)
    if path.is_dir():
        listing = list_images(path)
        files = sorted(path / each for each in listing.unread().get(".parquet", []))
        if files and not listing.root.count:
            return mask_parquet_source(name, files, path)
        return mask_folder_source(name, path, listing)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return mask_parquet_source(name, [path], path.parent)
    if "*" in name:
        found = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
        chosen = [file for file in found if file.suffix.lower() == ".parquet"]
        return mask_parquet_source(name, chosen, _above(path))
    what = "has no masks" if is_digits(name) else "there is no such folder or parquet file here"
    raise InputError(
        f"data {name}: {what} (expected images with masks). Fix: --data {DIGIT_SCENES}, a folder with"
        " images/ and masks/, or parquet files with the columns 'image' and 'mask'"
    )


def _find(name: str) -> Source:
    need(f"data {name}", "train", "PIL")
    if is_scenes(name):
        raise InputError(
            f"data {name}: its images have masks, and no class of their own. Fix: add --segment, or"
            f" --data {DIGITS}"
        )
    if is_digits(name):
        return _digits()
    path = expanded(name)
    if name == DIGITS:
        note(f"data {name}: the folder ./{name} is read, not scikit-learn's digits")
    if path.is_dir():
        return _folder(name, path)
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise _no_data(name)
        return parquet_source(name, [path], path.parent)
    if "*" in name:
        files = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
        chosen = [file for file in files if file.suffix.lower() == ".parquet"]
        return parquet_source(name, chosen, _above(path))
    if path.exists():
        raise _no_data(name)
    # A hub name is NAME or OWNER/NAME. Whatever looks like a path is never looked up on the hub.
    if (
        name.startswith((".", "/", "~"))
        or path.suffix == ".parquet"
        or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    ):
        raise InputError(
            f"data {name}: there is no such file or folder. Fix: --data with the path of an image folder"
            " or of .parquet files"
        )
    return hub_source(name)


def _no_data(name: str) -> InputError:
    return InputError(
        f"data {name}: is no folder and no .parquet file. Fix: give the folder that its images are in;"
        " unpack an archive first"
    )


def _above(pattern: Path) -> Path:
    """Return the innermost folder above a pattern whose own path has no wildcard."""
    return next(folder for folder in pattern.parents if not re.search(r"[*?\[]", str(folder)))


def _folder(name: str, path: Path) -> Source:
    """Return the source of a folder: of its images, or of its parquet files.

    Raises:
        InputError: for a folder with both, where each could be the data.
    """
    listing = list_images(path)
    if holds_masks(listing):
        raise InputError(
            f"data {name}: its folders are images and their masks, and no classes. Fix: add --segment,"
            " or give a folder with one sub-folder per class"
        )
    files = sorted(path / each for each in listing.unread().get(".parquet", []))
    if not files:
        return folder_source(name, path, listing)
    if not listing.root.count:
        return parquet_source(name, files, path)
    # Images in one folder have no classes: they are those that the rows of tables refer to.
    together = sum(1 for each in listing.root.walk() if each.files) == 1
    tables = [file for file in files if has_images(file, paths_too=together)]
    if not tables:
        return folder_source(name, path, listing)
    if together:
        return parquet_source(name, tables, path)
    there = [str(file.relative_to(path)) for file in tables]
    raise InputError(
        f"data {name}: has {counted(listing.root.count, 'image')} in folders and"
        f" {counted(len(tables), 'parquet file')} with images ({shown(there)}). Fix: give"
        " the parquet files as a pattern, or remove them"
    )


@dataclass
class _DigitsSplit(SourceSplit):
    """The images of scikit-learn's digits, (1797, 8, 8) uint8."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        return [self.pixels[index] for index in indices]

    def where(self, index: int) -> str:
        return f"digit {index}"


def _digits() -> Source:
    """Return scikit-learn's digits as one train split."""
    need("data digits", "train", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # scikit-learn has grey values from 0 to 16. (1797, 8, 8).
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Source(
        name=DIGITS,
        description="digits of scikit-learn (1797 grey images of 8x8 pixels)",
        key=DIGITS,
        classes=tuple(str(digit) for digit in range(10)),
        splits={TRAIN: _DigitsSplit(pixels, digits.target.astype(np.int64))},
    )
