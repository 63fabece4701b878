"""MobileNetV4 (Qin et al., arXiv:2404.10518): universal inverted bottlenecks and mobile multi-query
attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import Operation, Shape
from nas.blocks.heads import FromHeads, ToHeads, plain
from nas.blocks.mobilenetv4.spec import (
    UIB,
    ConvDown,
    MobileNetV4Head,
    MobileNetV4Stem,
    UIBDown,
    strides,
)
from nas.blocks.module import (
    ACTIVATIONS,
    CENTRE,
    Axes,
    Axis,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    batch_norm_axes,
    conv_axes,
    fold_into_next,
    init_linear,
    layer_scale,
    linear_axes,
    within,
)
from nas.blocks.spec import hidden_width


class MobileNetV4StemBlock(Block):
    """(B, 3, H, W) to (B, width, H/2, W/2); see `MobileNetV4Stem`."""

    axes: ClassVar[Axes] = ConvNorm.axes("conv", None, "out")
    published: ClassVar[Published] = {
        "mobilenetv4/timm": {"conv.conv": "conv_stem", "conv.norm": "bn1"}
    }

    def __init__(self, spec: MobileNetV4Stem, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, kernel=3, stride=2, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.conv(x_bchw))
        return x_bchw


class ConvDownBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `ConvDown`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("spatial", "in", "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
    }
    # In timm the two convolutions are the first two blocks of their stage.
    published: ClassVar[Published] = {
        "mobilenetv4/timm": {
            "spatial.conv": "0.conv",
            "spatial.norm": "0.bn1",
            "project.conv": "1.conv",
            "project.norm": "1.bn1",
        }
    }

    def __init__(self, spec: ConvDown, shape: Shape) -> None:
        super().__init__()
        hidden = hidden_width(spec.expansion, shape.channels)
        self.spatial = ConvNorm(shape.channels, hidden, spec.kernel, stride=2, bias=False)
        self.project = ConvNorm(hidden, spec.width, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.spatial(x_bchw))
        x_bchw = self.activation(self.project(x_bchw))
        return x_bchw


class KeyReduction(nn.Sequential):
    """Keys or values of all positions, or of every second one: (B, C, H, W) to (B, d, H', W')."""

    def __init__(self, channels: int, head_dim: int, stride: int) -> None:
        super().__init__()
        if stride > 1:
            self.reduce = ConvNorm(
                channels, channels, kernel=3, stride=stride, groups=channels, bias=False
            )
        self.projection = nn.Conv2d(channels, head_dim, 1, bias=False)
        nn.init.xavier_uniform_(self.projection.weight)

    @staticmethod
    def axes(name: str, group: str) -> Axes:
        """Return the axes of a reduction called `name`, whose output channels are `group`."""
        return {
            **ConvNorm.axes(f"{name}.reduce", None, "out"),
            **conv_axes(f"{name}.projection", "out", group),
        }


class MultiQueryAttention(nn.Module):
    """Softmax attention of several heads to one set of keys and values: (B, C, H, W) to the same.

    See `UIB` for the equation. The sum with the input is the caller's.
    """

    axes: ClassVar[Axes] = {
        **batch_norm_axes("norm", "out"),
        "query.weight": ("heads", "keys", "out", None, None),
        **KeyReduction.axes("key", "keys"),
        **KeyReduction.axes("value", "values"),
        "projection.weight": ("out", "heads", "values", None, None),
        "scale": ("out",),
    }
    published: ClassVar[dict[str, str]] = {
        "norm": "norm",
        "query": "attn.query.proj",
        "key.reduce.conv": "attn.key.down_conv",
        "key.reduce.norm": "attn.key.norm",
        "key.projection": "attn.key.proj",
        "value.reduce.conv": "attn.value.down_conv",
        "value.reduce.norm": "attn.value.norm",
        "value.projection": "attn.value.proj",
        "projection": "attn.output.proj",
        "scale": "layer_scale.gamma",
    }

    def __init__(self, channels: int, heads: int, head_dim: int, key_stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.query: nn.Module = ToHeads(channels, heads, head_dim)
        self.key = KeyReduction(channels, head_dim, key_stride)
        self.value = KeyReduction(channels, head_dim, key_stride)
        self.projection: nn.Module = FromHeads(channels, heads, head_dim)
        self.scale: nn.Parameter | None = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        batch, _, height, width = x_bchw.shape
        x_bchw = self.norm(x_bchw)
        # The heads share keys and values, so the queries of all of them are rows of one product:
        # (B, heads * d, H, W) to (B, heads, d, N) to (B, heads * N, d).
        q = self.query(x_bchw).reshape(batch, self.heads, self.head_dim, height * width)
        q = q.transpose(2, 3).reshape(batch, self.heads * height * width, self.head_dim)
        k = self.key(x_bchw).flatten(2)  # (B, d, N')
        v = self.value(x_bchw).flatten(2)  # (B, d, N')
        scores = (q * self.head_dim**-0.5) @ k  # (B, heads * N, N')
        mixed = scores.softmax(dim=2) @ v.transpose(1, 2)  # (B, heads * N, d)
        mixed = mixed.reshape(batch, self.heads, height * width, self.head_dim).transpose(2, 3)
        y_bchw: Tensor = self.projection(
            mixed.reshape(batch, self.heads * self.head_dim, height, width)
        )
        return y_bchw if self.scale is None else self.scale[:, None, None] * y_bchw

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the layer scale into the projection, and the norm into what follows where it can be.

        Where keys are reduced, zero padding stands between the norm and the depthwise convolutions.
        """
        if isinstance(self.query, ToHeads):
            self.query = self.query.plain()
        if isinstance(self.projection, FromHeads):
            self.projection = self.projection.plain()
        if self.scale is not None:
            assert isinstance(self.projection, nn.Conv2d)
            self.projection.weight.mul_(self.scale[:, None, None, None])
            self.scale = None
        if isinstance(self.norm, nn.BatchNorm2d) and not hasattr(self.key, "reduce"):
            self.key.projection = plain(self.key.projection.weight)
            self.value.projection = plain(self.value.projection.weight)
            assert isinstance(self.query, nn.Conv2d)
            fold_into_next(self.norm, self.query)
            fold_into_next(self.norm, self.key.projection)
            self.norm = fold_into_next(self.norm, self.value.projection)


def _bottleneck_axes(channels: Axis) -> Axes:
    return {
        **ConvNorm.axes("start", None, channels, window=CENTRE),
        **ConvNorm.axes("expand", channels, "hidden"),
        **ConvNorm.axes("middle", None, "hidden", window=CENTRE),
        **ConvNorm.axes("project", "hidden", "out"),
        "scale": ("out",),
    }


_BOTTLENECK_PUBLISHED = {
    "start.conv": "dw_start.conv",
    "start.norm": "dw_start.bn",
    "expand.conv": "pw_exp.conv",
    "expand.norm": "pw_exp.bn",
    "middle.conv": "dw_mid.conv",
    "middle.norm": "dw_mid.bn",
    "project.conv": "pw_proj.conv",
    "project.norm": "pw_proj.bn",
    "scale": "layer_scale.gamma",
}


class _Bottleneck(Block):
    """The up to four convolutions and the layer scale, without a shortcut."""

    def __init__(self, spec: UIB | UIBDown, channels: int, width: int, stride: int) -> None:
        super().__init__()
        hidden = hidden_width(spec.expansion, channels)
        first, second = strides(spec, stride)
        self.start = _depthwise(channels, spec.start_kernel, first)
        self.expand = ConvNorm(channels, hidden, bias=False)
        self.middle = _depthwise(hidden, spec.middle_kernel, second)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, width, bias=False)
        self.scale: nn.Parameter | None = layer_scale(width) if spec.layer_scale else None

    def forward(self, x_bchw: Tensor) -> Tensor:
        # The depthwise convolution before the expansion has no activation.
        started = x_bchw if self.start is None else self.start(x_bchw)
        hidden = self.activation(self.expand(started))
        if self.middle is not None:
            hidden = self.activation(self.middle(hidden))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw if self.scale is None else self.scale[:, None, None] * y_bchw

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the layer scale into the last batch norm, and with it into the convolution."""
        if self.scale is not None:
            self.project.norm.weight.mul_(self.scale)
            self.project.norm.bias.mul_(self.scale)
            self.scale = None


def _depthwise(channels: int, kernel: int, stride: int) -> ConvNorm | None:
    if not kernel:
        return None
    return ConvNorm(channels, channels, kernel, stride, groups=channels, bias=False)


class UIBBlock(_Bottleneck):
    """Attention where there is one, and the bottleneck, on (B, C, H, W); see `UIB`."""

    axes: ClassVar[Axes] = {
        **within("attention", MultiQueryAttention.axes),
        **_bottleneck_axes("out"),
    }
    published: ClassVar[Published] = {
        "mobilenetv4/timm": {
            **{f"attention.{ours}": name for ours, name in MultiQueryAttention.published.items()},
            **_BOTTLENECK_PUBLISHED,
        }
    }
    # It adds the same to every key, and so to all scores of a query.
    without_gradient: ClassVar[tuple[str, ...]] = ("attention.key.reduce.norm.bias",)

    def __init__(self, spec: UIB, shape: Shape) -> None:
        super().__init__(spec, shape.channels, shape.channels, stride=1)
        self.attention = (
            MultiQueryAttention(shape.channels, spec.heads, spec.head_dim, spec.key_stride)
            if spec.heads
            else None
        )

    def forward(self, x_bchw: Tensor) -> Tensor:
        if self.attention is not None:
            x_bchw = self.residual(x_bchw, self.attention(x_bchw))
        return self.residual(x_bchw, super().forward(x_bchw))

    def deploy(self) -> None:
        """Fold layer scales, and the attention's norm where it can be."""
        super().deploy()
        if self.attention is not None:
            self.attention.deploy()


class UIBDownBlock(_Bottleneck):
    """(B, C, H, W) to (B, width, H/2, W/2); see `UIBDown`."""

    axes: ClassVar[Axes] = _bottleneck_axes("in")
    # A bottleneck that enters a stage is the first block of it.
    published: ClassVar[Published] = {
        "mobilenetv4/timm": {ours: f"0.{name}" for ours, name in _BOTTLENECK_PUBLISHED.items()}
    }

    def __init__(self, spec: UIBDown, shape: Shape) -> None:
        super().__init__(spec, shape.channels, spec.width, stride=2)


class MobileNetV4HeadBlock(Block):
    """(B, C, H, W) to (B, classes); see `MobileNetV4Head`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("conv", "in", "hidden"),
        **ConvNorm.axes("expand", "hidden", "features"),
        **linear_axes("classifier", "features", None),
    }
    # In timm the first convolution is the only block of a fifth stage.
    published: ClassVar[Published] = {
        "mobilenetv4/timm": {
            "conv.conv": "blocks.4.0.conv",
            "conv.norm": "blocks.4.0.bn1",
            "expand.conv": "conv_head",
            "expand.norm": "norm_head",
            "classifier": "classifier",
        }
    }

    def __init__(self, spec: MobileNetV4Head, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, bias=False)
        self.expand = ConvNorm(spec.width, spec.features, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Linear(spec.features, spec.classes)
        init_linear(self.classifier)

    def forward(self, x_bchw: Tensor) -> Tensor:
        pooled = self.activation(self.conv(x_bchw)).mean(dim=(2, 3), keepdim=True)
        features = self.activation(self.expand(pooled)).flatten(1)  # (B, features)
        logits: Tensor = self.classifier(features)
        return logits


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of timm's names, by operation and by part of one.

    A stage is a list of blocks that counts the entry as one or two, and attention as a block of its
    own before its bottleneck.
    """
    prefixes = {"stem": "", "head": ""}
    stage = -1
    index = 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        if operation.name.endswith("_entry"):
            stage += 1
            # Names inside an entry begin with the numbers of its blocks.
            prefixes[operation.name] = f"blocks.{stage}"
            index = 2 if isinstance(operation.spec, ConvDown) else 1
            continue
        if isinstance(operation.spec, UIB) and operation.spec.heads:
            prefixes[f"{operation.name}.attention"] = f"blocks.{stage}.{index}"
            index += 1
        prefixes[operation.name] = f"blocks.{stage}.{index}"
        index += 1
    return prefixes


_QUERY = "attention.query.weight"
_PROJECTION = "attention.projection.weight"


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a published tensor with heads in a dimension of their own, as our attention has it."""
    spec = operation.spec
    if not isinstance(spec, UIB) or value.dim() != 4:
        return value
    if name == _QUERY and len(value) % spec.heads == 0:
        # (heads * d, C, 1, 1) to (heads, d, C, 1, 1)
        return value.reshape(spec.heads, -1, *value.shape[1:])
    if name == _PROJECTION and value.shape[1] % spec.heads == 0:
        # (C, heads * d, 1, 1) to (C, heads, d, 1, 1)
        return value.reshape(len(value), spec.heads, -1, *value.shape[2:])
    return value


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_convert`."""
    if isinstance(operation.spec, UIB) and name == _QUERY:
        return value.flatten(0, 1)
    if isinstance(operation.spec, UIB) and name == _PROJECTION:
        return value.flatten(1, 2)
    return value


LAYOUTS = (
    CheckpointLayout(
        "mobilenetv4/timm",
        _timm,
        convert=_convert,
        publish=_publish,
        shared={
            "fused_mbconv_down": {
                "expand.conv": "0.conv_exp",
                "expand.norm": "0.bn1",
                "project.conv": "0.conv_pwl",
                "project.norm": "0.bn2",
            }
        },
    ),
)
