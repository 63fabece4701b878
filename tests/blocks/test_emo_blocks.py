"""EMO's blocks: their equations written out again, the meta mobile block's special cases, slicing,
rank and export."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import IRMB, BlockSpec, EMOStem, IRMBDown, MapHead, Shape, from_dict, parse
from nas.blocks.build import build_block
from nas.blocks.module import Block, Repeated, fold
from nas.errors import InputError
from nas.space import Architecture, Stage
from nas.supernet.slicing import slice_block

GLOBAL = IRMB(2.5, 3, attention=True, head_dim=4, window=3, norm="layer", activation="gelu")
LOCAL = IRMB(2.5, 5)
SIZES = [(3, 3), (6, 6), (6, 9), (7, 5), (2, 8)]
"""One window, several, as many as the sides ask for, and three that need padding."""
ACT = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "hardswish": F.hardswish}


def randomised(spec: BlockSpec, shape: Shape) -> Block:
    """The block in eval mode and double precision, with every tensor away from where branches count
    for nothing."""
    torch.manual_seed(0)
    block = build_block(spec, shape).eval().double()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.4)
    return block


def image(channels: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.manual_seed(1), dtype=torch.float64)


def norm_by_hand(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    if "norm.running_mean" in weights:
        mean = weights["norm.running_mean"].view(-1, 1, 1)
        var = weights["norm.running_var"].view(-1, 1, 1)
        scale = weights["norm.weight"]
        shift = weights["norm.bias"]
    else:
        mean = x.mean(dim=1, keepdim=True)
        var = x.var(dim=1, keepdim=True, unbiased=False)
        scale = weights["norm.norm.weight"]
        shift = weights["norm.norm.bias"]
    return (x - mean) / (var + 1e-6).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def batch_norm_by_hand(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    statistics = (weights[f"{name}.running_mean"], weights[f"{name}.running_var"])
    return F.batch_norm(
        x, *statistics, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6
    )


def attention_by_hand(weights: dict[str, Tensor], spec: IRMB, x: Tensor) -> Tensor:
    """Window by window, each a strided slice of the padded map, head by head."""
    (height, width), channels = x.shape[2:], x.shape[1]
    rows = -(-height // spec.window)
    columns = -(-width // spec.window)
    x = F.pad(x, (0, columns * spec.window - width, 0, rows * spec.window - height))
    qk = F.conv2d(x, weights["queries_keys.weight"], weights["queries_keys.bias"])
    mixed = torch.empty_like(x)
    for row in range(rows):
        for column in range(columns):
            inside = [slice(row, None, rows), slice(column, None, columns)]
            for start in range(0, channels, spec.head_dim):
                queries = slice(start, start + spec.head_dim)
                keys = slice(channels + queries.start, channels + queries.stop)
                parts = ((qk, queries), (qk, keys), (x, queries))
                q, k, v = (
                    tensor[(slice(None), part, *inside)].flatten(2) for tensor, part in parts
                )
                scores = torch.einsum("bdi,bdj->bij", q, k) / spec.head_dim**0.5
                out = torch.einsum("bij,bdj->bdi", scores.softmax(dim=2), v)
                mixed[(slice(None), queries, *inside)] = out.unflatten(
                    2, (spec.window, spec.window)
                )
    return mixed[:, :, :height, :width]


def irmb_by_hand(weights: dict[str, Tensor], spec: IRMB, x: Tensor) -> Tensor:
    mixed = norm_by_hand(weights, x)
    if spec.attention:
        mixed = attention_by_hand(weights, spec, mixed)
    value = ACT[spec.activation](F.conv2d(mixed, weights["value.weight"], weights["value.bias"]))
    if spec.depthwise:
        local = F.conv2d(
            value, weights["local.conv.weight"], padding=spec.kernel // 2, groups=value.shape[1]
        )
        value = value + F.silu(batch_norm_by_hand(weights, "local.norm", local))
    return x + F.conv2d(value, weights["project.weight"])


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "spec",
    [
        GLOBAL,
        replace(GLOBAL, head_dim=8, norm="batch", activation="relu"),
        replace(GLOBAL, depthwise=False),
        LOCAL,
        replace(LOCAL, norm="layer"),
    ],
    ids=["global", "one head", "no depthwise", "local", "local layer norm"],
)
def test_irmb_is_the_published_equation(spec: IRMB, size: tuple[int, int]) -> None:
    block = randomised(spec, Shape(8, *size))
    x = image(8, size)
    torch.testing.assert_close(block(x), irmb_by_hand(block.state_dict(), spec, x))


@torch.no_grad()
def test_padded_positions_are_keys_as_published() -> None:
    """The authors pad without a mask: with queries and keys all alike, zeros are averaged in."""
    spec = replace(GLOBAL, norm="batch", expansion=1, depthwise=False, activation="relu")
    block = build_block(spec, Shape(4, 2, 2)).eval()
    block.queries_keys.weight.zero_()
    block.value.weight.copy_(torch.eye(4)[:, :, None, None])
    block.project.weight.copy_(torch.eye(4)[:, :, None, None])
    block.value.bias.zero_()
    torch.testing.assert_close(
        block(torch.ones(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 1 + 4 / 9), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 6), (7, 5)], ids=str)
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_irmb_down_has_neither_skip(norm: str, size: tuple[int, int]) -> None:
    spec = IRMBDown(6, 2.5, 5, norm, "gelu")  # type: ignore[arg-type]
    block = randomised(spec, Shape(8, *size))
    x = image(8, size)
    weights = block.state_dict()
    value = F.gelu(
        F.conv2d(norm_by_hand(weights, x), weights["value.weight"], weights["value.bias"])
    )
    assert value.shape[1] == 20  # the expansion is over the input's channels
    local = F.conv2d(value, weights["local.conv.weight"], stride=2, padding=2, groups=20)
    expected = F.conv2d(
        F.silu(batch_norm_by_hand(weights, "local.norm", local)), weights["project.weight"]
    )
    torch.testing.assert_close(block(x), expected)


@torch.no_grad()
def test_stem_is_the_published_equation() -> None:
    block = randomised(EMOStem(8), Shape(3, 8, 6))
    x = image(3, (8, 6))
    weights = block.state_dict()
    y = F.conv2d(x, weights["embed.conv.weight"], weights["embed.conv.bias"], stride=2, padding=1)
    y = F.conv2d(
        batch_norm_by_hand(weights, "embed.norm", y),
        weights["local.conv.weight"],
        padding=1,
        groups=8,
    )
    y = F.silu(batch_norm_by_hand(weights, "local.norm", y))
    squeezed = F.silu(
        F.linear(y.mean(dim=(2, 3)), weights["squeeze.weight"].flatten(1), weights["squeeze.bias"])
    )
    gate = torch.sigmoid(
        F.linear(squeezed, weights["excite.weight"].flatten(1), weights["excite.bias"])
    )
    torch.testing.assert_close(
        block(x), F.conv2d(y * gate[:, :, None, None], weights["project.weight"])
    )


# The meta mobile block: each of its special cases is some module that everybody knows


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def conv_norm_silu(channels: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-6), nn.SiLU())


@torch.no_grad()
def test_attention_off_is_the_inverted_residual_block() -> None:
    """Expansion, depthwise convolution (with a skip of its own) and linear projection, inside a
    skip."""
    block = randomised(IRMB(3, 5, activation="relu"), Shape(8, 7, 6))
    x = image(8, (7, 6))
    inverted = (
        Residual(
            nn.BatchNorm2d(8, eps=1e-6),
            nn.Conv2d(8, 24, 1),
            nn.ReLU(),
            Residual(conv_norm_silu(24, 5)),
            nn.Conv2d(24, 8, 1, bias=False),
        )
        .eval()
        .double()
    )
    inverted.load_state_dict(
        dict(zip(inverted.state_dict(), block.state_dict().values(), strict=True))
    )
    torch.testing.assert_close(block(x), inverted(x))


@torch.no_grad()
def test_depthwise_off_and_expansion_1_is_self_attention() -> None:
    """With the activation where it is the identity (its inputs all positive) and one head, torch's
    own attention."""
    spec = IRMB(
        1, attention=True, depthwise=False, head_dim=8, window=5, norm="layer", activation="relu"
    )
    block = randomised(spec, Shape(8, 5, 5))
    x = image(8, (5, 5))
    block.value.bias.fill_(100.0)
    attention = nn.MultiheadAttention(8, 1, batch_first=True).double()
    attention.in_proj_weight.copy_(
        torch.cat([block.queries_keys.weight, block.value.weight]).flatten(1)
    )
    attention.in_proj_bias.copy_(torch.cat([block.queries_keys.bias, block.value.bias]))
    attention.out_proj.weight.copy_(block.project.weight.flatten(1))
    attention.out_proj.bias.zero_()
    tokens = norm_by_hand(block.state_dict(), x).flatten(2).transpose(1, 2)
    mixed, _ = attention(tokens, tokens, tokens)
    torch.testing.assert_close(block(x), x + mixed.transpose(1, 2).reshape(x.shape))


@torch.no_grad()
def test_both_off_is_the_feed_forward_network() -> None:
    spec = IRMB(3, depthwise=False, norm="layer", activation="gelu")
    block = randomised(spec, Shape(8, 7, 6))
    x = image(8, (7, 6))
    ffn = Residual(
        nn.LayerNorm(8, eps=1e-6), nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8, bias=False)
    ).double()
    for theirs, ours in zip(ffn.state_dict().values(), block.state_dict().values(), strict=True):
        theirs.copy_(ours.view_as(theirs))
    expected = ffn(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), expected)


# Slicing


def cut(wide: Block, spec: BlockSpec, shape: Shape) -> tuple[Block, dict[str, Tensor]]:
    """The narrow block with the wide one's weights, and the channels that it kept of each group."""
    narrow = build_block(spec, shape).eval().double()
    sizes: dict[str, tuple[int, int]] = {}
    for name, tensor in narrow.state_dict().items():
        for dim, axis in enumerate(wide.axes.get(name, ())):
            group, times = (axis.group, axis.times) if isinstance(axis, Repeated) else (axis, 1)
            if group is not None:
                sizes[group] = (
                    wide.state_dict()[name].shape[dim] // times,
                    tensor.shape[dim] // times,
                )
    torch.manual_seed(2)
    orders = {group: torch.randperm(size) for group, (size, _) in sizes.items()}
    kept = {group: orders[group][:count].sort().values for group, (_, count) in sizes.items()}
    keep = {group: kept[group] for group in ("in", "out") if group in kept}
    narrow.load_state_dict(slice_block(wide, narrow, keep, orders))
    return narrow, kept


@torch.no_grad()
@pytest.mark.parametrize(
    "spec, width",
    [
        (replace(GLOBAL, expansion=1.5), 12),
        (GLOBAL, 8),
        (replace(GLOBAL, head_dim=6, window=2), 12),
        (replace(GLOBAL, expansion=2, head_dim=2, activation="relu"), 8),
        (replace(GLOBAL, attention=False), 12),
        (replace(GLOBAL, attention=False, expansion=2), 8),
    ],
    ids=["expansion", "width", "head_dim", "all", "local", "narrower local"],
)
def test_sliced_irmb_is_the_equation_on_the_kept_channels(spec: IRMB, width: int) -> None:
    wide = randomised(replace(GLOBAL, expansion=3), Shape(12, 5, 4))
    narrow, kept = cut(wide, spec, Shape(width, 5, 4))
    out = kept["out"]
    hidden = kept["hidden"]
    source = wide.state_dict()
    weights = {
        "norm.norm.weight": source["norm.norm.weight"][out],
        "norm.norm.bias": source["norm.norm.bias"][out],
        "value.weight": source["value.weight"][hidden][:, out],
        "value.bias": source["value.bias"][hidden],
        "local.conv.weight": source["local.conv.weight"][hidden],
        **{
            f"local.norm.{name}": source[f"local.norm.{name}"][hidden]
            for name in ("weight", "bias", "running_mean", "running_var")
        },
        "project.weight": source["project.weight"][out][:, hidden],
    }
    if spec.attention:
        q_and_k = source["queries_keys.weight"].view(2, 12, 12, 1, 1)[:, kept["keys"]][:, :, out]
        weights["queries_keys.weight"] = q_and_k.flatten(0, 1)
        weights["queries_keys.bias"] = (
            source["queries_keys.bias"].view(2, 12)[:, kept["keys"]].flatten()
        )
    x = image(width, (5, 4))
    torch.testing.assert_close(narrow(x), irmb_by_hand(weights, spec, x))


@torch.no_grad()
@pytest.mark.parametrize(
    "wide_spec, spec, channels, narrow_channels",
    [
        (IRMBDown(12, 4), IRMBDown(8, 4), 8, 8),
        (IRMBDown(12, 4), IRMBDown(12, 4), 8, 6),
        (IRMBDown(12, 4), IRMBDown(10, 2.5, activation="gelu"), 8, 4),
        (EMOStem(12), EMOStem(8), 3, 3),
    ],
    ids=["width", "input", "all", "stem"],
)
def test_sliced_entries_are_the_wide_ones_with_silenced_channels(
    wide_spec: BlockSpec, spec: BlockSpec, channels: int, narrow_channels: int
) -> None:
    wide = randomised(replace(wide_spec, activation=spec.activation), Shape(channels, 6, 6))  # type: ignore[attr-defined, call-arg]
    narrow, kept = cut(wide, spec, Shape(narrow_channels, 6, 6))
    for name, tensor in wide.state_dict().items():
        for dim, group in enumerate(wide.axes.get(name, ())):
            if group in kept:
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[kept[group]] = False
                tensor.index_fill_(dim, gone.nonzero().flatten(), 0.0)
    x = image(channels, (6, 6))
    given = x[:, kept["in"]] if "in" in kept else x
    torch.testing.assert_close(narrow(given), wide(x)[:, kept["out"]])


# Deployment


@torch.no_grad()
@pytest.mark.parametrize(
    "spec, shape",
    [
        (GLOBAL, Shape(8, 6, 9)),
        (GLOBAL, Shape(8, 7, 5)),
        (replace(GLOBAL, window=7), Shape(8, 14, 14)),
        (LOCAL, Shape(8, 6, 6)),
        (IRMBDown(12), Shape(8, 6, 6)),
        (EMOStem(), Shape(3, 8, 8)),
    ],
    ids=["dilated", "padded", "published", "local", "down", "stem"],
)
def test_exported_graph_has_no_tensor_of_more_than_five_dimensions(
    spec: BlockSpec, shape: Shape
) -> None:
    block = randomised(spec, shape)
    x = image(shape.channels, (shape.height, shape.width))
    expected = block(x)
    block.deploy()
    program = torch.export.export(fold(block), (x,)).run_decompositions()
    ranks = [
        node.meta["val"].dim()
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    ]
    assert max(ranks) == (5 if isinstance(spec, IRMB) and spec.attention else 4)
    targets = [str(node.target) for node in program.graph.nodes]
    assert not any(
        "batch_norm" in target for target in targets
    )  # all of them went into some convolution
    torch.testing.assert_close(program.module()(x), expected)


def test_batch_norm_before_an_attention_stays() -> None:
    """Padding stands between it and the convolution, so it is paid for, and not folded."""
    spec = replace(GLOBAL, norm="batch")
    shape = Shape(8, 7, 5)
    block = randomised(spec, shape)
    x = image(8, (7, 5))
    expected = block(x)
    block.deploy()
    torch.testing.assert_close(block(x), expected)
    assert isinstance(block.norm, nn.BatchNorm2d)
    assert (
        spec.layers(shape)[0].kind == "elementwise" and LOCAL.layers(shape)[0].kind == "folded_norm"
    )


# Specs


def test_hyperparameters_without_meaning_are_no_part_of_a_block() -> None:
    assert IRMB(head_dim=16) == IRMB(head_dim=20, window=14) and IRMB(window=14).head_dim == 0
    assert str(IRMB(3, 5, depthwise=False)) == str(IRMB(3, 3, depthwise=False))
    assert parse("irmb", str(GLOBAL)) == GLOBAL == from_dict(GLOBAL.to_dict())
    assert parse("irmb", str(LOCAL)) == LOCAL == from_dict(LOCAL.to_dict())
    assert str(IRMB(4)) == str(IRMB(4.0)) and "expansion=2.5;" in str(LOCAL)
    assert from_dict({"kind": "irmb", "expansion": 4, "head_dim": 8}) == IRMB(4.0)
    assert replace(GLOBAL, attention=False) == IRMB(2.5, 3, norm="layer", activation="gelu")


def test_attention_costs_grow_with_the_area() -> None:
    """A window's scores are 9x9 in each of two heads, however many windows there are; padding
    rounds them up."""
    for size, windows in [((6, 9), 6), ((12, 18), 24), ((5, 8), 6), ((2, 1), 1)]:
        softmax = next(layer for layer in GLOBAL.layers(Shape(8, *size)) if layer.kind == "softmax")
        assert softmax.read == softmax.written == windows * 2 * 9 * 9
    assert GLOBAL.macs(Shape(8, 12, 18)) == 4 * GLOBAL.macs(Shape(8, 6, 9))


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"kind": "irmb", "expansion": 0.1}, "expansion 0.1 must be at least 0.25"),
        ({"kind": "irmb", "expansion": float("nan")}, "expansion nan must be at least 0.25"),
        (
            {"kind": "irmb_down", "width": 8, "expansion": float("inf")},
            "expansion inf must be at least 0.25, and finite",
        ),
        ({"kind": "irmb", "kernel": 4}, "kernel 4 must be odd"),
        ({"kind": "irmb", "kernel": 0}, "kernel 0 must be at least 1"),
        ({"kind": "irmb", "attention": True, "head_dim": 0}, "head_dim 0 must be at least 1"),
        ({"kind": "irmb", "attention": True, "window": 0}, "window 0 must be at least 1"),
        ({"kind": "irmb", "norm": "none"}, "norm: Input should be 'batch' or 'layer'"),
        ({"kind": "irmb", "activation": "relu6"}, "activation"),
        ({"kind": "irmb_down"}, "width: is missing"),
        ({"kind": "irmb_down", "width": 0}, "width 0 must be positive"),
        ({"kind": "irmb_down", "width": 8, "kernel": 2}, "kernel 2 must be odd"),
        ({"kind": "emo_stem", "width": 0}, "width 0 must be positive"),
    ],
    ids=str,
)
def test_bad_specs_give_the_reason_in_one_line(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_dict(values)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_width_that_heads_do_not_divide_is_refused_with_the_position() -> None:
    head = MapHead(10, norm="layer", distillation=False)
    stages = (Stage(IRMBDown(30), (IRMB(), GLOBAL)),)
    with pytest.raises(
        InputError, match=r"stage1_block2: irmb .*: width 30 is not divisible by head_dim 4"
    ):
        Architecture("emo", (224, 224), stages, head, stem=EMOStem()).operations()
    local = (Stage(IRMBDown(30), (IRMB(), replace(GLOBAL, attention=False))),)
    assert Architecture("emo", (224, 224), local, head, stem=EMOStem()).params > 0
