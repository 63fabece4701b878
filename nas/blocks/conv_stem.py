"""EfficientFormer's convolutional stem."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block
from nas.blocks.layers import ACTIVATIONS, ConvNorm
from nas.specs import ConvStem, Shape


class ConvStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/4, W/4); see `nas.specs.ConvStem`."""

    axes: ClassVar[Axes] = {**ConvNorm.axes("first", None, "hidden"), **ConvNorm.axes("second", "hidden", "out")}

    def __init__(self, spec: ConvStem, shape: Shape) -> None:
        super().__init__()
        self.first = ConvNorm(shape.channels, spec.width // 2, kernel=3, stride=2)
        self.second = ConvNorm(spec.width // 2, spec.width, kernel=3, stride=2)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.first(x_bchw))
        x_bchw = self.activation(self.second(x_bchw))
        return x_bchw
