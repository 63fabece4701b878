"""EfficientViT's global block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published, within
from nas.blocks.lite_mla import LiteMLA
from nas.blocks.mbconv import MBConvBlock
from nas.specs import EfficientViTModule, Shape

_ATTENTION = {
    "attention.qkv": "context_module.main.qkv.conv",
    "attention.depthwise": "context_module.main.aggreg.0.0",
    "attention.grouped": "context_module.main.aggreg.0.1",
    "attention.projection": "context_module.main.proj",
}


def _published(layout: str) -> dict[str, str]:
    local = MBConvBlock.published[layout]
    return {**_ATTENTION, **{f"local.{ours}": f"local_module.{theirs}" for ours, theirs in local.items()}}


class EfficientViTModuleBlock(Block):
    """Linear attention and MBConv on (B, C, H, W), both residual; see `nas.specs.EfficientViTModule`."""

    axes: ClassVar[Axes] = {**within("attention", LiteMLA.axes), **within("local", MBConvBlock.axes)}
    published: ClassVar[Published] = {layout: _published(layout) for layout in MBConvBlock.published}
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = (LiteMLA,)

    def __init__(self, spec: EfficientViTModule, shape: Shape) -> None:
        super().__init__()
        self.attention = LiteMLA(shape.channels, spec.head_dim, spec.kernel)
        self.local = MBConvBlock(spec.local, shape)
        self._tokens = shape.tokens

    def fit_float16(self) -> None:
        self.attention.fit_float16(self._tokens)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = x_bchw + self.attention(x_bchw)
        x_bchw = self.local(x_bchw)
        return x_bchw
