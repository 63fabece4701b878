"""SwiftFormer (Shaker et al., arXiv:2303.15446): convolutional encoders and efficient additive
attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from nas.blocks import AdditiveEncoder, ConvEncoder, Operation, Shape
from nas.blocks.efficientformer.module import official_prefixes, timm_prefixes
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    batch_norm_axes,
    conv_axes,
    fold_into_next,
    init_linear,
    layer_scale,
    within,
)
from nas.blocks.spec import hidden_width

_CONVS = {
    "depthwise.conv": "dwconv",
    "depthwise.norm": "norm",
    "expand": "pwconv1",
    "project": "pwconv2",
}


class ConvEncoderBlock(Block):
    """Depthwise convolution and MLP on (B, C, H, W); see `nas.blocks.ConvEncoder` for the equation."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("depthwise", None, "out"),
        **conv_axes("expand", "out", "hidden"),
        **conv_axes("project", "hidden", "out"),
        "scale": ("out",),
    }
    published: ClassVar[Published] = {
        "swiftformer/official": {**_CONVS, "scale": "layer_scale"},
        "swiftformer/timm": {**_CONVS, "scale": "layer_scale.gamma"},
    }

    def __init__(self, spec: ConvEncoder, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = hidden_width(spec.expansion, channels)
        self.depthwise = ConvNorm(channels, channels, spec.kernel, groups=channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Conv2d(hidden, channels, 1)
        # The authors start the scale of convolutional encoders at 1, and only those of the
        # attention and its MLP at 1e-5.
        self.scale = layer_scale(channels, initial=1.0)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Eq. 5, with the layer scale of the authors' code before the sum.
        hidden = self.activation(self.expand(self.depthwise(x_bchw)))
        x_bchw = self.residual(x_bchw, self.scale[:, None, None] * self.project(hidden))
        return x_bchw


_SHARED = {
    "attention.query": "attn.to_query",
    "attention.key": "attn.to_key",
    "attention.score.weight": "attn.w_g",
    "attention.projection": "attn.final",
    "mlp_norm": "linear.norm1",
    "expand": "linear.fc1",
    "project": "linear.fc2",
}

SMALLEST_NORM = 1e-12
"""What a norm is at least, so that a vector of zeros stays one."""


def _published(layout: str, context: str, scale: str) -> dict[str, str]:
    local = ConvEncoderBlock.published[layout].items()
    return {
        **{f"local.{ours}": f"local_representation.{theirs}" for ours, theirs in local},
        **_SHARED,
        "attention.context": context,
        "mixer_scale": scale.format(1),
        "mlp_scale": scale.format(2),
    }


class AdditiveAttention(nn.Module):
    """Efficient additive attention on (B, C, H, W), linear in tokens; see
    `nas.blocks.AdditiveEncoder`.

    Linear layers over tokens are 1x1 convolutions here, so that nothing leaves the map's layout.
    """

    axes: ClassVar[Axes] = {
        **conv_axes("query", "out", "keys"),
        **conv_axes("key", "out", "keys"),
        **conv_axes("score", "keys", None),
        **conv_axes("context", "keys", "keys"),
        **conv_axes("projection", "keys", "out"),
    }

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.score = nn.Conv2d(channels, 1, 1, bias=False)
        self.context = nn.Conv2d(channels, channels, 1)
        self.projection = nn.Conv2d(channels, channels, 1)
        self.apply(init_linear)
        # w of Eq. 2 starts with a standard deviation of 1 in the authors' code. This has to come
        # after `apply`, which gives all convolutions 0.02.
        nn.init.normal_(self.score.weight)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # The authors' code normalises each query and each key over its channels: (B, C, H, W).
        query = _unit(self.query(x_bchw), dim=1)
        key = _unit(self.key(x_bchw), dim=1)
        # The paper's factor 1 / sqrt(C) cancels in the norm over tokens; without it small scores
        # survive fp16.
        # Eq. 2: one learned score per token, (B, 1, H, W) to (B, 1, N).
        scores_b1n = _unit(self.score(query).flatten(2), dim=2)
        # The sum over tokens is a matrix product, which accumulates in fp32 for half precision too.
        # N unit vectors, weighted by a unit vector, add up to a length of at most sqrt(N).
        # Eq. 3: (B, C, N) (B, N, 1) to the global query (B, C, 1, 1).
        global_query = (query.flatten(2) @ scores_b1n.transpose(1, 2))[..., None]
        # Eq. 4: the global query times each key replaces the N x N matrix of scores.
        mixed: Tensor = self.projection(self.context(global_query * key) + query)
        return mixed


def _unit(x: Tensor, dim: int) -> Tensor:
    """Return x over its Euclidean norm along `dim`, computed at least in fp32.

    There neither small squares nor the guard vanish.

    This is F.normalize in operations that LiteRT converts.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse = wide.square().sum(dim=dim, keepdim=True).clamp_min(SMALLEST_NORM**2).rsqrt()
    return (wide * inverse).to(x.dtype)


class AdditiveEncoderBlock(Block):
    """Local representation, additive attention and MLP on (B, C, H, W); see
    `nas.blocks.AdditiveEncoder`."""

    axes: ClassVar[Axes] = {
        # The local representation has a hidden width of its own (that of the stream), so its
        # channels must not be cut with the MLP's.
        **within("local", ConvEncoderBlock.axes, hidden="local"),
        **within("attention", AdditiveAttention.axes),
        "mixer_scale": ("out",),
        **batch_norm_axes("mlp_norm", "out"),
        **conv_axes("expand", "out", "hidden"),
        **conv_axes("project", "hidden", "out"),
        "mlp_scale": ("out",),
    }
    published: ClassVar[Published] = {
        "swiftformer/official": _published("swiftformer/official", "attn.Proj", "layer_scale_{}"),
        "swiftformer/timm": _published("swiftformer/timm", "attn.proj", "layer_scale_{}.gamma"),
    }
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = (AdditiveAttention,)

    def __init__(self, spec: AdditiveEncoder, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = hidden_width(spec.expansion, channels)
        self.local = ConvEncoderBlock(spec.local, shape)
        self.attention = AdditiveAttention(channels)
        self.mixer_scale = layer_scale(channels)
        self.mlp_norm: nn.Module = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Conv2d(hidden, channels, 1)
        self.mlp_scale = layer_scale(channels)
        init_linear(self.expand)
        init_linear(self.project)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Sec. 3.3: local representation, additive attention, MLP, each residual.
        x_bchw = self.local(x_bchw)
        mixed = self.mixer_scale[:, None, None] * self.attention(x_bchw)
        x_bchw = self.residual(x_bchw, mixed)
        hidden = self.activation(self.expand(self.mlp_norm(x_bchw)))
        x_bchw = self.residual(x_bchw, self.mlp_scale[:, None, None] * self.project(hidden))
        return x_bchw

    def deploy(self) -> None:
        """Put the MLP's batch norm into the convolution behind it."""
        if isinstance(self.mlp_norm, nn.BatchNorm2d):
            self.mlp_norm = fold_into_next(self.mlp_norm, self.expand)


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a published tensor in our shape.

    Layer scales (C, 1, 1) become (C,). The attention's linear layers (out, in) and w_g (C, 1) become
    1x1 convolutions (out, in, 1, 1) and (1, C, 1, 1).
    """
    if name.endswith("scale"):
        return value.flatten()
    if operation.spec.kind == "additive_encoder" and value.dim() == 2:
        return (value.T if name == "attention.score.weight" else value)[:, :, None, None]
    return value


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_convert`."""
    if name.endswith("scale"):
        return value[:, None, None]
    if (
        operation.spec.kind == "additive_encoder"
        and name.startswith("attention.")
        and value.dim() == 4
    ):
        flat = value[:, :, 0, 0]
        return flat.T if name == "attention.score.weight" else flat
    return value


LAYOUTS = (
    CheckpointLayout("swiftformer/official", official_prefixes, convert=_convert, publish=_publish),
    CheckpointLayout("swiftformer/timm", timm_prefixes, convert=_convert, publish=_publish),
)
