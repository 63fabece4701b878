"""The block as a torch module."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks import Shape
from nas.blocks.module import ACTIVATIONS, Axes, Block, ConvNorm, layer_scale
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
        channels = shape.channels
        hidden = spec.expansion * shape.channels
        self.value = ConvNorm(channels, hidden)
        self.gate = ConvNorm(channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels)
        self.scale = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.value(x_bchw) * self.activation(self.gate(x_bchw))
        x_bchw = self.residual(x_bchw, self.scale[:, None, None] * self.project(hidden))
        return x_bchw
