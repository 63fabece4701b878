"""EMO (Zhang et al., arXiv:2301.01146): the inverted residual mobile block (iRMB) and its stem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from nas.blocks.common.spec import Norm
from nas.blocks.spec import (
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Layer,
    Shape,
    Trace,
    require,
    require_activation,
    require_expansion,
)


@dataclass(frozen=True)
class EMOStem(EntrySpec):
    """A strided convolution and the plainest of EMO's blocks: (B, 3, H, W) to (B, width, H/2, W/2).

    EMO (arXiv:2301.01146), stage 0: P = BN(Conv3x3,s2(X)); L = act(BN(DWConv3x3(P)));
    X' = Conv(L * sigmoid(Conv(act(Conv(Mean(L)))))), squeeze-and-excitation at full width.
    """

    kind: ClassVar[str] = "emo_stem"
    examples: ClassVar[Examples] = (("width=8", "3x16x16"),)
    module: ClassVar[str] = "nas.blocks.emo.module:EMOStemBlock"
    elastic: ClassVar[tuple[str, ...]] = ("activation",)

    width: int = 24
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape).conv(self.width, kernel=3, stride=2).batch_norm()
        trace.conv(self.width, kernel=3, groups=self.width, bias=False).batch_norm().activation(
            self.activation
        )
        elements = trace.shape.elements
        # Squeeze and excitation: the gate works on the mean over all positions, (B, width, 1, 1),
        # and gives one factor per channel.
        gate = Trace(Shape(self.width, 1, 1)).conv(self.width).activation(self.activation)
        gate.conv(self.width).activation("sigmoid")
        trace.extra(
            Layer("pool", read=elements, written=self.width),
            *gate.layers,
            Layer("elementwise", read=elements + self.width, written=elements),
        )
        return trace.conv(self.width, bias=False)


LOCAL_ACTIVATION: Activation = "silu"
"""What follows the depthwise convolution in every published network, whatever `activation` is."""


@dataclass(frozen=True)
class IRMB(BlockSpec):
    """One residual branch that attends, expands, convolves and projects a map (B, C, H, W).

    EMO (arXiv:2301.01146), the inverted residual mobile block of Sec. 3.2, in the order of the
    published code: A = softmax(Q K^T / sqrt(d)) N where N = Norm(X) and Q, K = Conv(N); V =
    act(Conv(A)); X' = X + Conv(V + SiLU(BN(DWConv(V)))). Without attention A = N, without the
    depthwise convolution the inner sum is V. So the meta mobile block's special cases are:

    - `attention` off, `depthwise` on: the inverted residual block;
    - `attention` on, `depthwise` off, `expansion` 1: multi-head self-attention;
    - both off: the feed-forward network.

    Attention stays inside windows. A window is the grid of every n-th row and column, where n is
    the number of windows along a side. A map that is not a multiple of the window is padded with
    zeros below and on the right. This happens after the norm and without a mask, so that padded
    positions take part as keys.

    Attributes:
        expansion: width of V over C; the product is rounded down.
        kernel: side of the depthwise convolution; 0 without one.
        attention: whether Q and K of C channels each mix N before it is expanded (the
            expanded-window MHSA).
        depthwise: whether there are the depthwise convolution and the skip around it.
        head_dim: channels of a query, a key and a value per head; divides C. 0 without attention.
        window: rows and columns of a window; 0 without attention.
        norm: batch norm, or layer norm over the channels of each position.
        activation: of V.
    """

    kind: ClassVar[str] = "irmb"
    examples: ClassVar[Examples] = (
        ("expansion=2;attention=true;window=3;head_dim=8", "16x6x6"),
        ("expansion=2.5;norm=layer", "8x6x6"),
    )
    module: ClassVar[str] = "nas.blocks.emo.module:IRMBBlock"
    # Attention adds Q and K and changes no other tensor. Another head_dim or window only groups
    # their channels or positions anew.
    elastic: ClassVar[tuple[str, ...]] = (
        "expansion",
        "activation",
        "attention",
        "head_dim",
        "window",
    )

    expansion: float = 4
    kernel: int = 3
    attention: bool = False
    depthwise: bool = True
    head_dim: int = 20
    window: int = 7
    norm: Norm = "batch"
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        """Set what the switches leave without meaning to 0, so that equal blocks have equal specs."""
        for name, used in (
            ("kernel", self.depthwise),
            ("head_dim", self.attention),
            ("window", self.attention),
        ):
            if not used:
                object.__setattr__(self, name, 0)
            require(
                not used or getattr(self, name) >= 1,
                f"{name} {getattr(self, name)} must be at least 1",
            )
        require(
            not self.depthwise or self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to keep the map's size",
        )
        _require_common(self)

    def check(self, shape: Shape) -> None:
        require(
            not self.attention or shape.channels % self.head_dim == 0,
            f"width {shape.channels} is not divisible by head_dim {self.head_dim}",
        )

    def trace(self, shape: Shape) -> Trace:
        trace = Trace(shape)
        if self.norm == "layer" or not self.attention:
            _norm(trace, self.norm)
        # Padding stands between this norm and the convolutions, so deployment cannot fold it into
        # them.
        else:
            trace.extra(
                Layer(
                    "elementwise",
                    params=2 * shape.channels,
                    read=shape.elements,
                    written=shape.elements,
                )
            )
        if self.attention:
            self._attend(trace)
        trace.conv(int(shape.channels * self.expansion)).activation(self.activation)
        if self.depthwise:
            _local(trace, self.kernel).residual()
        return trace.conv(shape.channels, bias=False).residual()

    def _attend(self, trace: Trace) -> None:
        """Trace the attention inside every window; the traced shape stays."""
        shape = trace.shape
        size = self.window
        windows = -(-shape.height // size) * -(-shape.width // size)
        # All windows below one another, (C, windows * size, size): the positions of the padded map.
        padded = Shape(shape.channels, windows * size, size)
        # A window has size^2 queries and as many keys: size^4 scores in each head.
        scores = windows * (shape.channels // self.head_dim) * size**4
        products = windows * size**4 * shape.channels
        if padded != shape:
            trace.extra(Layer("reshape", read=shape.elements, written=padded.elements))
        trace.extra(
            *Trace(padded).conv(2 * shape.channels).layers,
            Layer("matmul", macs=products, read=2 * padded.elements, written=scores),
            Layer("softmax", read=scores, written=scores),
            Layer("matmul", macs=products, read=scores + padded.elements, written=padded.elements),
        )
        if padded != shape:
            trace.extra(Layer("reshape", read=padded.elements, written=shape.elements))


@dataclass(frozen=True)
class IRMBDown(EntrySpec):
    """An inverted residual mobile block that enters a stage: (B, C, H, W) to (B, width, H/2, W/2).

    EMO (arXiv:2301.01146): the depthwise convolution has stride 2, and there is neither attention
        nor a skip.

    Attributes:
        width: output channels.
        expansion: width inside the block over the *input's* channels C, rounded down. The published
            networks have twice that of the stage's other blocks.
        kernel: of the depthwise convolution.
        norm, activation: as in `IRMB`.
    """

    kind: ClassVar[str] = "irmb_down"
    examples: ClassVar[Examples] = (("width=12;expansion=2", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.emo.module:IRMBDownBlock"
    counts_as_block: ClassVar[bool] = True

    width: int
    expansion: float = 4
    kernel: int = 3
    norm: Norm = "batch"
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to halve the map",
        )
        _require_common(self)

    def trace(self, shape: Shape) -> Trace:
        trace = _norm(Trace(shape), self.norm)
        trace.conv(int(shape.channels * self.expansion)).activation(self.activation)
        return _local(trace, self.kernel, stride=2).conv(self.width, bias=False)


def _require_common(spec: IRMB | IRMBDown) -> None:
    require_expansion(spec.expansion)
    require(
        spec.norm in get_args(Norm), f"norm '{spec.norm}' is not one of {', '.join(get_args(Norm))}"
    )
    require_activation(spec.activation)


def _norm(trace: Trace, norm: Norm) -> Trace:
    """Add a norm before a 1x1 convolution, into which deployment folds a batch norm.

    A layer norm needs channels last.
    """
    if norm == "batch":
        return trace.batch_norm()
    transpose = Layer("reshape", read=trace.shape.elements, written=trace.shape.elements)
    return trace.extra(transpose).layer_norm().extra(transpose)


def _local(trace: Trace, kernel: int, stride: int = 1) -> Trace:
    trace.conv(trace.shape.channels, kernel, stride, groups=trace.shape.channels, bias=False)
    return trace.batch_norm().activation(LOCAL_ACTIVATION)


SPECS = (
    EMOStem,
    IRMB,
    IRMBDown,
)
