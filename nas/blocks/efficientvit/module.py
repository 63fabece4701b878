"""EfficientViT (Cai et al., arXiv:2205.14756): multi-scale linear attention, its stem and its head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import ConvHead, DSConv, EfficientViTModule, EfficientViTStem, Operation, Shape
from nas.blocks.common.module import DSConvBlock, MBConvBlock, ResBlockBlock
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Block,
    CheckpointLayout,
    ConvNorm,
    NormalConv2d,
    Published,
    Repeated,
    conv_axes,
    init_linear,
    linear_axes,
    norm_axes,
    within,
)


def _stem_published(layout: str, conv: str, block: str) -> dict[str, str]:
    residual = {**DSConvBlock.published[layout], **ResBlockBlock.published[layout]}
    return {
        "conv": conv,
        **{f"block.{ours}": f"{block}.{theirs}" for ours, theirs in residual.items()},
    }


class EfficientViTStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/2, W/2); see `nas.blocks.EfficientViTStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("conv", None, "out"),
        **within("block", {**DSConvBlock.axes, **ResBlockBlock.axes}),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": _stem_published("efficientvit/official", "op_list.0", "op_list.1"),
        "efficientvit/timm": _stem_published("efficientvit/timm", "in_conv", "res0"),
    }

    def __init__(self, spec: EfficientViTStem, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, kernel=3, stride=2, bias=False)
        self.activation = ACTIVATIONS[spec.activation]()
        self.conv.apply(init_linear)
        residual = spec.residual
        inside = spec.output_shape(shape)
        self.block = (
            DSConvBlock(residual, inside)
            if isinstance(residual, DSConv)
            else ResBlockBlock(residual, inside)
        )

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.conv(x_bchw))
        x_bchw = self.block(x_bchw)
        return x_bchw


ATTENTION_EPS = 1e-15
"""What a token keeps that attends to nothing, so that it becomes zero."""

_STACKED = Repeated("keys", 3)


class LiteMLA(nn.Module):
    """Queries, keys and values at two scales, attended to within heads and projected: (B, C, H, W)
    to the same.

    The 3 C channels hold all queries, then all keys, then all values, heads one after the other
    within each; so the weights for one head dimension are those for another too, but for `grouped`,
    which mixes the channels of a head. The second scale is the first after a depthwise convolution
    and `grouped`.
    """

    axes: ClassVar[Axes] = {
        **conv_axes("qkv", "out", _STACKED),
        **conv_axes("depthwise", None, _STACKED),
        **conv_axes("grouped", "head_dim", _STACKED),
        **ConvNorm.axes("projection", Repeated("keys", 2), "out"),
    }

    def __init__(self, channels: int, head_dim: int, kernel: int) -> None:
        super().__init__()
        stacked = 3 * channels
        self.head_dim = head_dim
        self.qkv = NormalConv2d(channels, stacked, 1, bias=False)
        self.depthwise = NormalConv2d(
            stacked, stacked, kernel, padding=kernel // 2, groups=stacked, bias=False
        )
        # One group per head of the queries, of the keys and of the values: 3 C / d groups of d
        # channels.
        self.grouped = NormalConv2d(stacked, stacked, 1, groups=stacked // head_dim, bias=False)
        self.projection = ConvNorm(2 * channels, channels, bias=False, conv=NormalConv2d)

    @torch.no_grad()
    def fit_float16(self, tokens: int) -> None:
        """Make the sums over so many tokens fit float16, in place; the output stays the same.

        Numerator and denominator of linear attention are sums over all N tokens of products of
        queries and keys: about 65504, float16's largest number, at 14x14 tokens already. Queries
        and keys stand in both, so a factor on them cancels; they come from a convolution without
        bias through ReLU and convolutions without bias, so the factor can go into that
        convolution's weights. Queries and keys get 1 / sqrt(N) each, as a power of two, which loses
        no
        digit: sums become means.
        """
        # The first 2 C of the 3 C output channels are the queries and the keys.
        channels = self.qkv.out_channels // 3
        self.qkv.weight[: 2 * channels].mul_(2.0 ** -round(math.log2(tokens) / 2))

    def forward(self, x_bchw: Tensor) -> Tensor:
        batch, _, height, width = x_bchw.shape
        qkv_bchw = self.qkv(x_bchw)  # (B, 3 C, H, W)
        # Fig. 5: the second scale aggregates neighbours, each head's queries, keys and values apart.
        scales = (qkv_bchw, self.grouped(self.depthwise(qkv_bchw)))
        # Both scales' queries are one tensor, and so on: (B, 2 C, H, W) to (B, heads, d, N) with
        # 2 C / d heads.
        q, k, v = (
            torch.cat(parts, dim=1).reshape(batch, -1, self.head_dim, height * width)
            for parts in zip(*(scale.chunk(3, dim=1) for scale in scales), strict=True)
        )
        mixed = _in_fp32(q, k, v).reshape(batch, -1, height, width)  # (B, 2 C, H, W)
        y_bchw: Tensor = self.projection(mixed)
        return y_bchw


def _in_fp32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return `attend`, computed in fp32 under half precision and autocast.

    Sums over all tokens overflow fp16.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    device = q.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        # A cast alone would not help: autocast casts the inputs of matrix products back to half
        # precision.
        with torch.autocast(device, enabled=False):
            return attend(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)
    return attend(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return ReLU attention of q, k and v, (B, heads, d, N) each.

    The form is the one that is published for this number of tokens.

    EfficientViT (arXiv:2205.14756), Eq. 2. Both forms are equal but for rounding; beyond d tokens
    the linear one takes fewer products.
    """
    return (
        linear(q.relu(), k.relu(), v)
        if q.shape[3] > q.shape[2]
        else quadratic(q.relu(), k.relu(), v)
    )


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return (V K^T) Q over (1 K^T) Q; products grow with N.

    The ones are one more row of V. q and k are not negative.
    """
    # Eq. 2 from right to left: (d + 1, N) (N, d) first, so that no N x N matrix is made. The row of
    # ones gives the denominator in the same product.
    sums = F.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(2, 3)  # (B, heads, d + 1, d)
    mixed = sums @ q  # (B, heads, d + 1, N)
    return mixed[:, :, :-1] / (mixed[:, :, -1:] + ATTENTION_EPS)


def quadratic(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return V (K^T Q), with each column of K^T Q divided by its sum; products grow with N^2.

    q and k are not negative.
    """
    scores = k.transpose(2, 3) @ q  # (B, heads, N, N), keys by queries
    return v @ (scores / (scores.sum(dim=2, keepdim=True) + ATTENTION_EPS))


_ATTENTION = {
    "attention.qkv": "context_module.main.qkv.conv",
    "attention.depthwise": "context_module.main.aggreg.0.0",
    "attention.grouped": "context_module.main.aggreg.0.1",
    "attention.projection": "context_module.main.proj",
}


def _module_published(layout: str) -> dict[str, str]:
    local = MBConvBlock.published[layout]
    return {
        **_ATTENTION,
        **{f"local.{ours}": f"local_module.{theirs}" for ours, theirs in local.items()},
    }


class EfficientViTModuleBlock(Block):
    """Linear attention and MBConv on (B, C, H, W), both residual; see
    `nas.blocks.EfficientViTModule`."""

    axes: ClassVar[Axes] = {
        **within("attention", LiteMLA.axes),
        **within("local", MBConvBlock.axes),
    }
    published: ClassVar[Published] = {
        layout: _module_published(layout) for layout in MBConvBlock.published
    }
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = (LiteMLA,)

    def __init__(self, spec: EfficientViTModule, shape: Shape) -> None:
        super().__init__()
        self.attention = LiteMLA(shape.channels, spec.head_dim, spec.kernel)
        self.local = MBConvBlock(spec.local, shape)
        self._tokens = shape.tokens

    def fit_float16(self) -> None:
        self.attention.fit_float16(self._tokens)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.residual(x_bchw, self.attention(x_bchw))
        x_bchw = self.local(x_bchw)
        return x_bchw


class ConvHeadBlock(Block):
    """(B, C, H, W) to (B, classes); see `nas.blocks.ConvHead`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("conv", "in", "hidden"),
        **linear_axes("expand", "hidden", "features"),
        **norm_axes("norm", "features"),
        **linear_axes("classifier", "features", None),
    }
    published: ClassVar[Published] = {
        "efficientvit/official": {
            "conv": "op_list.0",
            "expand": "op_list.2.linear",
            "norm": "op_list.2.norm",
            "classifier": "op_list.3.linear",
        },
        "efficientvit/timm": {
            "conv": "in_conv",
            "expand": "classifier.0",
            "norm": "classifier.1",
            "classifier": "classifier.4",
        },
    }

    def __init__(self, spec: ConvHead, shape: Shape) -> None:
        super().__init__()
        self.conv = ConvNorm(shape.channels, spec.width, bias=False)
        self.expand = nn.Linear(spec.width, spec.features, bias=False)
        self.norm = nn.LayerNorm(spec.features)
        self.activation = ACTIVATIONS[spec.activation]()
        self.classifier = nn.Linear(spec.features, spec.classes)
        self.apply(init_linear)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # (B, C, H, W) to (B, width, H, W) to (B, width), then (B, features).
        features = self.activation(self.conv(x_bchw)).mean(dim=(2, 3))
        features = self.activation(self.norm(self.expand(features)))
        logits: Tensor = self.classifier(features)
        return logits


NORM_EPS, LARGE_NORM_EPS = 1e-5, 1e-7
"""Of all our batch norms, and of those of the published L series."""
_STACKED_PER_HEAD = ("attention.qkv.", "attention.depthwise.", "attention.grouped.")


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' code, by operation.

    In the B series the stem stands apart; in the L series it is stage 0.
    """
    first_spec = operations[0].spec
    large = isinstance(first_spec, EfficientViTStem) and first_spec.block == "res_block"
    stem, first = ("backbone.stages.0", 1) if large else ("backbone.input_stem", 0)
    return _prefixes(operations, stem, "backbone.stages.{stage}.op_list.{index}", first)


def _timm(operations: Sequence[Operation]) -> dict[str, str]:
    return _prefixes(operations, "stem", "stages.{stage}.blocks.{index}", first=0)


def _prefixes(operations: Sequence[Operation], stem: str, block: str, first: int) -> dict[str, str]:
    """Return the prefixes by operation, from templates.

    Stages are counted from `first`, and in each of them its entry is block 0.
    """
    prefixes = {"stem": stem, "head": "head"}
    stage = first - 1
    index = 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        stage, index = (stage + 1, 0) if operation.name.endswith("_entry") else (stage, index + 1)
        prefixes[operation.name] = block.format(stage=stage, index=index)
    return prefixes


def _convert(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return a published tensor as our block has it.

    Queries, keys and values are taken out of their heads. In the L series variances change for our
    eps in place of theirs.

    The L series, which is the one with GELU, runs with an eps of 1e-7; in eval mode a batch norm
    depends on the sum of variance and eps alone.
    """
    if isinstance(operation.spec, EfficientViTModule) and name.startswith(_STACKED_PER_HEAD):
        return _unmix(value, operation.spec.head_dim)
    if name.endswith("running_var") and getattr(operation.spec, "activation", "") == "gelu_tanh":
        return value.float() + (LARGE_NORM_EPS - NORM_EPS)
    return value


def _unmix(value: Tensor, head_dim: int) -> Tensor:
    """Return the published tensor with its channels in our order.

    Published are queries, keys and values of each head in turn; ours are all queries, all keys, all
    values.
    """
    # A tensor of another size is left as it is: the comparison with our shapes reports it.
    if len(value) % (3 * head_dim):
        return value
    # (heads * 3 * d, ...) to (heads, 3, d, ...) to (3, heads, d, ...) to (3 * heads * d, ...)
    return value.reshape(-1, 3, head_dim, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


def _publish(operation: Operation, name: str, value: Tensor) -> Tensor:
    """Return the inverse of `_convert`."""
    if isinstance(operation.spec, EfficientViTModule) and name.startswith(_STACKED_PER_HEAD):
        return _mix(value, operation.spec.head_dim)
    if name.endswith("running_var") and getattr(operation.spec, "activation", "") == "gelu_tanh":
        return value.float() - (LARGE_NORM_EPS - NORM_EPS)
    return value


def _mix(value: Tensor, head_dim: int) -> Tensor:
    """Return the inverse of `_unmix`."""
    return value.reshape(3, -1, head_dim, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


LAYOUTS = (
    CheckpointLayout("efficientvit/official", _official, convert=_convert, publish=_publish),
    CheckpointLayout("efficientvit/timm", _timm, convert=_convert, publish=_publish),
)
