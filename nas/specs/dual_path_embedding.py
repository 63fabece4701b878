"""EfficientFormerV2's way into its last stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.attention import softmax_attention
from nas.specs.base import ACTIVATIONS, Activation, EntrySpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class DualPathEmbedding(EntrySpec):
    """A strided convolution plus attention of a strided map to the whole one: (B, C, H, W) to (B, width, H/2, W/2).

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.3: K, V = Conv_BN(X); Q = Conv_BN(DWConv(X) + Pool(X)), both of
    stride 2, the pool of size 1; X' = Conv_BN(GELU(softmax(Q K^T / sqrt(d) + b) V + DWConv_BN(V))) + Conv_BN(X), the
    last one 3x3 of stride 2. Odd sides are rounded up.
    The bias b has one value a head and a distance (|dy|, |dx|) on the input's grid, where a query stands at every
    second key in both directions.

    Attributes:
        width: channels that come out.
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
    """

    kind: ClassVar[str] = "dual_path_embedding"
    module: ClassVar[str] = "nas.blocks.dual_path_embedding:DualPathEmbeddingBlock"

    width: int
    heads: int = 8
    key_dim: int = 16
    value_ratio: int = 4
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        for name in ("width", "heads", "key_dim", "value_ratio"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    @property
    def value_dim(self) -> int:
        """Channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def trace(self, shape: Shape) -> Trace:
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        trace = Trace(shape).conv(values).batch_norm()
        trace.extra(*Trace(shape).conv(keys).batch_norm().layers)
        query = Trace(shape).conv(shape.channels, 3, stride=2, groups=shape.channels).residual()
        trace.extra(*query.conv(keys).batch_norm().layers)
        trace.conv(values, 3, stride=2, groups=values).batch_norm()
        trace.extra(*softmax_attention(
            trace.shape.tokens, shape.tokens, self.heads, self.key_dim, self.value_dim, biases=shape.tokens
        ))  # fmt: skip
        trace.residual().activation(self.activation).conv(self.width).batch_norm()
        return trace.extra(*Trace(shape).conv(self.width, 3, stride=2).batch_norm().layers).residual()
