"""Blocks that several families share: convolutional stems, embeddings, inverted residuals and
heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from nas.blocks.spec import (
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Layout,
    Shape,
    Trace,
    hidden_width,
    require,
    require_activation,
    require_expansion,
)


@dataclass(frozen=True)
class Identity(BlockSpec):
    """Marks a dropped position in an architecture. It is never built, measured or counted."""

    kind: ClassVar[str] = "identity"

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape)


@dataclass(frozen=True)
class Flatten(BlockSpec):
    """4D to 3D: a map (B, C, H, W) to tokens (B, H*W, C). EfficientFormer does it once, before its
    first MB3D."""

    kind: ClassVar[str] = "flatten"
    examples: ClassVar[Examples] = (("", "8x3x3"),)
    breakdown: ClassVar[str] = "reshape"
    changes_layout: ClassVar[bool] = True
    module: ClassVar[str] = "nas.blocks.common.module:FlattenBlock"

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).reshape("tokens")


@dataclass(frozen=True)
class Unflatten(BlockSpec):
    """3D to 4D: tokens (B, H*W, C) to a map (B, C, H, W), needed where a convolution follows a
    token block."""

    kind: ClassVar[str] = "unflatten"
    examples: ClassVar[Examples] = (("", "tokens:8x3x3"),)
    module: ClassVar[str] = "nas.blocks.common.module:UnflattenBlock"
    layout: ClassVar[Layout] = "tokens"
    breakdown: ClassVar[str] = "reshape"
    changes_layout: ClassVar[bool] = True

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).reshape("map")


@dataclass(frozen=True)
class ConvStem(EntrySpec):
    """Two 3x3 convolutions of stride 2, each with batch norm and activation: (B, 3, H, W) to (B,
    width, H/4, W/4).

    EfficientFormer (arXiv:2206.01191), Sec. 4.1; SwiftFormer uses the same.
    """

    kind: ClassVar[str] = "conv_stem"
    examples: ClassVar[Examples] = (("width=8", "3x16x16"),)
    module: ClassVar[str] = "nas.blocks.common.module:ConvStemBlock"

    width: int
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        # The first convolution has half of the channels.
        require(
            self.width >= 2 and self.width % 2 == 0,
            f"width {self.width} must be a positive multiple of 2",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        trace.conv(self.width // 2, kernel=3, stride=2).batch_norm().activation(self.activation)
        return trace.conv(self.width, kernel=3, stride=2).batch_norm().activation(self.activation)


@dataclass(frozen=True)
class ConvEmbedding(EntrySpec):
    """A 3x3 convolution of stride 2 with batch norm: (B, C, H, W) to (B, width, H/2, W/2).

    EfficientFormer (arXiv:2206.01191), Sec. 4.1; SwiftFormer uses the same.
    """

    kind: ClassVar[str] = "conv_embedding"
    examples: ClassVar[Examples] = (("width=12", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:ConvEmbeddingBlock"

    width: int

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).conv(self.width, kernel=3, stride=2).batch_norm()


@dataclass(frozen=True)
class DSConv(BlockSpec):
    """Depthwise and pointwise convolution on a map (B, C, H, W), residual.

    MobileNets (arXiv:1704.04861), Sec. 3.1; in the stem of EfficientViT-B (arXiv:2205.14756):
    X' = X + PW_BN(DW_BN,act(X)).
    """

    kind: ClassVar[str] = "dsconv"
    examples: ClassVar[Examples] = (("", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:DSConvBlock"

    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to keep the map's size",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        trace.conv(shape.channels, self.kernel, groups=shape.channels, bias=False).batch_norm()
        trace.activation(self.activation)
        return trace.conv(shape.channels, bias=False).batch_norm().residual()


@dataclass(frozen=True)
class ResBlock(BlockSpec):
    """Two convolutions on a map (B, C, H, W), residual, with nothing after the sum.

    ResNet (arXiv:1512.03385), Fig. 5 left; in the stem of EfficientViT-L (arXiv:2205.14756):
    X' = X + Conv_BN(Conv_BN,act(X)).
    """

    kind: ClassVar[str] = "res_block"
    examples: ClassVar[Examples] = (("expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:ResBlockBlock"

    expansion: Expansion = 1
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
        trace = Trace(shape).conv(hidden, self.kernel, bias=False).batch_norm()
        trace.activation(self.activation)
        return trace.conv(shape.channels, self.kernel, bias=False).batch_norm().residual()


@dataclass(frozen=True)
class MBConv(BlockSpec):
    """Inverted bottleneck with a depthwise convolution on a map (B, C, H, W), residual.

    MobileNetV2 (arXiv:1801.04381), Table 1; the local block of EfficientViT (arXiv:2205.14756):
    X' = X + PW_BN(DW_BN,act(PW_BN,act(X))).

    Attributes:
        expansion: hidden width over C.
        kernel: of the depthwise convolution.
        fewer_norm: the first two convolutions have a bias and no batch norm, as beside
            EfficientViT's attention.
    """

    kind: ClassVar[str] = "mbconv"
    examples: ClassVar[Examples] = (
        ("expansion=2;activation=hardswish", "8x6x6"),
        ("expansion=2;fewer_norm=true", "8x6x6"),
    )
    module: ClassVar[str] = "nas.blocks.common.module:MBConvBlock"

    expansion: Expansion = 4
    kernel: int = 3
    fewer_norm: bool = False
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        _check_mbconv(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace_mbconv(self, shape, shape.channels, stride=1).residual()


@dataclass(frozen=True)
class MBConvDown(EntrySpec):
    """Inverted bottleneck of stride 2 without a shortcut: (B, C, H, W) to (B, width, H/2, W/2).

    Attributes:
        expansion: hidden width over C, the channels that come in.
        kernel, fewer_norm: as of `MBConv`.
    """

    kind: ClassVar[str] = "mbconv_down"
    examples: ClassVar[Examples] = (("width=12;expansion=2;activation=gelu_tanh", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:MBConvDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: Expansion = 4
    kernel: int = 3
    fewer_norm: bool = False
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _check_mbconv(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace_mbconv(self, shape, self.width, stride=2)


def _check_mbconv(spec: MBConv | MBConvDown) -> None:
    require_expansion(spec.expansion)
    require(
        spec.kernel >= 1 and spec.kernel % 2 == 1,
        f"kernel {spec.kernel} must be odd, to keep the map's size",
    )
    require_activation(spec.activation)


def _trace_mbconv(spec: MBConv | MBConvDown, shape: Shape, width: int, stride: int) -> Trace:
    trace = Trace(shape)
    hidden = hidden_width(spec.expansion, shape.channels)
    # The 1x1 expansion, then the depthwise convolution, which has the stride. Each has a norm, or a
    # bias in its place; the projection below always has a norm.
    for kernel, step, groups in ((1, 1, 1), (spec.kernel, stride, hidden)):
        trace.conv(hidden, kernel, step, groups, bias=spec.fewer_norm)
        if not spec.fewer_norm:
            trace.batch_norm()
        trace.activation(spec.activation)
    return trace.conv(width, bias=False).batch_norm()


@dataclass(frozen=True)
class FusedMBConv(BlockSpec):
    """Inverted bottleneck whose expansion and depthwise convolution are one, on a map (B, C, H, W),
    residual.

    EfficientNetV2 (arXiv:2104.00298), Fig. 2; the local block of EfficientViT-L's stages 1 and 2
    (arXiv:2205.14756): X' = X + PW_BN(Conv_BN,act(X)).

    Attributes:
        expansion: hidden width over C.
        kernel: of the first convolution.
    """

    kind: ClassVar[str] = "fused_mbconv"
    examples: ClassVar[Examples] = (("expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:FusedMBConvBlock"

    expansion: Expansion = 4
    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        _check_fused_mbconv(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace_fused_mbconv(self, shape, shape.channels, stride=1).residual()


@dataclass(frozen=True)
class FusedMBConvDown(EntrySpec):
    """Fused inverted bottleneck of stride 2 without a shortcut: (B, C, H, W) to (B, width, H/2,
    W/2).

    Attributes:
        expansion: hidden width over C, the channels that come in.
        kernel: of the first convolution.
    """

    kind: ClassVar[str] = "fused_mbconv_down"
    examples: ClassVar[Examples] = (("width=12;expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.common.module:FusedMBConvDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: Expansion = 4
    kernel: int = 3
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _check_fused_mbconv(self)

    def trace(self, shape: Shape) -> Trace:
        return _trace_fused_mbconv(self, shape, self.width, stride=2)


def _check_fused_mbconv(spec: FusedMBConv | FusedMBConvDown) -> None:
    require_expansion(spec.expansion)
    require(
        spec.kernel >= 1 and spec.kernel % 2 == 1,
        f"kernel {spec.kernel} must be odd, to keep the map's size",
    )
    require_activation(spec.activation)


def _trace_fused_mbconv(
    spec: FusedMBConv | FusedMBConvDown, shape: Shape, width: int, stride: int
) -> Trace:
    trace = (
        Trace(shape)
        .conv(hidden_width(spec.expansion, shape.channels), spec.kernel, stride, bias=False)
        .batch_norm()
    )
    return trace.activation(spec.activation).conv(width, bias=False).batch_norm()


Norm = Literal["batch", "layer"]


@dataclass(frozen=True)
class MapHead(HeadSpec):
    """Norm over channels, mean over positions and a linear classifier: (B, C, H, W) to (B,
    classes).

    SwiftFormer (arXiv:2303.15446) and EfficientFormerV2 (arXiv:2212.08059) use batch norm and
    distillation, EMO (arXiv:2301.01146) layer norm and none.

    Attributes:
        norm: batch norm, or layer norm over the channels of each position.
        distillation: a second classifier for the teacher's labels (as in DeiT, arXiv:2012.12877).
            In eval mode the output is the mean of the two, in training both are returned; both are
            counted.
    """

    kind: ClassVar[str] = "map_head"
    examples: ClassVar[Examples] = (
        ("classes=10;norm=layer", "8x3x3"),
        ("classes=10;distillation=true", "8x3x3"),
    )
    module: ClassVar[str] = "nas.blocks.common.module:MapHeadBlock"

    classes: int
    norm: Norm = "batch"
    distillation: bool = True

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        require(
            self.norm in get_args(Norm),
            f"norm '{self.norm}' is not one of {', '.join(get_args(Norm))}",
        )

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        if self.norm == "batch":
            trace.batch_norm()
        else:
            # A layer norm needs the channels last in memory, so a device pays for the change of
            # layout.
            trace.reshape("tokens").layer_norm()
        # Both classifiers read these features: the second one is not behind the first.
        features = trace.mean().shape
        trace.linear(self.classes)
        if self.distillation:
            trace.extra(*Trace(features).linear(self.classes).layers)
        return trace


SPECS = (
    Identity,
    Flatten,
    Unflatten,
    ConvStem,
    ConvEmbedding,
    DSConv,
    ResBlock,
    MBConv,
    MBConvDown,
    FusedMBConv,
    FusedMBConvDown,
    MapHead,
)
