"""EfficientViT (Cai et al., arXiv:2205.14756): multi-scale linear attention, its stem and its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from nas.blocks.common.spec import DSConv, MBConv, ResBlock
from nas.blocks.spec import (
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Layer,
    Mixer,
    Shape,
    Trace,
    require,
    require_activation,
    require_expansion,
)

StemBlock = Literal["dsconv", "res_block"]


@dataclass(frozen=True)
class EfficientViTStem(EntrySpec):
    """A 3x3 convolution of stride 2 and a residual block: (B, 3, H, W) to (B, width, H/2, W/2).

    EfficientViT (arXiv:2205.14756), Fig. 5, "input stem"; every published member has one block
    here.

    Attributes:
        block: dsconv in the B series, res_block in the L series.
    """

    kind: ClassVar[str] = "efficientvit_stem"
    examples: ClassVar[Examples] = (
        ("width=8;activation=hardswish", "3x16x16"),
        ("width=8;block=res_block", "3x16x16"),
    )
    module: ClassVar[str] = "nas.blocks.efficientvit.module:EfficientViTStemBlock"

    width: int
    block: StemBlock = "dsconv"
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")
        require(
            self.block in get_args(StemBlock),
            f"block '{self.block}' is not one of {', '.join(get_args(StemBlock))}",
        )
        require_activation(self.activation)

    @property
    def residual(self) -> DSConv | ResBlock:
        """Return the residual block."""
        return (DSConv if self.block == "dsconv" else ResBlock)(activation=self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = (
            Trace(shape)
            .conv(self.width, kernel=3, stride=2, bias=False)
            .batch_norm()
            .activation(self.activation)
        )
        return trace.extra(*self.residual.layers(trace.shape))


@dataclass(frozen=True)
class EfficientViTModule(BlockSpec):
    """Multi-scale ReLU linear attention and MBConv on a map (B, C, H, W), both residual.

    EfficientViT (arXiv:2205.14756), Fig. 5 and Eq. 2: I = X + PW_BN(Attention(X)); X' = I +
    MBConv(I), without the shortcut of its own. Queries, keys and values come from a 1x1
    convolution. A second set aggregates the first over `kernel` x `kernel` neighbours, by a
    depthwise and a 1x1 convolution within each head. So there are 2 C / head_dim heads. In each,
    O_i = sum_j ReLU(Q_i) ReLU(K_j)^T V_j / sum_j ReLU(Q_i) ReLU(K_j)^T, which is linear in tokens.

    Attributes:
        expansion: hidden width of the MBConv over C.
        head_dim: channels of a query, a key and a value in each head.
        kernel: of the aggregation; the MBConv's is 3.
        fewer_norm: of the MBConv.
        activation: of the MBConv; the attention has none but its ReLU.
    """

    kind: ClassVar[str] = "efficientvit_module"
    examples: ClassVar[Examples] = (("expansion=2;head_dim=8", "16x6x6"),)
    module: ClassVar[str] = "nas.blocks.efficientvit.module:EfficientViTModuleBlock"
    mixer: ClassVar[Mixer] = "attention"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "head_dim", "activation")

    expansion: Expansion = 4
    head_dim: int = 16
    kernel: int = 5
    fewer_norm: bool = True
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require_expansion(self.expansion)
        require(self.head_dim >= 1, f"head_dim {self.head_dim} must be at least 1")
        require(
            self.kernel >= 1 and self.kernel % 2 == 1,
            f"kernel {self.kernel} must be odd, to keep the map's size",
        )
        require_activation(self.activation)

    @property
    def local(self) -> MBConv:
        """Return the second half of the block."""
        return MBConv(self.expansion, fewer_norm=self.fewer_norm, activation=self.activation)

    def check(self, shape: Shape) -> None:
        require(
            shape.channels % self.head_dim == 0,
            f"width {shape.channels} is not divisible by head_dim {self.head_dim}",
        )

    def trace(self, shape: Shape) -> Trace:
        stacked = 3 * shape.channels
        heads = 3 * (shape.channels // self.head_dim)
        trace = Trace(shape).conv(stacked, bias=False)
        trace.conv(stacked, self.kernel, groups=stacked, bias=False).conv(
            stacked, groups=heads, bias=False
        )
        trace.extra(*self._attention(shape))
        # The heads of both scales side by side, (B, 2 C, H, W), which the projection brings back to
        # C.
        trace.shape = Shape(2 * shape.channels, shape.height, shape.width)
        trace.conv(shape.channels, bias=False).batch_norm().residual()
        return trace.extra(*self.local.layers(trace.shape))

    def _attention(self, shape: Shape) -> tuple[Layer, ...]:
        """Return the layers from both scales' queries, keys and values to the heads' outputs.

        The form is the one with fewer products.
        """
        tokens = shape.tokens
        values = 2 * shape.elements
        # V has one more row of ones in each of the 2 C / head_dim heads, for the denominator.
        padded = values + 2 * shape.channels // self.head_dim * tokens
        heads = (
            Layer("reshape", read=3 * values, written=3 * values),
            Layer("activation", read=2 * values, written=2 * values, name="relu"),
        )
        # Eq. 2: (V K^T) Q takes products that grow with N, V (K^T Q) with N^2. The published code
        # chooses by whether there are more tokens than channels in a head.
        if tokens > self.head_dim:
            # In each head (V; 1) K^T is (d + 1, N) (N, d), and times Q it is (d + 1, d) (d, N):
            # both take (d + 1) d N products. The division drops the row of the denominator.
            products = padded * self.head_dim
            sums = products // tokens
            return (
                *heads,
                Layer("matmul", macs=products, read=values + padded, written=sums, name="linear"),
                Layer("matmul", macs=products, read=values + sums, written=padded, name="linear"),
                Layer("elementwise", read=padded, written=values),
                Layer("reshape", read=values, written=values),
            )
        # K^T Q is (N, d) (d, N) in each head, V times that (d, N) (N, N): both take d N^2 products.
        # Here the scores themselves are divided.
        products = values * tokens
        scores = products // self.head_dim
        return (
            *heads,
            Layer("matmul", macs=products, read=2 * values, written=scores, name="linear"),
            Layer("elementwise", read=scores, written=scores),
            Layer("matmul", macs=products, read=values + scores, written=values, name="linear"),
            Layer("reshape", read=values, written=values),
        )


@dataclass(frozen=True)
class ConvHead(HeadSpec):
    """A 1x1 convolution, the mean over all positions and an MLP: (B, C, H, W) to (B, classes).

    EfficientViT (arXiv:2205.14756), as published code has it:
    Linear(Linear_LN,act(Mean(Conv_BN,act(X)))).

    Attributes:
        width: channels of the convolution.
        features: hidden width of the MLP.
    """

    kind: ClassVar[str] = "conv_head"
    examples: ClassVar[Examples] = (("classes=10;width=16;features=12", "8x3x3"),)
    module: ClassVar[str] = "nas.blocks.efficientvit.module:ConvHeadBlock"
    elastic: ClassVar[tuple[str, ...]] = ("width", "features", "activation")

    classes: int
    width: int
    features: int
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        require(self.classes >= 2, f"classes {self.classes} must be at least 2")
        for name in ("width", "features"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be positive")
        require_activation(self.activation)

    def trace(self, shape: Shape) -> Trace:
        trace = (
            Trace(shape)
            .conv(self.width, bias=False)
            .batch_norm()
            .activation(self.activation)
            .mean()
        )
        trace.linear(self.features, bias=False).layer_norm().activation(self.activation)
        return trace.linear(self.classes)


SPECS = (
    EfficientViTStem,
    EfficientViTModule,
    ConvHead,
)
