"""FastViT (Vasu et al., arXiv:2303.14189): RepMixer blocks, softmax attention and convolutional
feed-forward networks, with branches that inference folds away.

Every block has two forms (`TwoForms`). Parameters and MACs are those of the training form, latency
is that of the one in inference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Layer,
    Mixer,
    Shape,
    Trace,
    TwoForms,
    eights,
    hidden_width,
    require,
    require_activation,
    require_expansion,
    softmax_attention,
)

MULTIPLIER = 2
"""Output channels per input channel of the depthwise convolutions in entries and heads."""


@dataclass(frozen=True)
class FastViTStem(TwoForms, EntrySpec):
    """Three MobileOne convolutions with activation: (B, 3, H, W) to (B, width, H/4, W/4).

    FastViT (arXiv:2303.14189), Fig. 2: a 3x3 convolution of stride 2, a depthwise one of stride 2
    and a 1x1 convolution. Their branches are those of MobileOne (arXiv:2206.04040): a 1x1
    convolution beside each 3x3, and the input where stride and channels allow it.
    """

    kind: ClassVar[str] = "fastvit_stem"
    examples: ClassVar[Examples] = (("width=8", "3x16x16"),)
    module: ClassVar[str] = "nas.blocks.fastvit.module:FastViTStemBlock"

    width: int
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require_activation(self.activation)

    def walk(self, trace: Trace) -> Trace:
        trace.branches(self.width, 3, stride=2, small=1).activation(self.activation)
        trace.branches(self.width, 3, stride=2, groups=self.width, small=1)
        trace.activation(self.activation).branches(self.width, 1, identity=True)
        return trace.activation(self.activation)


@dataclass(frozen=True)
class FastViTDown(TwoForms, EntrySpec):
    """A large depthwise convolution of stride 2 and a 1x1 convolution: (B, C, H, W) to (B, width,
    H/2, W/2).

    FastViT (arXiv:2303.14189), Sec. 3.2.2. The depthwise convolution gives two channels per input
    channel, and has one of 3x3 beside it. The 1x1 convolution keeps these 2 C channels in every
    published member; its input is a branch of it (the channels that both sides have, where `width`
    is not 2 C).

    Attributes:
        kernel: of the depthwise convolution.
        squeeze: whether squeeze-and-excitation at a quarter of the 2 C channels follows it, as in
            stages 3 and 4 of the encoders MCi (arXiv:2311.17049).
        middle_activation: whether the depthwise convolution has an activation, as in MCi.
        activation: of the 1x1 convolution, and in the middle.
    """

    kind: ClassVar[str] = "fastvit_down"
    examples: ClassVar[Examples] = (
        ("width=16", "8x8x8"),
        ("width=12;squeeze=true;middle_activation=true", "8x8x8"),
        ("width=20;kernel=5", "8x8x8"),
    )
    module: ClassVar[str] = "nas.blocks.fastvit.module:FastViTDownBlock"
    elastic: ClassVar[tuple[str, ...]] = ("kernel", "squeeze", "middle_activation", "activation")

    width: int
    kernel: int = 7
    squeeze: bool = False
    middle_activation: bool = False
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require(
            self.kernel > 3 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd and larger than the 3x3 beside it",
        )
        require_activation(self.activation)

    def walk(self, trace: Trace) -> Trace:
        channels = trace.shape.channels
        hidden = MULTIPLIER * channels
        trace.branches(hidden, self.kernel, stride=2, groups=channels, small=3)
        if self.squeeze:
            trace.squeeze_excite(eights(hidden / 4))
        if self.middle_activation:
            trace.activation(self.activation)
        return trace.branches(self.width, 1, identity=True).activation(self.activation)


@dataclass(frozen=True)
class RepMixer(TwoForms):
    """Depthwise token mixing without a shortcut in inference, then a convolutional feed-forward
    network, on a map (B, C, H, W).

    FastViT (arXiv:2303.14189), Eq. 3 and Sec. 3.2.3. In training Y = X + s1 (M(X) - BN(X)), where M
    is a depthwise MobileOne convolution. In inference Y is one depthwise convolution of X. Then
    X' = Y + s2 FFN(Y) with FFN = Conv(act(Conv(BN(DWConv(Y))))).

    Attributes:
        expansion: hidden width of the feed-forward network over C.
        kernel: of the token mixing.
        ffn_kernel: of the feed-forward network's depthwise convolution.
        activation: of the feed-forward network.
    """

    kind: ClassVar[str] = "repmixer"
    examples: ClassVar[Examples] = (
        ("expansion=2", "8x8x8"),
        ("expansion=3;kernel=5;ffn_kernel=3", "8x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.fastvit.module:RepMixerBlock"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "kernel", "ffn_kernel", "activation")

    expansion: Expansion = 4
    kernel: int = 3
    ffn_kernel: int = 7
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(
            self.kernel > 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd and at least 3, to mix positions",
        )
        _require_ffn(self)

    def walk(self, trace: Trace) -> Trace:
        shape = trace.shape
        channels = shape.channels
        if trace.deployed:
            trace.conv(channels, self.kernel, groups=channels)
        else:
            trace.branches(channels, self.kernel, groups=channels, small=1, identity=True)
            trace.extra(*Trace(shape).batch_norm().layers).residual()
            trace.layer_scale().residual()
        return _walk_ffn(self, trace)


@dataclass(frozen=True)
class FastViTAttention(TwoForms):
    """Softmax attention and a convolutional feed-forward network on a map (B, C, H, W), residual.

    FastViT (arXiv:2303.14189), Sec. 3.2.3: Y = X + s1 Attention(BN(X)), X' = Y + s2 FFN(Y) with FFN
    as of `RepMixer`. Queries, keys and values have no bias, and there is no positional bias. A
    conditional positional encoding (arXiv:2102.10882), X + DWConv(X), comes before the first
    attention of a stage.

    Attributes:
        expansion: hidden width of the feed-forward network over C.
        head_dim: channels per head; divides C.
        encoding: window of the positional encoding before the attention, 0 without one.
        ffn_kernel: of the feed-forward network's depthwise convolution.
        activation: of the feed-forward network.
    """

    kind: ClassVar[str] = "fastvit_attention"
    examples: ClassVar[Examples] = (
        ("expansion=2;head_dim=4;encoding=7", "8x6x6"),
        ("expansion=2;head_dim=8;ffn_kernel=5", "16x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.fastvit.module:FastViTAttentionBlock"
    mixer: ClassVar[Mixer] = "attention"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "encoding", "ffn_kernel", "activation")

    expansion: Expansion = 4
    head_dim: int = 32
    encoding: int = 0
    ffn_kernel: int = 7
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.head_dim >= 1, f"head_dim {self.head_dim} must be at least 1")
        require(
            self.encoding == 0 or (self.encoding >= 1 and self.encoding % 2 == 1),
            f"encoding {self.encoding} must be odd, or 0 for none",
        )
        _require_ffn(self)

    def check(self, shape: Shape) -> None:
        require(
            shape.channels % self.head_dim == 0,
            f"head_dim {self.head_dim} does not divide the width {shape.channels}",
        )

    def walk(self, trace: Trace) -> Trace:
        shape = trace.shape
        channels = shape.channels
        if self.encoding:
            trace.conv(channels, self.encoding, groups=channels)
            if not trace.deployed:
                trace.residual()
        heads = channels // self.head_dim
        trace.batch_norm()
        attention = softmax_attention(
            shape.tokens, shape.tokens, heads, self.head_dim, self.head_dim
        )
        # Queries, keys and values are cut out of one product, and heads are taken apart.
        cut = Layer("reshape", read=3 * shape.elements, written=3 * shape.elements)
        trace.extra(*Trace(shape).conv(3 * channels, bias=False).layers, cut, *attention)
        trace.conv(channels).folded_scale().residual()
        return _walk_ffn(self, trace)


def _walk_ffn(spec: RepMixer | FastViTAttention, trace: Trace) -> Trace:
    channels = trace.shape.channels
    trace.conv(channels, spec.ffn_kernel, groups=channels, bias=False).batch_norm()
    trace.conv(hidden_width(spec.expansion, channels)).activation(spec.activation)
    return trace.conv(channels).folded_scale().residual()


def _require_ffn(spec: RepMixer | FastViTAttention) -> None:
    require_expansion(spec.expansion)
    require(
        spec.ffn_kernel >= 1 and spec.ffn_kernel % 2 == 1,
        f"ffn_kernel {spec.ffn_kernel} must be odd, to keep the map's size",
    )
    require_activation(spec.activation)


@dataclass(frozen=True)
class FastViTHead(TwoForms, HeadSpec):
    """A depthwise convolution to 2 C channels with squeeze-and-excitation, the mean over all
    positions and a linear classifier: (B, C, H, W) to (B, classes).

    FastViT (arXiv:2303.14189), Fig. 2. Squeeze-and-excitation has a sixteenth of the channels and
    comes before the activation.
    """

    kind: ClassVar[str] = "fastvit_head"
    examples: ClassVar[Examples] = (("classes=10", "16x3x3"),)
    module: ClassVar[str] = "nas.blocks.fastvit.module:FastViTHeadBlock"

    classes: int
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        require_activation(self.activation)

    def walk(self, trace: Trace) -> Trace:
        channels = trace.shape.channels
        features = MULTIPLIER * channels
        trace.branches(features, 3, groups=channels, small=1)
        trace.squeeze_excite(sixteenth(features)).activation(self.activation)
        return trace.mean().linear(self.classes)


def sixteenth(channels: int) -> int:
    """Return a sixteenth of the channels, rounded, at least 1."""
    return max(1, int(channels / 16 + 0.5))


SPECS = (
    FastViTStem,
    FastViTDown,
    RepMixer,
    FastViTAttention,
    FastViTHead,
)
