"""EfficientFormer's local block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, init_linear, layer_scale
from nas.specs import MB4D, Shape

_MLP = {
    "expand.conv": "mlp.fc1", "expand.norm": "mlp.norm1", "project.conv": "mlp.fc2", "project.norm": "mlp.norm2",
}  # fmt: skip


class MB4DBlock(Block):
    """Pooling mixer and convolutional MLP on (B, C, H, W); see `nas.specs.MB4D` for the equation."""

    axes: ClassVar[Axes] = {
        "mixer_scale": ("out",),
        **ConvNorm.axes("expand", "out", "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
        "mlp_scale": ("out",),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": {**_MLP, "mixer_scale": "layer_scale_1", "mlp_scale": "layer_scale_2"},
        "efficientformer/timm": {**_MLP, "mixer_scale": "ls1.gamma", "mlp_scale": "ls2.gamma"},
    }

    def __init__(self, spec: MB4D, shape: Shape) -> None:
        super().__init__()
        channels, hidden = shape.channels, spec.expansion * shape.channels
        self.pool = nn.AvgPool2d(spec.pool, stride=1, padding=spec.pool // 2, count_include_pad=False)
        self.mixer_scale = layer_scale(channels)
        self.expand = ConvNorm(channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels)
        self.mlp_scale = layer_scale(channels)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = x_bchw + self.mixer_scale[:, None, None] * (self.pool(x_bchw) - x_bchw)
        hidden = self.activation(self.expand(x_bchw))
        x_bchw = x_bchw + self.mlp_scale[:, None, None] * self.project(hidden)
        return x_bchw
