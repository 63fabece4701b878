"""EfficientFormer's global block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, Mixer, require
from nas.specs.layers import Layer, Trace
from nas.specs.shape import Layout, Shape


@dataclass(frozen=True)
class MB3D(BlockSpec):
    """Multi-head self-attention with a learned bias and MLP on tokens (B, N, C), both residual with layer scale.

    EfficientFormer (arXiv:2206.01191), Eq. 4 and 5: I = Linear(MHSA(Linear(LN(X)))) + X;
    X' = Linear(Linear_GELU(LN(I))) + I; MHSA(Q, K, V) = softmax(Q K^T / sqrt(d) + b) V.
    The bias b has one value a head and a distance (|dy|, |dx|) on the grid of tokens, so it is tied to the resolution.

    Attributes:
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
        expansion: hidden width of the MLP over C.
    """

    kind: ClassVar[str] = "mb3d"
    module: ClassVar[str] = "nas.blocks.mb3d:MB3DBlock"
    mixer: ClassVar[Mixer] = "attention"
    layout: ClassVar[Layout] = "tokens"

    heads: int = 8
    key_dim: int = 32
    value_ratio: int = 4
    expansion: int = 4
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        for name in ("heads", "key_dim", "value_ratio", "expansion"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    @property
    def value_dim(self) -> int:
        """Channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def trace(self, shape: Shape) -> Trace:
        tokens, keys, values = shape.tokens, self.heads * self.key_dim, self.heads * self.value_dim
        scores = self.heads * tokens * tokens
        trace = Trace(shape).layer_norm().linear(2 * keys + values)
        trace.extra(
            Layer("reshape", read=trace.shape.elements, written=trace.shape.elements),
            Layer("matmul", macs=tokens * tokens * keys, read=2 * tokens * keys, written=scores),
            Layer("elementwise", params=self.heads * tokens, read=2 * scores, written=scores),
            Layer("softmax", read=scores, written=scores),
            Layer("matmul", macs=tokens * tokens * values, read=scores + tokens * values, written=tokens * values),
            Layer("reshape", read=tokens * values, written=tokens * values),
        )
        trace.shape = Shape(values, shape.height, shape.width, "tokens")
        trace.linear(shape.channels).layer_scale().residual()
        trace.layer_norm().linear(self.expansion * shape.channels).activation(self.activation)
        return trace.linear(shape.channels).layer_scale().residual()
