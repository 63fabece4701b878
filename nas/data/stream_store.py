"""Decodes the images of a source when they are read. Nothing is decoded before or kept on the disk.

`nas.data.load_data` calls `open_stream` for the `stream` store. Evaluations index the images like an
array. `nas.training.loader` takes them encoded and has workers decode them.

The order of the images is that of `nas.data.map_store`, so both stores hold out the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.data.decoding import ODDITIES, Decoded, Depth, Scale, scale_of
from nas.data.identity import Hashes, image_hashes
from nas.data.images import ImageData, stratified_order
from nas.data.map_store import MapRequest, describe_source
from nas.data.masks import decode
from nas.data.notes import counted, note
from nas.data.source import Encoded, Pair, SourceSplit
from nas.data.threads import decoding_pool
from nas.errors import InputError

_PROBED = 128
"""Images of each split that are decoded at the start. Their values give the scale of images with
more than 8 bits, and most of them must not be broken."""
_NAMED = 3
"""Maximum number of broken images that messages name."""
_MANY = 20_000
"""Number of images from which on it is said that their files are read for hashes."""


@dataclass
class Stream:
    """A split whose images are decoded when they are read.

    Attributes:
        name: the argument of `load_data`.
        split: the images, in the order of the source.
        order: (N,) the index in `split` of each image.
        labels: (N,) int64.
        classes: names of the classes.
        resolution: (height, width) in pixels.
        background: the colour that transparent pixels are laid on.
        channels: layers of a decoded image: three colours, and the mask where there is one.
        scales: of images with more than 8 bits.
        broken: the reason of each image that could not be decoded so far.
    """

    name: str
    split: SourceSplit
    order: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    resolution: tuple[int, int]
    background: str
    channels: int = 3
    scales: dict[Depth, Scale] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)

    def encoded(self, positions: NDArray[np.int64]) -> list[Encoded]:
        """Return some images before decoding. Tables are read in their own order."""
        indices = self.order[positions]
        ascending = np.argsort(indices, kind="stable")
        images: list[Encoded] = [None] * len(indices)
        fetched = self.split.fetch([int(index) for index in indices[ascending]])
        for place, image in zip(ascending, fetched, strict=True):
            images[place] = image
        return images

    def where(self, position: int) -> str:
        """Return the name of an image for messages."""
        return self.split.where(int(self.order[position]))

    def decode(self, encoded: Encoded) -> Decoded:
        """Return an image as the `memory` store has it."""
        return decode(encoded, self.resolution, self.background, self.scales)

    def add_broken(self, position: int, reason: str) -> None:
        """Note that an image cannot be decoded.

        Raises:
            InputError: when these are more than half of all.
        """
        if position in self.broken:
            return
        self.broken[position] = reason
        count = len(self.broken)
        where = self.where(position)
        if count > max(len(self.order) / 2, 1):
            raise InputError(
                f"data {self.name}: {count} of {len(self.order)} images are broken, the last one"
                f" {where}: {reason}. Fix: mend or remove them"
            )
        if count <= _NAMED:
            note(
                f"warning: data {self.name}: {where} cannot be decoded ({reason}); another image of"
                " its class takes its place"
            )
        elif count == _NAMED + 1:
            note(f"warning: data {self.name}: more images cannot be decoded; they are not named")


class StreamImages:
    """Images that look like an array (N, 3, H, W) of uint8 and are decoded when they are read.

    A slice or an array of indices gives another `StreamImages`; `np.asarray` decodes.

    Args:
        stream: the split.
        positions: (N,) the images, in the order of the split.
        part: the images that may take the place of broken ones; by default `positions`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        stream: Stream,
        positions: NDArray[np.int64],
        part: NDArray[np.int64] | None = None,
    ) -> None:
        self.stream = stream
        self.positions = positions
        self._part = positions if part is None else part

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"StreamImages({self.shape} of {self.stream.name!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), 3, *self.stream.resolution)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> StreamImages:
        return StreamImages(self.stream, self.positions[index], self._part)

    def part(self, start: int, stop: int) -> StreamImages:
        """Return images as a split of their own, whose broken images are replaced within it."""
        return StreamImages(self.stream, self.positions[start:stop])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self.layers()[:, :3]
        return pixels if dtype is None else pixels.astype(dtype)

    def layers(self) -> NDArray[np.uint8]:
        """Return the decoded images (N, 3, H, W), or with their masks (N, 4, H, W)."""
        shape = (len(self), self.stream.channels, *self.stream.resolution)
        pixels = np.empty(shape, dtype=np.uint8)
        encoded = self.stream.encoded(self.positions)
        with decoding_pool() as pool:
            for place, decoded in enumerate(pool.map(self.stream.decode, encoded)):
                made = decoded.pixels
                if made is None:
                    made = self.replacement(place, failure(decoded), self.stream.decode)
                pixels[place] = made
        return pixels

    def hashes(self) -> Hashes:
        """Return the hashes (N,) of the images before decoding; it reads every image once."""
        count = len(self)
        if count >= _MANY:
            note(f"data {self.stream.name}: {count} images are read once for their hashes")
        return image_hashes(self.stream.split, self.stream.order[self.positions])

    @cached_property
    def blocks(self) -> NDArray[np.int64] | None:
        """The block of the source that each image is read with, or None; see `SourceSplit`."""
        blocks = self.stream.split.blocks()
        return None if blocks is None else blocks[self.stream.order[self.positions]]

    def encoded(self, indices: NDArray[np.int64]) -> list[Encoded]:
        """Return images before decoding."""
        return self.stream.encoded(self.positions[indices])

    def replacement(
        self, index: int, reason: str, decode: Callable[[Encoded], Decoded]
    ) -> NDArray[np.uint8]:
        """Return the pixels of the next image of the same class that can be decoded.

        It depends on the files alone, so that all processes and a resumed training get the same.

        Args:
            index: of a broken image.
            reason: why it cannot be decoded.
            decode: decodes another image.

        Raises:
            InputError: when no image of the class can be decoded, or most images are broken.
        """
        stream = self.stream
        position = int(self.positions[index])
        stream.add_broken(position, reason)
        label = int(stream.labels[position])
        others = self._part[stream.labels[self._part] == label]
        # From the image on, and then from the first one.
        start = int(np.searchsorted(others, position, side="right"))
        for other in (*others[start:], *others[:start]):
            if int(other) in stream.broken:
                continue
            decoded = decode(stream.encoded(np.array([other]))[0])
            problem = failure(decoded)
            if not problem:
                assert decoded.pixels is not None
                return decoded.pixels
            stream.add_broken(int(other), problem)
        # Images with masks have no class of their own.
        which = "a split" if stream.channels > 3 else f"class {stream.classes[label]}"
        raise InputError(
            f"data {stream.name}: no image of {which} can be decoded, among them"
            f" {stream.where(position)} ({reason}). Fix: mend or remove them"
        )


class StreamMasks:
    """The masks (N, H, W) of images of the `stream` store, which are decoded when they are read."""

    def __init__(self, images: StreamImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.images.stream.resolution)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> StreamMasks:
        return StreamMasks(self.images[index])

    def part(self, start: int, stop: int) -> StreamMasks:
        """Return the masks of a split; see `StreamImages.part`."""
        return StreamMasks(self.images.part(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        masks = self.images.layers()[:, 3]
        return masks if dtype is None else masks.astype(dtype)


def failure(decoded: Decoded) -> str:
    """Return why an image has no pixels; empty where it has some."""
    if decoded.depth is not None:
        return f"it has more than 8 bits ({decoded.depth}), which no image at the start had"
    return decoded.error


def open_stream(request: MapRequest) -> dict[str, ImageData]:
    """Return the splits ('train', perhaps 'test') of a source, in stratified order.

    Raises:
        InputError: when most of the first images that are looked at are broken.
    """
    streams = {name: _stream(request, split, name) for name, split in request.source.splits.items()}
    probed = {name: _Probed(stream) for name, stream in streams.items()}
    values: dict[Depth, list[float]] = {}
    for each in probed.values():
        for decoded in each.decoded:
            if decoded.depth is not None:
                values.setdefault(decoded.depth, []).extend(decoded.values)
    scales = {depth: scale_of(depth, min(each), max(each)) for depth, each in values.items()}
    about = describe_source(request)
    images = {}
    for name, stream in streams.items():
        stream.scales.update(scales)
        for text in probed[name].notes(name, scales):
            note(f"data {request.source.name}: {text}")
        pixels = StreamImages(stream, np.arange(len(stream.order)))
        images[name] = ImageData(
            images=pixels,
            masks=StreamMasks(pixels) if stream.channels > 3 else None,
            labels=stream.labels,
            classes=stream.classes,
            skipped=0,
            source=about + ("" if name == "train" else f"; {name} split"),
            fingerprint=probed[name].fingerprint(),
            name=request.source.name,
            background=request.background,
            store="stream",
        )
    return images


def _stream(request: MapRequest, split: SourceSplit, name: str) -> Stream:
    order = stratified_order(split.labels, request.seed)[: request.limit]
    return Stream(
        request.source.name,
        split,
        order,
        split.labels[order],
        request.source.classes,
        request.resolution,
        request.background,
        request.source.channels,
    )


class _Probed:
    """Images of a split that are decoded at the start, spread evenly over it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        count = min(_PROBED, len(stream.order))
        self.positions = np.unique(np.linspace(0, len(stream.order) - 1, count).astype(np.int64))
        self.encoded = stream.encoded(self.positions)
        with decoding_pool() as pool:
            self.decoded = list(pool.map(stream.decode, self.encoded))
        broken = [
            f"{stream.where(int(position))}: {decoded.error}"
            for position, decoded in zip(self.positions, self.decoded, strict=True)
            if decoded.error
        ]
        if len(broken) > len(self.positions) / 2:
            raise InputError(
                f"data {stream.name}: {len(broken)} of {counted(len(self.positions), 'image')} that"
                f" were tried are broken ({'; '.join(broken[:_NAMED])}). Fix: mend or remove them"
            )

    def notes(self, name: str, scales: Mapping[Depth, Scale]) -> list[str]:
        """Return sentences on unusual images among those that were tried."""
        shown = {depth: f"{low:g}..{high:g}" for depth, (low, high) in scales.items()}
        kinds = sorted({kind for decoded in self.decoded for kind in decoded.oddities})
        notes = []
        for kind in kinds:
            having = [kind in decoded.oddities for decoded in self.decoded]
            example = self.stream.where(int(self.positions[having.index(True)]))
            what = ODDITIES[kind].format(background=self.stream.background, **shown)
            notes.append(
                f"{name}: {sum(having)} of {counted(len(self.positions), 'image')} that were tried"
                f" {what} ({example})"
            )
        return notes

    def fingerprint(self) -> str:
        """Return a hash of the labels in their order, and of the files of the images that were tried.

        It leaves out paths and dates, so that a copy on another machine has the same.
        """
        stream = self.stream
        about = ("stream", stream.classes, stream.resolution, stream.background)
        digest = hashlib.sha256(repr(about).encode())
        digest.update(stream.order.tobytes())
        digest.update(stream.labels.tobytes())
        for content in _contents(self.encoded):
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def _contents(images: Sequence[Encoded]) -> Iterator[bytes]:
    """Yield the bytes of encoded images; none where a file cannot be read."""
    for image in images:
        if isinstance(image, Pair):
            yield from _contents([image.image, image.mask])
        elif isinstance(image, str):
            try:
                yield Path(image).read_bytes()
            except OSError:
                yield b""
        elif isinstance(image, np.ndarray):
            yield image.tobytes()
        else:
            yield image or b""
