"""EfficientViT's stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from nas.specs.base import ACTIVATIONS, Activation, EntrySpec, require
from nas.specs.dsconv import DSConv
from nas.specs.layers import Trace
from nas.specs.res_block import ResBlock
from nas.specs.shape import Shape

StemBlock = Literal["dsconv", "res_block"]


@dataclass(frozen=True)
class EfficientViTStem(EntrySpec):
    """A 3x3 convolution of stride 2 and a residual block: (B, 3, H, W) to (B, width, H/2, W/2).

    EfficientViT (arXiv:2205.14756), Fig. 5, "input stem"; every published member has one block here.

    Attributes:
        block: dsconv in the B series, res_block in the L series.
    """

    kind: ClassVar[str] = "efficientvit_stem"
    module: ClassVar[str] = "nas.blocks.efficientvit_stem:EfficientViTStemBlock"

    width: int
    block: StemBlock = "dsconv"
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require(self.block in get_args(StemBlock), f"block '{self.block}' is none of {', '.join(get_args(StemBlock))}")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    @property
    def residual(self) -> DSConv | ResBlock:
        """The residual block."""
        return (DSConv if self.block == "dsconv" else ResBlock)(activation=self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width, kernel=3, stride=2, bias=False).batch_norm().activation(self.activation)
        return trace.extra(*self.residual.layers(trace.shape))
