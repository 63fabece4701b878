"""EfficientViT's stem."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nas.blocks.base import Axes, Block, Published, within
from nas.blocks.dsconv import DSConvBlock
from nas.blocks.layers import ACTIVATIONS, ConvNorm, init_linear
from nas.blocks.res_block import ResBlockBlock
from nas.specs import DSConv, EfficientViTStem, Shape


def _published(layout: str, conv: str, block: str) -> dict[str, str]:
    residual = {**DSConvBlock.published[layout], **ResBlockBlock.published[layout]}
    return {"conv": conv, **{f"block.{ours}": f"{block}.{theirs}" for ours, theirs in residual.items()}}


class EfficientViTStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/2, W/2); see `nas.specs.EfficientViTStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("conv", None, "out"),
        **within("block", {**DSConvBlock.axes, **ResBlockBlock.axes}),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": _published("efficientvit/official", "op_list.0", "op_list.1"),
        "efficientvit/timm": _published("efficientvit/timm", "in_conv", "res0"),
    }

    def __init__(self, spec: EfficientViTStem, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, kernel=3, stride=2, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.conv.apply(init_linear)
        residual, inside = spec.residual, spec.output_shape(shape)
        self.block = DSConvBlock(residual, inside) if isinstance(residual, DSConv) else ResBlockBlock(residual, inside)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.conv(x_bchw))
        x_bchw = self.block(x_bchw)
        return x_bchw
