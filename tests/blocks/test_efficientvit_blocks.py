"""EfficientViT's blocks: their equations written out again, half precision, slicing, bad input,
rank and export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.blocks import (
    BlockSpec,
    ConvHead,
    DSConv,
    EfficientViTModule,
    EfficientViTStem,
    FusedMBConv,
    FusedMBConvDown,
    MBConv,
    MBConvDown,
    ResBlock,
    Shape,
    from_dict,
)
from nas.blocks.build import build_block
from nas.blocks.efficientvit.module import LiteMLA, attend, linear, quadratic
from nas.blocks.module import Block, Repeated, fold
from nas.errors import InputError
from nas.space import Architecture, Stage
from nas.supernet.slicing import slice_block

ACT = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "hardswish": F.hardswish,
}
CONVOLUTIONAL: list[BlockSpec] = [
    DSConv(5),
    DSConv(activation="relu"),
    ResBlock(2, activation="gelu_tanh"),
    MBConv(3, 5),
    MBConv(2, fewer_norm=True),
    MBConvDown(12, 3),
    MBConvDown(6, 2, fewer_norm=True, activation="silu"),
    FusedMBConv(3),
    FusedMBConvDown(12, 2),
]
GLOBAL = EfficientViTModule(2, head_dim=4)


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


def conv_by_hand(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution with as many groups as its weight says, then its batch norm if it has one."""
    weight = weights[f"{name}.conv.weight"]
    groups = x.shape[1] // weight.shape[1]
    x = F.conv2d(
        x, weight, weights.get(f"{name}.conv.bias"), stride, weight.shape[2] // 2, groups=groups
    )
    if f"{name}.norm.weight" not in weights:
        return x
    mean, var, scale, shift = (
        weights[f"{name}.norm.{vector}"][:, None, None]
        for vector in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def block_by_hand(weights: dict[str, Tensor], spec: BlockSpec, x: Tensor) -> Tensor:
    """One convolution after the other with the activation between them, the depthwise or first one
    strided."""
    names = dict.fromkeys(name.partition(".")[0] for name in weights)
    stride = 2 if hasattr(spec, "width") else 1
    hidden = x
    strided = "depthwise" if "depthwise" in names else next(iter(names))
    for index, name in enumerate(names):
        hidden = conv_by_hand(weights, name, hidden, stride if name == strided else 1)
        if index < len(names) - 1:
            hidden = ACT[spec.activation](hidden)  # type: ignore[attr-defined]
    return hidden if hasattr(spec, "width") else x + hidden


@torch.no_grad()
@pytest.mark.parametrize("spec", CONVOLUTIONAL, ids=lambda spec: f"{spec.kind}({spec})")
def test_convolutional_blocks_are_their_equations(spec: BlockSpec) -> None:
    block = randomised(spec, Shape(8, 7, 6))
    x = image(8, (7, 6))
    torch.testing.assert_close(block(x), block_by_hand(block.state_dict(), spec, x))


@pytest.mark.parametrize("fewer_norm", [True, False])
def test_fewer_norm_leaves_a_norm_behind_the_last_convolution_alone(fewer_norm: bool) -> None:
    names = build_block(MBConv(fewer_norm=fewer_norm), Shape(8, 4, 4)).state_dict()
    assert {name for name in names if name.endswith("conv.bias")} == (
        {"expand.conv.bias", "depthwise.conv.bias"} if fewer_norm else set()
    )
    norms = {name.partition(".")[0] for name in names if "norm" in name}
    assert norms == ({"project"} if fewer_norm else {"expand", "depthwise", "project"})


@torch.no_grad()
@pytest.mark.parametrize("kind, series", [("dsconv", "hardswish"), ("res_block", "gelu_tanh")])
def test_stem_is_a_strided_convolution_and_a_block(kind: str, series: str) -> None:
    spec = EfficientViTStem(8, kind, series)  # type: ignore[arg-type]
    block = randomised(spec, Shape(3, 8, 6))
    x = image(3, (8, 6))
    weights = block.state_dict()
    inside = {
        name.removeprefix("block."): t for name, t in weights.items() if name.startswith("block.")
    }
    entered = ACT[series](conv_by_hand(weights, "conv", x, stride=2))
    torch.testing.assert_close(block(x), block_by_hand(inside, spec.residual, entered))
    assert spec.output_shape(Shape(3, 8, 6)) == Shape(8, 4, 3)


@torch.no_grad()
def test_head_is_its_equation() -> None:
    block = randomised(ConvHead(5, 12, 10, "gelu_tanh"), Shape(8, 3, 2))
    x = image(8, (3, 2))
    weights = block.state_dict()
    features = (
        ACT["gelu_tanh"](conv_by_hand(weights, "conv", x)).mean(dim=(2, 3))
        @ weights["expand.weight"].T
    )
    features = F.layer_norm(features, (10,), weights["norm.weight"], weights["norm.bias"])
    expected = (
        ACT["gelu_tanh"](features) @ weights["classifier.weight"].T + weights["classifier.bias"]
    )
    torch.testing.assert_close(block(x), expected)


def attention_by_hand(weights: dict[str, Tensor], head_dim: int, x: Tensor) -> Tensor:
    """Eq. 2, head by head and query by query: a mean of the values, weighted by ReLU(q) ReLU(k)."""
    channels = x.shape[1]
    first = F.conv2d(x, weights["qkv.weight"])
    kernel = weights["depthwise.weight"].shape[2]
    second = F.conv2d(first, weights["depthwise.weight"], padding=kernel // 2, groups=3 * channels)
    runs = [
        torch.einsum(
            "bchw,oc->bohw",
            second[:, start : start + head_dim],
            weights["grouped.weight"][start : start + head_dim, :, 0, 0],
        )
        for start in range(0, 3 * channels, head_dim)
    ]
    mixed = []
    for scale in (first, torch.cat(runs, dim=1)):
        queries, keys, values = scale.split(channels, dim=1)
        for start in range(0, channels, head_dim):
            q, k, v = (
                part[:, start : start + head_dim].flatten(2) for part in (queries, keys, values)
            )
            out = torch.zeros_like(v)
            for token in range(q.shape[2]):
                similarity = (q[:, :, token, None].clamp(min=0) * k.clamp(min=0)).sum(dim=1)
                out[:, :, token] = (v * similarity[:, None]).sum(dim=2) / (
                    similarity.sum(dim=1)[:, None] + 1e-15
                )
            mixed.append(out.unflatten(2, x.shape[2:]))
    return conv_by_hand(weights, "projection", torch.cat(mixed, dim=1))


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [(5, 3), (2, 2), (1, 3)], ids=["linear", "quadratic", "quadratic, fewer"]
)
@pytest.mark.parametrize(
    "spec",
    [GLOBAL, EfficientViTModule(3, 4, kernel=3, fewer_norm=False, activation="silu")],
    ids=str,
)
def test_module_is_the_papers_equation(spec: EfficientViTModule, size: tuple[int, int]) -> None:
    block = randomised(spec, Shape(12, *size))
    x = image(12, size)
    weights: dict[str, dict[str, Tensor]] = {"attention": {}, "local": {}}
    for name, tensor in block.state_dict().items():
        part, _, rest = name.partition(".")
        weights[part][rest] = tensor
    middle = x + attention_by_hand(weights["attention"], 4, x)
    torch.testing.assert_close(block(x), block_by_hand(weights["local"], spec.local, middle))


@pytest.mark.parametrize("tokens", [3, 8, 9, 50])
def test_both_forms_of_the_attention_are_equal(tokens: int) -> None:
    q, k, v = torch.randn(
        3, 2, 5, 8, tokens, generator=torch.manual_seed(2), dtype=torch.float64
    ).unbind()
    torch.testing.assert_close(linear(q.relu(), k.relu(), v), quadratic(q.relu(), k.relu(), v))
    chosen = linear if tokens > 8 else quadratic
    assert torch.equal(attend(q, k, v), chosen(q.relu(), k.relu(), v))


@pytest.mark.parametrize("form", [linear, quadratic])
def test_a_query_that_attends_to_nothing_becomes_zero(
    form: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    q, k, v = torch.rand(3, 1, 1, 4, 6).unbind()
    q[..., 2] = 0.0
    mixed = form(q, k, v)
    assert mixed.isfinite().all() and not mixed[..., 2].any() and mixed[..., 3].all()


@torch.no_grad()
@pytest.mark.parametrize("mode", ["autocast", "half weights"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("size", [(12, 12), (3, 3)], ids=["linear", "quadratic"])
def test_large_activations_survive_half_precision(
    dtype: torch.dtype, mode: str, size: tuple[int, int]
) -> None:
    """Queries, keys and values in the thousands: their sums go beyond 65504, the largest number of
    fp16."""
    torch.manual_seed(0)
    attention = LiteMLA(32, 16, kernel=5).eval()
    for conv in (attention.depthwise, attention.grouped, attention.projection.conv):
        conv.weight.normal_(std=0.2)
    attention.qkv.weight.normal_(std=1.0)
    x = torch.randn(1, 32, *size) * 300
    qkv = attention.qkv(x)
    assert 1000 < qkv.abs().max() < 20_000
    expected = attention(x)
    q, k, v = (part.unflatten(1, (-1, 16)).flatten(3) for part in qkv.half().chunk(3, dim=1))
    form = linear if size == (12, 12) else quadratic
    assert not form(q.relu(), k.relu(), v).isfinite().all(), (
        "fp16 alone would do here, so that this shows nothing"
    )
    if mode == "autocast":
        with torch.autocast("cpu", dtype=dtype):
            found = attention(x)
    else:
        found = attention.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    difference = (found.float() - expected).abs().max() / expected.abs().max()
    assert difference < (0.01 if dtype == torch.float16 else 0.05)


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
    torch.manual_seed(3)
    orders = {group: torch.randperm(size) for group, (size, _) in sizes.items()}
    kept = {group: orders[group][:count].sort().values for group, (_, count) in sizes.items()}
    keep = {group: kept[group] for group in ("in", "out") if group in kept}
    narrow.load_state_dict(slice_block(wide, narrow, keep, orders))
    return narrow, kept


@torch.no_grad()
@pytest.mark.parametrize(
    "wide_spec, spec, channels, narrow_channels",
    [
        (DSConv(), DSConv(), 12, 8),
        (ResBlock(2), ResBlock(1), 8, 8),
        (ResBlock(), ResBlock(), 12, 8),
        (MBConv(4), MBConv(2), 8, 8),
        (MBConv(4, fewer_norm=True), MBConv(3, fewer_norm=True), 12, 8),
        (MBConvDown(12, 4), MBConvDown(12, 2), 8, 8),
        (MBConvDown(12, 4), MBConvDown(8, 3), 8, 6),
        (FusedMBConv(4), FusedMBConv(3), 12, 8),
        (FusedMBConvDown(12, 4), FusedMBConvDown(8, 3), 8, 6),
        (EfficientViTStem(12), EfficientViTStem(8), 3, 3),
        (EfficientViTStem(12, "res_block"), EfficientViTStem(8, "res_block"), 3, 3),
        (ConvHead(5, 16, 10), ConvHead(5, 12, 10), 8, 6),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else value.kind,
)
def test_sliced_blocks_are_the_wide_ones_with_silenced_channels(
    wide_spec: BlockSpec, spec: BlockSpec, channels: int, narrow_channels: int
) -> None:
    wide = randomised(wide_spec, Shape(channels, 6, 6))
    narrow, kept = cut(wide, spec, Shape(narrow_channels, 6, 6))
    for name, tensor in wide.state_dict().items():
        for dim, group in enumerate(wide.axes.get(name, ())):
            if group in kept:
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[kept[group]] = False
                tensor.index_fill_(dim, gone.nonzero().flatten(), 0.0)
    x = image(channels, (6, 6))
    entering = "in" if "in" in kept else "out" if channels > 3 else None
    given = x[:, kept[entering]] if entering else x
    torch.testing.assert_close(narrow(given), wide(x)[:, kept["out"]] if "out" in kept else wide(x))


@torch.no_grad()
@pytest.mark.parametrize(
    "expansion, head_dim, width", [(2, 8, 16), (4, 4, 16), (4, 8, 8), (1, 2, 8)]
)
def test_sliced_module_is_the_equation_on_the_kept_channels(
    expansion: int, head_dim: int, width: int
) -> None:
    wide = randomised(EfficientViTModule(4, head_dim=8), Shape(16, 5, 4))
    spec = EfficientViTModule(expansion, head_dim, activation="relu")
    narrow, kept = cut(wide, spec, Shape(width, 5, 4))
    out = kept["out"]
    keys = kept["keys"]
    source = wide.state_dict()
    stacked = torch.cat([keys, keys + 16, keys + 32])
    weights = {
        "qkv.weight": source["attention.qkv.weight"][stacked][:, out],
        "depthwise.weight": source["attention.depthwise.weight"][stacked],
        "grouped.weight": source["attention.grouped.weight"][stacked][:, kept["head_dim"]],
        "projection.conv.weight": source["attention.projection.conv.weight"][out][
            :, torch.cat([keys, keys + 16])
        ],
        **{
            f"projection.norm.{name}": source[f"attention.projection.norm.{name}"][out]
            for name in ("weight", "bias", "running_mean", "running_var")
        },
    }
    x = image(width, (5, 4))
    middle = x + attention_by_hand(weights, head_dim, x)
    local = {
        name.removeprefix("local."): t
        for name, t in narrow.state_dict().items()
        if name.startswith("local.")
    }
    expanded = source["local.expand.conv.weight"][kept["hidden"]][:, out]
    torch.testing.assert_close(local["expand.conv.weight"], expanded)
    torch.testing.assert_close(narrow(x), block_by_hand(local, spec.local, middle))


def test_head_dims_share_all_weights_but_the_mixing_of_a_heads_channels() -> None:
    wide = randomised(EfficientViTModule(head_dim=32), Shape(64, 4, 4))
    narrow, kept = cut(wide, EfficientViTModule(head_dim=16), Shape(64, 4, 4))
    shared = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        if name == "attention.grouped.weight":
            assert torch.equal(tensor, shared[name][:, kept["head_dim"]]) and tensor.shape == (
                192,
                16,
                1,
                1,
            )
        else:
            assert torch.equal(tensor, shared[name]), name


@torch.no_grad()
def test_narrower_head_keeps_its_features() -> None:
    wide = randomised(ConvHead(5, 16, 12), Shape(8, 3, 3))
    narrow, kept = cut(wide, ConvHead(5, 16, 8), Shape(8, 3, 3))
    before = wide.state_dict()
    after = narrow.state_dict()
    assert torch.equal(after["expand.weight"], before["expand.weight"][kept["features"]])
    assert torch.equal(after["norm.bias"], before["norm.bias"][kept["features"]])
    assert torch.equal(after["classifier.weight"], before["classifier.weight"][:, kept["features"]])
    assert torch.equal(after["classifier.bias"], before["classifier.bias"])


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: MBConv(0), "expansion 0 must be at least 0.25"),
        (lambda: MBConvDown(8, kernel=4), "kernel 4 must be odd"),
        (lambda: FusedMBConvDown(0), "width 0 must be positive"),
        (lambda: DSConv(2), "kernel 2 must be odd"),
        (lambda: ResBlock(activation="tanh"), "activation 'tanh' is not one of"),  # type: ignore[arg-type]
        (lambda: EfficientViTStem(8, "mbconv"), "block 'mbconv' is not one of dsconv, res_block"),  # type: ignore[arg-type]
        (lambda: EfficientViTModule(head_dim=0), "head_dim 0 must be at least 1"),
        (lambda: ConvHead(10, 0, 8), "width 0 must be positive"),
        (lambda: from_dict({"kind": "conv_head", "classes": 10}), "width: is missing"),
        (
            lambda: from_dict({"kind": "mbconv", "kernel": 2.5}),
            "kernel: Input should be a valid integer",
        ),
        (
            lambda: from_dict({"kind": "mbconv", "expansion": 0.1}),
            "expansion 0.1 must be at least 0.25",
        ),
        (lambda: GLOBAL.check(Shape(10, 4, 4)), "width 10 is not divisible by head_dim 4"),
    ],
)
def test_bad_hyperparameters_give_the_reason(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_width_that_no_head_fits_is_refused_with_its_place() -> None:
    stages = [Stage(MBConvDown(width), ()) for width in (8, 16, 24)] + [
        Stage(MBConvDown(40), (EfficientViTModule(),))
    ]
    arch = Architecture(
        "x", (64, 64), tuple(stages), ConvHead(10, 16, 16), "x", EfficientViTStem(8)
    )
    with pytest.raises(
        InputError, match=r"stage4_block1: .* width 40 is not divisible by head_dim 16"
    ):
        arch.operations()


@torch.no_grad()
@pytest.mark.parametrize(
    "spec, shape",
    [
        (GLOBAL, Shape(8, 4, 4)),
        (GLOBAL, Shape(8, 2, 2)),
        (MBConvDown(12, fewer_norm=True), Shape(8, 6, 6)),
        (FusedMBConv(), Shape(8, 6, 6)),
        (EfficientViTStem(8, "res_block", "gelu_tanh"), Shape(3, 8, 8)),
        (ConvHead(10, 12, 12), Shape(8, 4, 4)),
    ],
    ids=["linear", "quadratic", "mbconv_down", "fused_mbconv", "stem", "head"],
)
def test_exported_graph_has_no_tensor_of_more_than_four_dimensions(
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
    assert max(ranks) == 4
    targets = [str(node.target) for node in program.graph.nodes]
    assert not any(
        "batch_norm" in target for target in targets
    )  # all of them went into some convolution
    torch.testing.assert_close(program.module()(x), expected)


def test_products_of_the_module_grow_with_tokens_as_the_convolutions_do() -> None:
    """224 to 1024: the linear form keeps the products at a fixed share; the quadratic one is taken
    below head_dim."""
    spec = EfficientViTModule(head_dim=32)

    def products(side: int) -> int:
        return sum(
            layer.macs for layer in spec.layers(Shape(128, side, side)) if layer.kind == "matmul"
        )

    assert products(64) == 16 * products(16) == 2 * 2 * 128 * 33 * 64 * 64
    assert products(5) == 2 * 2 * 128 * 25 * 25
