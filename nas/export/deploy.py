"""A network as a device runs it: pixels in, nothing left that only training needs."""

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
    """RGB pixels (B, 3, H, W) from 0 to 255 to what the network gives; the normalisation is inside.

    It cannot go into the weights of the first convolution: that one pads with zeros, which are the
    mean there and would be black.
    """

    factor: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        self.network = network
        self.register_buffer("factor", 1 / (PIXEL * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels_bchw * self.factor + self.shift)
        return logits


def deployed(network: Network) -> Network:
    """Return the network in eval mode, merged and folded, in place: one classifier, no batch norms,
    constant biases."""
    fold(network.eval().deploy())
    return network
