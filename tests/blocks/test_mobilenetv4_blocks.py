"""MobileNetV4's blocks: parameters by formula, strides, attention, and slices of windows and heads."""

from __future__ import annotations

import pytest
import torch

import nas.blocks
from nas.blocks import Shape, from_dict
from nas.blocks.build import build_block
from nas.blocks.mobilenetv4.module import MultiQueryAttention, UIBBlock, UIBDownBlock
from nas.blocks.mobilenetv4.spec import UIB, ConvDown, UIBDown
from nas.supernet.slicing import slice_block
from nas.testing.blocks import check_block, randomised

KERNELS = (0, 3, 5)


@pytest.mark.parametrize("start", KERNELS)
@pytest.mark.parametrize("middle", KERNELS)
@pytest.mark.parametrize("scale", [False, True])
def test_parameters_of_a_bottleneck(start: int, middle: int, scale: bool) -> None:
    channels, hidden = 16, 48
    spec = UIB(3, start, middle, layer_scale=scale)
    expected = channels * hidden + 2 * hidden + hidden * channels + 2 * channels
    expected += (start**2 + 2) * channels * bool(start) + (middle**2 + 2) * hidden * bool(middle)
    assert spec.params(Shape(channels, 8, 8)) == expected + channels * scale


@pytest.mark.parametrize("stride", [1, 2])
def test_parameters_of_attention(stride: int) -> None:
    c, h, d = 16, 3, 4
    attentive = UIB(2, 3, 3, heads=h, head_dim=d, key_stride=stride)
    own = attentive.params(Shape(c, 8, 8)) - UIB(2, 3, 3).params(Shape(c, 8, 8))
    reduction = 2 * (9 * c + 2 * c) if stride == 2 else 0
    assert own == 2 * c + c * h * d + reduction + 2 * c * d + h * d * c + c


def test_without_attention_its_hyperparameters_are_zero() -> None:
    assert UIB(4, 3, 5) == UIB(4, 3, 5, heads=0, head_dim=32, key_stride=2)
    assert UIB(4, 3, 5).head_dim == UIB(4, 3, 5).key_stride == 0


@pytest.mark.parametrize(
    ("start", "middle", "strides"), [(3, 5, (1, 2)), (5, 0, (2, None)), (0, 3, (None, 2))]
)
def test_the_middle_depthwise_halves_the_map_where_there_is_one(
    start: int, middle: int, strides: tuple[int | None, int | None]
) -> None:
    block = build_block(UIBDown(8, 2, start, middle), Shape(4, 8, 8))
    assert isinstance(block, UIBDownBlock)
    found = [
        conv.conv.stride[0] if conv is not None else None for conv in (block.start, block.middle)
    ]
    assert tuple(found) == strides


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_that_of_the_paper(stride: int) -> None:
    """Head by head, query by query, from the equation."""
    heads, d, shape = 2, 4, Shape(8, 4, 6)
    spec = UIB(2, heads=heads, head_dim=d, key_stride=stride)
    block = randomised(spec, shape).eval()
    assert isinstance(block, UIBBlock)
    attention = block.attention
    assert isinstance(attention, MultiQueryAttention)
    x = torch.randn(1, 8, 4, 6)
    n = attention.norm(x)
    tokens = n.flatten(2)[0].T  # (N, C)
    keys, values = (part(n).flatten(2)[0].T for part in (attention.key, attention.value))
    assert len(keys) == shape.tokens // stride**2
    mixed = []
    for head in range(heads):
        query = tokens @ attention.query.weight[head, :, :, 0, 0].T  # (N, d)
        weights = (query @ keys.T / d**0.5).softmax(dim=1)
        mixed.append(weights @ values @ attention.projection.weight[:, head, :, 0, 0].T)
    expected = attention.scale * sum(mixed)
    torch.testing.assert_close(attention(x).flatten(2)[0].T, expected)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (UIB(4, 5, 5), UIB(2, 3, 3)),
        (UIB(4, 5, 5, layer_scale=True), UIB(3, 5, 3, layer_scale=True)),
        (
            UIB(3, 5, 3, heads=4, head_dim=4, key_stride=2),
            UIB(2, 3, 3, heads=2, head_dim=4, key_stride=2),
        ),
        (UIB(3, heads=4, head_dim=4), UIB(2, heads=1, head_dim=4)),
    ],
)
def test_slices_are_the_block_with_the_rest_silenced(wide: UIB, narrow: UIB) -> None:
    check_block(
        wide, Shape(16, 8, 8), [(narrow, Shape(16, 8, 8)), (narrow, Shape(8, 8, 8))], convert=False
    )


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (UIBDown(16, 4, 5, 5), UIBDown(12, 2, 3, 3)),
        (ConvDown(16, 4), ConvDown(12, 2)),
    ],
)
def test_slices_of_entries(wide: UIBDown | ConvDown, narrow: UIBDown | ConvDown) -> None:
    check_block(wide, Shape(8, 8, 8), [(narrow, Shape(6, 8, 8))], convert=False)


def test_a_smaller_window_is_the_centre_of_a_larger_one() -> None:
    shape = Shape(8, 8, 8)
    wide = build_block(UIB(2, 5, 5), shape)
    narrow = build_block(UIB(2, 3, 0), shape)
    sliced = slice_block(wide, narrow, {}, {})
    assert torch.equal(sliced["start.conv.weight"], wide.start.conv.weight[:, :, 1:4, 1:4])
    assert not any(name.startswith("middle") for name in sliced)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"kind": "uib", "start_kernel": 4}, "uib: start_kernel 4 must be odd, or 0 for no"),
        ({"kind": "uib", "middle_kernel": -3}, "uib: middle_kernel -3 must be odd, or 0 for no"),
        ({"kind": "uib", "expansion": 0}, "uib: expansion 0 must be at least 0.25"),
        ({"kind": "uib", "heads": -1}, "uib: heads -1 must not be negative"),
        ({"kind": "uib", "heads": 2, "head_dim": 0}, "uib: head_dim 0 must be at least 1"),
        ({"kind": "uib", "heads": 2, "key_stride": 3}, "uib: key_stride 3 must be 1 or 2"),
        (
            {"kind": "uib_down", "width": 8},
            "uib_down: start_kernel and middle_kernel are both 0, one of them must halve the map",
        ),
        ({"kind": "conv_down", "width": 8, "kernel": 2}, "conv_down: kernel 2 must be odd"),
    ],
)
def test_wrong_hyperparameters_are_named(block: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_dict(block)


def test_kinds_are_registered() -> None:
    kinds = {"uib", "uib_down", "conv_down", "mobilenetv4_stem", "mobilenetv4_head"}
    assert kinds <= nas.blocks.SPECS.keys()
