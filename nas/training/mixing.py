"""Mixup and cutmix of a batch. One draw per step decides for all processes and micro-batches.

`nas.training.batches` mixes the images of each step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nas.training.settings import Settings


@dataclass(frozen=True)
class Mixture:
    """How each image of a step is mixed with its partner.

    Attributes:
        share: share of its own pixels that each image keeps.
        box: top, bottom, left and right of the partner's rectangle, for cutmix; None for mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def images(self, images_bchw: Tensor, partners_bchw: Tensor) -> Tensor:
        """Return the images (B, 3, H, W), mixed with their partners."""
        if self.box is None:
            return self.share * images_bchw + (1 - self.share) * partners_bchw
        top, bottom, left, right = self.box
        mixed = images_bchw.clone()
        mixed[:, :, top:bottom, left:right] = partners_bchw[:, :, top:bottom, left:right]
        return mixed

    def targets(self, targets_bc: Tensor, partners_bc: Tensor) -> Tensor:
        """Return the probabilities (B, classes), mixed in the share of the pixels."""
        return self.share * targets_bc + (1 - self.share) * partners_bc


def draw_mixture(
    settings: Settings, height: int, width: int, generator: torch.Generator
) -> Mixture | None:
    """Return the mixture of a step, or None for a step that is not mixed.

    One draw decides whether the step is mixed (`mix`), how (`switch`), and the share that images
    keep, from Beta(alpha, alpha). Mixup (arXiv:1710.09412) blends the pixels; cutmix
    (arXiv:1905.04899) inserts a rectangle of the partner.

    Args:
        settings: alphas and shares.
        height, width: of the images, in pixels.
        generator: on the CPU; the same state gives the same mixture. Without mixing it is left as
            it is.
    """
    if not (settings.mixup or settings.cutmix):
        return None
    # NumPy draws from a Beta with a generator of its own, torch only with the global one.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    mixed = draw.random() < settings.mix
    cut = draw.random() < settings.switch
    if not mixed:
        return None
    if (cut and settings.cutmix) or not settings.mixup:
        return _cut(float(draw.beta(settings.cutmix, settings.cutmix)), height, width, draw)
    return Mixture(float(draw.beta(settings.mixup, settings.mixup)))


def _cut(share: float, height: int, width: int, draw: np.random.Generator) -> Mixture:
    """Return a mixture by a rectangle of about 1 - `share` of the area.

    The rectangle has the image's aspect ratio. Its centre may lie anywhere, so that the image's edge
    can cut a part of it off.
    """
    top, bottom = _span(height, share, draw)
    left, right = _span(width, share, draw)
    # Rounding and the edge change the area, so the targets follow the pixels that are exchanged.
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixture(kept, (top, bottom, left, right))


def _span(side: int, share: float, draw: np.random.Generator) -> tuple[int, int]:
    """Return where the rectangle begins and ends on a side, in pixels."""
    centre = int(draw.integers(side))
    # Each side is sqrt(1 - share) of the image's, which makes the area 1 - share.
    half = int(side * (1 - share) ** 0.5) // 2
    return max(centre - half, 0), min(centre + half, side)
