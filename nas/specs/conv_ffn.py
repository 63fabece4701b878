"""EfficientFormerV2's local block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ConvFFN(BlockSpec):
    """Unified feed-forward network on a map (B, C, H, W), a depthwise convolution in its middle, residual with layer
    scale.

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.1: X' = s Conv_BN(DWConv_BN,GELU(Conv_BN,GELU(X))) + X.

    Attributes:
        expansion: hidden width over C.
        kernel: of the depthwise convolution.
    """

    kind: ClassVar[str] = "conv_ffn"
    module: ClassVar[str] = "nas.blocks.conv_ffn:ConvFFNBlock"

    expansion: int = 4
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.expansion >= 1, f"expansion {self.expansion} must be at least 1")
        require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel {self.kernel} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        hidden = self.expansion * shape.channels
        trace = Trace(shape).conv(hidden).batch_norm().activation(self.activation)
        trace.conv(hidden, self.kernel, groups=hidden).batch_norm().activation(self.activation)
        return trace.conv(shape.channels).batch_norm().layer_scale().residual()
