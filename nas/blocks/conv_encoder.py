"""SwiftFormer's local block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, conv_axes, init_linear, layer_scale
from nas.specs import ConvEncoder, Shape

_CONVS = {"depthwise.conv": "dwconv", "depthwise.norm": "norm", "expand": "pwconv1", "project": "pwconv2"}


class ConvEncoderBlock(Block):
    """Depthwise convolution and MLP on (B, C, H, W); see `nas.specs.ConvEncoder` for the equation."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("depthwise", None, "out"),
        **conv_axes("expand", "out", "hidden"),
        **conv_axes("project", "hidden", "out"),
        "scale": ("out",),
    }
    published: ClassVar[Published] = {
        "swiftformer/official": {**_CONVS, "scale": "layer_scale"},
        "swiftformer/timm": {**_CONVS, "scale": "layer_scale.gamma"},
    }

    def __init__(self, spec: ConvEncoder, shape: Shape) -> None:
        super().__init__()
        channels, hidden = shape.channels, spec.expansion * shape.channels
        self.depthwise = ConvNorm(channels, channels, spec.kernel, groups=channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Conv2d(hidden, channels, 1)
        self.scale = layer_scale(channels, initial=1.0)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(self.depthwise(x_bchw)))
        x_bchw = x_bchw + self.scale[:, None, None] * self.project(hidden)
        return x_bchw
