"""Batches of a training: the images of each step, their order, crops and flips.

`nas.training.loop` draws a `Batch` per step. Everything follows from seeds, so that a resumed
training and several processes get the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data import ImageData
from nas.data.images import MEAN, STD

SHIFT = 0.125
"""Maximum shift of a crop as a share of the side: 4 of 32 pixels, as is usual on CIFAR."""


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
        batch, _, height, width = images_bchw.shape
        device = images_bchw.device
        # One gather from the flattened pixels: cheaper than padding and gathering rows and columns
        # in turn. Pixel (y, x) has the index y * width + x: (B, H, 1) + (B, 1, W) is (B, H, W).
        pixels = (
            self.rows_bh.to(device)[:, :, None] * width + self.columns_bw.to(device)[:, None, :]
        )
        # (B, H, W) to (B, 3, H*W): the three channels move together.
        index = pixels.view(batch, 1, height * width).expand(-1, 3, -1)
        # (B, 3, H, W) to (B, 3, H*W) and back.
        return normalise(images_bchw.reshape(batch, 3, -1).gather(2, index).view_as(images_bchw))


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


def epoch_batches(images: int, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return a permutation of all image indices, cut into batches (B,) of at most `batch`.

    Their sizes differ by one at most, so that no small last batch spoils the batch-norm statistics.
    """
    if images < 1 or batch < 1:
        raise ValueError(f"{images} images in batches of {batch}: both must be at least 1")
    # The order depends on seed and epoch alone: a resumed training needs no state of it.
    order = np.random.default_rng((seed, epoch)).permutation(images)
    # -(-a // b) is the quotient, rounded up.
    return np.array_split(order, -(-images // batch))


def steps_an_epoch(images: int, batch: int) -> int:
    """Return the number of batches of `epoch_batches`."""
    return -(-images // batch)


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        data: all images of the training.
        indices: (B,) the images of the step.
        crops: augmentation of each.
    """

    data: ImageData
    indices: NDArray[np.int64]
    crops: Crops

    @classmethod
    def draw(
        cls, data: ImageData, indices: NDArray[np.int64], generator: torch.Generator, flip: bool
    ) -> Batch:
        """Return the batch of these images, with crops drawn from `generator`."""
        height, width = data.images.shape[2:]
        return cls(data, indices, draw_crops(len(indices), height, width, generator, flip))

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images `start` to `stop` (B, 3, H, W), augmented and normalised, and labels (B,)."""
        part = self.indices[start:stop]
        images = torch.from_numpy(self.data.images[part]).to(device)
        return self.crops.part(start, stop).apply(images), torch.from_numpy(
            self.data.labels[part]
        ).to(device)


def shares(batch: int, accumulate: int, index: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of each micro-batch of process `index`.

    The batch is cut into `accumulate` parts, and each part between the `count` processes. A part
    has the same images for any number of processes, and so have its batch norms.
    """
    for part in range(accumulate):
        start = batch * part // accumulate
        stop = batch * (part + 1) // accumulate
        size = stop - start
        yield start + size * index // count, start + size * (index + 1) // count
