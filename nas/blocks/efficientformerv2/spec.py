"""EfficientFormerV2 (Li et al., arXiv:2212.08059): unified feed-forward blocks, attention with
stride, dual-path embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Expansion,
    Layer,
    Mixer,
    Shape,
    Trace,
    hidden_width,
    require,
    require_activation,
    require_expansion,
    softmax_attention,
)


@dataclass(frozen=True)
class ConvFFN(BlockSpec):
    """Unified feed-forward network on a map (B, C, H, W), a depthwise convolution in its middle,
    residual with layer scale.

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.1: X' = s Conv_BN(DWConv_BN,GELU(Conv_BN,GELU(X)))
    + X.

    Attributes:
        expansion: hidden width over C.
        kernel: of the depthwise convolution.
    """

    kind: ClassVar[str] = "conv_ffn"
    examples: ClassVar[Examples] = (("expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.efficientformerv2.module:ConvFFNBlock"

    expansion: Expansion = 4
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require_expansion(self.expansion)
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to keep the map's size",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        hidden = hidden_width(self.expansion, shape.channels)
        trace = Trace(shape).conv(hidden).batch_norm().activation(self.activation)
        trace.conv(hidden, self.kernel, groups=hidden).batch_norm().activation(self.activation)
        return trace.conv(shape.channels).batch_norm().layer_scale().residual()


@dataclass(frozen=True)
class AttentionFFN(BlockSpec):
    """Talking-heads self-attention with locality, then `ConvFFN`, on a map (B, C, H, W).

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.2 and 3.3: Q, K, V = Conv_BN(X);
    A = T2 softmax(T1 (Q K^T / sqrt(d) + b)), with T1 and T2 linear over the heads;
    I = s1 Conv_BN(GELU(A V + DWConv_BN(V))) + X; X' = s2 FFN(I) + I.
    With `stride` the attention runs on Conv_BN,DW(X) at a lower resolution, and its output is
    enlarged bilinearly. The bias b has one value per head and distance (|dy|, |dx|) on the attended
    grid, so it depends on the resolution.

    Attributes:
        expansion: hidden width of the feed-forward network over C.
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
        stride: factor by which each side of the attended map is smaller.
        kernel: of the feed-forward network's depthwise convolution; those of the attention are 3.
    """

    kind: ClassVar[str] = "attention_ffn"
    examples: ClassVar[Examples] = (
        ("expansion=2;heads=2;key_dim=4;value_ratio=2;stride=2", "8x6x6"),
        ("expansion=2;heads=2;key_dim=4;value_ratio=2", "8x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.efficientformerv2.module:AttentionFFNBlock"
    mixer: ClassVar[Mixer] = "attention"

    expansion: Expansion = 4
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
        """Return the feed-forward network behind the attention."""
        return ConvFFN(self.expansion, self.kernel, self.activation)

    @property
    def value_dim(self) -> int:
        """Return channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def check(self, shape: Shape) -> None:
        require(
            shape.height % self.stride == 0 and shape.width % self.stride == 0,
            f"stride {self.stride} does not divide the map {shape.height}x{shape.width}, so the"
            " output at the lower resolution cannot be enlarged to its size",
        )

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        keys = self.heads * self.key_dim
        values = self.heads * self.value_dim
        # Stride attention (Sec. 3.3): from here on the walk is on the smaller map.
        if self.stride > 1:
            trace.conv(shape.channels, 3, self.stride, groups=shape.channels).batch_norm()
        attended = trace.shape
        # Queries and keys are side branches. The walk follows the values, whose shape the rest has.
        for width in (keys, keys):
            trace.extra(*Trace(attended).conv(width).batch_norm().layers)
        trace.conv(values).batch_norm()
        # The depthwise convolution of V runs beside the attention; `residual` adds the two. There
        # is one bias per distance on the attended grid, as many as tokens.
        trace.extra(
            *Trace(trace.shape).conv(values, 3, groups=values).batch_norm().layers,
            *softmax_attention(
                attended.tokens,
                attended.tokens,
                self.heads,
                self.key_dim,
                self.value_dim,
                biases=attended.tokens,
                talking=True,
            ),
        )
        trace.residual()
        if self.stride > 1:
            # Bilinear upsampling reads the small map and writes the whole one.
            mixed = trace.shape
            trace.shape = Shape(values, shape.height, shape.width)
            trace.extra(Layer("elementwise", read=mixed.elements, written=trace.shape.elements))
        trace.activation(self.activation).conv(shape.channels).batch_norm().layer_scale().residual()
        return trace.extra(*self.ffn.trace(shape).layers)


@dataclass(frozen=True)
class DualPathEmbedding(EntrySpec):
    """A strided convolution plus attention of a strided map to the whole one.

    It maps (B, C, H, W) to (B, width, H/2, W/2).

    EfficientFormerV2 (arXiv:2212.08059), Sec. 3.3: K, V = Conv_BN(X); Q = Conv_BN(DWConv(X) +
    Pool(X)), both of stride 2, the pool of size 1; X' = Conv_BN(GELU(softmax(Q K^T / sqrt(d) + b) V
    + DWConv_BN(V))) + Conv_BN(X), the last one 3x3 of stride 2. Odd sides are rounded up.
    The bias b has one value per head and distance (|dy|, |dx|) on the input's grid. There is a query
    at every second key in both directions.

    Attributes:
        width: channels that come out.
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
    """

    kind: ClassVar[str] = "dual_path_embedding"
    examples: ClassVar[Examples] = (("width=12;heads=2;key_dim=4;value_ratio=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.efficientformerv2.module:DualPathEmbeddingBlock"

    width: int
    heads: int = 8
    key_dim: int = 16
    value_ratio: int = 4
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        for name in ("width", "heads", "key_dim", "value_ratio"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require_activation(self.activation)

    @property
    def value_dim(self) -> int:
        """Return channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def trace(self, shape: Shape) -> Trace:
        keys = self.heads * self.key_dim
        values = self.heads * self.value_dim
        # The walk follows the values; keys, queries and the convolutional path are side branches.
        trace = Trace(shape).conv(values).batch_norm()
        trace.extra(*Trace(shape).conv(keys).batch_norm().layers)
        # A pool of size 1 only picks every second pixel, so it costs no more than its addition.
        query = Trace(shape).conv(shape.channels, 3, stride=2, groups=shape.channels).residual()
        trace.extra(*query.conv(keys).batch_norm().layers)
        trace.conv(values, 3, stride=2, groups=values).batch_norm()
        trace.extra(
            *softmax_attention(
                trace.shape.tokens,
                shape.tokens,
                self.heads,
                self.key_dim,
                self.value_dim,
                biases=shape.tokens,
            )
        )
        # A V plus the depthwise convolution of V, then the projection. The last `residual` adds the
        # two paths.
        trace.residual().activation(self.activation).conv(self.width).batch_norm()
        return trace.extra(
            *Trace(shape).conv(self.width, 3, stride=2).batch_norm().layers
        ).residual()


SPECS = (
    ConvFFN,
    AttentionFFN,
    DualPathEmbedding,
)
