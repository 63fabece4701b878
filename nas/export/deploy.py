"""Deployed form of a network: it takes pixels, and nothing is left that only training needs.

The targets `onnx`, `litert` and `coreml`, and those that quantise these, call it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.blocks.module import fold
from nas.data.images import MEAN, STD
from nas.network import Network

PIXEL = 255
"""The largest value of a pixel."""


class Deployed(nn.Module):
    """A network with its normalisation: RGB pixels (B, 3, H, W) from 0 to 255 to its outputs.

    The normalisation cannot be folded into the first convolution. That pads with zeros, which mean
    the average colour after the normalisation and black before it.
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        # (p / 255 - mean) / deviation as one multiplication and one addition: p * factor + shift.
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        self.network = network
        self.register_buffer("factor", 1 / (PIXEL * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels_bchw * self.factor + self.shift)
        return logits


def deployed(network: Network) -> Network:
    """Return the network in eval mode, merged and folded in place.

    It has one classifier, no batch norms, and constant attention biases.
    """
    fold(network.eval().deploy())
    return network
