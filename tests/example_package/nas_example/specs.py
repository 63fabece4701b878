"""What the block is, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks import ACTIVATIONS, Activation, BlockSpec, Examples, Shape, Trace


@dataclass(frozen=True)
class GatedConv(BlockSpec):
    """Gated pointwise feed-forward network on a map (B, C, H, W), residual with layer scale.

    After the gated linear units of arXiv:2002.05202: X' = X + s Conv_BN(Conv_BN(X) *
    act(Conv_BN(X))).

    Attributes:
        expansion: hidden width over C.
    """

    kind: ClassVar[str] = "gated_conv"
    module: ClassVar[str] = "nas_example.blocks:GatedConvBlock"
    examples: ClassVar[Examples] = (("expansion=2;activation=silu", "8x6x6"),)

    expansion: int = 2
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if self.expansion < 1:
            raise ValueError(f"expansion {self.expansion} must be at least 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation '{self.activation}' is not one of {', '.join(ACTIVATIONS)}"
            )

    def trace(self, shape: Shape) -> Trace:
        hidden = self.expansion * shape.channels
        gate = Trace(shape).conv(hidden).batch_norm().activation(self.activation)
        trace = Trace(shape).conv(hidden).batch_norm().extra(*gate.layers)
        trace.residual()  # the product: two maps in, one out
        return trace.conv(shape.channels).batch_norm().layer_scale().residual()
