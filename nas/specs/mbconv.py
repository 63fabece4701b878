"""The inverted bottleneck, at a position and as the way into a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, EntrySpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class MBConv(BlockSpec):
    """Inverted bottleneck with a depthwise convolution on a map (B, C, H, W), residual.

    MobileNetV2 (arXiv:1801.04381), Table 1; the local block of EfficientViT (arXiv:2205.14756):
    X' = X + PW_BN(DW_BN,act(PW_BN,act(X))).

    Attributes:
        expansion: hidden width over C.
        kernel: of the depthwise convolution.
        fewer_norm: the first two convolutions have a bias and no batch norm, as beside EfficientViT's attention.
    """

    kind: ClassVar[str] = "mbconv"
    module: ClassVar[str] = "nas.blocks.mbconv:MBConvBlock"

    expansion: int = 4
    kernel: int = 3
    fewer_norm: bool = False
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        _check(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace(self, shape, shape.channels, stride=1).residual()


@dataclass(frozen=True)
class MBConvDown(EntrySpec):
    """Inverted bottleneck of stride 2 without a shortcut: (B, C, H, W) to (B, width, H/2, W/2).

    Attributes:
        expansion: hidden width over C, the channels that come in.
        kernel, fewer_norm: as of `MBConv`.
    """

    kind: ClassVar[str] = "mbconv_down"
    module: ClassVar[str] = "nas.blocks.mbconv:MBConvDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: int = 4
    kernel: int = 3
    fewer_norm: bool = False
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _check(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace(self, shape, self.width, stride=2)


def _check(spec: MBConv | MBConvDown) -> None:
    require(spec.expansion >= 1, f"expansion {spec.expansion} must be at least 1")
    require(spec.kernel >= 1 and spec.kernel % 2 == 1, f"kernel {spec.kernel} must be odd, to keep the map's size")
    require(spec.activation in ACTIVATIONS, f"activation '{spec.activation}' is none of {', '.join(ACTIVATIONS)}")


def _trace(spec: MBConv | MBConvDown, shape: Shape, width: int, stride: int) -> Trace:
    trace, hidden = Trace(shape), spec.expansion * shape.channels
    for kernel, step, groups in ((1, 1, 1), (spec.kernel, stride, hidden)):
        trace.conv(hidden, kernel, step, groups, bias=spec.fewer_norm)
        if not spec.fewer_norm:
            trace.batch_norm()
        trace.activation(spec.activation)
    return trace.conv(width, bias=False).batch_norm()
