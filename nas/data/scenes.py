"""`digit-scenes`: scenes of several digits with their masks, made by code from scikit-learn's digits.

`nas.data.sources` calls `digit_scenes`. Segmentation can be tried and tested with it, where no other
data set is at hand: nothing is downloaded, and a scene takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nas.data.images import IGNORED
from nas.data.source import Encoded, Pair, Source, SourceSplit
from nas.data.splits import TEST, TRAIN
from nas.extras import need

DIGIT_SCENES = "digit-scenes"
VERSION = 2
"""Changes with the scenes, as decoded ones are kept under it."""

_SIDE = 64
_SCENES = {TRAIN: 1000, TEST: 250}
_SEEN = 0.8
"""Share of the digits that scenes to train on are made of; those to test on have the others."""
_DIGITS = (2, 4)
"""Smallest and largest number of digits in a scene."""
_HEIGHTS = (24, 44)
"""Smallest and largest height of a digit, in pixels.

Scores have stride 8. A digit of 16 pixels is two of them high and cannot be read there, and scenes
of 96x96 pixels would take twice the time for no more digits (experiments/segmentation).
"""
_INK = 0.35
"""Share of full ink from which a pixel belongs to the digit."""
_FAINT = 0.15
"""Share of full ink from which a pixel is neither the digit's nor the background's: it is ignored."""


@dataclass
class SceneSplit(SourceSplit):
    """Scenes, each of which follows from its number.

    Attributes:
        name: of the split.
        digits: (N, 8, 8) grey values from 0 to 1.
        kinds: (N,) the digit in each.
        labels: (N,) int64, all 0.
    """

    name: str
    digits: NDArray[np.float64] = field(repr=False)
    kinds: NDArray[np.int64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return some scenes with their masks."""
        return [self._scene(index) for index in indices]

    def where(self, index: int) -> str:
        """Return the name of a scene."""
        return f"{self.name} scene {index}"

    @cached_property
    def _key(self) -> int:
        return list(_SCENES).index(self.name)

    def _scene(self, index: int) -> Pair:
        rng = np.random.default_rng((VERSION, self._key, index))
        image = _background(rng)
        mask = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
        for _ in range(rng.integers(_DIGITS[0], _DIGITS[1], endpoint=True)):
            chosen = int(rng.integers(len(self.digits)))
            ink = _resized(self.digits[chosen], int(rng.integers(*_HEIGHTS, endpoint=True)), rng)
            height, width = ink.shape
            top = int(rng.integers(_SIDE - height + 1))
            left = int(rng.integers(_SIDE - width + 1))
            place = (slice(top, top + height), slice(left, left + width))
            colour = rng.uniform(140, 255, 3) if rng.random() < 0.7 else rng.uniform(0, 60, 3)
            share = ink[:, :, None]
            image[place] = (1 - share) * image[place] + share * colour
            # A later digit covers what lies under its ink.
            mask[place][ink >= _FAINT] = IGNORED
            mask[place][ink >= _INK] = 1 + self.kinds[chosen]
        image += rng.normal(0, 6, image.shape)
        return Pair(np.clip(np.rint(image), 0, 255).astype(np.uint8), mask)


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a background (H, W, 3): a gradient between two dark colours."""
    first, second = rng.uniform(30, 130, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE - 0.5
    share = 0.5 + 0.7 * (rows * np.sin(angle) + columns * np.cos(angle))
    background: NDArray[np.float64] = first + (second - first) * share[:, :, None]
    return background


def _resized(
    digit: NDArray[np.float64], height: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the ink (H, W) of a digit at another height, its width up to a fifth smaller or larger."""
    from PIL import Image

    width = min(max(round(height * rng.uniform(0.8, 1.2)), 1), _SIDE)
    grey = Image.fromarray(np.rint(255 * digit).astype(np.uint8))
    return np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC)) / 255


def digit_scenes() -> Source:
    """Return the scenes, with a split to train on and one to test on."""
    need(f"data {DIGIT_SCENES}", "train", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = digits.images / 16  # scikit-learn has grey values from 0 to 16
    kinds = digits.target.astype(np.int64)
    seen = round(_SEEN * len(grey))
    parts = {TRAIN: slice(0, seen), TEST: slice(seen, len(grey))}
    return Source(
        name=DIGIT_SCENES,
        description=(
            f"scenes of digits of scikit-learn ({sum(_SCENES.values())} of {_SIDE}x{_SIDE} pixels)"
        ),
        key=f"{DIGIT_SCENES}-{VERSION}",
        classes=("background", *(str(digit) for digit in range(10))),
        splits={
            name: SceneSplit(name, grey[part], kinds[part], np.zeros(_SCENES[name], dtype=np.int64))
            for name, part in parts.items()
        },
        has_masks=True,
    )
