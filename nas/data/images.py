"""Decoded images and their labels, and the order they are kept in."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics of each channel, for pixels from 0 to 1, as the published weights expect
them."""


@dataclass(frozen=True)
class Part:
    """The images of a data set that one split of it has.

    Attributes:
        dataset: what the data set is, in words.
        start, stop: the first image of the split, and the one after its last.
        total: images of the data set.
    """

    dataset: str
    start: int
    stop: int
    total: int


@dataclass(frozen=True)
class ImageData:
    """Images decoded at one resolution.

    Attributes:
        images: (N, 3, H, W) uint8, RGB, usually a read-only memory map.
        labels: (N,) int64, indices into `classes`.
        classes: their names.
        skipped: broken images that were left out.
        source: where the images come from, in words, for provenance.
        fingerprint: a hash of pixels, labels and classes: equal when and only when these are.
        name: what `load_data` was given; empty for images from elsewhere.
        part: which images of the data set these are; None for all of them, or where nobody cut them
            out.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: int
    source: str
    fingerprint: str
    part: Part | None = None
    name: str = ""

    def __len__(self) -> int:
        return len(self.labels)


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return a shuffled order in which every prefix, and so every suffix, has each class in its
    share.

    The r-th image (in shuffled order) of a class with n images goes to the fraction (r + 1/2) / n
    of the whole, so a prefix of k out of N images holds k * n / N images of the class, give or take
    one.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(position[shuffled], kind="stable")]


def note(text: str) -> None:
    """Something the user should know about the data, on stderr."""
    print(text, file=sys.stderr, flush=True)
