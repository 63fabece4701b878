"""SwiftFormer (Shaker et al., arXiv:2303.15446): convolutional encoders and efficient additive
attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.blocks.spec import (
    Activation,
    BlockSpec,
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
)


@dataclass(frozen=True)
class ConvEncoder(BlockSpec):
    """Depthwise convolution and convolutional MLP on a map (B, C, H, W), residual with layer scale.

    SwiftFormer (arXiv:2303.15446), Eq. 5: X' = Conv1(Conv1,G(DWConv,BN(X))) + X, with G the
    activation, Conv1 1x1 convolutions and the layer scale of the authors' code before the sum.

    Attributes:
        expansion: hidden width of the MLP over C.
        kernel: side of the depthwise convolution's window.
    """

    kind: ClassVar[str] = "conv_encoder"
    examples: ClassVar[Examples] = (
        ("", "8x6x6"),
        ("expansion=2;activation=relu", "8x5x7"),
    )
    module: ClassVar[str] = "nas.blocks.swiftformer.module:ConvEncoderBlock"

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
        trace = (
            Trace(shape)
            .conv(shape.channels, kernel=self.kernel, groups=shape.channels)
            .batch_norm()
        )
        trace.conv(hidden_width(self.expansion, shape.channels)).activation(self.activation)
        return trace.conv(shape.channels).layer_scale().residual()


@dataclass(frozen=True)
class AdditiveEncoder(BlockSpec):
    """Local representation, additive attention and MLP on a map (B, C, H, W), each residual.

    SwiftFormer (arXiv:2303.15446), Sec. 3.2 and 3.3, for N = H*W tokens x_i of C channels:

        X <- X + s0 Conv1(Conv1,G(DWConv,BN(X)))    (local representation, Eq. 5, hidden width C)
        q_i = W_q x_i / |W_q x_i|,  k_i = W_k x_i / |W_k x_i|
        a_i = q_i w / sqrt(C),  a <- a / |a| over the N tokens    (Eq. 2)
        g = sum_i a_i q_i    (Eq. 3, the global query)
        X <- X + s1 W_o (T(g * k_i) + q_i)    (Eq. 4)
        X <- X + s2 Conv1(Conv1,G(BN(X)))

    The norm of a is that of the authors' code; their first release had a softmax there. There is
    one head, no N x N matrix, and nothing that depends on the resolution. MACs and memory grow
    linearly with N.

    Attributes:
        expansion: hidden width of the MLP over C.
        kernel: side of the local representation's depthwise window.
        activation: of the local representation and the MLP.
    """

    kind: ClassVar[str] = "additive_encoder"
    examples: ClassVar[Examples] = (("", "8x6x6"),)
    module: ClassVar[str] = "nas.blocks.swiftformer.module:AdditiveEncoderBlock"
    mixer: ClassVar[Mixer] = "attention"

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

    @property
    def local(self) -> ConvEncoder:
        """Return the local representation, a local block whose hidden width is that of the stream."""
        return ConvEncoder(1, self.kernel, self.activation)

    def trace(self, shape: Shape) -> Trace:
        channels = shape.channels
        tokens = shape.tokens
        elements = shape.elements
        trace = self.local.trace(shape)
        # Queries and keys. Both read the stream; as neither changes its shape, one after the other
        # counts the same.
        trace.conv(channels).conv(channels)
        trace.extra(
            # Queries and keys over their lengths, then Eq. 2: a score per token and their norm.
            Layer("norm", read=2 * elements, written=2 * elements),
            Layer("conv", macs=elements, params=channels, read=elements, written=tokens),
            Layer("norm", read=tokens, written=tokens),
            # Eq. 3: the global query; Eq. 4: its product with every key.
            Layer("matmul", macs=elements, read=elements + tokens, written=channels),
            Layer("elementwise", read=elements + channels, written=elements),
        )
        # Eq. 4: T and the addition of the query, then W_o, the layer scale and the stream.
        trace.conv(channels).residual().conv(channels).layer_scale().residual()
        trace.batch_norm().conv(hidden_width(self.expansion, channels))
        trace.activation(self.activation)
        return trace.conv(channels).layer_scale().residual()


SPECS = (
    ConvEncoder,
    AdditiveEncoder,
)
