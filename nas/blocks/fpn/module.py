"""The segmentation head that adds up the maps of the last stages, whole and in its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import FPNFuse, FPNHead, FPNLevel, FusedMBConv, MBConv, Shape
from nas.blocks.common.module import FusedMBConvBlock, MBConvBlock
from nas.blocks.fpn.spec import MOST_DEPTH, STAGES
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Block,
    ConvNorm,
    conv_axes,
    init_linear,
    within,
)

FUSED = "fused"
"""Channel group of the fused map: every level writes it, and everything behind the sum reads it."""


def _level(stage: str, stream: str) -> Axes:
    return ConvNorm.axes(f"levels.{stage}", stream, FUSED)


def _refine(index: int) -> Axes:
    # The hidden channels of each bottleneck are a group of their own, as nothing else reads them.
    return within(f"refine.{index}", MBConvBlock.axes, out=FUSED, hidden=f"hidden{index}")


def _middle(spec: MBConv | FusedMBConv, shape: Shape) -> MBConvBlock | FusedMBConvBlock:
    """Return an inverted bottleneck of a segmentation head."""
    return MBConvBlock(spec, shape) if isinstance(spec, MBConv) else FusedMBConvBlock(spec, shape)


class FPNLevelBlock(Block):
    """(B, C, H, W) to (B, width, H, W); see `nas.blocks.FPNLevel`."""

    axes: ClassVar[Axes] = ConvNorm.axes("projection", "in", "out")

    def __init__(self, spec: FPNLevel, shape: Shape) -> None:
        super().__init__()
        self.projection = ConvNorm(shape.channels, spec.width, bias=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.projection(x_bchw)
        return y_bchw


class FPNFuseBlock(Block):
    """Maps (B, C, H_i, W_i), the finest first, to scores (B, classes, H, W) at the finest one's
    size; see `nas.blocks.FPNFuse`."""

    axes: ClassVar[Axes] = {
        **{name: axis for index in range(MOST_DEPTH) for name, axis in _refine(index).items()},
        **ConvNorm.axes("expand", FUSED, "expanded"),
        **conv_axes("classifier", "expanded", None),
    }

    def __init__(self, spec: FPNFuse, shape: Shape) -> None:
        super().__init__()
        fused = shape.levels[0]
        expanded = spec.expanded(fused.channels)
        self.refine = nn.Sequential(*(_middle(spec.refine, fused) for _ in range(spec.depth)))
        self.expand = ConvNorm(fused.channels, expanded, bias=False) if expanded else None
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Conv2d(expanded or fused.channels, spec.classes, 1)
        self.resize = spec.resize
        if self.expand is not None:
            self.expand.apply(init_linear)
        else:
            # The classifier reads the fused map itself.
            self.axes = {**type(self).axes, **conv_axes("classifier", FUSED, None)}  # type: ignore[misc]
        init_linear(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        # Fig. 5: the maps are added up at the finest one's size.
        y_bchw: Tensor = maps[0]
        for small in maps[1:]:
            y_bchw = y_bchw + F.interpolate(
                small, size=y_bchw.shape[2:], mode=self.resize, align_corners=False
            )
        y_bchw = self.refine(y_bchw)
        if self.expand is not None:
            y_bchw = self.activation(self.expand(y_bchw))
        scores: Tensor = self.classifier(y_bchw)
        return scores


class FPNHeadBlock(FPNFuseBlock):
    """Maps (B, C_i, H_i, W_i) of the last stages, the finest first, to scores (B, classes, H, W) at
    the finest one's size; see `nas.blocks.FPNHead`."""

    # Each map comes from the stream of its stage; the last one's is the input.
    axes: ClassVar[Axes] = {
        **{
            name: axis
            for stage in range(1, STAGES)
            for name, axis in _level(f"stage{stage}", f"stage{stage}").items()
        },
        **_level(f"stage{STAGES}", "in"),
        **FPNFuseBlock.axes,
    }

    def __init__(self, spec: FPNHead, shape: Shape) -> None:
        *_, (_, projected) = spec.parts(shape)
        super().__init__(spec.fuse, projected)
        levels = shape.levels
        # Levels are named by their stages, not by their number: so the names and axes of a stage
        # are the same whatever number of levels a head takes.
        first = STAGES - len(levels) + 1
        self.levels = nn.ModuleDict(
            {
                f"stage{first + i}": ConvNorm(level.channels, spec.width, bias=False)
                for i, level in enumerate(levels)
            }
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        # Fig. 5: every map to `width` channels, (B, C_i, H_i, W_i) to (B, width, H_i, W_i).
        return super().forward(
            [level(x) for level, x in zip(self.levels.values(), maps, strict=True)]
        )

    def published_names(self, layout: str) -> Mapping[str, str]:
        """Return the names of the authors' `SegHead`, which lists the last stage first."""
        if layout != "efficientvit/official":
            return {}
        names = {}
        for index, level in enumerate(reversed(list(self.levels))):
            # The finest map is not enlarged, so its convolution has no sequence around it.
            last = index == len(self.levels) - 1
            names[f"levels.{level}"] = (
                f"input_ops.{index}" if last else f"input_ops.{index}.op_list.0"
            )
        for index, block in enumerate(self.refine.children()):
            assert isinstance(block, Block)
            names |= {
                f"refine.{index}.{ours}": f"middle.op_list.{index}.{theirs}"
                for ours, theirs in block.published_names(layout).items()
            }
        outputs = ["expand", "classifier"] if self.expand is not None else ["classifier"]
        for index, ours in enumerate(outputs):
            conv = ".conv" if ours == "classifier" else ""
            names[ours] = f"output_ops.0.op_list.{index}{conv}"
        return names
