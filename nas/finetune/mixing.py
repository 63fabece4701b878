"""Batches mixed with themselves: mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899), as DeiT and timm train."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nas.finetune.recipe import Recipe


def mix(images_bchw: Tensor, targets_bc: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch whose every image is mixed with the one that stands as far from the other end, or the batch as it is.

    One draw decides for the whole batch: whether it is mixed (`recipe.mix`), how (`recipe.switch`), and the share that
    images keep, from Beta(alpha, alpha). Mixup blends the pixels; cutmix puts a rectangle of the other image in. The
    targets are mixed in the share of the pixels.

    Args:
        images_bchw: (B, 3, H, W).
        targets_bc: (B, classes), probabilities.
        recipe: alphas and shares.
        generator: on the CPU; the same state gives the same mixture.
    """
    # NumPy draws from a Beta with a generator of its own, torch only with the global one.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    mixed, cut = draw.random() < recipe.mix, draw.random() < recipe.switch
    if not mixed or not (recipe.mixup or recipe.cutmix):
        return images_bchw, targets_bc
    if (cut and recipe.cutmix) or not recipe.mixup:
        share = float(draw.beta(recipe.cutmix, recipe.cutmix))
        images, share = _cut(images_bchw, share, draw)
    else:
        share = float(draw.beta(recipe.mixup, recipe.mixup))
        images = share * images_bchw + (1 - share) * images_bchw.flip(0)
    return images, share * targets_bc + (1 - share) * targets_bc.flip(0)


def _cut(images_bchw: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, float]:
    """The images with a rectangle of their partners', and the share that they keep of their own pixels.

    The rectangle has the sides' ratio and about 1 - `share` of the area. Its centre may lie anywhere, so that an edge
    can cut some of it off.
    """
    height, width = images_bchw.shape[2:]
    top, bottom = _span(height, share, draw)
    left, right = _span(width, share, draw)
    images = images_bchw.clone()
    images[:, :, top:bottom, left:right] = images_bchw.flip(0)[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def _span(side: int, share: float, draw: np.random.Generator) -> tuple[int, int]:
    """Where the rectangle begins and ends on a side."""
    centre, half = int(draw.integers(side)), int(side * (1 - share) ** 0.5) // 2
    return max(centre - half, 0), min(centre + half, side)
