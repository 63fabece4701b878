"""Lists the files of an image folder once: what is an image, and what is not. Imports no library.

`nas.data.folders` calls `list_folder`. The list decides both which images are decoded and the key
of the cache that keeps them, so a change of any image is seen.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nas.errors import InputError

_IGNORED = {
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "System Volume Information",
    "$RECYCLE.BIN",
    "Thumbs.db",
    "desktop.ini",
    "Icon\r",
}
"""Names that systems and archive programs leave everywhere; those with a dot before them, too."""

NO_SUFFIX = "without suffix"


@dataclass
class Folder:
    """A folder with what lies in it.

    Attributes:
        path: relative to the listed folder, with `/`; empty for that folder itself.
        files: images by name, each with its stamp (see `stamp_of`).
        others: names of files that are no images.
        folders: sub-folders, links to folders included.
    """

    path: str
    files: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @cached_property
    def count(self) -> int:
        """Number of images in the folder and below."""
        return sum(len(each.files) for each in self.walk())

    @cached_property
    def filled(self) -> list[Folder]:
        """Sub-folders with images in them or below."""
        return [each for each in self.folders if each.count]

    def walk(self) -> Iterator[Folder]:
        """Yield the folder and all below it."""
        # A stack instead of recursion: a tree may be deeper than Python's stack.
        stack = [self]
        while stack:
            here = stack.pop()
            yield here
            stack.extend(reversed(here.folders))

    def join(self, name: str) -> str:
        """Return the relative path of a file in the folder."""
        return f"{self.path}/{name}" if self.path else name

    def images(self) -> Iterator[tuple[str, bytes]]:
        """Yield the relative path and the stamp of each image in the folder and below."""
        for folder in self.walk():
            for name, stamp in folder.files.items():
                yield folder.join(name), stamp


@dataclass
class Listing:
    """A folder, and what was met while it was listed.

    Attributes:
        root: the folder itself.
        unreachable: relative paths of links to nothing and of files that cannot be looked at.
        repeated: links to a folder that is listed already, each with that folder's path.
        special: relative paths of pipes, sockets and devices.
    """

    root: Folder
    unreachable: list[str] = field(default_factory=list)
    repeated: list[tuple[str, str]] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    def unread(self) -> dict[str, list[str]]:
        """Return the paths of files that are no images, by suffix in lower case."""
        found: dict[str, list[str]] = {}
        for folder in self.root.walk():
            for name in folder.others:
                found.setdefault(suffix_of(name) or NO_SUFFIX, []).append(folder.join(name))
        return found


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def list_folder(path: Path, suffixes: Collection[str]) -> Listing:
    """Return the listing of a folder.

    Links are followed. A folder is listed once: a link to one that is listed elsewhere, or to a
    folder above it, is not entered, so that no image counts twice and no loop is endless.

    Args:
        path: the folder.
        suffixes: of the files that are images, in lower case.

    Raises:
        InputError: for a folder that cannot be listed.
    """
    listing = Listing(Folder(""))
    visited = {_identity(path.stat()): "."}
    links: list[tuple[Folder, str]] = []
    _fill(path, listing.root, listing, suffixes, visited, links)
    # Links to folders come after all real folders: of two paths to one folder the real one counts.
    while links:
        waiting, links = links, []
        for parent, name in waiting:
            relative = parent.join(name)
            identity = _identity((path / relative).stat())
            if identity in visited:
                listing.repeated.append((relative, visited[identity]))
                continue
            visited[identity] = relative
            child = Folder(relative)
            parent.folders.append(child)
            _fill(path, child, listing, suffixes, visited, links)
    for folder in listing.root.walk():
        folder.folders.sort(key=lambda each: each.path)
    return listing


def _fill(
    root: Path,
    folder: Folder,
    listing: Listing,
    suffixes: Collection[str],
    visited: dict[tuple[int, int], str],
    links: list[tuple[Folder, str]],
) -> None:
    """List a folder and the real folders below it; links to folders are put into `links`."""
    stack = [folder]
    while stack:
        here = stack.pop()
        try:
            with os.scandir(root / here.path) as found:
                entries = sorted(found, key=lambda each: each.name)
        except OSError as error:
            raise InputError(
                f"{root / here.path}: cannot be listed: {error.strerror or error}"
            ) from None
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _IGNORED:
                continue
            relative = here.join(entry.name)
            try:
                status = entry.stat()
            except OSError:
                # A link to nothing, or a loop of links.
                listing.unreachable.append(relative)
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.is_symlink():
                    links.append((here, entry.name))
                    continue
                visited[_identity(status)] = relative
                child = Folder(relative)
                here.folders.append(child)
                stack.append(child)
            elif not stat.S_ISREG(status.st_mode):
                # Opening a pipe would wait for ever.
                listing.special.append(relative)
            elif suffix_of(entry.name) in suffixes:
                here.files[entry.name] = stamp_of(status)
            else:
                here.others.append(entry.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def stamp_of(status: os.stat_result) -> bytes:
    """Return the size and the times of a file, which change when its content does.

    The time of the last change of the inode is among them: copying programs restore the time of
    modification, and a replaced file of equal size would look unchanged.
    """
    return struct.pack("<Qqq", status.st_size, status.st_mtime_ns, status.st_ctime_ns)
