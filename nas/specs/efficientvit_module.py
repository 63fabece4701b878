"""EfficientViT's global block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import ACTIVATIONS, Activation, BlockSpec, Mixer, require
from nas.specs.layers import Layer, Trace
from nas.specs.mbconv import MBConv
from nas.specs.shape import Shape


@dataclass(frozen=True)
class EfficientViTModule(BlockSpec):
    """Multi-scale ReLU linear attention and MBConv on a map (B, C, H, W), both residual.

    EfficientViT (arXiv:2205.14756), Fig. 5 and Eq. 2: I = X + PW_BN(Attention(X)); X' = I + MBConv(I), without the
    shortcut of its own. Queries, keys and values come from a 1x1 convolution, and once more, aggregated from
    `kernel` x `kernel` neighbours by a depthwise and a 1x1 convolution within each head; so there are 2 C / head_dim
    heads. In each, O_i = sum_j ReLU(Q_i) ReLU(K_j)^T V_j / sum_j ReLU(Q_i) ReLU(K_j)^T, which is linear in tokens.

    Attributes:
        expansion: hidden width of the MBConv over C.
        head_dim: channels of a query, a key and a value in each head.
        kernel: of the aggregation; the MBConv's is 3.
        fewer_norm: of the MBConv.
        activation: of the MBConv; the attention has none but its ReLU.
    """

    kind: ClassVar[str] = "efficientvit_module"
    module: ClassVar[str] = "nas.blocks.efficientvit_module:EfficientViTModuleBlock"
    mixer: ClassVar[Mixer] = "attention"
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "head_dim", "activation")

    expansion: int = 4
    head_dim: int = 16
    kernel: int = 5
    fewer_norm: bool = True
    activation: Activation = "hardswish"

    def __post_init__(self) -> None:
        for name in ("expansion", "head_dim"):
            require(getattr(self, name) >= 1, f"{name} {getattr(self, name)} must be at least 1")
        require(self.kernel >= 1 and self.kernel % 2 == 1, f"kernel {self.kernel} must be odd, to keep the map's size")
        require(self.activation in ACTIVATIONS, f"activation '{self.activation}' is none of {', '.join(ACTIVATIONS)}")

    @property
    def local(self) -> MBConv:
        """The second half of the block."""
        return MBConv(self.expansion, fewer_norm=self.fewer_norm, activation=self.activation)

    def check(self, shape: Shape) -> None:
        require(
            shape.channels % self.head_dim == 0, f"width {shape.channels} is not divisible by head_dim {self.head_dim}"
        )

    def trace(self, shape: Shape) -> Trace:
        stacked, heads = 3 * shape.channels, 3 * (shape.channels // self.head_dim)
        trace = Trace(shape).conv(stacked, bias=False)
        trace.conv(stacked, self.kernel, groups=stacked, bias=False).conv(stacked, groups=heads, bias=False)
        trace.extra(*self._attention(shape))
        trace.shape = Shape(2 * shape.channels, shape.height, shape.width)
        trace.conv(shape.channels, bias=False).batch_norm().residual()
        return trace.extra(*self.local.layers(trace.shape))

    def _attention(self, shape: Shape) -> tuple[Layer, ...]:
        """From both scales' queries, keys and values to the heads' outputs, in the form with fewer products."""
        tokens, values = shape.tokens, 2 * shape.elements
        padded = values + 2 * shape.channels // self.head_dim * tokens
        heads = (
            Layer("reshape", read=3 * values, written=3 * values),
            Layer("activation", read=2 * values, written=2 * values, name="relu"),
        )
        if tokens > self.head_dim:
            products = padded * self.head_dim
            sums = products // tokens
            return (
                *heads,
                Layer("matmul", macs=products, read=values + padded, written=sums, name="linear"),
                Layer("matmul", macs=products, read=values + sums, written=padded, name="linear"),
                Layer("elementwise", read=padded, written=values),
                Layer("reshape", read=values, written=values),
            )
        products = values * tokens
        scores = products // self.head_dim
        return (
            *heads,
            Layer("matmul", macs=products, read=2 * values, written=scores, name="linear"),
            Layer("elementwise", read=scores, written=scores),
            Layer("matmul", macs=products, read=values + scores, written=values, name="linear"),
            Layer("reshape", read=values, written=values),
        )
