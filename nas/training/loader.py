"""Batches whose images workers decode and augment ahead of the training: a torch DataLoader.

`nas.training.loop` calls `open_batches`. The loader reads the images of both stores: those of a
`stream` are decoded by the workers, those in memory are augmented by them.

Each image is a function of (seed, epoch, index, copy), whichever worker makes it. The main process
reads encoded images from the source and sends them to the workers, so that these hold no list of
files and a table is read once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data import ImageData
from nas.data.decoding import Decoded, Depth, Fit, Scale
from nas.data.masks import PairFit, decode
from nas.data.source import Encoded, Pair
from nas.data.stream_store import StreamImages, failure
from nas.errors import NasError
from nas.training.augmentation import Augmentation, policy
from nas.training.batches import WINDOW, Batch, Batches, Order, partners, shares, step_generator
from nas.training.distributed import Processes
from nas.training.settings import Settings
from nas.training.transforms import random_fit, random_pair_fit, seeded

CHUNK = 16
"""Images that a worker makes at once. Small chunks spread a batch over all workers."""
_AHEAD = 2
"""Steps that workers are ahead of the training."""
_MOST_WORKERS = 16
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def open_batches(
    data: ImageData,
    settings: Settings,
    processes: Processes,
    steps: range,
    workers: int | None = None,
) -> Batches:
    """Return the batches of some steps, with workers where images are to be decoded or augmented.

    Args:
        data: all images of the training.
        settings: of the training.
        processes: this process among the others.
        steps: that will be asked for, in order.
        workers: number of worker processes; None for one per core. 0 makes images in this process.
    """
    image = policy(settings.augment, data.masks is not None).image
    in_memory = data.store == "memory" and image.shift
    # A training that is complete needs no workers either.
    if in_memory or not steps:
        return Batches(data, settings)
    return WorkerBatches(data, settings, processes, steps, workers)


class Sample(NamedTuple):
    """An image to make: how it is stored, and the key of its random choices."""

    encoded: Encoded
    key: tuple[int, int, int, int]


@dataclass
class ImageMaker(Dataset[Any]):
    """Decodes and augments samples, in a worker or in the main process.

    Attributes:
        resolution: (height, width) in pixels.
        background: the colour that transparent pixels are laid on.
        scales: of images with more than 8 bits.
        augmentation: with a random crop, or with random scales of an image and its mask; None to
            decode as the `memory` store does.
        flip: mirror images at random; for an augmentation.
    """

    resolution: tuple[int, int]
    background: str
    scales: dict[Depth, Scale] = field(default_factory=dict)
    augmentation: Augmentation | None = None
    flip: bool = False

    @cached_property
    def _fit(self) -> Fit | None:
        if self.augmentation is None or self.augmentation.crop_area is None:
            return None
        return random_fit(self.augmentation, self.resolution, self.flip)

    @cached_property
    def _pair_fit(self) -> PairFit | None:
        if self.augmentation is None or self.augmentation.scale is None:
            return None
        return random_pair_fit(self.augmentation, self.resolution, self.flip)

    def make(self, sample: Sample) -> Decoded:
        """Return the pixels of a sample, or why there are none."""
        fit = self._fit
        pair_fit = self._pair_fit
        with seeded(sample.key):
            return decode(
                sample.encoded,
                self.resolution,
                self.background,
                self.scales,
                fit=fit,
                pair_fit=pair_fit,
            )

    def __getitems__(self, samples: Sequence[Sample]) -> list[Decoded]:
        # DataLoader calls it with a chunk.
        return [self.make(sample) for sample in samples]

    def __getitem__(self, sample: Sample) -> Decoded:
        return self.make(sample)


Chunk = tuple[Tensor, list[tuple[int, str]]]
"""Pixels (B, 3, H, W) uint8, a fourth channel for masks, and the place and the reason of each image that is broken."""


def _collate(images: Sequence[Decoded]) -> Chunk:
    reasons = [failure(image) for image in images]
    broken = [(place, reason) for place, reason in enumerate(reasons) if reason]
    good = next((image.pixels for image in images if image.pixels is not None), None)
    if good is None:
        # Each image is replaced, and its replacement has the shape.
        return torch.empty(0, dtype=torch.uint8), broken
    pixels = np.empty((len(images), *good.shape), dtype=np.uint8)
    for place, image in enumerate(images):
        pixels[place] = 0 if image.pixels is None else image.pixels
    return torch.from_numpy(pixels), broken


@dataclass
class _Plan:
    """The chunks of this process, in the order in which the training takes them.

    It is the batch sampler of the DataLoader, which iterates over it in the main process.
    """

    data: ImageData
    settings: Settings
    processes: Processes
    steps: range

    def __iter__(self) -> Iterator[list[Sample]]:
        order = self.new_order()
        window: list[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]] = []
        held = None
        for step in self.steps:
            epoch, place = divmod(step, order.per_epoch)
            indices = order.indices(step)
            # Images of one window lie in few blocks of the source, so they are read together. At
            # its edges a step may be read with the neighbour window, which costs a little time.
            # Without blocks each step is read by itself.
            size = WINDOW * self.settings.repeats
            here = (epoch, place * len(indices) // size) if order.blocks is not None else step
            if window and here != held:
                yield from self._chunks(window)
                window = []
            held = here
            copies = order.copies(step)
            for start, stop in self.ranges(step, indices):
                window.append((step, epoch, indices[start:stop], copies[start:stop]))
        if window:
            yield from self._chunks(window)

    def new_order(self) -> Order:
        """Return the images of each step."""
        images = self.data.images
        blocks = images.blocks if isinstance(images, StreamImages) else None
        return Order(len(self.data), self.settings, blocks)

    def ranges(self, step: int, indices: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return start and stop of the images of a step that this process loads, in its order.

        They are its share of each micro-batch, each followed by the partners that it is mixed with,
        where other processes have these.
        """
        settings = self.settings
        mine = shares(len(indices), settings.accumulate, self.processes.index, self.processes.count)
        generator = step_generator(settings.seed, step)
        if Batch.draw(self.data, indices, settings, generator).mixture is None:
            return list(mine)
        loaded = []
        for start, stop in mine:
            loaded.append((start, stop))
            others = partners(len(indices), settings.accumulate, start, stop)
            if others != (start, stop):
                loaded.append(others)
        return loaded

    def _chunks(
        self, window: Sequence[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]
    ) -> Iterator[list[Sample]]:
        """Read the images of some ranges together; yield the samples of each range in chunks."""
        distinct = np.unique(np.concatenate([indices for _, _, indices, _ in window]))
        images = dict(zip(distinct.tolist(), self.encoded(distinct), strict=True))
        for _, epoch, indices, copies in window:
            samples = [
                Sample(images[index], (self.settings.seed, epoch, index, copy))
                for index, copy in zip(indices.tolist(), copies.tolist(), strict=True)
            ]
            for start in range(0, len(samples), CHUNK):
                yield samples[start : start + CHUNK]

    def encoded(self, indices: NDArray[np.int64]) -> list[Encoded]:
        """Return images before decoding; those in memory as pixels (H, W, 3)."""
        images = self.data.images
        if isinstance(images, StreamImages):
            return images.encoded(indices)
        # (B, 3, H, W) to (B, H, W, 3).
        pixels = np.ascontiguousarray(images[indices].transpose(0, 2, 3, 1))
        if self.data.masks is None:
            return list(pixels)
        masks = np.asarray(self.data.masks[indices])
        return [Pair(image, mask) for image, mask in zip(pixels, masks, strict=True)]


class WorkerBatches(Batches):
    """Batches that workers make ahead of the training; see `open_batches`."""

    def __init__(
        self,
        data: ImageData,
        settings: Settings,
        processes: Processes,
        steps: range,
        workers: int | None = None,
    ) -> None:
        super().__init__(data, settings)
        self._plan = _Plan(data, settings, processes, steps)
        self.order = self._plan.new_order()
        image = policy(settings.augment, data.masks is not None).image
        images = data.images
        height, width = images.shape[2:]
        self._maker = ImageMaker(
            (height, width),
            data.background,
            images.stream.scales if isinstance(images, StreamImages) else {},
            # Shifts and flips are applied to a batch at once, on the device.
            None if image.shift else image,
            settings.flip,
        )
        count = default_workers() if workers is None else workers
        ahead = _AHEAD * settings.batch / max(processes.count, 1)
        loader = DataLoader(
            self._maker,
            batch_sampler=self._plan,
            collate_fn=_collate,
            num_workers=count,
            pin_memory=processes.device.type == "cuda",
            worker_init_fn=_begin_worker,
            prefetch_factor=max(2, round(ahead / CHUNK / count)) if count else None,
            # torch's global generator is left as it is.
            generator=torch.Generator().manual_seed(0),
        )
        # At once, as workers are best forked before a GPU is in use.
        with _child_signals_kept():
            self._chunks: Iterator[Chunk] | None = iter(loader)
        self._ranges: deque[tuple[int, int]] = deque()
        self._step = 0
        self._indices = np.empty(0, dtype=np.int64)

    def draw(self, step: int, generator: torch.Generator) -> Batch:
        self._step = step
        self._indices = self.order.indices(step)
        self._ranges.extend(self._plan.ranges(step, self._indices))
        return Batch.draw(self.data, self._indices, self.settings, generator, self._pixels)

    def close(self) -> None:
        # The iterator ends its workers when it is dropped.
        self._chunks = None

    def _pixels(self, start: int, stop: int) -> Tensor:
        """Return images `start` to `stop` of the step that was drawn last, as uint8."""
        if not self._ranges or self._ranges[0] != (start, stop):
            # Memory ran out, and a smaller share is tried.
            pixels = [
                self._finished(_collate(self._maker.__getitems__(samples)), first)
                for first, samples in self._samples(start, stop)
            ]
            return torch.cat(pixels)
        self._ranges.popleft()
        chunks = [self._finished(self._next(), first) for first in range(start, stop, CHUNK)]
        return torch.cat(chunks) if len(chunks) > 1 else chunks[0]

    def _samples(self, start: int, stop: int) -> Iterator[tuple[int, list[Sample]]]:
        """Yield the first place and the samples of each chunk of the step."""
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            images = self._plan.encoded(self._indices[first:last])
            yield (
                first,
                [Sample(image, self._key(first + place)) for place, image in enumerate(images)],
            )

    def _key(self, place: int) -> tuple[int, int, int, int]:
        """Return the key of the random choices of an image of the step."""
        epoch = self._step // self.order.per_epoch
        copy = int(self.order.copies(self._step)[place])
        return (self.settings.seed, epoch, int(self._indices[place]), copy)

    def _next(self) -> Chunk:
        assert self._chunks is not None
        try:
            return next(self._chunks)
        except (RuntimeError, OSError) as error:
            # A worker was killed, or there is no shared memory or no file handle left.
            raise NasError(
                f"data {self.data.name}: a worker that decodes images failed"
                f" ({str(error).splitlines()[0]}). Fix: --workers 0, or more memory and shared memory"
                " (docker run --shm-size 8g)"
            ) from error

    def _finished(self, chunk: Chunk, first: int) -> Tensor:
        """Return the pixels of a chunk, with others in place of broken images."""
        pixels, broken = chunk
        if not broken:
            return pixels
        if not pixels.numel():
            shape = (len(broken), self.data.channels, *self.data.images.shape[2:])
            pixels = torch.zeros(shape, dtype=torch.uint8)
        images = self.data.images
        assert isinstance(images, StreamImages)
        for place, reason in broken:
            key = self._key(first + place)
            index = int(self._indices[first + place])
            other = images.replacement(
                index,
                reason,
                lambda encoded, key=key: self._maker.make(Sample(encoded, key)),  # type: ignore[misc]
            )
            pixels[place] = torch.from_numpy(other)
        return pixels


@contextmanager
def _child_signals_kept() -> Iterator[None]:
    """Context manager: restores the handler of SIGCHLD, for which torch sets one of its own.

    Once a worker was killed, torch's raises an error wherever the program is when any child process
    ends. Without it the error comes within five seconds of asking for the next chunk.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def default_workers() -> int:
    """Return the number of workers: one per core that this process may use.

    Processes that were launched together on one machine share its cores.
    """
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, cores // local))


def _begin_worker(number: int) -> None:
    """Prepare a worker process."""
    # A signal to all processes of a group lets the training finish its step, for which it needs the
    # workers. They end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # Without this a worker outlives a killed training by some seconds and holds its lock.
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
