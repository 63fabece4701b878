"""Cache of decoded images: finds the map of a data set, or has it made; lists maps, removes them.

`nas.data.load_data` calls `cached`, and `nas data` calls `cached_maps` and `prune`. A map is a
folder (`nas.data.map_store`). It is made under another name and renamed when complete, so that a
kill or a full disk leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nas import resources
from nas.data.images import ImageData
from nas.data.map_store import DESCRIPTION, FORMAT, MapRequest, settle_map, write_map
from nas.data.notes import note
from nas.errors import NasError
from nas.files import text_sha256

_PART = ".part"
_FOLDER = re.compile(r"(.+)-(\d+x\d+)-[0-9a-f]{20}(\.part)?")
_LONGEST_NAME = 60
"""Letters of a data set's name in the name of its folder; file systems take 255 bytes."""

State = Literal["complete", "incomplete", "old"]


def cache_root() -> Path:
    """Return the folder of all maps: nas/data in $XDG_CACHE_HOME, which is ~/.cache by default."""
    return resources.cache_folder("data")


def cached(request: MapRequest) -> dict[str, ImageData]:
    """Return the splits ('train', perhaps 'test') of a source, in stratified order.

    They are decoded now or were decoded earlier.

    Raises:
        InputError: for data that cannot be used; see `nas.data.load_data`.
        NasError: when the map could not be written.
    """
    from filelock import FileLock

    folder = cache_root() / _folder_name(request)
    part = folder.with_name(folder.name + _PART)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Processes of one training ask at the same time: the first decodes, the others wait.
        with FileLock(f"{folder}.lock"):
            if not _whole(folder):
                # The lock is held: a folder that is not whole is damaged.
                shutil.rmtree(folder, ignore_errors=True)
                if not _whole(part):
                    write_map(part, request)
                settle_map(part)
                part.rename(folder)
        return _open(folder, request.source.name)
    except OSError as error:
        raise NasError(
            f"{folder}: the decoded images could not be kept ({error.strerror or error}). Fix: make"
            " room and run the same command again, or set XDG_CACHE_HOME to a folder with room"
        ) from error


def _folder_name(request: MapRequest) -> str:
    # The source's key changes when its files do, so a changed data set is decoded again.
    parts = (
        *(FORMAT, request.source.key, request.resolution, request.limit, request.seed),
        request.background,
    )
    key = text_sha256(repr(parts))[:20]
    size = "x".join(map(str, request.resolution))
    name = re.sub(r"[^\w.-]", "_", Path(request.source.name).name)[:_LONGEST_NAME] or "data"
    return f"{name}-{size}-{key}"


def _whole(folder: Path) -> bool:
    """Return whether a map is complete and can be opened: a damaged one is decoded again."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        texts = (*about["classes"], about["source"], about["background"])
        return (
            about["format"] == FORMAT
            and all(isinstance(text, str) for text in texts)
            and bool(about["splits"])
            and all(_whole_split(folder, name, split) for name, split in about["splits"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _whole_split(folder: Path, name: str, split: dict[str, Any]) -> bool:
    """Return whether the pixels and the labels of a split have the sizes that are recorded."""
    shape = split["shape"]
    if len(shape) != 4 or any(type(side) is not int or side < 1 for side in shape):
        return False
    labels = np.load(folder / f"{name}.labels.npy", mmap_mode="r", allow_pickle=False)
    hashes = np.load(folder / f"{name}.hashes.npy", mmap_mode="r", allow_pickle=False)
    return (
        (folder / f"{name}.u8").stat().st_size == math.prod(shape)
        and labels.shape[:1] == hashes.shape == (shape[0],)
        and labels.dtype.kind in "iu"
        and hashes.dtype == np.uint64
        and type(split["skipped"]) is int
        and all(isinstance(text, str) for text in (*split["notes"], split["fingerprint"]))
    )


def _open(folder: Path, name: str) -> dict[str, ImageData]:
    """Return the splits of a map as read-only memory maps."""
    about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    # The time of the last use, by which `nas data` tells what is not needed.
    os.utime(folder / DESCRIPTION)
    splits = {}
    for part, split in about["splits"].items():
        for text in split["notes"]:
            note(f"data {name}: {text}")
        layers = np.memmap(
            folder / f"{part}.u8", dtype=np.uint8, mode="r", shape=tuple(split["shape"])
        )
        # A fourth layer is the mask.
        splits[part] = ImageData(
            images=layers[:, :3],
            masks=layers[:, 3] if layers.shape[1] > 3 else None,
            labels=np.load(folder / f"{part}.labels.npy", allow_pickle=False),
            classes=tuple(about["classes"]),
            skipped=split["skipped"],
            source=about["source"] + ("" if part == "train" else f"; {part} split"),
            fingerprint=split["fingerprint"],
            name=name,
            background=about["background"],
            hashes=np.load(folder / f"{part}.hashes.npy", allow_pickle=False),
        )
    return splits


# All maps.


@dataclass(frozen=True)
class CachedMap:
    """A map in the cache.

    Attributes:
        path: its folder.
        name: of the data set, or the part of it that the folder's name has.
        resolution: as text, 224x224.
        images: number of images of all splits; None where it is not known.
        bytes: on the disk.
        state: `incomplete` was not decoded to its end, and the command that began it goes on;
            `old` is of a version whose maps are not read.
        used: seconds since 1970 of the last use.
    """

    path: Path
    name: str
    resolution: str
    images: int | None
    bytes: int
    state: State
    used: float

    @property
    def days(self) -> float:
        """Days since the last use."""
        return max(0.0, (time.time() - self.used) / 86400)


def cached_maps() -> list[CachedMap]:
    """Return all maps, the largest first."""
    root = cache_root()
    folders = sorted(root.iterdir()) if root.is_dir() else []
    maps = [
        _cached_map(path, match)
        for path in folders
        if path.is_dir() and (match := _FOLDER.fullmatch(path.name))
    ]
    return sorted(maps, key=lambda each: -each.bytes)


def _cached_map(path: Path, match: re.Match[str]) -> CachedMap:
    about = _about(path)
    incomplete = match[3] is not None
    state: State = "incomplete" if incomplete else "complete" if _whole(path) else "old"
    files = [each.stat() for each in path.iterdir() if each.is_file()]
    # Two names of one file count once; a file with gaps takes less than its length.
    sizes = {(each.st_dev, each.st_ino): each.st_blocks * 512 for each in files}
    used = max((each.st_mtime for each in files), default=path.stat().st_mtime)
    splits = about.get("splits", {}).values()
    return CachedMap(
        path=path,
        name=str(about.get("name", match[1])),
        resolution=match[2],
        images=sum(split["shape"][0] for split in splits) if splits and not incomplete else None,
        bytes=sum(sizes.values()),
        state=state,
        used=used,
    )


def _about(path: Path) -> dict[str, Any]:
    """Return the description of a map; empty where it is missing or damaged."""
    try:
        about = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def prune(maps: Iterable[CachedMap]) -> tuple[list[CachedMap], list[CachedMap]]:
    """Remove maps; return those that are removed, and those that are being made just now.

    A process that has a removed map open keeps its pixels.

    Raises:
        NasError: when a map cannot be removed.
    """
    from filelock import FileLock, Timeout

    removed: list[CachedMap] = []
    busy: list[CachedMap] = []
    for each in maps:
        lock = FileLock(f"{str(each.path).removesuffix(_PART)}.lock")
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(each.path)
            removed.append(each)
        except Timeout:
            busy.append(each)
        except FileNotFoundError:
            # Another process has removed it.
            continue
        except OSError as error:
            raise NasError(
                f"{each.path}: could not be removed ({error.strerror or error})"
            ) from error
    return removed, busy
