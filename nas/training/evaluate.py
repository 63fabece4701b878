"""How good a network is: batch-norm statistics of its own weights, then accuracy with its standard
error."""

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
PIXELS = 2**23
"""The most images, and the most pixels of all of them together, that batch norms take their
statistics from."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy and its standard error (binomial), both in percent, over so many images."""

    accuracy: float
    standard_error: float
    images: int


def recalibrate(block: nn.Module, x: Tensor) -> Tensor:
    """Give the batch norms of a block the statistics of one large batch, and return the block's
    output for it."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    output: Tensor = block(x)
    for norm in norms:
        norm.eval()
    return output


@torch.no_grad()
def calibrate(network: Network, data: ImageData) -> None:
    """Give the batch norms of a network, in place, the statistics of training images as they are,
    not augmented.

    Statistics belong to weights. Averaged weights (EMA) give activations that no step of the
    training has seen, and a slice of a supernet those of one of its members, where its running
    statistics are those of all (as SWA, arXiv:1803.05407, Sec. 3.2, counts them anew). Images that
    are mixed or cropped have others than those to judge.
    """
    sides = network.architecture.resolution
    count = min(len(data), IMAGES, max(PIXELS // (sides[0] * sides[1]), 2))
    x_bchw = _images(network, data, slice(0, count))  # the order of the images is stratified
    blocks = {
        operation.name: network.get_submodule(operation.name)
        for operation in network.architecture.operations()
    }
    network.eval()
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
    error = (share * (1 - share) / len(data)) ** 0.5
    return Accuracy(round(100 * share, 3), round(100 * error, 3), len(data))


def resized(images_bchw: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return the images at (height, width), as they are where that is theirs."""
    if images_bchw.shape[2:] == resolution:
        return images_bchw
    return F.interpolate(
        images_bchw, size=resolution, mode="bilinear", align_corners=False, antialias=True
    )


def _images(network: Network, data: ImageData, part: slice) -> Tensor:
    """Return images (B, 3, H, W) of the data, normalised, where the network is and at its
    resolution."""
    device = next(network.parameters()).device
    images = normalise(torch.from_numpy(np.array(data.images[part])).to(device))
    return resized(images, network.architecture.resolution)
