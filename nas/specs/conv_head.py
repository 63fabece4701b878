"""EfficientViT's classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, HeadSpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ConvHead(HeadSpec):
    """A 1x1 convolution, the mean over all positions and an MLP: (B, C, H, W) to (B, classes).

    EfficientViT (arXiv:2205.14756), as published code has it: Linear(Linear_LN,act(Mean(Conv_BN,act(X)))).

    Attributes:
        width: channels of the convolution.
        features: hidden width of the MLP.
    """

    kind: ClassVar[str] = "conv_head"
    module: ClassVar[str] = "nas.blocks.conv_head:ConvHeadBlock"
    elastic: ClassVar[tuple[str, ...]] = ("width", "features", "activation")

    classes: int
    width: int
    features: int
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        for name in ("width", "features"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be positive")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width, bias=False).batch_norm().activation(self.activation).mean()
        trace.linear(self.features, bias=False).layer_norm().activation(self.activation)
        return trace.linear(self.classes)
