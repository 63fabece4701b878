"""EfficientFormer's convolutional stem."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm
from nas.specs import ConvStem, Shape

_SEQUENTIAL = {"first.conv": "0", "first.norm": "1", "second.conv": "3", "second.norm": "4"}


class ConvStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/4, W/4); see `nas.specs.ConvStem`."""

    axes: ClassVar[Axes] = {**ConvNorm.axes("first", None, "hidden"), **ConvNorm.axes("second", "hidden", "out")}
    published: ClassVar[Published] = {
        "efficientformer/official": _SEQUENTIAL,
        "efficientformer/timm": {
            "first.conv": "conv1", "first.norm": "norm1", "second.conv": "conv2", "second.norm": "norm2",
        },
        "efficientformerv2/official": _SEQUENTIAL,
        "efficientformerv2/timm": {
            "first.conv": "conv1.conv", "first.norm": "conv1.bn",
            "second.conv": "conv2.conv", "second.norm": "conv2.bn",
        },
        "swiftformer/official": _SEQUENTIAL,
        "swiftformer/timm": _SEQUENTIAL,
    }  # fmt: skip

    def __init__(self, spec: ConvStem, shape: Shape) -> None:
        super().__init__()
        self.first = ConvNorm(shape.channels, spec.width // 2, kernel=3, stride=2)
        self.second = ConvNorm(spec.width // 2, spec.width, kernel=3, stride=2)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.first(x_bchw))
        x_bchw = self.activation(self.second(x_bchw))
        return x_bchw
