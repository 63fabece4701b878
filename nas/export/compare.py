"""Comparison of an exported file's outputs with the network's, and the accuracy of both.

`nas.export.run` calls it for every target that can run here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nas.export.target import Images, Outputs
from nas.network import Network
from nas.tasks.segment import SEGMENTATION
from nas.training.batches import normalise

BATCH = 16
"""Images per forward pass."""
RANDOM_IMAGES = 4
"""Number of noise images for comparing outputs."""


@dataclass(frozen=True)
class Differences:
    """The differences of an exported file's outputs from the network's, over some images.

    Attributes:
        images: number of images.
        max_abs, mean_abs: largest and mean absolute difference of logits; None where a file gives
            labels.
        relative: root mean squared difference, over the standard deviation of the network's logits;
            None where a file gives labels.
        top1_agreement: percent of images (or of pixels) with the same largest logit.
    """

    images: int
    max_abs: float | None
    mean_abs: float | None
    relative: float | None
    top1_agreement: float


@torch.no_grad()
def outputs_of(network: Network, images: Images) -> Outputs:
    """Return the outputs of a network in eval mode for images (N, 3, H, W) of pixels from 0 to 255.

    The network is as it was trained: nothing is folded or merged.
    """
    parts = (
        torch.from_numpy(np.array(images[start : start + BATCH]))
        for start in range(0, len(images), BATCH)
    )
    return np.concatenate([network(normalise(part)).numpy() for part in parts])


def random_images(resolution: tuple[int, int]) -> Images:
    """Return images of noise (RANDOM_IMAGES, 3, H, W), the same at every call."""
    return np.random.default_rng(0).integers(
        0, 256, (RANDOM_IMAGES, 3, *resolution), dtype=np.uint8
    )


def differences(expected: Outputs, found: Outputs) -> Differences:
    """Return the differences of `found` from `expected`, of one shape.

    They are logits (N, classes), scores (N, classes, h, w) or labels (N, H, W).

    Raises:
        ValueError: when their shapes differ, or `found` has infinite values or NaN.
    """
    if expected.shape != found.shape:
        raise ValueError(
            f"the output has shape {list(found.shape)} (expected {list(expected.shape)}, as the"
            " network's)"
        )
    if not np.isfinite(found).all():
        raise ValueError(
            f"{100 * (1 - np.isfinite(found).mean()):.0f} % of its outputs are not finite (inf or"
            " NaN)"
        )
    if expected.ndim == 3:
        agreement = round(100 * float((expected == found).mean()), 3)
        return Differences(len(expected), None, None, None, agreement)
    apart = np.abs(expected.astype(np.float64) - found)
    # `relative` has no unit, so one tolerance serves networks with logits of any size. The floor
    # avoids a division by 0 for constant outputs. Dimension 1 holds the classes in both shapes.
    return Differences(
        images=len(expected),
        max_abs=_short(apart.max()),
        mean_abs=_short(apart.mean()),
        relative=_short(np.sqrt(np.square(apart).mean()) / max(float(expected.std()), 1e-12)),
        top1_agreement=round(100 * float((expected.argmax(1) == found.argmax(1)).mean()), 3),
    )


def accuracy(outputs: Outputs, labels: NDArray[np.int64]) -> float:
    """Return the percentage of images whose largest logit is that of their class."""
    return round(100 * float((outputs.argmax(1) == labels).mean()), 3)


def labels_of(scores: Outputs, size: tuple[int, int]) -> Outputs:
    """Return the class of each pixel, (N, H, W), of scores (N, classes, h, w)."""
    parts = []
    for each in scores:
        whole = F.interpolate(torch.from_numpy(each[None]), size=size, mode="bilinear")
        parts.append(whole.argmax(dim=1).numpy().astype(np.float32))
    return np.concatenate(parts)


def miou(labels: Outputs, masks: NDArray[np.uint8], classes: int) -> float:
    """Return the mean intersection over union in percent of labels and masks, both (N, H, W)."""
    tallies = []
    for answer, mask in zip(labels, masks, strict=True):
        # (H, W) to (1, classes, H, W), 1 where the class is the answer.
        one_hot = F.one_hot(torch.from_numpy(answer).long(), classes).permute(2, 0, 1)[None]
        target = torch.from_numpy(np.asarray(mask)).long()[None]
        tallies.append(SEGMENTATION.tally(one_hot.float(), target).numpy())
    return round(SEGMENTATION.figure(np.concatenate(tallies)).value, 3)


def _short(value: float) -> float:
    """Return the value rounded to four digits, as a plain number for YAML."""
    return float(f"{float(value):.4g}")
