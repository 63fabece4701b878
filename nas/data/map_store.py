"""Decodes a source into one file of uint8 pixels per split, and goes on where a kill stopped it.

`nas.data.cache` calls `write_map`. The folder holds `train.u8` (N, 3, H, W), with masks
(N, 4, H, W), `train.labels.npy`, `train.hashes.npy` (`nas.data.identity`), the same of `test` where
there is one, `broken.csv` where images are left out, and `data.json`.

Images are decoded in the order of the source, which tables are read fastest in, and written to
their place in the stratified order. A journal says how many are done. Images of more than 8 bits
wait until the range of their values in the whole data set is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nas.csv_files import Writer
from nas.data.decoding import ODDITIES, Decoded, Depth, Scale, scale_of
from nas.data.identity import image_hashes
from nas.data.images import stratified_order
from nas.data.masks import decode
from nas.data.notes import note
from nas.data.source import Source, SourceSplit
from nas.data.threads import decoding_pool, decoding_threads
from nas.errors import InputError, NasError
from nas.files import remove
from nas.journals import append_text, read_entries

FORMAT = "nas-data-3"
DESCRIPTION = "data.json"
_JOURNAL = "progress.jsonl"
_BROKEN = "broken.csv"

_FETCHED = 32
"""Images fetched at once from a source."""
_BLOCK = 1 << 24
"""Bytes of pixels read at once for the fingerprint."""
_NAMED = 3
"""Maximum number of broken images that a message names; the file lists all."""
_PATIENCE_S = 2.0
"""Seconds before a progress bar shows."""
_SAVE_S = 5.0
"""Seconds between two entries of the journal: the most that a kill loses."""


@dataclass(frozen=True)
class MapRequest:
    """What a map is made of.

    Attributes:
        source: the images.
        resolution: (height, width) in pixels.
        limit: maximum number of images of each split; None for all.
        seed: decides the order of the images, and which are within the limit.
        background: the colour that transparent pixels are laid on.
    """

    source: Source
    resolution: tuple[int, int]
    limit: int | None
    seed: int
    background: str

    @property
    def image_bytes(self) -> int:
        """Bytes of one decoded image, with its mask."""
        return self.source.channels * self.resolution[0] * self.resolution[1]


def write_map(folder: Path, request: MapRequest) -> None:
    """Decode a source into a folder, or go on where an earlier call stopped.

    Raises:
        InputError: when most images are broken, or all but those of one class. The folder is
            removed.
        NasError: when there is no room for the pixels.
        OSError: when the folder cannot be written. What is decoded stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        writers = _writers(folder, request)
        _check_room(folder, writers)
        with decoding_pool() as pool:
            for writer in writers:
                writer.decode(pool)
            scales = _scales(writers)
            for writer in writers:
                writer.decode_deep(pool, scales)
        about = {
            "format": FORMAT,
            "name": request.source.name,
            "source": describe_source(request),
            "classes": list(request.source.classes),
            "background": request.background,
            "splits": {writer.name: writer.finish(scales) for writer in writers},
        }
    except InputError:
        # Decoding it again would say the same.
        remove(folder)
        raise
    _write_broken(folder, writers)
    (folder / DESCRIPTION).write_text(json.dumps(about, indent=1), encoding="utf-8")


def settle_map(folder: Path) -> None:
    """Remove what only decoding needed from a folder that `write_map` completed."""
    for path in (*folder.glob("*.slots"), folder / _JOURNAL):
        remove(path)


def describe_source(request: MapRequest) -> str:
    """Return the source of decoded images in words, for provenance."""
    size = "x".join(map(str, request.resolution))
    source = request.source
    return f"{source.description}, {len(source.classes)} classes, resized to {size}"


@dataclass
class _Progress:
    """What is known of the images that are decoded.

    Attributes:
        done: number of images, in the order of the source.
        broken: the place, the name and the reason of each image that cannot be decoded.
        odd: the number of images of each kind of oddity, with the name of the first.
        deep: the place in the order of the source, the kind, and the lowest and highest value of
            each image that waits for a scale.
    """

    done: int = 0
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    odd: dict[str, tuple[int, str]] = field(default_factory=dict)
    deep: list[tuple[int, Depth, float, float]] = field(default_factory=list)

    def add(self, other: _Progress) -> None:
        """Add what was decoded after it."""
        self.done += other.done
        self.broken += other.broken
        self.deep += other.deep
        for kind, (count, example) in other.odd.items():
            before, first = self.odd.get(kind, (0, example))
            self.odd[kind] = (before + count, first)

    def count(self, kind: str, example: str) -> None:
        """Count an oddity of an image."""
        before, first = self.odd.get(kind, (0, example))
        self.odd[kind] = (before + 1, first)


def _writers(folder: Path, request: MapRequest) -> list[_SplitWriter]:
    """Return the writers of all splits, with what an earlier call has done."""
    writers = [
        _SplitWriter(folder, name, split, request) for name, split in request.source.splits.items()
    ]
    by_name = {writer.name: writer for writer in writers}
    try:
        for entry in read_entries(folder / _JOURNAL):
            by_name[entry.pop("split")].progress.add(_read_progress(entry))
        whole = all(writer.is_consistent for writer in writers)
    except (InputError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        # A damaged journal says nothing: decode from the start.
        remove(folder / _JOURNAL)
        for writer in writers:
            writer.progress = _Progress()
    return writers


def _read_progress(entry: Mapping[str, Any]) -> _Progress:
    return _Progress(
        done=int(entry["done"]),
        broken=[(int(slot), str(where), str(reason)) for slot, where, reason in entry["broken"]],
        odd={kind: (int(count), str(first)) for kind, (count, first) in entry["odd"].items()},
        deep=[(int(k), depth, float(low), float(high)) for k, depth, low, high in entry["deep"]],
    )


def _check_room(folder: Path, writers: Sequence[_SplitWriter]) -> None:
    """Raise NasError where the disk has no room for the pixels that are to come."""
    missing = sum(writer.missing_bytes for writer in writers)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise NasError(
            f"{folder.parent}: the decoded images take {missing / 1e9:.1f} GB more, and"
            f" {free / 1e9:.1f} GB are free. Fix: set XDG_CACHE_HOME to a folder with room, run nas"
            " data --prune, give --store stream, or lower --resolution or --limit"
        )


def _scales(writers: Sequence[_SplitWriter]) -> dict[Depth, Scale]:
    """Return the scales of images with more than 8 bits, by their values in all splits."""
    values: dict[Depth, list[float]] = {}
    for writer in writers:
        for _, depth, low, high in writer.progress.deep:
            values.setdefault(depth, []).extend((low, high))
    return {depth: scale_of(depth, min(each), max(each)) for depth, each in values.items()}


def _write_broken(folder: Path, writers: Sequence[_SplitWriter]) -> None:
    """Write the list of all images that are left out, if any."""
    rows = [
        (writer.name, where, reason)
        for writer in writers
        for _, where, reason in writer.progress.broken
    ]
    if rows:
        with (folder / _BROKEN).open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            Writer(file).rows([("split", "image", "reason"), *rows])


class _SplitWriter:
    """Writes the pixels of one split.

    Args:
        folder: of the map.
        name: of the split.
        split: its images.
        request: what the map is made of.
    """

    def __init__(self, folder: Path, name: str, split: SourceSplit, request: MapRequest) -> None:
        self.folder = folder
        self.name = name
        self.split = split
        self.request = request
        self.progress = _Progress()
        # A prefix of a stratified order is stratified: a limit keeps the shares of the classes.
        self.order = stratified_order(split.labels, request.seed)[: request.limit]
        # The k-th image in the order of the source goes to the place slots[k].
        self.slots = np.argsort(self.order, kind="stable")

    def __len__(self) -> int:
        return len(self.order)

    @property
    def path(self) -> Path:
        """The pixels with gaps for broken images."""
        return self.folder / f"{self.name}.slots"

    @property
    def is_consistent(self) -> bool:
        """Whether the pixels that the journal speaks of are there."""
        size = self.path.stat().st_size if self.path.exists() else 0
        return self.progress.done == 0 or (
            self.progress.done <= len(self) and size == len(self) * self.request.image_bytes
        )

    @property
    def missing_bytes(self) -> int:
        """Bytes that the pixels will take beyond those on the disk."""
        there = self.path.stat().st_blocks * 512 if self.path.exists() else 0
        return max(0, len(self) * self.request.image_bytes - there)

    def decode(self, pool: ThreadPoolExecutor) -> None:
        """Decode the images that are not done, and save the progress every few seconds."""
        start = self.progress.done
        if start and start < len(self):
            note(
                f"data {self.request.source.name}: {start} of {len(self)} {self.name} images are"
                " decoded already; going on"
            )
        with self._opened() as file:
            fresh = _Progress()
            saved = time.monotonic()
            try:
                for k, decoded in self._decoded(pool, range(start, len(self)), None):
                    self._keep(file, k, decoded, fresh)
                    fresh.done += 1
                    if time.monotonic() - saved > _SAVE_S:
                        fresh = self._save(file, fresh)
                        saved = time.monotonic()
            except BaseException:
                # An interrupt loses nothing. A full disk cannot be written to; its error counts.
                with suppress(OSError, NasError):
                    self._save(file, fresh)
                raise
            self._save(file, fresh)

    def decode_deep(self, pool: ThreadPoolExecutor, scales: Mapping[Depth, Scale]) -> None:
        """Decode the images that waited for a scale. It is repeated after a kill."""
        deep = [k for k, _, _, _ in self.progress.deep]
        if not deep:
            return
        fresh = _Progress()
        with self._opened() as file:
            for k, decoded in self._decoded(pool, deep, scales):
                self._keep(file, k, decoded, fresh)
        # The first pass has counted the depth itself.
        fresh.odd = {kind: each for kind, each in fresh.odd.items() if kind not in scales}
        self.progress.add(fresh)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Yield the file of pixels, as long as all of them.

        It is a plain file, no memory map: on a full disk a map kills the process, while a file
        raises an error.
        """
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(len(self) * self.request.image_bytes)
            yield file

    def _keep(self, file: IO[bytes], k: int, decoded: Decoded, fresh: _Progress) -> None:
        """Write the pixels of an image to their place, or note why there are none."""
        slot = int(self.slots[k])
        where = self.split.where(int(self.order[slot])) if decoded.error or decoded.oddities else ""
        if decoded.error:
            fresh.broken.append((slot, where, decoded.error))
            return
        for kind in decoded.oddities:
            fresh.count(kind, where)
        if decoded.depth is not None:
            fresh.count(decoded.depth, self.split.where(int(self.order[slot])))
            fresh.deep.append((k, decoded.depth, *decoded.values))
            return
        assert decoded.pixels is not None
        file.seek(slot * self.request.image_bytes)
        file.write(decoded.pixels.tobytes())

    def _decoded(
        self, pool: ThreadPoolExecutor, ks: Sequence[int], scales: Mapping[Depth, Scale] | None
    ) -> Iterator[tuple[int, Decoded]]:
        """Yield images in the order of the source; a few wait in memory while threads work."""
        window: deque[tuple[int, Future[Decoded]]] = deque()
        longest = _FETCHED + 2 * decoding_threads()
        for chunk in self._with_progress(ks):
            indices = [int(self.order[self.slots[k]]) for k in chunk]
            for k, encoded in zip(chunk, self.split.fetch(indices), strict=True):
                made = pool.submit(
                    decode,
                    encoded,
                    self.request.resolution,
                    self.request.background,
                    scales,
                )
                window.append((k, made))
                if len(window) >= longest:
                    first, future = window.popleft()
                    yield first, future.result()
        for first, future in window:
            yield first, future.result()

    def _with_progress(self, ks: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield chunks, with a progress bar on stderr once it takes long."""
        from rich.console import Console
        from rich.progress import Progress

        started = time.monotonic()
        screen = Console(stderr=True)
        bar = Progress(console=screen, transient=True, disable=not sys.stderr.isatty())
        what = f"decoding {self.request.source.name} ({self.name})"
        task = bar.add_task(what, total=len(self), completed=len(self) - len(ks))
        try:
            for start in range(0, len(ks), _FETCHED):
                if time.monotonic() - started > _PATIENCE_S:
                    bar.start()
                yield ks[start : start + _FETCHED]
                bar.advance(task, _FETCHED)
        finally:
            bar.stop()

    def _save(self, file: IO[bytes], fresh: _Progress) -> _Progress:
        """Append what was decoded to the journal, after its pixels; return an empty progress."""
        if not fresh.done:
            return fresh
        # First the pixels: after a power cut the journal must not speak of any that are lost.
        file.flush()
        os.fsync(file.fileno())
        entry = {
            "split": self.name,
            "done": fresh.done,
            "broken": fresh.broken,
            "odd": fresh.odd,
            "deep": fresh.deep,
        }
        append_text(self.folder / _JOURNAL, json.dumps(entry) + "\n", "decoded")
        self.progress.add(fresh)
        return _Progress()

    def finish(self, scales: Mapping[Depth, Scale]) -> dict[str, Any]:
        """Write the final files of the split; return its entry of data.json.

        Raises:
            InputError: when most images are broken, or all but those of one class.
        """
        labels = self.split.labels[self.order]
        broken = [slot for slot, _, _ in self.progress.broken]
        kept = np.setdiff1d(np.arange(len(self)), broken)
        self._check(labels, kept)
        np.save(self.folder / f"{self.name}.labels.npy", labels[kept], allow_pickle=False)
        # The files were read a moment ago, so a second reading comes from memory.
        hashes = image_hashes(self.split, self.order[kept])
        np.save(self.folder / f"{self.name}.hashes.npy", hashes, allow_pickle=False)
        height, width = self.request.resolution
        return {
            "shape": [len(kept), self.request.source.channels, height, width],
            "skipped": len(broken),
            "notes": self._notes(scales),
            "fingerprint": self._write_pixels(kept, labels[kept]),
        }

    def _check(self, labels: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        broken = len(labels) - len(kept)
        classes = len(np.unique(labels))
        if broken > len(labels) / 2 or len(np.unique(labels[kept])) < min(2, classes):
            raise InputError(
                f"data {self.request.source.name}: {self._broken_images()}. Fix: mend or remove them"
            )

    def _broken_images(self) -> str:
        broken = self.progress.broken
        named = "; ".join(f"{where}: {reason}" for _, where, reason in broken[:_NAMED])
        return f"{len(broken)} of {len(self)} images that are broken ({named})"

    def _notes(self, scales: Mapping[Depth, Scale]) -> list[str]:
        """Return sentences on images that are left out or unusual."""
        notes = []
        if self.progress.broken:
            all_of_them = f"; all are in {_BROKEN}" if len(self.progress.broken) > _NAMED else ""
            notes.append(f"skipped {self._broken_images()}{all_of_them}")
        shown = {depth: f"{low:g}..{high:g}" for depth, (low, high) in scales.items()}
        for kind, (count, example) in sorted(self.progress.odd.items()):
            what = ODDITIES[kind].format(background=self.request.background, **shown)
            images = "image" if count == 1 else "images"
            notes.append(f"{self.name}: {count} {images} {what} ({example})")
        return notes

    def _write_pixels(self, kept: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
        """Write `NAME.u8` without the gaps of broken images; return the fingerprint.

        The file with gaps stays until all is written, so that a kill loses nothing.
        """
        classes = tuple(self.request.source.classes)
        digest = hashlib.sha256(repr((classes, self.request.resolution)).encode())
        size = self.request.image_bytes
        final = self.folder / f"{self.name}.u8"
        gaps = len(kept) < len(self)
        remove(final)
        if not gaps:
            # A second name of the same file.
            _link(self.path, final)
        with self.path.open("rb") as slots, final.open("wb" if gaps else "rb") as file:
            for start, count in _runs(kept, max(1, _BLOCK // size)):
                slots.seek(start * size)
                pixels = slots.read(count * size)
                digest.update(pixels)
                if gaps:
                    file.write(pixels)
            if gaps:
                file.flush()
                os.fsync(file.fileno())
        digest.update(labels.tobytes())
        return digest.hexdigest()


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def _runs(kept: NDArray[np.int64], longest: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive numbers as (first, count), none longer than `longest`."""
    ends = np.flatnonzero(np.diff(kept) != 1) + 1
    for start, stop in zip([0, *ends], [*ends, len(kept)], strict=True):
        for first in range(int(start), int(stop), longest):
            yield int(kept[first]), min(longest, int(stop) - first)
