"""The modules of both blocks, and how a code base that never was names their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from nas.blocks import Operation, Shape
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    conv_axes,
)
from sixth.spec import SixthGlobal, SixthLocal


class SixthLocalBlock(Block):
    """(B, C, H, W) to the same; see `SixthLocal`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("depthwise", None, "out"),
        **ConvNorm.axes("expand", "out", "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "sixth/official": {"depthwise": "dw", "expand": "fc1", "project": "fc2"}
    }

    def __init__(self, spec: SixthLocal, shape: Shape) -> None:
        super().__init__()
        hidden = spec.expansion * shape.channels
        self.depthwise = ConvNorm(shape.channels, shape.channels, 3, groups=shape.channels)
        self.expand = ConvNorm(shape.channels, hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, shape.channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(self.depthwise(x_bchw)))
        x_bchw = self.residual(x_bchw, self.project(hidden))
        return x_bchw


class SixthGlobalBlock(Block):
    """(B, C, H, W) to the same; see `SixthGlobal`."""

    axes: ClassVar[Axes] = {
        **conv_axes("query", "out", None),
        **conv_axes("key", "out", None),
        **conv_axes("value", "out", None),
        **ConvNorm.axes("projection", None, "out"),
    }
    published: ClassVar[Published] = {
        "sixth/official": {"query": "q", "key": "k", "value": "v", "projection": "proj"}
    }
    without_gradient: ClassVar[tuple[str, ...]] = ("key.bias",)

    def __init__(self, spec: SixthGlobal, shape: Shape) -> None:
        super().__init__()
        self.factor = spec.key_dim**-0.5
        self.query = nn.Conv2d(shape.channels, spec.key_dim, 1)
        self.key = nn.Conv2d(shape.channels, spec.key_dim, 1)
        self.value = nn.Conv2d(shape.channels, spec.key_dim, 1)
        self.projection = ConvNorm(spec.key_dim, shape.channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        query = self.query(x_bchw)
        q, k, v = (part.flatten(2) for part in (query, self.key(x_bchw), self.value(x_bchw)))
        scores = q.transpose(1, 2) @ k * self.factor  # (B, N, N)
        mixed = v @ scores.softmax(dim=2).transpose(1, 2)  # (B, D, N)
        x_bchw = self.residual(x_bchw, self.projection(mixed.reshape(query.shape)))
        return x_bchw


def _prefixes(operations: Sequence[Operation]) -> dict[str, str]:
    return {operation.name: f"net.{operation.name}" for operation in operations}


LAYOUTS = (
    CheckpointLayout(
        "sixth/official",
        _prefixes,
        shared={
            "conv_stem": {"first": "conv1", "second": "conv2"},
            "conv_embedding": {"projection": "down"},
            "map_head": {"norm": "bn", "classifier": "fc"},
        },
    ),
)
