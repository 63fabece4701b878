"""EfficientViT's depthwise separable convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class DSConv(BlockSpec):
    """Depthwise and pointwise convolution on a map (B, C, H, W), residual.

    MobileNets (arXiv:1704.04861), Sec. 3.1; in the stem of EfficientViT-B (arXiv:2205.14756):
    X' = X + PW_BN(DW_BN,act(X)).
    """

    kind: ClassVar[str] = "dsconv"
    module: ClassVar[str] = "nas.blocks.dsconv:DSConvBlock"

    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel {self.kernel} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        trace.conv(shape.channels, self.kernel, groups=shape.channels, bias=False).batch_norm()
        trace.activation(self.activation)
        return trace.conv(shape.channels, bias=False).batch_norm().residual()
