"""The basic residual block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, NormalConv2d
from nas.specs import ResBlock, Shape

_PUBLISHED = {"first": "main.conv1", "second": "main.conv2"}


class ResBlockBlock(Block):
    """Two convolutions on (B, C, H, W), residual; see `nas.specs.ResBlock`."""

    axes: ClassVar[Axes] = {**ConvNorm.axes("first", "out", "hidden"), **ConvNorm.axes("second", "hidden", "out")}
    published: ClassVar[Published] = {"efficientvit/official": _PUBLISHED, "efficientvit/timm": _PUBLISHED}

    def __init__(self, spec: ResBlock, shape: Shape) -> None:
        super().__init__()
        channels, hidden = shape.channels, spec.expansion * shape.channels
        self.first = ConvNorm(channels, hidden, spec.kernel, bias=False, conv=NormalConv2d)
        self.activation = ACTIVATIONS[spec.activation]()
        self.second = ConvNorm(hidden, channels, spec.kernel, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.first(x_bchw))
        x_bchw = x_bchw + self.second(hidden)
        return x_bchw
