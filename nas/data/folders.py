"""Image folders as a source: class folders, with or without folders of splits above or below them.

`nas.data.sources` calls `folder_source`. The listing of the files is made once; it decides which
images there are, their labels, and the key under which decoded images are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.decoding import readable_suffixes
from nas.data.labels import named_labels, unify
from nas.data.layout import Arranged, Item, arrange
from nas.data.listing import NO_SUFFIX, Folder, Listing, list_folder, suffix_of
from nas.data.metadata import metadata_files, read_metadata
from nas.data.notes import counted, shown
from nas.data.source import Encoded, Source, SourceSplit
from nas.errors import InputError

_HEIF = (".heic", ".heif", ".hif")
_PICTURES = (
    *_HEIF,
    *(".avif", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".eps", ".webp"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".dcm", ".nii"),
)
"""Suffixes of pictures that may not be readable here; those of photos and of scans."""


@dataclass
class FolderSplit(SourceSplit):
    """Images of a folder, by their paths.

    Attributes:
        root: the folder, as it was given.
        paths: relative to it.
        labels: (N,) int64.
    """

    root: str
    paths: Sequence[str]
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the paths of some images."""
        return [os.path.join(self.root, self.paths[index]) for index in indices]

    def where(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.root, self.paths[index])


def folder_source(data: str, path: Path, listing: Listing | None = None) -> Source:
    """Return the source of an image folder.

    Args:
        data: the data set by name.
        path: the folder.
        listing: of the folder, where it was listed before.

    Raises:
        InputError: when there are no images, or when splits or classes cannot be recognised.
    """
    listing = listing or list_images(path)
    files = metadata_files(listing.root)
    notes = unread_notes(listing, files)
    if not listing.root.count:
        there = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(
            f"data {data}: there are no images{there}. Fix: put them into one sub-folder per class"
        )
    arranged = read_metadata(data, path, listing.root, files) if files else None
    if arranged is None:
        arranged = arrange(data, listing.root)
        if files:
            notes.append(f"{shown(files)}: has no labels; class folders are read")
    _refuse_lost_classes(data, arranged)
    if arranged.empty:
        notes.append(f"folders without images: {shown(list(arranged.empty))}")
    raw = {
        split: [named_labels([item.label for item in items])]
        for split, items in arranged.splits.items()
    }
    try:
        unified = unify(data, raw)
    except InputError as error:
        # A folder that was left out may be the class that is missing.
        left_out = "; ".join(arranged.notes)
        raise InputError(f"{error} ({left_out})" if left_out else str(error)) from None
    splits: dict[str, SourceSplit] = {}
    for split, labels in unified.labels.items():
        kept = np.flatnonzero(labels >= 0)
        paths = [arranged.splits[split][index].path for index in kept]
        splits[split] = FolderSplit(str(path), paths, labels[kept])
    return Source(
        name=data,
        description=f"image folder {data} ({sum(map(len, splits.values()))} files)",
        key=_key(path, arranged),
        classes=tuple(map(_printable, unified.classes)),
        splits=splits,
        notes=(*notes, *arranged.notes, *unified.notes),
    )


def list_images(path: Path) -> Listing:
    """Return the listing of a folder, with the files as images that can be decoded here."""
    return list_folder(path, readable_suffixes())


def _key(path: Path, arranged: Arranged) -> str:
    """Return a hash of all images with their splits and classes, which changes when a file does."""
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    for split, items in arranged.splits.items():
        for item in items:
            digest.update(_line(split, item))
    return digest.hexdigest()


def _line(split: str, item: Item) -> bytes:
    names = os.fsencode(f"{split}\0{item.label}\0{item.path}\0")
    return names + item.stamp + b"\n"


def _printable(name: str) -> str:
    r"""Return the name of a class with bytes that are no UTF-8 as \xff, which files can hold."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def unread_notes(listing: Listing, read: Collection[str]) -> list[str]:
    """Return notes on what lies in a folder and is not read, counted by suffix.

    Args:
        listing: of the folder.
        read: relative paths of files that are no images and are read, such as lists of labels.
    """
    notes = []
    unread = {
        suffix: left
        for suffix, paths in listing.unread().items()
        if (left := [path for path in paths if path not in read])
    }
    if unread:
        parts = [_unread_suffix(suffix, paths) for suffix, paths in sorted(unread.items())]
        notes.append(f"not read: {'; '.join(parts)}")
    if listing.unreachable:
        notes.append(
            f"not read: {counted(len(listing.unreachable), 'name')} that lead to no file"
            f" ({shown(listing.unreachable)})"
        )
    if listing.special:
        notes.append(
            f"not read: {counted(len(listing.special), 'special file')} ({shown(listing.special)})"
        )
    if listing.repeated:
        links = shown([f"{link} to {target}" for link, target in listing.repeated])
        notes.append(f"links to folders that are read already not followed: {links}")
    return notes


def _unread_suffix(suffix: str, paths: Sequence[str]) -> str:
    """Return the number of files of a suffix with an example, and how to read them, if at all."""
    files = "file" if len(paths) == 1 else "files"
    what = f"{files} {suffix}" if suffix == NO_SUFFIX else f"{suffix} {files}"
    hint = f", which {_reader(suffix)} reads" if _reader(suffix) else ""
    return f"{len(paths)} {what} ({paths[0]}{hint})"


def _reader(suffix: str) -> str:
    """Return the package that reads a suffix, or an empty text."""
    if suffix in _HEIF:
        return "pillow-heif (pip install pillow-heif)"
    return "a newer Pillow (pip install --upgrade pillow)" if suffix in (".avif", ".webp") else ""


def _refuse_lost_classes(data: str, arranged: Arranged) -> None:
    """Raise InputError for a class folder all of whose pictures cannot be read here."""
    for path, folder in arranged.empty.items():
        suffixes = [suffix_of(name) for name in _others(folder)]
        pictures = [suffix for suffix in suffixes if suffix in _PICTURES]
        if pictures:
            remedy = _reader(pictures[0])
            fix = remedy.partition("(")[2].rstrip(")") or "convert them to PNG or JPEG"
            raise InputError(
                f"data {data}: {path}: its {counted(len(pictures), f'{pictures[0]} file')} cannot"
                f" be read here, and the class would be lost. Fix: {fix}, or remove the folder"
            )


def _others(folder: Folder) -> list[str]:
    return [name for each in folder.walk() for name in each.others]
