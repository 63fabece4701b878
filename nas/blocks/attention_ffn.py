"""EfficientFormerV2's global block."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks.attention_bias import BiasedBlock
from nas.blocks.base import Axes, Published, within
from nas.blocks.conv_ffn import ConvFFNBlock
from nas.blocks.layers import ACTIVATIONS, ConvNorm, layer_scale, split_heads
from nas.specs import AttentionFFN, Shape

_FFN = {
    layout: {f"ffn.{ours}": theirs for ours, theirs in names.items()}
    for layout, names in ConvFFNBlock.published.items()
}


class AttentionFFNBlock(BiasedBlock):
    """Talking-heads attention and feed-forward network on (B, C, H, W); see `nas.specs.AttentionFFN`."""

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

    def __init__(self, spec: AttentionFFN, shape: Shape) -> None:
        attended = shape.resized(spec.stride)
        super().__init__(spec.heads, (attended.height, attended.width))
        channels, keys, values = shape.channels, spec.heads * spec.key_dim, spec.heads * spec.value_dim
        self.heads, self.factor = spec.heads, spec.key_dim**-0.5
        self.reduce = ConvNorm(channels, channels, 3, spec.stride, channels) if spec.stride > 1 else None
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
        x_bchw = x_bchw + self.attention_scale[:, None, None] * self._attention(x_bchw)
        x_bchw = self.ffn(x_bchw)
        return x_bchw

    def _attention(self, x_bchw: Tensor) -> Tensor:
        attended = x_bchw if self.reduce is None else self.reduce(x_bchw)
        value = self.value(attended)
        q, k, v = (split_heads(x, self.heads) for x in (self.query(attended), self.key(attended), value))
        scores = q.transpose(2, 3) @ k * self.factor + self.bias_on((attended.shape[2], attended.shape[3]))
        weights = self.talk_after(self.talk_before(scores).softmax(dim=3))
        mixed = (v @ weights.transpose(2, 3)).reshape(value.shape) + self.local(value)
        if self.reduce is not None:
            mixed = F.interpolate(mixed, size=x_bchw.shape[2:], mode="bilinear")
        projected: Tensor = self.projection(self.activation(mixed))
        return projected
