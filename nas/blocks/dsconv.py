"""EfficientViT's depthwise separable convolution."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, init_linear
from nas.specs import DSConv, Shape

_PUBLISHED = {"depthwise": "main.depth_conv", "pointwise": "main.point_conv"}


class DSConvBlock(Block):
    """Depthwise and pointwise convolution on (B, C, H, W), residual; see `nas.specs.DSConv`."""

    axes: ClassVar[Axes] = {**ConvNorm.axes("depthwise", None, "out"), **ConvNorm.axes("pointwise", "out", "out")}
    published: ClassVar[Published] = {"efficientvit/official": _PUBLISHED, "efficientvit/timm": _PUBLISHED}

    def __init__(self, spec: DSConv, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.depthwise = ConvNorm(channels, channels, spec.kernel, groups=channels, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.pointwise = ConvNorm(channels, channels, bias=False)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.depthwise(x_bchw))
        x_bchw = x_bchw + self.pointwise(hidden)
        return x_bchw
