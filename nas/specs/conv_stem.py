"""EfficientFormer's convolutional stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, EntrySpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ConvStem(EntrySpec):
    """Two 3x3 convolutions of stride 2, each with batch norm and activation: (B, 3, H, W) to (B, width, H/4, W/4).

    EfficientFormer (arXiv:2206.01191), Sec. 4.1; SwiftFormer uses the same.
    """

    kind: ClassVar[str] = "conv_stem"
    module: ClassVar[str] = "nas.blocks.conv_stem:ConvStemBlock"

    width: int
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.width >= 2 and self.width % 2 == 0, f"width {self.width} must be a positive multiple of 2")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        trace.conv(self.width // 2, kernel=3, stride=2).batch_norm().activation(self.activation)
        return trace.conv(self.width, kernel=3, stride=2).batch_norm().activation(self.activation)
