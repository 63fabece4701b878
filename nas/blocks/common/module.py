"""Blocks that several families share: convolutional stems, embeddings, inverted residuals and
heads."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import (
    BlockSpec,
    ConvEmbedding,
    ConvStem,
    DSConv,
    FusedMBConv,
    FusedMBConvDown,
    MapHead,
    MBConv,
    MBConvDown,
    ResBlock,
    Shape,
)
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Axis,
    Block,
    ConvNorm,
    NormalConv2d,
    Published,
    batch_norm_axes,
    fold_into_next,
    grid_of,
    init_linear,
    linear_axes,
    to_map,
    to_tokens,
)
from nas.blocks.spec import hidden_width


class FlattenBlock(Block):
    """(B, C, H, W) to (B, H*W, C)."""

    def __init__(self, spec: BlockSpec, shape: Shape) -> None:
        super().__init__()

    def forward(self, x_bchw: Tensor) -> Tensor:
        return to_tokens(x_bchw)


class UnflattenBlock(Block):
    """(B, H*W, C) to (B, C, H, W)."""

    takes_grid = True

    def __init__(self, spec: BlockSpec, shape: Shape) -> None:
        super().__init__()
        self.grid = (shape.height, shape.width)

    def forward(self, x_bnc: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return to_map(x_bnc, grid or grid_of(x_bnc.shape[1], self.grid))


# Names in the authors' `nn.Sequential`, where 2 and 5 are the activations.
_SEQUENTIAL = {"first.conv": "0", "first.norm": "1", "second.conv": "3", "second.norm": "4"}


class ConvStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/4, W/4); see `nas.blocks.ConvStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("first", None, "hidden"),
        **ConvNorm.axes("second", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "efficientformer/official": _SEQUENTIAL,
        "efficientformer/timm": {
            "first.conv": "conv1",
            "first.norm": "norm1",
            "second.conv": "conv2",
            "second.norm": "norm2",
        },
        "efficientformerv2/official": _SEQUENTIAL,
        "efficientformerv2/timm": {
            "first.conv": "conv1.conv",
            "first.norm": "conv1.bn",
            "second.conv": "conv2.conv",
            "second.norm": "conv2.bn",
        },
        "swiftformer/official": _SEQUENTIAL,
        "swiftformer/timm": _SEQUENTIAL,
    }

    def __init__(self, spec: ConvStem, shape: Shape) -> None:
        super().__init__()
        self.first = ConvNorm(shape.channels, spec.width // 2, kernel=3, stride=2)
        self.second = ConvNorm(spec.width // 2, spec.width, kernel=3, stride=2)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.first(x_bchw))
        x_bchw = self.activation(self.second(x_bchw))
        return x_bchw


class ConvEmbeddingBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.blocks.ConvEmbedding`."""

    axes: ClassVar[Axes] = ConvNorm.axes("projection", "in", "out")
    published: ClassVar[Published] = {
        "efficientformer/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "efficientformer/timm": {"projection.conv": "conv", "projection.norm": "norm"},
        "efficientformerv2/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "efficientformerv2/timm": {"projection.conv": "conv.conv", "projection.norm": "conv.bn"},
        "swiftformer/official": {"projection.conv": "proj", "projection.norm": "norm"},
        "swiftformer/timm": {"projection.conv": "proj", "projection.norm": "norm"},
    }

    def __init__(self, spec: ConvEmbedding, shape: Shape) -> None:
        super().__init__()
        self.projection = ConvNorm(shape.channels, spec.width, kernel=3, stride=2)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.projection(x_bchw)
        return x_bchw


_DSCONV_PUBLISHED = {"depthwise": "main.depth_conv", "pointwise": "main.point_conv"}


class DSConvBlock(Block):
    """Depthwise and pointwise convolution on (B, C, H, W), residual; see `nas.blocks.DSConv`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("depthwise", None, "out"),
        **ConvNorm.axes("pointwise", "out", "out"),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": _DSCONV_PUBLISHED,
        "efficientvit/timm": _DSCONV_PUBLISHED,
    }

    def __init__(self, spec: DSConv, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.depthwise = ConvNorm(channels, channels, spec.kernel, groups=channels, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.pointwise = ConvNorm(channels, channels, bias=False)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.depthwise(x_bchw))
        x_bchw = self.residual(x_bchw, self.pointwise(hidden))
        return x_bchw


_RES_BLOCK_PUBLISHED = {"first": "main.conv1", "second": "main.conv2"}


class ResBlockBlock(Block):
    """Two convolutions on (B, C, H, W), residual; see `nas.blocks.ResBlock`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("first", "out", "hidden"),
        **ConvNorm.axes("second", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": _RES_BLOCK_PUBLISHED,
        "efficientvit/timm": _RES_BLOCK_PUBLISHED,
    }

    def __init__(self, spec: ResBlock, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = hidden_width(spec.expansion, channels)
        self.first = ConvNorm(channels, hidden, spec.kernel, bias=False, conv=NormalConv2d)
        self.activation = ACTIVATIONS[spec.activation]()
        self.second = ConvNorm(hidden, channels, spec.kernel, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.first(x_bchw))
        x_bchw = self.residual(x_bchw, self.second(hidden))
        return x_bchw


_MBCONV_PUBLISHED = {
    "expand": "main.inverted_conv",
    "depthwise": "main.depth_conv",
    "project": "main.point_conv",
}


def _mbconv_axes(channels: Axis) -> Axes:
    return {
        **ConvNorm.axes("expand", channels, "hidden"),
        **ConvNorm.axes("depthwise", None, "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
    }


class _MBConvBottleneck(Block):
    """The three convolutions, without a shortcut."""

    published: ClassVar[Published] = {
        "efficientvit/official": _MBCONV_PUBLISHED,
        "efficientvit/timm": _MBCONV_PUBLISHED,
    }

    def __init__(self, spec: MBConv | MBConvDown, channels: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = hidden_width(spec.expansion, channels)
        norm = not spec.fewer_norm
        self.expand = _conv(channels, hidden, norm=norm)
        self.depthwise = _conv(hidden, hidden, spec.kernel, stride, groups=hidden, norm=norm)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, width, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x_bchw))
        hidden = self.activation(self.depthwise(hidden))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw


class MBConvBlock(_MBConvBottleneck):
    """(B, C, H, W) to the same, residual; see `nas.blocks.MBConv`."""

    axes: ClassVar[Axes] = _mbconv_axes("out")

    def __init__(self, spec: MBConv, shape: Shape) -> None:
        super().__init__(spec, shape.channels, shape.channels, stride=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return self.residual(x_bchw, super().forward(x_bchw))


class MBConvDownBlock(_MBConvBottleneck):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.blocks.MBConvDown`."""

    axes: ClassVar[Axes] = _mbconv_axes("in")

    def __init__(self, spec: MBConvDown, shape: Shape) -> None:
        super().__init__(spec, shape.channels, spec.width, stride=2)


def _conv(
    channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, norm: bool = True
) -> nn.Sequential:
    """Return a ConvNorm, or in its place a convolution with a bias, called `conv` as well."""
    if norm:
        return ConvNorm(channels, width, kernel, stride, groups, bias=False, conv=NormalConv2d)
    return nn.Sequential(
        OrderedDict(conv=NormalConv2d(channels, width, kernel, stride, kernel // 2, groups=groups))
    )


_FUSED_MBCONV_PUBLISHED = {"expand": "main.spatial_conv", "project": "main.point_conv"}


def _fused_mbconv_axes(channels: Axis) -> Axes:
    return {
        **ConvNorm.axes("expand", channels, "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
    }


class _FusedMBConvBottleneck(Block):
    """The two convolutions, without a shortcut."""

    published: ClassVar[Published] = {
        "efficientvit/official": _FUSED_MBCONV_PUBLISHED,
        "efficientvit/timm": _FUSED_MBCONV_PUBLISHED,
    }

    def __init__(
        self, spec: FusedMBConv | FusedMBConvDown, channels: int, width: int, stride: int
    ) -> None:
        super().__init__()
        hidden = hidden_width(spec.expansion, channels)
        self.expand = ConvNorm(channels, hidden, spec.kernel, stride, bias=False, conv=NormalConv2d)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, width, bias=False, conv=NormalConv2d)

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.activation(self.expand(x_bchw))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw


class FusedMBConvBlock(_FusedMBConvBottleneck):
    """(B, C, H, W) to the same, residual; see `nas.blocks.FusedMBConv`."""

    axes: ClassVar[Axes] = _fused_mbconv_axes("out")

    def __init__(self, spec: FusedMBConv, shape: Shape) -> None:
        super().__init__(spec, shape.channels, shape.channels, stride=1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        return self.residual(x_bchw, super().forward(x_bchw))


class FusedMBConvDownBlock(_FusedMBConvBottleneck):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.blocks.FusedMBConvDown`."""

    axes: ClassVar[Axes] = _fused_mbconv_axes("in")

    def __init__(self, spec: FusedMBConvDown, shape: Shape) -> None:
        super().__init__(spec, shape.channels, spec.width, stride=2)


_OFFICIAL = {"norm": "norm", "classifier": "head", "distilled": "dist_head"}
_TIMM = {"norm": "norm", "classifier": "head", "distilled": "head_dist"}

LAYER_NORM_EPS = 1e-6
"""EMO's; its code gives it to all of its norms."""


class MapHeadBlock(Block):
    """(B, C, H, W) to (B, classes); with distillation a pair of them in training mode. See
    `nas.blocks.MapHead`."""

    axes: ClassVar[Axes] = {
        **batch_norm_axes("norm", "in"),
        **linear_axes("classifier", "in", None),
        **linear_axes("distilled", "in", None),
    }
    published: ClassVar[Published] = {
        "swiftformer/official": _OFFICIAL,
        "swiftformer/timm": _TIMM,
        "efficientformerv2/official": _OFFICIAL,
        "efficientformerv2/timm": _TIMM,
        # EMO has no second classifier: its name here is only what a message about a missing one
        # says.
        "emo/official": {"norm": "norm.norm", "classifier": "head", "distilled": "dist_head"},
    }

    def __init__(self, spec: MapHead, shape: Shape) -> None:
        super().__init__()
        self.norm: nn.Module
        if spec.norm == "batch":
            self.norm = nn.BatchNorm2d(shape.channels)
        else:
            self.norm = nn.LayerNorm(shape.channels, eps=LAYER_NORM_EPS)
        self.classifier = nn.Linear(shape.channels, spec.classes)
        self.distilled = nn.Linear(shape.channels, spec.classes) if spec.distillation else None
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(self.norm, nn.LayerNorm):
            # A layer norm works on the last dimension: (B, C, H, W) to (B, N, C).
            features = self.norm(to_tokens(x_bchw)).mean(dim=1)
        else:
            features = self.norm(x_bchw).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        if self.distilled is None:
            return logits
        distilled = self.distilled(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2

    def deploy(self) -> None:
        """Merge classifiers and batch norm into the one linear layer that gives their mean."""
        if self.distilled is not None:
            # The mean of two linear layers on the same features is one linear layer.
            with torch.no_grad():
                self.classifier.weight.add_(self.distilled.weight).div_(2)
                self.classifier.bias.add_(self.distilled.bias).div_(2)
            self.distilled = None
        if isinstance(self.norm, nn.BatchNorm2d):
            # In eval mode a batch norm is linear in each channel, so it commutes with the mean over
            # positions and folds into the layer behind it.
            self.norm = fold_into_next(self.norm, self.classifier)
