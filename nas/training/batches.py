"""Batches of a training: which images, in which order, shifted and flipped how."""

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
"""How far a crop may move, as a share of the side: 4 of 32 pixels, as is usual on CIFAR."""


def normalise(images_bchw: Tensor) -> Tensor:
    """Return (B, 3, H, W) uint8 to float32 of about zero mean and unit deviation a channel."""
    mean = torch.tensor(MEAN, device=images_bchw.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images_bchw.device).view(1, 3, 1, 1)
    return (images_bchw.float() - mean * 255) / (std * 255)


@dataclass(frozen=True)
class Crops:
    """Where each image of a batch takes its pixels from: drawn for the whole batch, so that whoever
    has a part of it crops as one who has all.

    Attributes:
        rows_bh: source rows.
        columns_bw: source columns, reversed where the image is mirrored.
    """

    rows_bh: Tensor
    columns_bw: Tensor

    def part(self, start: int, stop: int) -> Crops:
        return Crops(self.rows_bh[start:stop], self.columns_bw[start:stop])

    def apply(self, images_bchw: Tensor) -> Tensor:
        """Return (B, 3, H, W) uint8 to float32, cropped and normalised."""
        batch, _, height, width = images_bchw.shape
        device = images_bchw.device
        # One gather from the flattened pixels: cheaper than padding and gathering rows and columns
        # in turn.
        pixels = (
            self.rows_bh.to(device)[:, :, None] * width + self.columns_bw.to(device)[:, None, :]
        )
        index = pixels.view(batch, 1, height * width).expand(-1, 3, -1)
        return normalise(images_bchw.reshape(batch, 3, -1).gather(2, index).view_as(images_bchw))


def draw_crops(
    batch: int, height: int, width: int, generator: torch.Generator, flip: bool = True
) -> Crops:
    """Move of up to an eighth of the side, the edges mirrored in, and flips by chance.

    Args:
        batch, height, width: of the images.
        generator: the same state gives the same crops; on the CPU, whatever the images' device.
        flip: mirror left and right half of the time; False where that changes the class, as for
            digits.
    """
    rows_bh = _mirrored(height, _offsets(batch, height, generator))
    columns_bw = _mirrored(width, _offsets(batch, width, generator))
    if flip:
        flipped_b1 = torch.rand(batch, 1, generator=generator) < 0.5
        columns_bw = torch.where(flipped_b1, columns_bw.flip(1), columns_bw)
    return Crops(rows_bh, columns_bw)


def augment(images_bchw: Tensor, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Return each image of (B, 3, H, W) uint8 moved, flipped by chance and normalised; see
    `draw_crops`."""
    batch, _, height, width = images_bchw.shape
    return draw_crops(batch, height, width, generator, flip).apply(images_bchw)


def _offsets(batch: int, side: int, generator: torch.Generator) -> Tensor:
    """Return (B, 1) whole pixels in [-SHIFT, SHIFT] of the side."""
    reach = round(SHIFT * side)
    return torch.randint(-reach, reach + 1, (batch, 1), generator=generator)


def _mirrored(side: int, offsets_b1: Tensor) -> Tensor:
    """Return (B, side) source positions of a side moved by the offsets, those outside mirrored back
    in."""
    positions = (torch.arange(side)[None] + offsets_b1).abs()
    return (side - 1) - ((side - 1) - positions).abs()


def epoch_batches(images: int, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Return a permutation of `images` indices cut into batches of at most `batch`.

    The sizes differ by one at most, so that no small last batch spoils the batch-norm statistics.
    """
    if images < 1 or batch < 1:
        raise ValueError(f"{images} images in batches of {batch}: both must be at least 1")
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.array_split(order, -(-images // batch))


def steps_an_epoch(images: int, batch: int) -> int:
    """Return how many batches `epoch_batches` gives."""
    return -(-images // batch)


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        data: all images.
        indices: (B,) those of the step.
        crops: how each is augmented.
    """

    data: ImageData
    indices: NDArray[np.int64]
    crops: Crops

    @classmethod
    def draw(
        cls, data: ImageData, indices: NDArray[np.int64], generator: torch.Generator, flip: bool
    ) -> Batch:
        height, width = data.images.shape[2:]
        return cls(data, indices, draw_crops(len(indices), height, width, generator, flip))

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W), augmented and normalised, and labels (B,) of a part."""
        part = self.indices[start:stop]
        images = torch.from_numpy(self.data.images[part]).to(device)
        return self.crops.part(start, stop).apply(images), torch.from_numpy(
            self.data.labels[part]
        ).to(device)


def shares(batch: int, accumulate: int, index: int, count: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each micro-batch of process `index` of `count`: the batch is cut into
    `accumulate` parts, and each of them between the processes, so that a part has the same images
    for any number of processes.
    """
    for part in range(accumulate):
        start = batch * part // accumulate
        stop = batch * (part + 1) // accumulate
        size = stop - start
        yield start + size * index // count, start + size * (index + 1) // count
