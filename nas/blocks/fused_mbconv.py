"""The inverted bottleneck with a full convolution, at a position and as the way into a stage."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Axis, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, NormalConv2d
from nas.specs import FusedMBConv, FusedMBConvDown, Shape

_PUBLISHED = {"expand": "main.spatial_conv", "project": "main.point_conv"}


def _axes(channels: Axis) -> Axes:
    return {**ConvNorm.axes("expand", channels, "hidden"), **ConvNorm.axes("project", "hidden", "out")}


class _Bottleneck(Block):
    """The two convolutions, without a shortcut."""

    published: ClassVar[Published] = {"efficientvit/official": _PUBLISHED, "efficientvit/timm": _PUBLISHED}

    def __init__(self, spec: FusedMBConv | FusedMBConvDown, channels: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = spec.expansion * channels
        self.expand = ConvNorm(channels, hidden, spec.kernel, stride, bias=False, conv=NormalConv2d)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, width, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x_bchw))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw


class FusedMBConvBlock(_Bottleneck):
    """(B, C, H, W) to the same, residual; see `nas.specs.FusedMBConv`."""

    axes: ClassVar[Axes] = _axes("out")

    def __init__(self, spec: FusedMBConv, shape: Shape) -> None:
        super().__init__(spec, shape.channels, shape.channels, stride=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return x_bchw + super().forward(x_bchw)


class FusedMBConvDownBlock(_Bottleneck):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.specs.FusedMBConvDown`."""

    axes: ClassVar[Axes] = _axes("in")

    def __init__(self, spec: FusedMBConvDown, shape: Shape) -> None:
        super().__init__(spec, shape.channels, spec.width, stride=2)
