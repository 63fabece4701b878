"""The block as a torch module."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks import Axes, Block
from nas.blocks.layers import ACTIVATIONS, ConvNorm, layer_scale
from nas.specs import Shape
from nas_example.specs import GatedConv


class GatedConvBlock(Block):
    """(B, C, H, W) to the same; see `nas_example.specs.GatedConv` for the equation."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("value", "out", "hidden"),
        **ConvNorm.axes("gate", "out", "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
        "scale": ("out",),
    }

    def __init__(self, spec: GatedConv, shape: Shape) -> None:
        super().__init__()
        channels, hidden = shape.channels, spec.expansion * shape.channels
        self.value, self.gate = ConvNorm(channels, hidden), ConvNorm(channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels)
        self.scale = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.value(x_bchw) * self.activation(self.gate(x_bchw))
        x_bchw = x_bchw + self.scale[:, None, None] * self.project(hidden)
        return x_bchw
