"""The strided convolution between two stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nas.specs.base import EntrySpec, require
from nas.specs.layers import Trace
from nas.specs.shape import Shape


@dataclass(frozen=True)
class ConvEmbedding(EntrySpec):
    """A 3x3 convolution of stride 2 with batch norm: (B, C, H, W) to (B, width, H/2, W/2).

    EfficientFormer (arXiv:2206.01191), Sec. 4.1; SwiftFormer uses the same.
    """

    kind: ClassVar[str] = "conv_embedding"
    module: ClassVar[str] = "nas.blocks.conv_embedding:ConvEmbeddingBlock"

    width: int

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width {self.width} must be positive")

    def trace(self, shape: Shape) -> Trace:
        return Trace(shape).conv(self.width, kernel=3, stride=2).batch_norm()
