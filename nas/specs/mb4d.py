"""EfficientFormer's local block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, Mixer, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class MB4D(BlockSpec):
    """Pooling mixer and convolutional MLP on a map (B, C, H, W), both residual with layer scale.

    EfficientFormer (arXiv:2206.01191), Eq. 3:
    I = Pool(X) + X; X' = Conv_BN(Conv_BN,GELU(I)) + I.
    """

    kind: ClassVar[str] = "mb4d"
    module: ClassVar[str] = "nas.blocks.mb4d:MB4DBlock"
    mixer: ClassVar[Mixer] = "pool"

    expansion: int = 4
    pool: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.expansion >= 1, f"expansion {self.expansion} must be at least 1")
        require(self.pool >= 1 and self.pool % 2 == 1, f"pool {self.pool} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).pool().residual().layer_scale().residual()
        trace.conv(self.expansion * shape.channels).batch_norm().activation(self.activation)
        return trace.conv(shape.channels).batch_norm().layer_scale().residual()
