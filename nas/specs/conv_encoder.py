"""SwiftFormer's local block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ConvEncoder(BlockSpec):
    """Depthwise convolution and convolutional MLP on a map (B, C, H, W), residual with layer scale.

    SwiftFormer (arXiv:2303.15446), Eq. 5: X' = Conv1(Conv1,G(DWConv,BN(X))) + X, with G the activation, Conv1 1x1
    convolutions and the layer scale of the authors' code before the sum.

    Attributes:
        expansion: hidden width of the MLP over C.
        kernel: side of the depthwise convolution's window.
    """

    kind: ClassVar[str] = "conv_encoder"
    module: ClassVar[str] = "nas.blocks.conv_encoder:ConvEncoderBlock"

    expansion: int = 4
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.expansion >= 1, f"expansion {self.expansion} must be at least 1")
        require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel {self.kernel} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(shape.channels, kernel=self.kernel, groups=shape.channels).batch_norm()
        trace.conv(self.expansion * shape.channels).activation(self.activation)
        return trace.conv(shape.channels).layer_scale().residual()
