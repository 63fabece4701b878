"""Evaluation of a network: recalibration of its batch norms, and accuracy with its standard error.

`nas.finetune` calls `calibrate` and `judge`, `nas.supernet.sensitivity` calls `recalibrate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.data import ImageData
from nas.network import Network, run
from nas.training.batches import normalise

IMAGES = 1024
"""Maximum number of images for the statistics of batch norms."""
PIXELS = 2**23
"""Maximum number of pixels of all these images together: it bounds memory."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy and its binomial standard error, both in percent, over a number of images."""

    accuracy: float
    standard_error: float
    images: int


def recalibrate(block: nn.Module, x: Tensor) -> Tensor:
    """Give the batch norms of a block the statistics of one large batch; return the block's output.

    Only the batch norms are in training mode meanwhile, and in eval mode afterwards.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        # Without a momentum the running statistics are the plain average over batches since the
        # reset: after one batch, its own statistics.
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    output: Tensor = block(x)
    for norm in norms:
        norm.eval()
    return output


@torch.no_grad()
def calibrate(network: Network, data: ImageData) -> None:
    """Give the batch norms of a network, in place, the statistics of unaugmented training images.

    Statistics belong to weights. Averaged weights (EMA) give activations that no step of the
    training has seen; SWA (arXiv:1803.05407, Sec. 3.2) computes the statistics again for the same
    reason. A slice of a supernet has running statistics that all members left there. Augmented
    images also have other statistics than the images to evaluate.
    """
    sides = network.architecture.resolution
    # At least two images: batch norm refuses a single value per channel, as of 1x1 maps.
    count = min(len(data), IMAGES, max(PIXELS // (sides[0] * sides[1]), 2))
    x_bchw = _images(network, data, slice(0, count))  # the order of the images is stratified
    blocks = {
        operation.name: network.get_submodule(operation.name)
        for operation in network.architecture.operations()
    }
    network.eval()
    # Operation by operation: each gets inputs that were normalised by the new statistics.
    run(
        network.architecture.operations(),
        x_bchw,
        lambda operation, x: recalibrate(blocks[operation.name], x),
    )


@torch.no_grad()
def judge(network: Network, data: ImageData, batch: int = 250) -> Accuracy:
    """Return the accuracy of a network in eval mode on all images of `data`."""
    network.eval()
    right = 0
    for start in range(0, len(data), batch):
        part = slice(start, start + batch)
        logits = network(_images(network, data, part))
        right += int(
            (logits.argmax(dim=1).cpu() == torch.from_numpy(np.array(data.labels[part]))).sum()
        )
    share = right / len(data)
    # Standard error of a proportion: sqrt(p (1 - p) / n).
    error = (share * (1 - share) / len(data)) ** 0.5
    return Accuracy(round(100 * share, 3), round(100 * error, 3), len(data))


def resized(images_bchw: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return images (B, 3, H, W) at `resolution` (height, width), resized where they differ."""
    if images_bchw.shape[2:] == resolution:
        return images_bchw
    return F.interpolate(
        images_bchw, size=resolution, mode="bilinear", align_corners=False, antialias=True
    )


def _images(network: Network, data: ImageData, part: slice) -> Tensor:
    """Return images (B, 3, H, W), normalised, on the network's device and at its resolution."""
    device = next(network.parameters()).device
    images = normalise(torch.from_numpy(np.array(data.images[part])).to(device))
    return resized(images, network.architecture.resolution)
