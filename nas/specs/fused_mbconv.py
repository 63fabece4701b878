"""The inverted bottleneck with a full convolution, at a position and as the way into a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, EntrySpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class FusedMBConv(BlockSpec):
    """Inverted bottleneck whose expansion and depthwise convolution are one, on a map (B, C, H, W), residual.

    EfficientNetV2 (arXiv:2104.00298), Fig. 2; the local block of EfficientViT-L's stages 1 and 2 (arXiv:2205.14756):
    X' = X + PW_BN(Conv_BN,act(X)).

    Attributes:
        expansion: hidden width over C.
        kernel: of the first convolution.
    """

    kind: ClassVar[str] = "fused_mbconv"
    module: ClassVar[str] = "nas.blocks.fused_mbconv:FusedMBConvBlock"

    expansion: int = 4
    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        _check(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace(self, shape, shape.channels, stride=1).residual()


@dataclass(frozen=True)
class FusedMBConvDown(EntrySpec):
    """Fused inverted bottleneck of stride 2 without a shortcut: (B, C, H, W) to (B, width, H/2, W/2).

    Attributes:
        expansion: hidden width over C, the channels that come in.
        kernel: of the first convolution.
    """

    kind: ClassVar[str] = "fused_mbconv_down"
    module: ClassVar[str] = "nas.blocks.fused_mbconv:FusedMBConvDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: int = 4
    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _check(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace(self, shape, self.width, stride=2)


def _check(spec: FusedMBConv | FusedMBConvDown) -> None:
    require(spec.expansion >= 1, f"expansion {spec.expansion} must be at least 1")
    require(spec.kernel >= 1 and spec.kernel % 2 == 1, f"kernel {spec.kernel} must be odd, to keep the map's size")
    require(spec.activation in ACTIVATIONS, f"activation '{spec.activation}' is none of {', '.join(ACTIVATIONS)}")


def _trace(spec: FusedMBConv | FusedMBConvDown, shape: Shape, width: int, stride: int) -> Trace:
    trace = Trace(shape).conv(spec.expansion * shape.channels, spec.kernel, stride, bias=False).batch_norm()
    return trace.activation(spec.activation).conv(width, bias=False).batch_norm()
