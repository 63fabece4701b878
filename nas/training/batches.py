"""The batches of an epoch, a function of seed and epoch alone, so that a resumed run sees the very same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data import ImageData
from nas.training.augment import Crops, draw_crops


def epoch_batches(images: int, batch: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """A permutation of `images` indices cut into batches of at most `batch`.

    The sizes differ by one at most, so that no small last batch spoils the batch-norm statistics.
    """
    if images < 1 or batch < 1:
        raise ValueError(f"{images} images in batches of {batch}: both must be at least 1")
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.array_split(order, -(-images // batch))


def steps_an_epoch(images: int, batch: int) -> int:
    """How many batches `epoch_batches` gives."""
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
    def draw(cls, data: ImageData, indices: NDArray[np.int64], generator: torch.Generator, flip: bool) -> Batch:
        height, width = data.images.shape[2:]
        return cls(data, indices, draw_crops(len(indices), height, width, generator, flip))

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), augmented and normalised, and labels (B,) of a part."""
        part = self.indices[start:stop]
        images = torch.from_numpy(self.data.images[part]).to(device)
        return self.crops.part(start, stop).apply(images), torch.from_numpy(self.data.labels[part]).to(device)


def shares(batch: int, accumulate: int, index: int, count: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each micro-batch of process `index` of `count`: the batch is cut into `accumulate` parts, and
    each of them between the processes, so that a part has the same images for any number of processes."""
    for part in range(accumulate):
        start, stop = batch * part // accumulate, batch * (part + 1) // accumulate
        size = stop - start
        yield start + size * index // count, start + size * (index + 1) // count
