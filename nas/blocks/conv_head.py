"""EfficientViT's classifier."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.layers import ACTIVATIONS, ConvNorm, init_linear, linear_axes, norm_axes
from nas.specs import ConvHead, Shape


class ConvHeadBlock(Block):
    """(B, C, H, W) to (B, classes); see `nas.specs.ConvHead`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("conv", "in", "hidden"),
        **linear_axes("expand", "hidden", "features"),
        **norm_axes("norm", "features"),
        **linear_axes("classifier", "features", None),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": {
            "conv": "op_list.0", "expand": "op_list.2.linear", "norm": "op_list.2.norm",
            "classifier": "op_list.3.linear",
        },
        "efficientvit/timm": {
            "conv": "in_conv", "expand": "classifier.0", "norm": "classifier.1", "classifier": "classifier.4",
        },
    }  # fmt: skip

    def __init__(self, spec: ConvHead, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, bias=False)
        self.expand = nn.Linear(spec.width, spec.features, bias=False)
        self.norm = nn.LayerNorm(spec.features)
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Linear(spec.features, spec.classes)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        features = self.activation(self.conv(x_bchw)).mean(dim=(2, 3))
        features = self.activation(self.norm(self.expand(features)))
        logits: Tensor = self.classifier(features)
        return logits
