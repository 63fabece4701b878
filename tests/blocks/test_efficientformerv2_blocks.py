"""EfficientFormerV2's blocks: their equations written out again, slicing, bad input and export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import AttentionFFN, BlockSpec, ConvEmbedding, ConvFFN, DualPathEmbedding, Shape
from nas.blocks.build import build_block
from nas.blocks.module import BiasedBlock, Block, ConvNorm, fold
from nas.blocks.spec import ACTIVATIONS
from nas.supernet.slicing import slice_block

SHAPE = Shape(8, 4, 6)
SMALL = AttentionFFN(expansion=3, heads=2, key_dim=4, value_ratio=2)
BLOCKS = (
    ConvFFN(3),
    SMALL,
    replace(SMALL, stride=2),
    DualPathEmbedding(12, heads=2, key_dim=4, value_ratio=2),
)
GELU = F.gelu


def randomised(spec: BlockSpec, shape: Shape = SHAPE) -> Block:
    """The block in eval mode with every tensor away from where branches count for nothing."""
    torch.manual_seed(0)
    block = build_block(spec, shape).eval()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.3)
    return block


def conv_norm(part: ConvNorm, x: Tensor) -> Tensor:
    """A convolution with a border of zeros, then its batch norm written out."""
    conv = part.conv
    norm = part.norm
    y = F.conv2d(
        F.pad(x, [conv.kernel_size[0] // 2] * 4),
        conv.weight,
        conv.bias,
        conv.stride,
        groups=conv.groups,
    )
    y = (y - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + 1e-5).sqrt()
    return y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def ffn_by_hand(block: nn.Module, x: Tensor) -> Tensor:
    y = GELU(conv_norm(block.expand, x))
    y = conv_norm(block.project, GELU(conv_norm(block.middle, y)))
    return x + block.scale.view(-1, 1, 1) * y  # type: ignore[operator]


def scores_by_hand(block: Block, query: Tensor, key: Tensor, query_stride: int) -> Tensor:
    """Query by query and key by key, Q K^T / sqrt(d) + b: (B, heads, queries, keys)."""
    (height, width), (query_height, query_width) = key.shape[2:], query.shape[2:]
    heads = len(block.bias)
    q = query.unflatten(1, (heads, -1))
    k = key.unflatten(1, (heads, -1))
    scores = torch.empty(len(query), heads, query_height * query_width, height * width)
    for i in range(scores.shape[2]):
        for j in range(scores.shape[3]):
            (y, x), (key_y, key_x) = divmod(i, query_width), divmod(j, width)
            product = (q[:, :, :, y, x] * k[:, :, :, key_y, key_x]).sum(dim=2) / q.shape[2] ** 0.5
            bias = block.bias[:, abs(y * query_stride - key_y), abs(x * query_stride - key_x)]
            scores[:, :, i, j] = product + bias
    return scores


def mixed_by_hand(weights: Tensor, value: Tensor, size: torch.Size) -> Tensor:
    """Every query's mixture of the values as a map of the queries' size."""
    v = value.unflatten(1, (weights.shape[1], -1)).flatten(3)
    return torch.einsum("bhqk,bhdk->bhdq", weights, v).reshape(len(value), -1, *size)


def doubled(side: int) -> Tensor:
    """The matrix (2 side, side) of bilinear enlargement: an output's centre lies between those of
    two inputs."""
    matrix = torch.zeros(2 * side, side)
    for row in range(2 * side):
        position = (row + 0.5) / 2 - 0.5
        low = int(position // 1)
        for index, share in ((low, 1 - (position - low)), (low + 1, position - low)):
            matrix[row, min(max(index, 0), side - 1)] += share
    return matrix


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 5])
def test_conv_ffn_is_the_papers_equation(kernel: int) -> None:
    block = randomised(ConvFFN(3, kernel))
    x = torch.randn(SHAPE.tensor(2))
    torch.testing.assert_close(block(x), ffn_by_hand(block, x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_ffn_is_the_papers_equations(stride: int) -> None:
    block = randomised(replace(SMALL, stride=stride))
    x = torch.randn(SHAPE.tensor(2))
    small = conv_norm(block.reduce, x) if stride == 2 else x
    value = conv_norm(block.value, small)
    scores = scores_by_hand(
        block, conv_norm(block.query, small), conv_norm(block.key, small), query_stride=1
    )
    for talk, softmax in ((block.talk_before, True), (block.talk_after, False)):
        scores = torch.einsum("bhqk,gh->bgqk", scores, talk.weight[:, :, 0, 0]) + talk.bias.view(
            -1, 1, 1
        )
        scores = scores.softmax(dim=3) if softmax else scores
    y = mixed_by_hand(scores, value, small.shape[2:]) + conv_norm(block.local, value)
    if stride == 2:
        y = torch.einsum("yh,bchw,xw->bcyx", doubled(2), y, doubled(3))
    y = x + block.attention_scale.view(-1, 1, 1) * conv_norm(block.projection, GELU(y))
    torch.testing.assert_close(block(x), ffn_by_hand(block.ffn, y), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (5, 3)], ids=["even", "odd"])
def test_dual_path_embedding_is_the_papers_equations(size: tuple[int, int]) -> None:
    spec = DualPathEmbedding(12, heads=2, key_dim=4, value_ratio=2)
    block = randomised(spec, Shape(8, *size))
    x = torch.randn(2, 8, *size)
    local = block.query_local
    query = x[:, :, ::2, ::2] + F.conv2d(x, local.weight, local.bias, stride=2, padding=1, groups=8)
    query = conv_norm(block.query, query)
    value = conv_norm(block.value, x)
    scores = scores_by_hand(block, query, conv_norm(block.key, x), query_stride=2)
    y = mixed_by_hand(scores.softmax(dim=3), value, query.shape[2:]) + conv_norm(block.local, value)
    y = conv_norm(block.projection, GELU(y)) + conv_norm(block.convolution, x)
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("spec", BLOCKS[1:], ids=str)
def test_other_grids_are_taken_with_a_warning_and_as_if_built_for_them(spec: BlockSpec) -> None:
    """A table that is linear in the distance stays so when it is resized."""
    block = randomised(spec)
    other = randomised(spec, replace(SHAPE, height=8, width=10))
    assert isinstance(block, BiasedBlock) and isinstance(other, BiasedBlock)
    other.load_state_dict({**block.state_dict(), "bias": other.bias})
    for holder in (block, other):
        down, right = (torch.linspace(0, 1, side) for side in holder.bias.shape[1:])
        holder.bias.copy_((down[:, None] + 2 * right).expand_as(holder.bias))
    x = torch.randn(2, 8, 8, 10)
    with pytest.warns(UserWarning, match=r"resized from \(\d, \d\) to \(\d, \d+\)"):
        resized = block(x)
    torch.testing.assert_close(resized, other(x), rtol=1e-4, atol=1e-5)


SLICES: list[tuple[BlockSpec, BlockSpec, int]] = [
    (wide, narrow, channels)
    for wide in BLOCKS[:3]
    for narrow, channels in (
        (wide, 5),
        (replace(wide, expansion=2), 8),
        (replace(wide, expansion=1), 3),
        (replace(wide, activation="relu"), 8),
    )
] + [
    (BLOCKS[3], replace(BLOCKS[3], width=width), channels)
    for width, channels in ((12, 5), (7, 8), (7, 5))
]
"""A block on 8 channels, one that is cut out of it, and how many channels come into that."""


def channel_groups(spec: BlockSpec, channels: int) -> dict[str, int]:
    if isinstance(spec, DualPathEmbedding):
        return {"in": channels, "out": spec.width}
    return {"in": channels, "out": channels, "hidden": channels * spec.expansion}  # type: ignore[attr-defined]


@torch.no_grad()
@pytest.mark.parametrize("spec, narrow_spec, channels", SLICES, ids=str)
def test_a_slice_is_the_wide_block_with_the_other_channels_silent(
    spec: BlockSpec, narrow_spec: BlockSpec, channels: int
) -> None:
    """What is dropped is set to zero in the wide block; what stays must then come out as from the
    narrow one."""
    wide = randomised(spec)
    narrow = build_block(narrow_spec, replace(SHAPE, channels=channels)).eval()
    orders = {
        group: torch.randperm(count)
        for group, count in channel_groups(spec, SHAPE.channels).items()
    }
    if not isinstance(spec, DualPathEmbedding):
        orders["in"] = orders["out"]
    kept = {
        g: orders[g][:count].sort().values
        for g, count in channel_groups(narrow_spec, channels).items()
    }
    narrow.load_state_dict(
        slice_block(wide, narrow, {group: kept[group] for group in ("in", "out")}, orders)
    )

    silent = randomised(replace(spec, activation=narrow_spec.activation))  # type: ignore[attr-defined, call-arg]
    for name, tensor in silent.state_dict().items():
        for dim, axis in enumerate(silent.axes.get(name, ())):
            if isinstance(axis, str) and not name.endswith("running_var"):
                dropped = [index for index in range(tensor.shape[dim]) if index not in kept[axis]]
                tensor.index_fill_(dim, torch.tensor(dropped, dtype=torch.long), 0.0)
    x = torch.randn(SHAPE.tensor(2))
    alone = torch.zeros_like(x)
    alone[:, kept["in"]] = x[:, kept["in"]]
    torch.testing.assert_close(
        narrow(x[:, kept["in"]]), silent(alone)[:, kept["out"]], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("spec", BLOCKS, ids=str)
def test_export_of_the_deployed_block(spec: BlockSpec) -> None:
    """Folded and with a constant bias it still computes the same, in tensors that Core ML takes
    (rank 5 at most)."""
    block = randomised(spec)
    x = torch.randn(SHAPE.tensor())
    expected = block(x)
    block.deploy()
    fold(block)
    program = torch.export.export(block, (x,))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    ranks = [
        node.meta["val"].dim()
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    ]
    assert max(ranks) <= 5 and "aten.arange" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)


def test_all_activations_and_expansions_are_counted() -> None:
    for activation in ACTIVATIONS:
        for expansion in (2, 3, 4):
            spec = AttentionFFN(expansion, heads=2, key_dim=4, stride=2, activation=activation)  # type: ignore[arg-type]
            assert spec.params(SHAPE) == sum(
                p.numel() for p in build_block(spec, SHAPE).parameters()
            )
            names = [layer.name for layer in spec.layers(SHAPE) if layer.kind == "activation"]
            assert names == [activation] * 3


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: ConvFFN(0), "expansion 0 must be at least 0.25"),
        (lambda: ConvFFN(kernel=4), "kernel 4 must be odd"),
        (lambda: AttentionFFN(expansion=0), "expansion 0 must be at least 0.25"),
        (lambda: AttentionFFN(stride=0), "stride 0 must be at least 1"),
        (lambda: AttentionFFN(kernel=2), "kernel 2 must be odd"),
        (lambda: AttentionFFN(activation="tanh"), "activation 'tanh' is not one of"),  # type: ignore[arg-type]
        (
            lambda: AttentionFFN(stride=2).check(Shape(8, 7, 14)),
            "stride 2 does not divide the map 7x14",
        ),
        (lambda: DualPathEmbedding(0), "width 0 must be at least 1"),
        (lambda: DualPathEmbedding(8, key_dim=0), "key_dim 0 must be at least 1"),
    ],
)
def test_bad_input_gives_the_reason_in_one_line(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_any_map_fits_without_stride() -> None:
    AttentionFFN().check(Shape(8, 7, 9))
    assert DualPathEmbedding(12).output_shape(Shape(8, 7, 9)) == ConvEmbedding(12).output_shape(
        Shape(8, 7, 9)
    )
