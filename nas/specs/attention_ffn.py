"""EfficientFormerV2's global block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.attention import softmax_attention
from nas.specs.base import Activation, BlockSpec, Mixer, require
from nas.specs.conv_ffn import ConvFFN
from nas.specs.layers import Layer, Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class AttentionFFN(BlockSpec):
    """Talking-heads self-attention with locality, then the feed-forward network of `ConvFFN`, on a map (B, C, H, W).

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.2 and 3.3: Q, K, V = Conv_BN(X);
    A = T2 softmax(T1 (Q K^T / sqrt(d) + b)), with T1 and T2 linear over the heads;
    I = s1 Conv_BN(GELU(A V + DWConv_BN(V))) + X; X' = s2 FFN(I) + I.
    With `stride` the attention runs on Conv_BN,DW(X) at a lower resolution and what it mixed is enlarged bilinearly.
    The bias b has one value a head and a distance (|dy|, |dx|) on the attended grid, so it is tied to the resolution.

    Attributes:
        expansion: hidden width of the feed-forward network over C.
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
        stride: how much smaller the attended map is.
        kernel: of the feed-forward network's depthwise convolution; those of the attention are 3.
    """

    kind: ClassVar[str] = "attention_ffn"
    module: ClassVar[str] = "nas.blocks.attention_ffn:AttentionFFNBlock"
    mixer: ClassVar[Mixer] = "attention"

    expansion: int = 4
    heads: int = 8
    key_dim: int = 32
    value_ratio: int = 4
    stride: int = 1
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        for name in ("heads", "key_dim", "value_ratio", "stride"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        _ = self.ffn  # which has rules of its own

    @property
    def ffn(self) -> ConvFFN:
        """The feed-forward network behind the attention."""
        return ConvFFN(self.expansion, self.kernel, self.activation)

    @property
    def value_dim(self) -> int:
        """Channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def check(self, shape: Shape) -> None:
        require(
            shape.height % self.stride == 0 and shape.width % self.stride == 0,
            f"stride {self.stride} does not divide the map {shape.height}x{shape.width}: what is attended at the lower "
            "resolution could not be enlarged to its size",
        )

    def trace(self, shape: Shape) -> Trace:
        trace, keys, values = Trace(shape), self.heads * self.key_dim, self.heads * self.value_dim
        if self.stride > 1:
            trace.conv(shape.channels, 3, self.stride, groups=shape.channels).batch_norm()
        attended = trace.shape
        for width in (keys, keys):
            trace.extra(*Trace(attended).conv(width).batch_norm().layers)
        trace.conv(values).batch_norm()
        trace.extra(
            *Trace(trace.shape).conv(values, 3, groups=values).batch_norm().layers,
            *softmax_attention(
                attended.tokens, attended.tokens, self.heads, self.key_dim, self.value_dim,
                biases=attended.tokens, talking=True,
            ),
        )  # fmt: skip
        trace.residual()
        if self.stride > 1:
            mixed, trace.shape = trace.shape, Shape(values, shape.height, shape.width)
            trace.extra(Layer("elementwise", read=mixed.elements, written=trace.shape.elements))
        trace.activation(self.activation).conv(shape.channels).batch_norm().layer_scale().residual()
        return trace.extra(*self.ffn.trace(shape).layers)
