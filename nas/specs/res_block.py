"""The basic residual block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ResBlock(BlockSpec):
    """Two convolutions on a map (B, C, H, W), residual, with nothing after the sum.

    ResNet (arXiv:1512.03385), Fig. 5 left; in the stem of EfficientViT-L (arXiv:2205.14756):
    X' = X + Conv_BN(Conv_BN,act(X)).
    """

    kind: ClassVar[str] = "res_block"
    module: ClassVar[str] = "nas.blocks.res_block:ResBlockBlock"

    expansion: int = 1
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.expansion >= 1, f"expansion {self.expansion} must be at least 1")
        require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel {self.kernel} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.expansion * shape.channels, self.kernel, bias=False).batch_norm()
        trace.activation(self.activation)
        return trace.conv(shape.channels, self.kernel, bias=False).batch_norm().residual()
