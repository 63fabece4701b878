"""EfficientFormerV2 (Li et al., arXiv:2212.08059): unified feed-forward blocks, attention with
stride, dual-path embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import AttentionFFN, ConvFFN, DualPathEmbedding, Operation, Shape
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    BiasedBlock,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    conv_axes,
    init_linear,
    layer_scale,
    split_heads,
    within,
)
from nas.blocks.prefixes import stage_prefixes
from nas.blocks.spec import hidden_width


class ConvFFNBlock(Block):
    """Feed-forward network with a depthwise convolution on (B, C, H, W); see `nas.blocks.ConvFFN`
    for the equation."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("expand", "out", "hidden"),
        **ConvNorm.axes("middle", None, "hidden"),
        **ConvNorm.axes("project", "hidden", "out"),
        "scale": ("out",),
    }
    published: ClassVar[Published] = {
        "efficientformerv2/official": {
            "expand.conv": "mlp.fc1", "expand.norm": "mlp.norm1", "middle.conv": "mlp.mid",
            "middle.norm": "mlp.mid_norm", "project.conv": "mlp.fc2", "project.norm": "mlp.norm2",
            "scale": "layer_scale_2",
        },
        "efficientformerv2/timm": {
            "expand.conv": "mlp.fc1.conv", "expand.norm": "mlp.fc1.bn", "middle.conv": "mlp.mid.conv",
            "middle.norm": "mlp.mid.bn", "project.conv": "mlp.fc2.conv", "project.norm": "mlp.fc2.bn",
            "scale": "ls2.gamma",
        },
    }  # fmt: skip

    def __init__(self, spec: ConvFFN, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = hidden_width(spec.expansion, shape.channels)
        self.expand = ConvNorm(channels, hidden).apply(init_linear)
        self.middle = ConvNorm(hidden, hidden, spec.kernel, groups=hidden)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = ConvNorm(hidden, channels).apply(init_linear)
        self.scale = layer_scale(channels)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Sec. 3.1: the depthwise convolution inside the MLP replaces V1's pooling mixer.
        hidden = self.activation(self.expand(x_bchw))
        hidden = self.activation(self.middle(hidden))
        x_bchw = self.residual(x_bchw, self.scale[:, None, None] * self.project(hidden))
        return x_bchw


_FFN = {
    layout: {f"ffn.{ours}": theirs for ours, theirs in names.items()}
    for layout, names in ConvFFNBlock.published.items()
}


class AttentionFFNBlock(BiasedBlock):
    """Talking-heads attention and feed-forward network on (B, C, H, W); see
    `nas.blocks.AttentionFFN`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("reduce", None, "out"),
        **ConvNorm.axes("query", "out", None),
        **ConvNorm.axes("key", "out", None),
        **ConvNorm.axes("value", "out", None),
        **ConvNorm.axes("projection", None, "out"),
        "attention_scale": ("out",),
        **within("ffn", ConvFFNBlock.axes),
    }
    published: ClassVar[Published] = {
        "efficientformerv2/official": {
            "reduce.conv": "token_mixer.stride_conv.0", "reduce.norm": "token_mixer.stride_conv.1",
            "query.conv": "token_mixer.q.0", "query.norm": "token_mixer.q.1",
            "key.conv": "token_mixer.k.0", "key.norm": "token_mixer.k.1",
            "value.conv": "token_mixer.v.0", "value.norm": "token_mixer.v.1",
            "local.conv": "token_mixer.v_local.0", "local.norm": "token_mixer.v_local.1",
            "talk_before": "token_mixer.talking_head1", "talk_after": "token_mixer.talking_head2",
            "bias": "token_mixer.attention_biases",
            "projection.conv": "token_mixer.proj.1", "projection.norm": "token_mixer.proj.2",
            "attention_scale": "layer_scale_1",
            **_FFN["efficientformerv2/official"],
        },
        "efficientformerv2/timm": {
            "reduce.conv": "token_mixer.stride_conv.conv", "reduce.norm": "token_mixer.stride_conv.bn",
            "query.conv": "token_mixer.q.conv", "query.norm": "token_mixer.q.bn",
            "key.conv": "token_mixer.k.conv", "key.norm": "token_mixer.k.bn",
            "value.conv": "token_mixer.v.conv", "value.norm": "token_mixer.v.bn",
            "local.conv": "token_mixer.v_local.conv", "local.norm": "token_mixer.v_local.bn",
            "talk_before": "token_mixer.talking_head1", "talk_after": "token_mixer.talking_head2",
            "bias": "token_mixer.attention_biases",
            "projection.conv": "token_mixer.proj.conv", "projection.norm": "token_mixer.proj.bn",
            "attention_scale": "ls1.gamma",
            **_FFN["efficientformerv2/timm"],
        },
    }  # fmt: skip
    # A bias of the keys adds q . b to all scores of a query, and one of the heads' mix adds a
    # constant per head. The softmax over the keys removes both.
    without_gradient: ClassVar[tuple[str, ...]] = (
        "key.conv.bias",
        "key.norm.bias",
        "talk_before.bias",
    )

    def __init__(self, spec: AttentionFFN, shape: Shape) -> None:
        # The table of biases has the size of the attended grid, which a stride makes smaller: 7x7
        # for the 14x14 maps of stage 3 in published networks.
        attended = shape.resized(spec.stride)
        super().__init__(spec.heads, (attended.height, attended.width))
        channels = shape.channels
        keys = spec.heads * spec.key_dim
        values = spec.heads * spec.value_dim
        self.heads = spec.heads
        self.factor = spec.key_dim**-0.5
        self.reduce = (
            ConvNorm(channels, channels, 3, spec.stride, channels) if spec.stride > 1 else None
        )
        self.query = ConvNorm(channels, keys)
        self.key = ConvNorm(channels, keys)
        self.value = ConvNorm(channels, values)
        self.local = ConvNorm(values, values, kernel=3, groups=values)
        self.talk_before = nn.Conv2d(spec.heads, spec.heads, 1)
        self.talk_after = nn.Conv2d(spec.heads, spec.heads, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.projection = ConvNorm(values, channels)
        self.attention_scale = layer_scale(channels)
        self.ffn = ConvFFNBlock(spec.ffn, shape)

    def forward(self, x_bchw: Tensor) -> Tensor:
        mixed = self.attention_scale[:, None, None] * self._attention(x_bchw)
        x_bchw = self.residual(x_bchw, mixed)
        x_bchw = self.ffn(x_bchw)
        return x_bchw

    def _attention(self, x_bchw: Tensor) -> Tensor:
        # With a stride the attention works on a smaller map and its result is upsampled, because
        # softmax attention grows with N^2.
        attended = x_bchw if self.reduce is None else self.reduce(x_bchw)
        value = self.value(attended)
        # (B, heads, D, N) each, V with its own D
        q, k, v = (
            split_heads(x, self.heads) for x in (self.query(attended), self.key(attended), value)
        )
        scores = q.transpose(2, 3) @ k * self.factor + self.bias_on(
            (attended.shape[2], attended.shape[3])
        )
        # Talking heads (arXiv:2003.02436): a 1x1 convolution over the heads of the scores
        # (B, heads, N, N), before and after the softmax.
        weights = self.talk_after(self.talk_before(scores).softmax(dim=3))
        # (B, heads, V, N) to (B, heads * V, H, W). The depthwise convolution of V adds locality.
        mixed = (v @ weights.transpose(2, 3)).reshape(value.shape) + self.local(value)
        if self.reduce is not None:
            mixed = F.interpolate(mixed, size=x_bchw.shape[2:], mode="bilinear")
        projected: Tensor = self.projection(self.activation(mixed))
        return projected


class DualPathEmbeddingBlock(BiasedBlock):
    """(B, C, H, W) to (B, width, H/2, W/2) by convolution and attention; see
    `nas.blocks.DualPathEmbedding`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("convolution", "in", "out"),
        **conv_axes("query_local", None, "in"),
        **ConvNorm.axes("query", "in", None),
        **ConvNorm.axes("key", "in", None),
        **ConvNorm.axes("value", "in", None),
        **ConvNorm.axes("projection", None, "out"),
    }
    published: ClassVar[Published] = {
        "efficientformerv2/official": {
            "convolution.conv": "conv", "convolution.norm": "bn", "query_local": "attn.q.local.0",
            "query.conv": "attn.q.proj.0", "query.norm": "attn.q.proj.1",
            "key.conv": "attn.k.0", "key.norm": "attn.k.1", "value.conv": "attn.v.0", "value.norm": "attn.v.1",
            "local.conv": "attn.v_local.0", "local.norm": "attn.v_local.1", "bias": "attn.attention_biases",
            "projection.conv": "attn.proj.1", "projection.norm": "attn.proj.2",
        },
        "efficientformerv2/timm": {
            "convolution.conv": "conv.conv", "convolution.norm": "conv.bn", "query_local": "attn.q.local",
            "query.conv": "attn.q.proj.conv", "query.norm": "attn.q.proj.bn",
            "key.conv": "attn.k.conv", "key.norm": "attn.k.bn", "value.conv": "attn.v.conv", "value.norm": "attn.v.bn",
            "local.conv": "attn.v_local.conv", "local.norm": "attn.v_local.bn", "bias": "attn.attention_biases",
            "projection.conv": "attn.proj.conv", "projection.norm": "attn.proj.bn",
        },
    }  # fmt: skip
    without_gradient: ClassVar[tuple[str, ...]] = ("key.conv.bias", "key.norm.bias")

    def __init__(self, spec: DualPathEmbedding, shape: Shape) -> None:
        # The table has the distances on the keys' grid. Queries stand at every second position of
        # it.
        super().__init__(spec.heads, (shape.height, shape.width), query_stride=2)
        channels = shape.channels
        keys = spec.heads * spec.key_dim
        values = spec.heads * spec.value_dim
        self.heads = spec.heads
        self.factor = spec.key_dim**-0.5
        self.convolution = ConvNorm(channels, spec.width, kernel=3, stride=2)
        self.query_local = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.query = ConvNorm(channels, keys)
        self.key = ConvNorm(channels, keys)
        self.value = ConvNorm(channels, values)
        self.local = ConvNorm(values, values, kernel=3, stride=2, groups=values)
        self.activation = ACTIVATIONS[spec.activation]()
        self.projection = ConvNorm(values, spec.width)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Queries at every second position: a strided depthwise convolution plus a pool of size 1,
        # which takes every second pixel. Keys and values stay at all positions.
        query = self.query(self.query_local(x_bchw) + F.avg_pool2d(x_bchw, kernel_size=1, stride=2))
        value = self.value(x_bchw)
        # Q (B, heads, D, N / 4), K (B, heads, D, N) and V (B, heads, V, N)
        q, k, v = (split_heads(x, self.heads) for x in (query, self.key(x_bchw), value))
        scores = q.transpose(2, 3) @ k * self.factor + self.bias_on(
            (x_bchw.shape[2], x_bchw.shape[3])
        )
        local = self.local(value)
        # (B, heads, V, N / 4) to (B, heads * V, H / 2, W / 2)
        mixed = (v @ scores.softmax(dim=3).transpose(2, 3)).reshape(local.shape) + local
        # The second path, a plain strided convolution, is the residual of the first.
        x_bchw = self.projection(self.activation(mixed)) + self.convolution(x_bchw)
        return x_bchw


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' code, by operation.

    Its `network` alternates stages (0, 2, 4, 6) and embeddings (1, 3, 5); the stem and the head
    stand at the top.
    """
    return stage_prefixes(
        operations, "network.{before}", "network.{stage}.{index}", stem="patch_embed"
    )


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    return stage_prefixes(
        operations, "stages.{number}.downsample", "stages.{number}.blocks.{index}"
    )


def _flat_scales(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a layer scale as (C,): the authors' are (C, 1, 1), ours and timm's (C,)."""
    return value.flatten() if name.endswith("scale") else value


def _high_scales(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_flat_scales`."""
    return value[:, None, None] if name.endswith("scale") else value


LAYOUTS = (
    CheckpointLayout(
        "efficientformerv2/official",
        _official,
        ("attention_bias_idxs",),
        _flat_scales,
        _high_scales,
    ),
    CheckpointLayout("efficientformerv2/timm", _timm, ignored=("attention_bias_idxs",)),
)
