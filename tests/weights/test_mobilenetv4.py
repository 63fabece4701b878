"""MobileNetV4's published members: their sizes, and their outputs against timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import seeded
import torch
from recorded import assert_recorded
from torch import Tensor, nn

import nas
from nas.blocks.module import fold

FOLDER = Path(seeded.__file__).parent / "mobilenetv4"
SPACE = nas.load_space("mobilenetv4")
EVERY_MEMBER = pytest.mark.parametrize("name", SPACE.published)
PARAMETERS = {
    "mobilenetv4_conv_s": 3_774_024,
    "mobilenetv4_conv_m": 9_715_512,
    "mobilenetv4_conv_l": 32_590_864,
    "mobilenetv4_hybrid_m": 11_074_648,
    "mobilenetv4_hybrid_l": 37_764_624,
}
MACS = {
    ("mobilenetv4_conv_s", 224): 0.1860,
    ("mobilenetv4_conv_m", 224): 0.8276,
    ("mobilenetv4_conv_m", 256): 1.0802,
    ("mobilenetv4_conv_l", 224): 2.1713,
    ("mobilenetv4_conv_l", 384): 6.3762,
    ("mobilenetv4_hybrid_m", 224): 0.9663,
    ("mobilenetv4_hybrid_m", 256): 1.2712,
    ("mobilenetv4_hybrid_l", 224): 2.5496,
    ("mobilenetv4_hybrid_l", 384): 7.7119,
}
"""10^9 multiply-accumulates at 224 pixels and at the paper's size, counted on timm 1.0.31."""
PARTS = {
    "mobilenetv4_conv_s": (928, 10_368, 34_112, 272_160, 819_296),
    "mobilenetv4_conv_m": (928, 43_360, 59_552, 1_521_040, 5_330_592),
    "mobilenetv4_conv_l": (696, 25_632, 113_904, 3_216_288, 26_228_544),
    "mobilenetv4_hybrid_m": (928, 43_360, 59_712, 1_947_920, 6_262_688),
    "mobilenetv4_hybrid_l": (696, 25_632, 114_096, 3_901_152, 30_717_248),
}
"""Parameters of the stem and of each stage, counted on timm 1.0.31."""
PRODUCTS = {
    ("mobilenetv4_hybrid_m", 224): 0.0246,
    ("mobilenetv4_hybrid_m", 256): 0.0419,
    ("mobilenetv4_hybrid_l", 224): 0.0393,
    ("mobilenetv4_hybrid_l", 384): 0.3397,
}
"""10^9 multiply-accumulates of the products of queries, keys and values."""


def checkpoint(name: str) -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(FOLDER / f"{name}.timm.csv"))


@EVERY_MEMBER
def test_parameters_are_those_of_timm(name: str) -> None:
    arch = SPACE.published[name]
    assert arch.params == PARAMETERS[name]
    parts = dict.fromkeys(("stem", "stage1", "stage2", "stage3", "stage4", "head"), 0)
    for operation in arch.operations():
        parts[operation.name.partition("_")[0]] += operation.params
    assert tuple(parts.values())[:-1] == PARTS[name]


@pytest.mark.parametrize(("name", "side"), MACS)
def test_macs_are_those_of_timm(name: str, side: int) -> None:
    assert f"{SPACE.published[name].at(side).macs / 1e9:.4f}" == f"{MACS[name, side]:.4f}"


@pytest.mark.parametrize(("name", "side"), PRODUCTS)
def test_products_of_attention_are_those_of_timm(name: str, side: int) -> None:
    products = sum(
        layer.macs
        for operation in SPACE.published[name].at(side).operations()
        for layer in operation.spec.layers(operation.input)
        if layer.kind == "matmul"
    )
    assert f"{products / 1e9:.4f}" == f"{PRODUCTS[name, side]:.4f}"


@EVERY_MEMBER
def test_output_equals_timms(name: str) -> None:
    """Before and after what only training needs is folded away."""
    assert_recorded(
        SPACE.published[name], checkpoint(name), "mobilenetv4/timm", FOLDER / f"{name}.timm.npz"
    )


@EVERY_MEMBER
def test_norms_that_deployment_keeps_stand_before_padding(name: str) -> None:
    """Those of attention with reduced keys, in stage 3 of the hybrids."""
    net = fold(nas.build(SPACE.published[name].at(64, 10)).eval().deploy())
    left = {path for path, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)}
    count = 4 if "hybrid" in name else 0
    assert len(left) == count
    assert all(path.startswith("stage3_") and path.endswith("attention.norm") for path in left)


def test_queries_come_apart_by_heads() -> None:
    """Channel c of head h is published at h d + c, in the queries and before the projection."""
    weights = checkpoint("mobilenetv4_hybrid_l")
    net = nas.build(SPACE.published["mobilenetv4_hybrid_l"])
    nas.import_weights(net, weights)
    # Position 7 is the first with attention, behind the entry and six bottlenecks.
    attention = net.stage3_block7.attention
    query = weights["blocks.2.7.attn.query.proj.weight"]
    projection = weights["blocks.2.7.attn.output.proj.weight"]
    for head, channel in ((0, 0), (1, 5), (7, 47)):
        there = 48 * head + channel
        assert torch.equal(attention.query.weight[head, channel], query[there])
        assert torch.equal(attention.projection.weight[:, head, channel], projection[:, there])


def test_checkpoint_of_another_member_is_refused() -> None:
    with torch.device("meta"):
        net = nas.build(SPACE.published["mobilenetv4_conv_m"])
    for other in ("mobilenetv4_conv_s", "mobilenetv4_conv_l", "mobilenetv4_hybrid_m"):
        with pytest.raises(nas.InputError, match=r"the checkpoint .*is of another architecture"):
            nas.import_weights(net, checkpoint(other))
