"""EfficientFormerV2's local block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, init_linear, layer_scale
from nas.specs import ConvFFN, Shape


class ConvFFNBlock(Block):
    """Feed-forward network with a depthwise convolution on (B, C, H, W); see `nas.specs.ConvFFN` for the equation."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("expand", "out", "hidden"),
        **ConvNorm.axes("middle", None, "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
        "scale": ("out",),
    }
    published: ClassVar[Published] = {
        "efficientformerv2/official": {
            "expand.conv": "mlp.fc1", "expand.norm": "mlp.norm1", "middle.conv": "mlp.mid",
            "middle.norm": "mlp.mid_norm", "project.conv": "mlp.fc2", "project.norm": "mlp.norm2",
            "scale": "layer_scale_2",
        },
        "efficientformerv2/timm": {
            "expand.conv": "mlp.fc1.conv", "expand.norm": "mlp.fc1.bn", "middle.conv": "mlp.mid.conv",
            "middle.norm": "mlp.mid.bn", "project.conv": "mlp.fc2.conv", "project.norm": "mlp.fc2.bn",
            "scale": "ls2.gamma",
        },
    }  # fmt: skip

    def __init__(self, spec: ConvFFN, shape: Shape) -> None:
        super().__init__()
        channels, hidden = shape.channels, spec.expansion * shape.channels
        self.expand = ConvNorm(channels, hidden).apply(init_linear)
        self.middle = ConvNorm(hidden, hidden, spec.kernel, groups=hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels).apply(init_linear)
        self.scale = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x_bchw))
        hidden = self.activation(self.middle(hidden))
        x_bchw = x_bchw + self.scale[:, None, None] * self.project(hidden)
        return x_bchw
