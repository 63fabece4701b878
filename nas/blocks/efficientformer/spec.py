"""EfficientFormer (Li et al., arXiv:2206.01191): MB4D with a pooling mixer, MB3D with attention,
and its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    BlockSpec,
    Examples,
    Expansion,
    HeadSpec,
    Layer,
    Layout,
    Mixer,
    Shape,
    Trace,
    hidden_width,
    require,
    require_activation,
    require_expansion,
)


@dataclass(frozen=True)
class MB4D(BlockSpec):
    """Pooling mixer and convolutional MLP on a map (B, C, H, W), both residual with layer scale.

    EfficientFormer (arXiv:2206.01191), Eq. 3:
    I = Pool(X) + X; X' = Conv_BN(Conv_BN,GELU(I)) + I.
    """

    kind: ClassVar[str] = "mb4d"
    examples: ClassVar[Examples] = (("expansion=2;activation=gelu", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.efficientformer.module:MB4DBlock"
    mixer: ClassVar[Mixer] = "pool"

    expansion: Expansion = 4
    pool: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require_expansion(self.expansion)
        require(
            self.pool >= 1 and self.pool % 2 == 1,
            f"pool {self.pool} must be odd, to keep the map's size",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        # Published code has X + s1 (Pool(X) - X), where Eq. 3 has X + Pool(X): the first `residual`
        # is the subtraction.
        trace = Trace(shape).pool().residual().layer_scale().residual()
        trace.conv(hidden_width(self.expansion, shape.channels)).batch_norm().activation(
            self.activation
        )
        return trace.conv(shape.channels).batch_norm().layer_scale().residual()


@dataclass(frozen=True)
class MB3D(BlockSpec):
    """Multi-head self-attention with a learned bias and MLP on tokens (B, N, C).

    Both are residual with layer scale.

    EfficientFormer (arXiv:2206.01191), Eq. 4 and 5: I = Linear(MHSA(Linear(LN(X)))) + X;
    X' = Linear(Linear_GELU(LN(I))) + I; MHSA(Q, K, V) = softmax(Q K^T / sqrt(d) + b) V.
    The bias b has one value per head and distance (|dy|, |dx|) on the grid of tokens, so it depends
    on the resolution.

    Attributes:
        heads: attention heads.
        key_dim: channels of a query and of a key in each head.
        value_ratio: channels of a value in each head, over key_dim.
        expansion: hidden width of the MLP over C.
    """

    kind: ClassVar[str] = "mb3d"
    examples: ClassVar[Examples] = (
        ("heads=2;key_dim=4;value_ratio=2;expansion=2", "tokens:8x3x3"),
    )
    module: ClassVar[str] = "nas.blocks.efficientformer.module:MB3DBlock"
    mixer: ClassVar[Mixer] = "attention"
    layout: ClassVar[Layout] = "tokens"

    heads: int = 8
    key_dim: int = 32
    value_ratio: int = 4
    expansion: Expansion = 4
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require_expansion(self.expansion)
        for name in ("heads", "key_dim", "value_ratio"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require_activation(self.activation)

    @property
    def value_dim(self) -> int:
        """Return channels of a value in each head."""
        return self.key_dim * self.value_ratio

    def trace(self, shape: Shape) -> Trace:
        tokens = shape.tokens
        keys = self.heads * self.key_dim
        values = self.heads * self.value_dim
        scores = self.heads * tokens * tokens
        # LN, then one linear layer for the queries, keys and values of all heads.
        trace = Trace(shape).layer_norm().linear(2 * keys + values)
        trace.extra(
            Layer("reshape", read=trace.shape.elements, written=trace.shape.elements),
            # Q K^T: N x N products of key_dim in each head.
            Layer("matmul", macs=tokens * tokens * keys, read=2 * tokens * keys, written=scores),
            # The bias has one value per head and distance on the grid, so N per head.
            Layer("elementwise", params=self.heads * tokens, read=2 * scores, written=scores),
            Layer("softmax", read=scores, written=scores),
            Layer(
                "matmul",
                macs=tokens * tokens * values,
                read=scores + tokens * values,
                written=tokens * values,
            ),
            Layer("reshape", read=tokens * values, written=tokens * values),
        )
        # The attention gives (B, N, heads * value_dim), from which a linear layer makes (B, N, C).
        trace.shape = Shape(values, shape.height, shape.width, "tokens")
        trace.linear(shape.channels).layer_scale().residual()
        trace.layer_norm().linear(hidden_width(self.expansion, shape.channels))
        trace.activation(self.activation)
        return trace.linear(shape.channels).layer_scale().residual()


@dataclass(frozen=True)
class TokenHead(HeadSpec):
    """Layer norm, mean over tokens and a linear classifier: (B, N, C) to (B, classes).

    With `distillation` there is a second classifier for the teacher's labels (as in DeiT,
    arXiv:2012.12877). In eval mode the output is the mean of the two, in training both are
    returned; both are counted.
    """

    kind: ClassVar[str] = "token_head"
    examples: ClassVar[Examples] = (("classes=10;distillation=true", "tokens:8x3x3"),)
    module: ClassVar[str] = "nas.blocks.efficientformer.module:TokenHeadBlock"
    layout: ClassVar[Layout] = "tokens"

    classes: int
    distillation: bool = True

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).layer_norm().mean()
        features = trace.shape
        trace.linear(self.classes)
        if self.distillation:
            trace.extra(*Trace(features).linear(self.classes).layers)
        return trace


SPECS = (
    MB4D,
    MB3D,
    TokenHead,
)
