"""A local block with a depthwise convolution, and a global one with softmax attention of one head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    ACTIVATIONS,
    Activation,
    BlockSpec,
    Examples,
    Mixer,
    Shape,
    Trace,
    require,
    softmax_attention,
)


@dataclass(frozen=True)
class SixthLocal(BlockSpec):
    """X' = X + Conv_BN(Conv_BN,act(DWConv_BN(X))) on a map (B, C, H, W)."""

    kind: ClassVar[str] = "sixth_local"
    module: ClassVar[str] = "sixth.module:SixthLocalBlock"
    examples: ClassVar[Examples] = (("expansion=2", "8x6x5"), ("activation=relu", "4x3x3"))

    expansion: int = 3
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        require(self.expansion >= 1, f"expansion {self.expansion} must be at least 1")
        require(
            self.activation in ACTIVATIONS,
            f"activation '{self.activation}' is not one of {', '.join(ACTIVATIONS)}",
        )

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(shape.channels, kernel=3, groups=shape.channels).batch_norm()
        trace.conv(self.expansion * shape.channels).batch_norm().activation(self.activation)
        return trace.conv(shape.channels).batch_norm().residual()


@dataclass(frozen=True)
class SixthGlobal(BlockSpec):
    """X' = X + Conv_BN(softmax(Q^T K / sqrt(D)) V) on a map (B, C, H, W), Q, K and V 1x1
    convolutions of X to D channels."""

    kind: ClassVar[str] = "sixth_global"
    module: ClassVar[str] = "sixth.module:SixthGlobalBlock"
    mixer: ClassVar[Mixer] = "attention"
    elastic: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[Examples] = (("key_dim=4", "8x4x5"),)

    key_dim: int = 8

    def __post_init__(self) -> None:
        require(self.key_dim >= 1, f"key_dim {self.key_dim} must be at least 1")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.key_dim)
        for _ in range(2):
            trace.extra(*Trace(shape).conv(self.key_dim).layers)
        tokens = shape.tokens
        trace.extra(*softmax_attention(tokens, tokens, 1, self.key_dim, self.key_dim))
        return trace.conv(shape.channels).batch_norm().residual()


SPECS = (SixthLocal, SixthGlobal)
