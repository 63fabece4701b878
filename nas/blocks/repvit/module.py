"""RepViT (Wang et al., arXiv:2307.09283): re-parameterised depthwise mixing, squeeze-and-excitation in
every second block, and feed-forward networks of 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import Operation, Shape
from nas.blocks.branches import identity_kernel, kernel_of
from nas.blocks.module import (
    ACTIVATIONS,
    CENTRE,
    Axes,
    Axis,
    Block,
    CheckpointLayout,
    ConvNorm,
    Foldable,
    Published,
    SqueezeExcite,
    batch_norm_axes,
    conv_axes,
    fold_into_next,
    init_linear,
    linear_axes,
)
from nas.blocks.prefixes import stage_prefixes
from nas.blocks.repvit.spec import RepViTBlock, RepViTDown, RepViTHead, RepViTStem
from nas.blocks.spec import eights, hidden_width


class RepViTStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/4, W/4); see `RepViTStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("first", None, "hidden"),
        **ConvNorm.axes("second", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "repvit/timm": {
            "first.conv": "conv1.c",
            "first.norm": "conv1.bn",
            "second.conv": "conv2.c",
            "second.norm": "conv2.bn",
        },
        "repvit/official": {
            "first.conv": "0.c",
            "first.norm": "0.bn",
            "second.conv": "2.c",
            "second.norm": "2.bn",
        },
    }

    def __init__(self, spec: RepViTStem, shape: Shape) -> None:
        super().__init__()
        self.first = ConvNorm(shape.channels, spec.width // 2, kernel=3, stride=2, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.second = ConvNorm(spec.width // 2, spec.width, kernel=3, stride=2, bias=False)

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.second(self.activation(self.first(x_bchw)))
        return y_bchw


class DepthwiseMixing(Foldable):
    """BN(DWConv_BN(X) + DWConv1x1(X) + X) on (B, C, H, W); in inference one depthwise convolution."""

    published: ClassVar[dict[str, str]] = {
        "large.conv": "conv.c",
        "large.norm": "conv.bn",
        "small": "conv1",
        "norm": "bn",
    }

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.large = ConvNorm(channels, channels, kernel, groups=channels, bias=False)
        # The only branch with a bias, and without a norm of its own.
        self.small = nn.Conv2d(channels, channels, 1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    @staticmethod
    def axes(name: str, channels: Axis) -> Axes:
        """Return the axes of a part called `name` on a stream of these channels."""
        return {
            **ConvNorm.axes(f"{name}.large", None, channels, window=CENTRE),
            **conv_axes(f"{name}.small", None, channels),
            **batch_norm_axes(f"{name}.norm", channels),
        }

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.norm(self.large(x_bchw) + self.small(x_bchw) + x_bchw)
        return y_bchw

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        conv = self.large.conv
        total = kernel_of(conv).normed(self.large.norm) + kernel_of(self.small)
        return (total + identity_kernel(conv)).normed(self.norm).conv(conv)


class FFN(nn.Module):
    """Two 1x1 convolutions with batch norm on (B, C, H, W), an activation between them."""

    published: ClassVar[dict[str, str]] = {
        "expand.conv": "conv1.c",
        "expand.norm": "conv1.bn",
        "project.conv": "conv2.c",
        "project.norm": "conv2.bn",
    }
    official: ClassVar[dict[str, str]] = {
        "expand.conv": "0.c",
        "expand.norm": "0.bn",
        "project.conv": "2.c",
        "project.norm": "2.bn",
    }

    def __init__(self, spec: RepViTBlock | RepViTDown, channels: int) -> None:
        super().__init__()
        hidden = hidden_width(spec.expansion, channels)
        self.expand = ConvNorm(channels, hidden, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels, bias=False)
        # The authors' start: the branch is zero, so that a deep network begins as its shortcuts.
        nn.init.zeros_(self.project.norm.weight)

    @staticmethod
    def axes(name: str, channels: Axis, hidden: str) -> Axes:
        """Return the axes of a part called `name`; `hidden` names its inner channels."""
        return {
            **ConvNorm.axes(f"{name}.expand", channels, hidden),
            **ConvNorm.axes(f"{name}.project", hidden, channels),
        }

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = self.project(self.activation(self.expand(x_bchw)))
        return y_bchw


def _below(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    """Return names of a part, where both sides have a name for it."""
    return {f"{ours}.{name}": f"{theirs}.{published}" for name, published in names.items()}


class RepViTBlockBlock(Block):
    """Mixing, gate and feed-forward network on (B, C, H, W); see `RepViTBlock`."""

    axes: ClassVar[Axes] = {
        **DepthwiseMixing.axes("mixing", "out"),
        **SqueezeExcite.axes("gate", "out"),
        **FFN.axes("ffn", "out", "hidden"),
    }
    published: ClassVar[Published] = {
        "repvit/timm": {
            **_below("mixing", "token_mixer", DepthwiseMixing.published),
            "gate.squeeze": "se.fc1",
            "gate.excite": "se.fc2",
            **_below("ffn", "channel_mixer", FFN.published),
        },
        "repvit/official": {
            **_below("mixing", "token_mixer.0", DepthwiseMixing.published),
            "gate.squeeze": "token_mixer.1.fc1",
            "gate.excite": "token_mixer.1.fc2",
            **_below("ffn", "channel_mixer.m", FFN.official),
        },
    }

    undropped: ClassVar[tuple[str, ...]] = ("mixing", "gate")

    def __init__(self, spec: RepViTBlock, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.mixing = DepthwiseMixing(channels, spec.kernel)
        self.gate = SqueezeExcite(channels, eights(channels / 4)) if spec.squeeze else None
        self.ffn = FFN(spec, channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.mixing(x_bchw)
        if self.gate is not None:
            x_bchw = self.gate(x_bchw)
        return self.residual(x_bchw, self.ffn(x_bchw))


class RepViTDownBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `RepViTDown`."""

    axes: ClassVar[Axes] = {
        **DepthwiseMixing.axes("mixing", "in"),
        **FFN.axes("before", "in", "hidden_before"),
        **ConvNorm.axes("spatial", None, "in", window=CENTRE),
        **ConvNorm.axes("project", "in", "out"),
        **FFN.axes("ffn", "out", "hidden"),
    }
    published: ClassVar[Published] = {
        "repvit/timm": {
            **_below("mixing", "pre_block.token_mixer", DepthwiseMixing.published),
            **_below("before", "pre_block.channel_mixer", FFN.published),
            "spatial.conv": "spatial_downsample.c",
            "spatial.norm": "spatial_downsample.bn",
            "project.conv": "channel_downsample.c",
            "project.norm": "channel_downsample.bn",
            **_below("ffn", "ffn", FFN.published),
        },
        # Two blocks there: one of stride 1, then one of stride 2 (`_official`).
        "repvit/official": {
            **_below("mixing", "token_mixer.0", DepthwiseMixing.published),
            **_below("before", "channel_mixer.m", FFN.official),
            "spatial.conv": "token_mixer.0.c",
            "spatial.norm": "token_mixer.0.bn",
            "project.conv": "token_mixer.2.c",
            "project.norm": "token_mixer.2.bn",
            **_below("ffn", "channel_mixer.m", FFN.official),
        },
    }

    def __init__(self, spec: RepViTDown, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.mixing = DepthwiseMixing(channels, spec.kernel)
        self.before = FFN(spec, channels)
        self.spatial = ConvNorm(
            channels, channels, spec.kernel, stride=2, groups=channels, bias=False
        )
        self.project = ConvNorm(channels, spec.width, bias=False)
        self.ffn = FFN(spec, spec.width)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.mixing(x_bchw)
        x_bchw = x_bchw + self.before(x_bchw)
        y_bchw: Tensor = self.project(self.spatial(x_bchw))  # (B, width, H/2, W/2)
        y_bchw = y_bchw + self.ffn(y_bchw)
        return y_bchw


class RepViTHeadBlock(Block):
    """(B, C, H, W) to (B, classes); with distillation a pair of them in training mode. See
    `RepViTHead`."""

    axes: ClassVar[Axes] = {
        **batch_norm_axes("norm", "in"),
        **linear_axes("classifier", "in", None),
        **batch_norm_axes("distilled_norm", "in"),
        **linear_axes("distilled", "in", None),
    }
    published: ClassVar[Published] = {
        "repvit/timm": {
            "norm": "head.bn",
            "classifier": "head.l",
            "distilled_norm": "head_dist.bn",
            "distilled": "head_dist.l",
        },
        "repvit/official": {
            "norm": "classifier.bn",
            "classifier": "classifier.l",
            "distilled_norm": "classifier_dist.bn",
            "distilled": "classifier_dist.l",
        },
    }

    def __init__(self, spec: RepViTHead, shape: Shape) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(shape.channels)
        self.classifier = nn.Linear(shape.channels, spec.classes)
        self.distilled_norm: nn.Module | None = None
        self.distilled: nn.Linear | None = None
        if spec.distillation:
            self.distilled_norm = nn.BatchNorm2d(shape.channels)
            self.distilled = nn.Linear(shape.channels, spec.classes)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pooled = x_bchw.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        logits: Tensor = self.classifier(self.norm(pooled).flatten(1))
        if self.distilled is None or self.distilled_norm is None:
            return logits
        distilled = self.distilled(self.distilled_norm(pooled).flatten(1))
        return (logits, distilled) if self.training else (logits + distilled) / 2

    @torch.no_grad()
    def deploy(self) -> None:
        """Merge norms and classifiers into the one linear layer that gives their mean."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.norm = fold_into_next(self.norm, self.classifier)
        if self.distilled is not None and isinstance(self.distilled_norm, nn.BatchNorm2d):
            fold_into_next(self.distilled_norm, self.distilled)
            # The mean of two linear layers on the same features is one linear layer.
            self.classifier.weight.add_(self.distilled.weight).div_(2)
            self.classifier.bias.add_(self.distilled.bias).div_(2)
            self.distilled_norm = None
            self.distilled = None


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of timm's names, by operation."""
    return stage_prefixes(
        operations, "stages.{number}.downsample", "stages.{number}.blocks.{index}", head="head"
    )


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' names: all blocks are in one list, behind the stem.

    What we call a downsampling is two of them, the first as all others, the second of stride 2.
    """
    prefixes = {"stem": "features.0", "head": "classifier"}
    number = 1
    for operation in operations:
        name = operation.name
        if name in prefixes:
            continue
        if isinstance(operation.spec, RepViTDown):
            prefixes[f"{name}.mixing"] = f"features.{number}"
            prefixes[f"{name}.before"] = f"features.{number}"
            number += 1
        prefixes[name] = f"features.{number}"
        number += 1
    return prefixes


LAYOUTS = (
    CheckpointLayout("repvit/timm", _timm),
    CheckpointLayout("repvit/official", _official),
)
