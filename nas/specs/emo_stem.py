"""EMO's stem, at stride 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, EntrySpec, require
from nas.specs.layers import Layer, Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class EMOStem(EntrySpec):
    """A strided convolution and the plainest of EMO's blocks: (B, 3, H, W) to (B, width, H/2, W/2).

    EMO (arXiv:2301.01146), stage 0: P = BN(Conv3x3,s2(X)); L = act(BN(DWConv3x3(P)));
    X' = Conv(L * sigmoid(Conv(act(Conv(Mean(L)))))), squeeze-and-excitation at full width.
    """

    kind: ClassVar[str] = "emo_stem"
    module: ClassVar[str] = "nas.blocks.emo_stem:EMOStemBlock"
    elastic: ClassVar[tuple[str, ...]] = ("activation",)

    width: int = 24
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width, kernel=3, stride=2).batch_norm()
        trace.conv(self.width, kernel=3, groups=self.width, bias=False).batch_norm().activation(self.activation)
        elements = trace.shape.elements
        gate = Trace(Shape(self.width, 1, 1)).conv(self.width).activation(self.activation)
        gate.conv(self.width).activation("sigmoid")
        trace.extra(
            Layer("pool", read=elements, written=self.width),
            *gate.layers,
            Layer("elementwise", read=elements + self.width, written=elements),
        )
        return trace.conv(self.width, bias=False)
