"""Batches of a training: the images of each step, their order, shifts and flips, and their mixture.

`nas.training.loop` draws a `Batch` per step from `Batches`. Everything follows from seeds, so that a
resumed training and several processes get the same images. `nas.training.loader` has the batches
that workers decode or augment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nas.data import ImageData
from nas.data.images import MEAN, STD
from nas.training.augmentation import SHIFT, policy
from nas.training.mixing import Mixture, draw_mixture
from nas.training.settings import Settings

WINDOW = 4096
"""Images that are mixed with each other where a source is read in blocks. They are held encoded."""


def normalise(images_bchw: Tensor) -> Tensor:
    """Return images (B, 3, H, W) as float32 of about zero mean and unit deviation per channel.

    `images_bchw` has pixels from 0 to 255.
    """
    mean = torch.tensor(MEAN, device=images_bchw.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images_bchw.device).view(1, 3, 1, 1)
    return (images_bchw.float() - mean * 255) / (std * 255)


@dataclass(frozen=True)
class Crops:
    """The source pixels of each image of a batch.

    They are drawn for the whole batch, so that a process with a part of it crops its images as one
    process with all would.

    Attributes:
        rows_bh: source rows.
        columns_bw: source columns, reversed where the image is mirrored.
    """

    rows_bh: Tensor
    columns_bw: Tensor

    def part(self, start: int, stop: int) -> Crops:
        return Crops(self.rows_bh[start:stop], self.columns_bw[start:stop])

    def apply(self, images_bchw: Tensor) -> Tensor:
        """Return uint8 images (B, 3, H, W), cropped and normalised, as float32."""
        return normalise(self.cut(images_bchw))

    def cut(self, images_bchw: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W), cropped; a mask may be one of the channels."""
        batch, channels, height, width = images_bchw.shape
        device = images_bchw.device
        # One gather from the flattened pixels: cheaper than padding and gathering rows and columns
        # in turn. Pixel (y, x) has the index y * width + x: (B, H, 1) + (B, 1, W) is (B, H, W).
        pixels = (
            self.rows_bh.to(device)[:, :, None] * width + self.columns_bw.to(device)[:, None, :]
        )
        # (B, H, W) to (B, C, H*W): the channels move together.
        index = pixels.view(batch, 1, height * width).expand(-1, channels, -1)
        # (B, C, H, W) to (B, C, H*W) and back.
        return images_bchw.reshape(batch, channels, -1).gather(2, index).view_as(images_bchw)


def draw_crops(
    batch: int, height: int, width: int, generator: torch.Generator, flip: bool = True
) -> Crops:
    """Return random crops: shifts of up to an eighth of the side, edges mirrored, and flips.

    Args:
        batch: number of images.
        height, width: of the images, in pixels.
        generator: the same state gives the same crops; on the CPU, whatever the images' device.
        flip: mirror left and right with probability 1/2; False where that changes the class, as for
            digits.
    """
    rows_bh = _mirrored(height, _offsets(batch, height, generator))
    columns_bw = _mirrored(width, _offsets(batch, width, generator))
    if flip:
        flipped_b1 = torch.rand(batch, 1, generator=generator) < 0.5
        columns_bw = torch.where(flipped_b1, columns_bw.flip(1), columns_bw)
    return Crops(rows_bh, columns_bw)


def augment(images_bchw: Tensor, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Return uint8 images (B, 3, H, W), randomly cropped, flipped and normalised, as float32."""
    batch, _, height, width = images_bchw.shape
    return draw_crops(batch, height, width, generator, flip).apply(images_bchw)


def _offsets(batch: int, side: int, generator: torch.Generator) -> Tensor:
    """Return random shifts (B, 1) in whole pixels, within [-SHIFT, SHIFT] of the side."""
    reach = round(SHIFT * side)
    return torch.randint(-reach, reach + 1, (batch, 1), generator=generator)


def _mirrored(side: int, offsets_b1: Tensor) -> Tensor:
    """Return source positions (B, side) of a side that is shifted by the offsets.

    Positions outside are mirrored back in, without repeating the edge.
    """
    # Mirrored at 0: -1 becomes 1. (1, side) + (B, 1) is (B, side).
    positions = (torch.arange(side)[None] + offsets_b1).abs()
    # Mirrored at side - 1: side becomes side - 2.
    return (side - 1) - ((side - 1) - positions).abs()


def epoch_batches(
    images: int,
    batch: int,
    seed: int,
    epoch: int,
    repeats: int = 1,
    blocks: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Return the image indices of an epoch, in batches (B,) of at most `batch`.

    Without repeats it is a permutation of all images. With repeated augmentation (arXiv:1901.09335)
    each image of an epoch stands `repeats` times in a row and the epoch has a share of the images, so
    that its length stays. The sizes of batches differ by one at most, so that no small last batch
    spoils the batch-norm statistics.

    Args:
        images: number of images.
        batch: maximum size.
        seed, epoch: decide the order.
        repeats: number of times that an image is in an epoch.
        blocks: (images,) the block that each image is read with, where its source is read in blocks.
    """
    if images < 1 or batch < 1:
        raise ValueError(f"{images} images in batches of {batch}: both must be at least 1")
    # The order depends on seed and epoch alone: a resumed training needs no state of it.
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(images) if blocks is None else _mixed_blocks(blocks, rng)
    if repeats > 1:
        order = np.repeat(order[: -(-images // repeats)], repeats)[:images]
    # -(-a // b) is the quotient, rounded up.
    return np.array_split(order, -(-images // batch))


def _mixed_blocks(blocks: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a permutation of all images in which each window of them is in few blocks.

    The blocks are shuffled, and then the images within each window of `WINDOW`.
    """
    rank = rng.permutation(int(blocks.max()) + 1)
    order = np.argsort(rank[blocks], kind="stable")
    for start in range(0, len(order), WINDOW):
        rng.shuffle(order[start : start + WINDOW])
    return order


def steps_an_epoch(images: int, batch: int) -> int:
    """Return the number of batches of `epoch_batches`."""
    return -(-images // batch)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of a step's random choices.

    There is one per step, so that resuming needs no saved generator. The factor is a prime above
    10^6: two seeds share no generator in trainings of fewer steps.
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Order:
    """The images of each step.

    Args:
        images: number of images of the training.
        settings: of the training.
        blocks: see `epoch_batches`.
    """

    def __init__(
        self, images: int, settings: Settings, blocks: NDArray[np.int64] | None = None
    ) -> None:
        self.images = images
        self.settings = settings
        self.blocks = blocks
        self.per_epoch = steps_an_epoch(images, settings.batch)
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the image indices (B,) of a step."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            settings = self.settings
            self._batches = epoch_batches(
                self.images,
                settings.batch,
                settings.seed,
                epoch,
                repeats=settings.repeats,
                blocks=self.blocks,
            )
            self._epoch = epoch
        return self._batches[place]

    def copies(self, step: int) -> NDArray[np.int64]:
        """Return which repetition of its image each place (B,) of a step is."""
        indices = self.indices(step)
        place = step % self.per_epoch
        before = sum(len(each) for each in self._batches[:place])
        return (before + np.arange(len(indices))) % self.settings.repeats


Pixels = Callable[[int, int], Tensor]
"""A function that returns the uint8 pixels (B, 3, H, W) of images `start` to `stop` of a step, with
their masks as a fourth channel where the data has masks."""


@dataclass(frozen=True)
class Loaded:
    """Images of a micro-batch on the device.

    Attributes:
        images: (B, 3, H, W) float32, augmented, mixed and normalised.
        labels: (B,) int64, of the images before they are mixed; masks (B, H, W) where the data has
            them.
        targets: what the loss compares with: `labels`, or probabilities (B, classes) where a step
            is mixed.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        data: all images of the training.
        indices: (B,) the images of the step.
        pixels: gives their pixels.
        crops: shift and flip of each; None where its pixels are augmented already.
        mixture: how each image is mixed with its partner, if it is.
        accumulate: number of micro-batches.
    """

    data: ImageData
    indices: NDArray[np.int64]
    pixels: Pixels
    crops: Crops | None = None
    mixture: Mixture | None = None
    accumulate: int = 1

    @classmethod
    def draw(
        cls,
        data: ImageData,
        indices: NDArray[np.int64],
        settings: Settings,
        generator: torch.Generator,
        pixels: Pixels | None = None,
    ) -> Batch:
        """Return the batch of these images, with the choices of a step drawn from `generator`.

        Args:
            data: all images of the training.
            indices: (B,) the images of the step.
            settings: of the training.
            generator: of the step.
            pixels: gives their pixels; by default as the store has them.
        """
        height, width = data.images.shape[2:]
        crops = None
        masks = data.masks is not None
        if policy(settings.augment, masks).image.shift:
            crops = draw_crops(len(indices), height, width, generator, settings.flip)
        return cls(
            data,
            indices,
            pixels or (lambda start, stop: stored_pixels(data, indices[start:stop])),
            crops,
            None if masks else draw_mixture(settings, height, width, generator),
            settings.accumulate,
        )

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, start: int, stop: int, device: torch.device) -> Loaded:
        """Return images `start` to `stop`, augmented, mixed and normalised."""
        pixels = self._pixels(start, stop, device)
        images = normalise(pixels[:, :3])
        if self.data.masks is not None:
            masks = pixels[:, 3].long()
            return Loaded(images, masks, masks)
        labels = self._labels(start, stop, device)
        if self.mixture is None:
            return Loaded(images, labels, labels)
        classes = len(self.data.classes)
        first, last = partners(len(self), self.accumulate, start, stop)
        if (first, last) == (start, stop):
            others = images
            other_labels = labels
        else:
            # Another process has the partners: they are loaded here too.
            others = normalise(self._pixels(first, last, device))
            other_labels = self._labels(first, last, device)
        targets = F.one_hot(labels, classes).float()
        other_targets = F.one_hot(other_labels, classes).float()
        return Loaded(
            self.mixture.images(images, others.flip(0)),
            labels,
            self.mixture.targets(targets, other_targets.flip(0)),
        )

    def _pixels(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Return images (B, C, H, W), cropped, on the device."""
        pixels = self.pixels(start, stop).to(device, non_blocking=True)
        return pixels if self.crops is None else self.crops.part(start, stop).cut(pixels)

    def _labels(self, start: int, stop: int, device: torch.device) -> Tensor:
        return torch.from_numpy(self.data.labels[self.indices[start:stop]]).to(device)


def stored_pixels(data: ImageData, indices: NDArray[np.int64]) -> Tensor:
    """Return images (B, 3, H, W), or (B, 4, H, W) with their masks, as the store has them."""
    return torch.from_numpy(np.asarray(data.layers(indices)))


class Batches:
    """The batches of a training whose images are in memory, which are read in its own process.

    Subclasses read them in other ways.

    Args:
        data: all images of the training.
        settings: of the training.
    """

    def __init__(self, data: ImageData, settings: Settings) -> None:
        self.data = data
        self.settings = settings
        self.order = Order(len(data), settings)

    def draw(self, step: int, generator: torch.Generator) -> Batch:
        """Return the batch of a step. The loop asks for each step once, in order.

        Args:
            step: number of the step, from 0.
            generator: of `step_generator`, which is advanced.
        """
        return Batch.draw(self.data, self.order.indices(step), self.settings, generator)

    def close(self) -> None:
        """End what reads ahead."""


def shares(batch: int, accumulate: int, index: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each micro-batch of process `index`.

    The batch is cut into `accumulate` parts, and each part between the `count` processes. A part
    has the same images for any number of processes, and so have its batch norms.
    """
    for start, stop in _parts(batch, accumulate):
        size = stop - start
        yield start + size * index // count, start + size * (index + 1) // count


def partners(batch: int, accumulate: int, start: int, stop: int) -> tuple[int, int]:
    """Return start and stop of the images that those of a share are mixed with, in reverse order.

    The partner of an image is its mirror image in its part of the batch, whatever the number of
    processes that share the part.
    """
    first, last = next(part for part in _parts(batch, accumulate) if part[0] <= start < part[1])
    return first + last - min(stop, last), first + last - start


def _parts(batch: int, accumulate: int) -> Iterator[tuple[int, int]]:
    for part in range(accumulate):
        yield batch * part // accumulate, batch * (part + 1) // accumulate
