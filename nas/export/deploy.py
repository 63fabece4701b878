"""Deployed form of a network: it takes pixels, and nothing is left that only training needs.

The targets `onnx`, `litert` and `coreml`, and those that quantise these, call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.module import fold
from nas.data.images import MEAN, STD
from nas.network import Network

if TYPE_CHECKING:
    from nas.export.target import Model

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


class Labelled(nn.Module):
    """A deployed network of dense prediction that answers with labels: pixels (B, 3, H, W) to the
    class of each one, (B, H, W) in int32.

    Scores are upsampled bilinearly, as in training and evaluation (`nas.tasks.segment`).
    """

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        scores = self.network(pixels_bchw)
        whole = F.interpolate(scores, size=self.size, mode="bilinear", align_corners=False)
        return whole.argmax(dim=1).to(torch.int32)


def answering(model: Model, network: nn.Module) -> nn.Module:
    """Return a deployed network that gives the output that a model asks for: scores or labels."""
    return Labelled(network, model.architecture.resolution) if model.labels else network


def deployed(network: Network) -> Network:
    """Return the network in eval mode, merged and folded in place.

    It has one classifier, no batch norms, and constant attention biases.
    """
    fold(network.eval().deploy())
    return network
