"""The strided convolution between two stages."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ConvNorm
from nas.specs import ConvEmbedding, Shape


class ConvEmbeddingBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.specs.ConvEmbedding`."""

    axes: ClassVar[Axes] = ConvNorm.axes("projection", "in", "out")
    published: ClassVar[Published] = {
        "efficientformer/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "efficientformer/timm": {"projection.conv": "conv", "projection.norm": "norm"},
        "efficientformerv2/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "efficientformerv2/timm": {"projection.conv": "conv.conv", "projection.norm": "conv.bn"},
        "swiftformer/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "swiftformer/timm": {"projection.conv": "proj", "projection.norm": "norm"},
    }

    def __init__(self, spec: ConvEmbedding, shape: Shape) -> None:
        super().__init__()
        self.projection = ConvNorm(shape.channels, spec.width, kernel=3, stride=2)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.projection(x_bchw)
        return x_bchw
