"""The inverted bottleneck, at a position and as the way into a stage."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Axis, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, NormalConv2d
from nas.specs import MBConv, MBConvDown, Shape

_PUBLISHED = {"expand": "main.inverted_conv", "depthwise": "main.depth_conv", "project": "main.point_conv"}


def _axes(channels: Axis) -> Axes:
    return {
        **ConvNorm.axes("expand", channels, "hidden"),
        **ConvNorm.axes("depthwise", None, "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
    }


class _Bottleneck(Block):
    """The three convolutions, without a shortcut."""

    published: ClassVar[Published] = {"efficientvit/official": _PUBLISHED, "efficientvit/timm": _PUBLISHED}

    def __init__(self, spec: MBConv | MBConvDown, channels: int, width: int, stride: int) -> None:
        super().__init__()
        hidden, norm = spec.expansion * channels, not spec.fewer_norm
        self.expand = _conv(channels, hidden, norm=norm)
        self.depthwise = _conv(hidden, hidden, spec.kernel, stride, groups=hidden, norm=norm)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, width, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x_bchw))
        hidden = self.activation(self.depthwise(hidden))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw


class MBConvBlock(_Bottleneck):
    """(B, C, H, W) to the same, residual; see `nas.specs.MBConv`."""

    axes: ClassVar[Axes] = _axes("out")

    def __init__(self, spec: MBConv, shape: Shape) -> None:
        super().__init__(spec, shape.channels, shape.channels, stride=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return x_bchw + super().forward(x_bchw)


class MBConvDownBlock(_Bottleneck):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.specs.MBConvDown`."""

    axes: ClassVar[Axes] = _axes("in")

    def __init__(self, spec: MBConvDown, shape: Shape) -> None:
        super().__init__(spec, shape.channels, spec.width, stride=2)


def _conv(
    channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, norm: bool = True
) -> nn.Sequential:
    """A ConvNorm, or in its place a convolution with a bias, called `conv` as well."""
    if norm:
        return ConvNorm(channels, width, kernel, stride, groups, bias=False, conv=NormalConv2d)
    return nn.Sequential(OrderedDict(conv=NormalConv2d(channels, width, kernel, stride, kernel // 2, groups=groups)))
