"""RepViT (Wang et al., arXiv:2307.09283): re-parameterised depthwise mixing, squeeze-and-excitation in
every second block, and feed-forward networks of 1x1 convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Shape,
    Trace,
    TwoForms,
    eights,
    hidden_width,
    require,
    require_activation,
    require_expansion,
)


@dataclass(frozen=True)
class RepViTStem(EntrySpec):
    """Two 3x3 convolutions of stride 2 with batch norm, an activation between them: (B, 3, H, W) to
    (B, width, H/4, W/4).

    RepViT (arXiv:2307.09283), Sec. 3.4. `conv_stem` has an activation behind the second one, too.
    """

    kind: ClassVar[str] = "repvit_stem"
    examples: ClassVar[Examples] = (("width=8", "3x16x16"),)
    module: ClassVar[str] = "nas.blocks.repvit.module:RepViTStemBlock"

    width: int
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        # The first convolution has half of the channels.
        require(
            self.width >= 2 and self.width % 2 == 0,
            f"width {self.width} must be a positive multiple of 2",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width // 2, 3, 2, bias=False).batch_norm()
        trace.activation(self.activation)
        return trace.conv(self.width, 3, 2, bias=False).batch_norm()


@dataclass(frozen=True)
class RepViTBlock(TwoForms):
    """Depthwise mixing without a shortcut in inference, perhaps squeeze-and-excitation, then a
    feed-forward network, on a map (B, C, H, W).

    RepViT (arXiv:2307.09283), Sec. 3.3 and Fig. 3: Y = SE(BN(DWConv_BN(X) + DWConv1x1(X) + X)), where
    the sum is one depthwise convolution in inference. Then X' = Y + Conv_BN(act(Conv_BN(Y))).

    Attributes:
        expansion: hidden width of the feed-forward network over C.
        kernel: of the depthwise mixing.
        squeeze: whether there is squeeze-and-excitation, at a quarter of C. In published members
            every second block of a stage has it, from the first one on.
        activation: of the feed-forward network.
    """

    kind: ClassVar[str] = "repvit_block"
    examples: ClassVar[Examples] = (
        ("expansion=2;squeeze=true", "8x6x6"),
        ("expansion=3;kernel=5", "8x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.repvit.module:RepViTBlockBlock"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "kernel", "squeeze", "activation")

    expansion: Expansion = 2
    kernel: int = 3
    squeeze: bool = False
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        _require_block(self)

    def walk(self, trace: Trace) -> Trace:
        _walk_mixing(self, trace)
        if self.squeeze:
            trace.squeeze_excite(eights(trace.shape.channels / 4))
        return _walk_ffn(self, trace)


@dataclass(frozen=True)
class RepViTDown(TwoForms, EntrySpec):
    """A block, a depthwise convolution of stride 2, a 1x1 convolution and a feed-forward network:
    (B, C, H, W) to (B, width, H/2, W/2).

    RepViT (arXiv:2307.09283), Sec. 3.4 and Fig. 4, "deeper downsampling layers". The block before the
    stride has C channels and no squeeze-and-excitation.

    Attributes:
        expansion, kernel, activation: of the block and of the feed-forward network behind it, as of
            `RepViTBlock`. The convolution of stride 2 has the same kernel.
    """

    kind: ClassVar[str] = "repvit_down"
    examples: ClassVar[Examples] = (("width=12;expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.repvit.module:RepViTDownBlock"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "kernel", "activation")
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: Expansion = 2
    kernel: int = 3
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _require_block(self)

    def walk(self, trace: Trace) -> Trace:
        channels = trace.shape.channels
        _walk_ffn(self, _walk_mixing(self, trace))
        trace.conv(channels, self.kernel, 2, groups=channels, bias=False).batch_norm()
        return _walk_ffn(self, trace.conv(self.width, bias=False).batch_norm())


def _walk_mixing(spec: RepViTBlock | RepViTDown, trace: Trace) -> Trace:
    before = trace.shape
    channels = before.channels
    if trace.deployed:
        return trace.conv(channels, spec.kernel, groups=channels)
    trace.conv(channels, spec.kernel, groups=channels, bias=False).batch_norm()
    trace.extra(*Trace(before).conv(channels, groups=channels).layers)
    return trace.residual().residual().batch_norm()


def _walk_ffn(spec: RepViTBlock | RepViTDown, trace: Trace) -> Trace:
    channels = trace.shape.channels
    trace.conv(hidden_width(spec.expansion, channels), bias=False).batch_norm()
    trace.activation(spec.activation)
    return trace.conv(channels, bias=False).batch_norm().residual()


def _require_block(spec: RepViTBlock | RepViTDown) -> None:
    require_expansion(spec.expansion)
    require(
        spec.kernel > 1 and spec.kernel % 2 == 1,
        f"kernel {spec.kernel} must be odd and at least 3, to mix positions",
    )
    require_activation(spec.activation)


@dataclass(frozen=True)
class RepViTHead(TwoForms, HeadSpec):
    """The mean over all positions, then batch norm and a linear classifier: (B, C, H, W) to (B,
    classes).

    RepViT (arXiv:2307.09283), Sec. 3.4. `map_head` has its norm before the mean, and one norm for two
    classifiers.

    Attributes:
        distillation: a second norm and classifier for the teacher's labels (as in DeiT,
            arXiv:2012.12877). In eval mode the output is the mean of the two, in training both are
            returned; both are counted as parameters. In inference they are one.
    """

    kind: ClassVar[str] = "repvit_head"
    examples: ClassVar[Examples] = (
        ("classes=10;distillation=true", "8x3x3"),
        ("classes=10;distillation=false", "8x3x3"),
    )
    module: ClassVar[str] = "nas.blocks.repvit.module:RepViTHeadBlock"

    classes: int
    distillation: bool = True

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")

    def walk(self, trace: Trace) -> Trace:
        features = trace.mean().shape
        if trace.deployed:
            return trace.linear(self.classes)
        trace.batch_norm().linear(self.classes)
        # Both classifiers read these features: the second one is not behind the first.
        if self.distillation:
            trace.extra(*Trace(features).batch_norm().linear(self.classes).layers)
        return trace


SPECS = (
    RepViTStem,
    RepViTBlock,
    RepViTDown,
    RepViTHead,
)
