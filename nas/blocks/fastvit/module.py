"""FastViT (Vasu et al., arXiv:2303.14189): RepMixer blocks, softmax attention and convolutional
feed-forward networks, with branches that inference folds away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import Operation, Shape
from nas.blocks.branches import Kernel, RepConv, ResidualConv, identity_kernel
from nas.blocks.fastvit.spec import (
    MULTIPLIER,
    FastViTAttention,
    FastViTDown,
    FastViTHead,
    FastViTStem,
    RepMixer,
    sixteenth,
)
from nas.blocks.heads import FromHeads, ToHeads
from nas.blocks.module import (
    ACTIVATIONS,
    CENTRE,
    Axes,
    Block,
    CheckpointLayout,
    ConvNorm,
    Foldable,
    NormalConv2d,
    Published,
    Repeated,
    SqueezeExcite,
    batch_norm_axes,
    conv_axes,
    fold_into_next,
    init_linear,
    layer_scale,
    linear_axes,
    split_heads,
    within,
)
from nas.blocks.prefixes import stage_prefixes
from nas.blocks.spec import eights, hidden_width

_DOUBLED = Repeated("in", MULTIPLIER, adjacent=True)
"""Outputs of a depthwise convolution with several per input channel."""


def _timm_branches(ours: str, theirs: str) -> dict[str, str]:
    """Return timm's names of a MobileOne convolution, as prefixes without a dot at either end."""
    beginning = f"{theirs}." if theirs else ""
    return {
        f"{ours}.large.conv": f"{beginning}conv_kxk.0.conv",
        f"{ours}.large.norm": f"{beginning}conv_kxk.0.bn",
        f"{ours}.small.conv": f"{beginning}conv_scale.conv",
        f"{ours}.small.norm": f"{beginning}conv_scale.bn",
        f"{ours}.identity": f"{beginning}identity",
    }


_RENAMED = (
    ("conv_kxk", "rbr_conv"),
    ("conv_scale", "rbr_scale"),
    ("identity", "rbr_skip"),
    ("large_conv", "lkb_origin"),
    ("mlp.", "convffn."),
    ("final_conv.se.fc1", "conv_exp.se.reduce"),
    ("final_conv.se.fc2", "conv_exp.se.expand"),
    ("final_conv", "conv_exp"),
    ("pos_enc", "pe"),
    (".gamma", ""),
    ("head.fc", "head"),
)
"""Parts of timm's names, and what the authors' code calls them."""


def _layouts(timm: dict[str, str]) -> Published:
    """Return the names of a block in all layouts, from those of timm.

    MobileCLIP's image encoders are FastViTs with the authors' names, but for the head.
    """
    official = {}
    for ours, theirs in timm.items():
        for name, renamed in _RENAMED:
            theirs = theirs.replace(name, renamed)
        official[ours] = theirs
    clip = {ours: theirs for ours, theirs in official.items() if ours != "classifier"}
    if "classifier" in official:
        # Their projection has no bias; see `zeros` in `LAYOUTS`.
        clip["classifier.weight"] = "head.proj"
    return {"fastvit/timm": timm, "fastvit/official": official, "fastvit/mobileclip": clip}


class FastViTStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/4, W/4); see `FastViTStem`."""

    axes: ClassVar[Axes] = {
        **RepConv.axes("first", None, "out"),
        **RepConv.axes("second", None, "out"),
        **RepConv.axes("third", "out", "out"),
    }
    published: ClassVar[Published] = _layouts(
        {
            **_timm_branches("first", "0"),
            **_timm_branches("second", "1"),
            **_timm_branches("third", "2"),
        }
    )

    def __init__(self, spec: FastViTStem, shape: Shape) -> None:
        super().__init__()
        width = spec.width
        self.first = RepConv(shape.channels, width, 3, stride=2, small=1)
        self.second = RepConv(width, width, 3, stride=2, groups=width, small=1)
        self.third = RepConv(width, width, 1, identity=True)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        for conv in (self.first, self.second, self.third):
            x_bchw = self.activation(conv(x_bchw))
        return x_bchw


class FastViTDownBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `FastViTDown`."""

    axes: ClassVar[Axes] = {
        **RepConv.axes("spatial", None, _DOUBLED, window=CENTRE),
        **SqueezeExcite.axes("gate", _DOUBLED),
        **RepConv.axes("project", _DOUBLED, "out"),
    }
    published: ClassVar[Published] = _layouts(
        {
            "spatial.large.conv": "0.large_conv.conv",
            "spatial.large.norm": "0.large_conv.bn",
            "spatial.small.conv": "0.small_conv.conv",
            "spatial.small.norm": "0.small_conv.bn",
            "gate.squeeze": "0.se.fc1",
            "gate.excite": "0.se.fc2",
            **_timm_branches("project", "1"),
        }
    )

    def __init__(self, spec: FastViTDown, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = MULTIPLIER * channels
        self.spatial = RepConv(channels, hidden, spec.kernel, stride=2, groups=channels, small=3)
        self.gate = SqueezeExcite(hidden, eights(hidden / 4)) if spec.squeeze else None
        self.middle = ACTIVATIONS[spec.activation]() if spec.middle_activation else None
        self.project = RepConv(hidden, spec.width, 1, identity=True)
        self.activation = ACTIVATIONS[spec.activation]()

    def forward(self, x_bchw: Tensor) -> Tensor:
        hidden = self.spatial(x_bchw)  # (B, 2 C, H/2, W/2)
        if self.gate is not None:
            hidden = self.gate(hidden)
        if self.middle is not None:
            hidden = self.middle(hidden)
        y_bchw: Tensor = self.activation(self.project(hidden))
        return y_bchw


class ConvFFN(nn.Module):
    """A depthwise convolution with batch norm, then two 1x1 convolutions, on (B, C, H, W)."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("spatial", None, "out", window=CENTRE),
        **conv_axes("expand", "out", "hidden"),
        **conv_axes("project", "hidden", "out"),
        "scale": ("out",),
    }
    published: ClassVar[dict[str, str]] = {
        "spatial.conv": "mlp.conv.conv",
        "spatial.norm": "mlp.conv.bn",
        "expand": "mlp.fc1",
        "project": "mlp.fc2",
    }

    def __init__(self, spec: RepMixer | FastViTAttention, channels: int) -> None:
        super().__init__()
        self.spatial = ConvNorm(
            channels,
            channels,
            spec.ffn_kernel,
            groups=channels,
            bias=False,
            conv=NormalConv2d,
        )
        hidden = hidden_width(spec.expansion, channels)
        self.expand = NormalConv2d(channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = NormalConv2d(hidden, channels, 1)
        self.scale: nn.Parameter | None = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # The depthwise convolution has no activation.
        hidden = self.activation(self.expand(self.spatial(x_bchw)))
        y_bchw: Tensor = self.project(hidden)
        return y_bchw if self.scale is None else self.scale[:, None, None] * y_bchw

    def deploy(self) -> None:
        """Fold the layer scale into the last convolution."""
        if self.scale is not None:
            scale_outputs(self.project, self.scale)
            self.scale = None


@torch.no_grad()
def scale_outputs(conv: nn.Conv2d, scale: Tensor) -> None:
    """Multiply the outputs of a convolution by factors (out,), in place."""
    assert conv.bias is not None
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias.mul_(scale)


class TokenMixing(Foldable):
    """X + s (M(X) - BN(X)) on (B, C, H, W); in inference one depthwise convolution.

    FastViT (arXiv:2303.14189), Eq. 3.
    """

    axes: ClassVar[Axes] = {
        **RepConv.axes("mixer", None, "out", window=CENTRE),
        **batch_norm_axes("norm", "out"),
        "scale": ("out",),
    }

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.mixer = RepConv(channels, channels, kernel, groups=channels, small=1, identity=True)
        self.norm = nn.BatchNorm2d(channels)
        self.scale = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        y_bchw: Tensor = x_bchw + self.scale[:, None, None] * (
            self.mixer(x_bchw) - self.norm(x_bchw)
        )
        return y_bchw

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        conv = self.mixer.large.conv
        norm = identity_kernel(conv, self.norm)
        # M(X) - BN(X) as one kernel; the identity comes on top.
        difference = self.mixer.kernel() + Kernel(-norm.weight, -norm.bias)
        return (identity_kernel(conv) + difference.scaled(self.scale)).conv(conv)


class RepMixerBlock(Block):
    """Token mixing and feed-forward network on (B, C, H, W); see `RepMixer`."""

    axes: ClassVar[Axes] = {
        **within("mixing", TokenMixing.axes),
        **within("ffn", ConvFFN.axes),
    }
    published: ClassVar[Published] = _layouts(
        {
            **_timm_branches("mixing.mixer", "token_mixer.mixer"),
            "mixing.norm": "token_mixer.norm.identity",
            "mixing.scale": "token_mixer.layer_scale.gamma",
            **{f"ffn.{ours}": name for ours, name in ConvFFN.published.items()},
            "ffn.scale": "layer_scale.gamma",
        }
    )

    undropped: ClassVar[tuple[str, ...]] = ("mixing",)

    def __init__(self, spec: RepMixer, shape: Shape) -> None:
        super().__init__()
        self.mixing = TokenMixing(shape.channels, spec.kernel)
        self.ffn = ConvFFN(spec, shape.channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.mixing(x_bchw)
        return self.residual(x_bchw, self.ffn(x_bchw))

    def deploy(self) -> None:
        """Fold the layer scale of the feed-forward network."""
        self.ffn.deploy()


class FastViTAttentionBlock(Block):
    """Attention and feed-forward network on (B, C, H, W); see `FastViTAttention`."""

    axes: ClassVar[Axes] = {
        **conv_axes("encoding", None, "out", window=CENTRE),
        **batch_norm_axes("norm", "out"),
        # Queries, keys and values, heads, and channels of a head are dimensions of their own.
        "qkv.weight": (None, "heads", None, "out", None, None),
        "projection.weight": ("out", "heads", None, None, None),
        "projection.bias": ("out",),
        "scale": ("out",),
        **within("ffn", ConvFFN.axes),
    }
    published: ClassVar[Published] = _layouts(
        {
            "encoding": "pos_enc",
            "norm": "norm",
            "qkv": "token_mixer.qkv",
            "projection": "token_mixer.proj",
            "scale": "layer_scale_1.gamma",
            **{f"ffn.{ours}": name for ours, name in ConvFFN.published.items()},
            "ffn.scale": "layer_scale_2.gamma",
        }
    )

    undropped: ClassVar[tuple[str, ...]] = ("encoding",)

    def __init__(self, spec: FastViTAttention, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        self.heads = channels // spec.head_dim
        self.head_dim = spec.head_dim
        self.encoding = ResidualConv(channels, spec.encoding) if spec.encoding else None
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.qkv: nn.Module = ToHeads(channels, 3, self.heads, self.head_dim)
        self.projection: nn.Module = FromHeads(channels, self.heads, self.head_dim, bias=True)
        self.scale: nn.Parameter | None = layer_scale(channels)
        self.ffn = ConvFFN(spec, channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        if self.encoding is not None:
            x_bchw = self.encoding(x_bchw)
        x_bchw = self.residual(x_bchw, self._attend(x_bchw))
        return self.residual(x_bchw, self.ffn(x_bchw))

    def _attend(self, x_bchw: Tensor) -> Tensor:
        # Three of (B, heads, d, N), channels first, as the map has them.
        q, k, v = (
            split_heads(part, self.heads) for part in self.qkv(self.norm(x_bchw)).chunk(3, dim=1)
        )
        scores = (q * self.head_dim**-0.5).transpose(2, 3) @ k  # (B, heads, N, N)
        mixed = v @ scores.softmax(dim=3).transpose(2, 3)  # (B, heads, d, N)
        y_bchw: Tensor = self.projection(mixed.reshape(x_bchw.shape))
        return y_bchw if self.scale is None else self.scale[:, None, None] * y_bchw

    @torch.no_grad()
    def deploy(self) -> None:
        """Fold the layer scales, and the norm into the product behind it."""
        self.ffn.deploy()
        if isinstance(self.qkv, ToHeads):
            self.qkv = self.qkv.plain()
        if isinstance(self.projection, FromHeads):
            self.projection = self.projection.plain()
        if self.scale is not None:
            assert isinstance(self.projection, nn.Conv2d)
            scale_outputs(self.projection, self.scale)
            self.scale = None
        if isinstance(self.norm, nn.BatchNorm2d):
            assert isinstance(self.qkv, nn.Conv2d)
            self.norm = fold_into_next(self.norm, self.qkv)


class FastViTHeadBlock(Block):
    """(B, C, H, W) to (B, classes); see `FastViTHead`."""

    axes: ClassVar[Axes] = {
        **RepConv.axes("conv", None, _DOUBLED),
        **SqueezeExcite.axes("gate", _DOUBLED),
        **linear_axes("classifier", _DOUBLED, None),
    }
    published: ClassVar[Published] = _layouts(
        {
            **_timm_branches("conv", "final_conv"),
            "gate.squeeze": "final_conv.se.fc1",
            "gate.excite": "final_conv.se.fc2",
            "classifier": "head.fc",
        }
    )

    def __init__(self, spec: FastViTHead, shape: Shape) -> None:
        super().__init__()
        features = MULTIPLIER * shape.channels
        self.conv = RepConv(shape.channels, features, 3, groups=shape.channels, small=1)
        self.gate = SqueezeExcite(features, sixteenth(features))
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Linear(features, spec.classes)
        init_linear(self.classifier)

    def forward(self, x_bchw: Tensor) -> Tensor:
        features = self.activation(self.gate(self.conv(x_bchw))).mean(dim=(2, 3))  # (B, 2 C)
        logits: Tensor = self.classifier(features)
        return logits


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of timm's names, by operation and by part of one.

    The positional encoding is a part of the stage there, before its first block.
    """
    prefixes = stage_prefixes(
        operations, "stages.{number}.downsample.proj", "stages.{number}.blocks.{index}"
    )
    for operation in operations:
        if isinstance(operation.spec, FastViTAttention) and operation.spec.encoding:
            stage = prefixes[operation.name].partition(".blocks.")[0]
            prefixes[f"{operation.name}.encoding"] = f"{stage}.pos_emb"
    return prefixes


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' names, where stages, downsamplings and positional
    encodings are one list."""
    prefixes = {"stem": "patch_embed", "head": ""}
    place = 0
    index = 0
    for operation in operations:
        name = operation.name
        if name in prefixes:
            continue
        if name.endswith("_entry"):
            # The downsampling stands behind the stage before, and its own stage behind it.
            prefixes[name] = f"network.{place + 1}.proj"
            place += 2
            index = 0
            continue
        if isinstance(operation.spec, FastViTAttention) and operation.spec.encoding:
            prefixes[f"{name}.encoding"] = f"network.{place}"
            place += 1
        prefixes[name] = f"network.{place}.{index}"
        index += 1
    return prefixes


_SCALES = ("mixing.scale", "scale", "ffn.scale")


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a published tensor in the shape of ours."""
    spec = operation.spec
    if name in _SCALES:
        return value.flatten()  # (C, 1, 1) to (C,)
    if not isinstance(spec, FastViTAttention):
        return value
    if name == "qkv.weight" and len(value) % (3 * spec.head_dim) == 0:
        # (3 * heads * d, C) to (3, heads, d, C, 1, 1)
        return value.reshape(3, -1, spec.head_dim, value.shape[1], 1, 1)
    if name == "projection.weight" and value.shape[1] % spec.head_dim == 0:
        # (C, heads * d) to (C, heads, d, 1, 1)
        return value.reshape(len(value), -1, spec.head_dim, 1, 1)
    return value


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_convert`."""
    if name in _SCALES:
        return value[:, None, None]
    if name == "qkv.weight":
        return value.flatten(3).flatten(0, 2)
    if name == "projection.weight":
        return value.flatten(1)
    return value


def _convert_clip(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a tensor of MobileCLIP's in the shape of ours: their projection is (in, out)."""
    if isinstance(operation.spec, FastViTHead) and name == "classifier.weight":
        return value.T
    return _convert(operation, name, value)


def _publish_clip(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_convert_clip`."""
    if isinstance(operation.spec, FastViTHead) and name == "classifier.weight":
        return value.T
    return _publish(operation, name, value)


LAYOUTS = (
    CheckpointLayout("fastvit/timm", _timm, convert=_convert, publish=_publish),
    CheckpointLayout("fastvit/official", _official, convert=_convert, publish=_publish),
    CheckpointLayout(
        "fastvit/mobileclip",
        _official,
        convert=_convert_clip,
        publish=_publish_clip,
        zeros=("head.classifier.bias",),
        classes_dim=1,
    ),
)
