"""How far the outputs of an exported file are from those of the network, and how often each is
right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas.export.target import Images, Outputs
from nas.network import Network
from nas.training.batches import normalise

BATCH = 16
RANDOM_IMAGES = 4


@dataclass(frozen=True)
class Differences:
    """Of an exported file's outputs from the network's, over some images.

    Attributes:
        max_abs, mean_abs: of the differences of logits.
        relative: the root of the mean squared difference over the standard deviation of the
            network's logits.
        top1_agreement: percent of images (or of pixels) with the same largest logit.
    """

    images: int
    max_abs: float
    mean_abs: float
    relative: float
    top1_agreement: float


@torch.no_grad()
def outputs_of(network: Network, images: Images) -> Outputs:
    """Return what the network, in eval mode as it was trained, gives for images (N, 3, H, W) of
    pixels from 0 to 255."""
    parts = (
        torch.from_numpy(np.array(images[start : start + BATCH]))
        for start in range(0, len(images), BATCH)
    )
    return np.concatenate([network(normalise(part)).numpy() for part in parts])


def random_images(resolution: tuple[int, int]) -> Images:
    """Return noise, the same every time: (RANDOM_IMAGES, 3, H, W)."""
    return np.random.default_rng(0).integers(
        0, 256, (RANDOM_IMAGES, 3, *resolution), dtype=np.uint8
    )


def differences(expected: Outputs, found: Outputs) -> Differences:
    """Return how far `found` is from `expected`, both (N, classes) or (N, classes, H, W).

    Raises:
        ValueError: when they have other shapes, or `found` holds what is no number.
    """
    if expected.shape != found.shape:
        raise ValueError(
            f"its output has the shape {list(found.shape)}, the network's {list(expected.shape)}"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{100 * (1 - np.isfinite(found).mean()):.0f} % of its outputs are no finite numbers"
        )
    apart = np.abs(expected.astype(np.float64) - found)
    return Differences(
        images=len(expected),
        max_abs=_short(apart.max()),
        mean_abs=_short(apart.mean()),
        relative=_short(np.sqrt(np.square(apart).mean()) / max(float(expected.std()), 1e-12)),
        top1_agreement=round(100 * float((expected.argmax(1) == found.argmax(1)).mean()), 3),
    )


def accuracy(outputs: Outputs, labels: NDArray[np.int64]) -> float:
    """Return percent of images whose largest logit is that of their class."""
    return round(100 * float((outputs.argmax(1) == labels).mean()), 3)


def _short(value: float) -> float:
    """Return four digits, as a plain number for YAML."""
    return float(f"{float(value):.4g}")
