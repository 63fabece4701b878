"""MobileNetV4 (Qin et al., arXiv:2404.10518): universal inverted bottlenecks and mobile multi-query
attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Layer,
    Shape,
    Trace,
    hidden_width,
    require,
    require_activation,
    require_expansion,
)


@dataclass(frozen=True)
class MobileNetV4Stem(EntrySpec):
    """A 3x3 convolution of stride 2 with batch norm and activation: (B, 3, H, W) to (B, width, H/2,
    W/2).

    MobileNetV4 (arXiv:2404.10518), the first layer of every member.
    """

    kind: ClassVar[str] = "mobilenetv4_stem"
    examples: ClassVar[Examples] = (("width=8", "3x16x16"),)
    module: ClassVar[str] = "nas.blocks.mobilenetv4.module:MobileNetV4StemBlock"

    width: int
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width, kernel=3, stride=2, bias=False).batch_norm()
        return trace.activation(self.activation)


@dataclass(frozen=True)
class ConvDown(EntrySpec):
    """A convolution of stride 2 and a 1x1 convolution, each with batch norm and activation:
    (B, C, H, W) to (B, width, H/2, W/2).

    MobileNetV4 (arXiv:2404.10518), stages 1 and 2 of Conv-S. `fused_mbconv_down`, which enters
    stage 1 of the other members, has no activation behind its 1x1 convolution.

    Attributes:
        expansion: channels between the two convolutions over C, the channels that come in.
        kernel: of the first convolution.
    """

    kind: ClassVar[str] = "conv_down"
    examples: ClassVar[Examples] = (("width=12;expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.mobilenetv4.module:ConvDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: Expansion = 1
    kernel: int = 3
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require_expansion(self.expansion)
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to halve the map",
        )
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        hidden = hidden_width(self.expansion, shape.channels)
        trace.conv(hidden, self.kernel, stride=2, bias=False).batch_norm()
        trace.activation(self.activation).conv(self.width, bias=False).batch_norm()
        return trace.activation(self.activation)


@dataclass(frozen=True)
class UIB(BlockSpec):
    """Universal inverted bottleneck on a map (B, C, H, W), residual, perhaps behind an attention.

    MobileNetV4 (arXiv:2404.10518), universal inverted bottleneck: X' = X + PW_BN(DW_BN,act(PW_BN,act(DW_BN(X)))),
    where either depthwise convolution may be missing. With both it is the paper's ExtraDW, with the
    middle one alone the inverted bottleneck, with the starting one alone ConvNext, with neither the
    feed-forward network.

    With `heads`, mobile multi-query attention comes first, a residual branch of its
    own. For N = BN(X) and queries Q_i of every head i, which share one set of keys K and values V:

        X <- X + s W_o [softmax(Q_i K^T / sqrt(d)) V]_i,   Q_i = W_i N,  K = W_k SR(N),  V = W_v SR(N)

    where SR is a depthwise 3x3 convolution of stride `key_stride` with batch norm, one for keys and
    one for values, and nothing where that is 1. The layer scale s is always there.

    Attributes:
        expansion: hidden width of the bottleneck over C.
        start_kernel: side of the depthwise window before the expansion, 3 or 5 in the paper; 0
            without one.
        middle_kernel: side of the depthwise window behind the expansion; 0 without one.
        heads: number of query heads of the attention; 0 without attention.
        head_dim: channels of a query, of the keys and of the values. 0 without attention.
        key_stride: 1, or 2 for keys and values on a map of half the side. 0 without attention.
        layer_scale: whether the bottleneck's branch has a layer scale, as in the hybrid members.
        activation: of the bottleneck; the attention has none.
    """

    kind: ClassVar[str] = "uib"
    examples: ClassVar[Examples] = (
        ("expansion=2;start_kernel=5;middle_kernel=3;layer_scale=true", "8x6x6"),
        ("expansion=2;start_kernel=3;heads=2;head_dim=4;key_stride=2", "8x6x6"),
        ("expansion=2;heads=3;head_dim=4;key_stride=1;activation=gelu", "8x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.mobilenetv4.module:UIBBlock"
    elastic: ClassVar[tuple[str, ...]] = (
        "expansion",
        "start_kernel",
        "middle_kernel",
        "heads",
        "head_dim",
        "key_stride",
        "layer_scale",
        "activation",
    )

    expansion: Expansion = 4
    start_kernel: int = 0
    middle_kernel: int = 0
    heads: int = 0
    head_dim: int = 64
    key_stride: int = 1
    layer_scale: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Set what has no meaning without attention to 0, so that equal blocks have equal specs."""
        require(self.heads >= 0, f"heads {self.heads} must not be negative")
        if not self.heads:
            for name in ("head_dim", "key_stride"):
                object.__setattr__(self, name, 0)
        else:
            require(self.head_dim >= 1, f"head_dim {self.head_dim} must be at least 1")
            require(self.key_stride in (1, 2), f"key_stride {self.key_stride} must be 1 or 2")
        _require_bottleneck(self)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        if self.heads:
            self._attend(trace)
        return _trace_bottleneck(self, trace, shape.channels, stride=1).residual()

    def _attend(self, trace: Trace) -> None:
        """Trace the attention and its sum; the traced shape stays."""
        shape = trace.shape
        queries = shape.tokens
        reduced = Trace(shape)
        if self.key_stride == 1:
            trace.batch_norm()
        # Zero padding stands between this norm and the depthwise convolutions, so deployment cannot
        # fold it into them.
        else:
            norm = Layer(
                "elementwise",
                params=2 * shape.channels,
                read=shape.elements,
                written=shape.elements,
            )
            trace.extra(norm)
            reduced.conv(
                shape.channels, 3, self.key_stride, groups=shape.channels, bias=False
            ).batch_norm()
        reduced.conv(self.head_dim, bias=False)
        keys = reduced.shape.tokens
        mixed = self.heads * queries * self.head_dim
        scores = self.heads * queries * keys
        # All heads' queries are rows of one product, because they share keys and values.
        products = self.heads * queries * keys * self.head_dim
        trace.conv(self.heads * self.head_dim, bias=False)
        trace.extra(*reduced.layers, *reduced.layers)
        trace.extra(
            Layer("reshape", read=mixed, written=mixed),
            Layer("matmul", products, read=mixed + keys * self.head_dim, written=scores),
            Layer("softmax", read=scores, written=scores),
            Layer("matmul", products, read=scores + keys * self.head_dim, written=mixed),
            Layer("reshape", read=mixed, written=mixed),
        )
        trace.conv(shape.channels, bias=False).folded_scale().residual()


@dataclass(frozen=True)
class UIBDown(EntrySpec):
    """A universal inverted bottleneck that enters a stage: (B, C, H, W) to (B, width, H/2, W/2).

    MobileNetV4 (arXiv:2404.10518): the depthwise convolution in the middle has stride 2, or the
    first one where there is no other. There is no shortcut.

    Attributes:
        expansion: hidden width over C, the channels that come in.
        start_kernel, middle_kernel, layer_scale, activation: as of `UIB`. One of the kernels must
            be there.
    """

    kind: ClassVar[str] = "uib_down"
    examples: ClassVar[Examples] = (
        ("width=12;expansion=2;start_kernel=3;middle_kernel=5", "8x6x6"),
        ("width=12;expansion=2;start_kernel=5;layer_scale=true;activation=gelu", "8x6x6"),
    )
    module: ClassVar[str] = "nas.blocks.mobilenetv4.module:UIBDownBlock"
    elastic: ClassVar[tuple[str, ...]] = (
        "expansion",
        "start_kernel",
        "middle_kernel",
        "layer_scale",
        "activation",
    )
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: Expansion = 4
    start_kernel: int = 0
    middle_kernel: int = 0
    layer_scale: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        _require_bottleneck(self)
        require(
            bool(self.start_kernel or self.middle_kernel),
            "start_kernel and middle_kernel are both 0, one of them must halve the map",
        )

    def trace(self, shape: Shape) -> Trace:
        return _trace_bottleneck(self, Trace(shape), self.width, stride=2)


def strides(spec: UIB | UIBDown, stride: int) -> tuple[int, int]:
    """Return the strides of the starting and of the middle depthwise convolution."""
    return (1, stride) if spec.middle_kernel else (stride, 1)


def _trace_bottleneck(spec: UIB | UIBDown, trace: Trace, width: int, stride: int) -> Trace:
    channels = trace.shape.channels
    hidden = hidden_width(spec.expansion, channels)
    first, second = strides(spec, stride)
    if spec.start_kernel:
        trace.conv(channels, spec.start_kernel, first, groups=channels, bias=False).batch_norm()
    trace.conv(hidden, bias=False).batch_norm().activation(spec.activation)
    if spec.middle_kernel:
        trace.conv(hidden, spec.middle_kernel, second, groups=hidden, bias=False).batch_norm()
        trace.activation(spec.activation)
    trace.conv(width, bias=False).batch_norm()
    return trace.folded_scale() if spec.layer_scale else trace


def _require_bottleneck(spec: UIB | UIBDown) -> None:
    require_expansion(spec.expansion)
    for name in ("start_kernel", "middle_kernel"):
        kernel = getattr(spec, name)
        require(
            kernel == 0 or (kernel >= 1 and kernel % 2 == 1),
            f"{name} {kernel} must be odd, or 0 for no depthwise convolution",
        )
    require_activation(spec.activation)


@dataclass(frozen=True)
class MobileNetV4Head(HeadSpec):
    """A 1x1 convolution, the mean over all positions, a second one and a linear classifier:
    (B, C, H, W) to (B, classes).

    MobileNetV4 (arXiv:2404.10518), the last layers of every member. The second convolution runs on
    a map of 1x1. Both have batch norm and activation, and no bias.

    Attributes:
        width: channels of the first convolution.
        features: channels of the second one.
    """

    kind: ClassVar[str] = "mobilenetv4_head"
    examples: ClassVar[Examples] = (("classes=10;width=16;features=12", "8x3x3"),)
    module: ClassVar[str] = "nas.blocks.mobilenetv4.module:MobileNetV4HeadBlock"
    elastic: ClassVar[tuple[str, ...]] = ("width", "features", "activation")

    classes: int
    width: int = 960
    features: int = 1280
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        for name in ("width", "features"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be positive")
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        trace.conv(self.width, bias=False).batch_norm().activation(self.activation).mean()
        trace.conv(self.features, bias=False).batch_norm().activation(self.activation)
        return trace.linear(self.classes)


SPECS = (
    MobileNetV4Stem,
    ConvDown,
    UIB,
    UIBDown,
    MobileNetV4Head,
)
