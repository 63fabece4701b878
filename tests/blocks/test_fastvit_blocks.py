"""FastViT's blocks: parameters by formula in both forms, attention, and slices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nas.blocks
from nas.blocks import Shape, from_dict
from nas.blocks.build import build_block
from nas.blocks.fastvit.module import FastViTAttentionBlock, FastViTDownBlock
from nas.blocks.fastvit.spec import (
    FastViTAttention,
    FastViTDown,
    FastViTHead,
    FastViTStem,
    RepMixer,
)
from nas.blocks.module import fold
from nas.blocks.spec import BlockSpec
from nas.supernet.slicing import slice_block
from nas.testing.blocks import check_block, check_slice, randomised


def inference_params(spec: BlockSpec, shape: Shape) -> int:
    return sum(layer.params for layer in spec.deployed_layers(shape))


@pytest.mark.parametrize("ratio", [3, 4])
def test_parameters_of_blocks(ratio: int) -> None:
    """The formulas of the shared notes, checked there against the released definitions."""
    c = 64
    shape = Shape(c, 8, 8)
    ffn = 51 * c + (ratio * c**2 + ratio * c) + (ratio * c**2 + c) + c
    assert RepMixer(ratio).params(shape) == 19 * c + ffn
    assert inference_params(RepMixer(ratio), shape) == 10 * c + ffn
    attention = 2 * c + 3 * c**2 + (c**2 + c) + c
    assert FastViTAttention(ratio).params(shape) == attention + ffn
    encoding = FastViTAttention(ratio, encoding=7)
    assert encoding.params(shape) - FastViTAttention(ratio).params(shape) == 50 * c
    down = FastViTDown(2 * c)
    assert down.params(shape) == 62 * 2 * c + (2 * c) ** 2 + 4 * 2 * c


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (RepMixer(3, 5), Shape(12, 6, 6)),
        (FastViTDown(24, squeeze=True, middle_activation=True), Shape(12, 6, 6)),
        (FastViTStem(8), Shape(3, 16, 16)),
        (FastViTHead(10), Shape(16, 3, 3)),
        (FastViTAttention(2, 4, 7), Shape(8, 4, 4)),
    ],
)
def test_layers_in_inference_are_those_of_the_folded_block(spec: BlockSpec, shape: Shape) -> None:
    block = randomised(spec, shape).eval()
    block.deploy()
    fold(block)
    traced = spec.deployed_layers(shape)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in block.modules())
    found = sorted(
        part.weight.numel() for part in block.modules() if isinstance(part, nn.Conv2d | nn.Linear)
    )
    # A layer's weights are its parameters without a bias, one per output channel.
    positions = {layer.kind for layer in traced}
    assert "depthwise" in positions or "conv" in positions
    assert len(found) == sum(layer.kind in ("conv", "depthwise", "linear") for layer in traced)
    assert found == sorted(
        layer.macs // (layer.written // width)
        for layer, width in _widths(spec, shape)
        if layer.kind in ("conv", "depthwise", "linear")
    )


def _widths(spec: BlockSpec, shape: Shape) -> list[tuple[nas.blocks.Layer, int]]:
    """The layers in inference with their output channels, which a bias shows."""
    folded = build_block(spec, shape).eval()
    folded.deploy()
    fold(folded)
    layers = [
        layer
        for layer in spec.deployed_layers(shape)
        if layer.kind in ("conv", "depthwise", "linear")
    ]
    modules = [part for part in folded.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    widths = [part.weight.shape[0] for part in modules]
    return list(zip(layers, widths, strict=True))


@torch.no_grad()
def test_attention_is_that_of_the_paper() -> None:
    """Head by head, query by query."""
    heads, d, shape = 2, 4, Shape(8, 4, 6)
    block = randomised(FastViTAttention(2, head_dim=d), shape).eval()
    assert isinstance(block, FastViTAttentionBlock)
    x = torch.randn(1, 8, 4, 6)
    tokens = block.norm(x).flatten(2)[0].T  # (N, C)
    mixed = block.projection.bias
    for head in range(heads):
        q, k, v = (tokens @ block.qkv.weight[kind, head, :, :, 0, 0].T for kind in range(3))
        weights = (q @ k.T / d**0.5).softmax(dim=1)
        mixed = mixed + weights @ v @ block.projection.weight[:, head, :, 0, 0].T
    attended = x.flatten(2)[0].T + block.scale * mixed
    y = attended.T.reshape(1, 8, 4, 6)
    torch.testing.assert_close(block(x), y + block.ffn(y), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mixing_has_no_shortcut_left_in_inference() -> None:
    block = randomised(RepMixer(2), Shape(8, 6, 6)).eval()
    x = torch.randn(1, 8, 6, 6)
    mixing = block.mixing
    expected = x + mixing.scale[:, None, None] * (mixing.mixer(x) - mixing.norm(x))
    fold(block)
    assert type(block.mixing) is nn.Conv2d
    assert (block.mixing(x) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (RepMixer(4, 5, 7), RepMixer(3, 3, 5)),
        (RepMixer(3), RepMixer(3)),
    ],
)
def test_slices_are_the_block_with_the_rest_silenced(wide: RepMixer, narrow: RepMixer) -> None:
    check_block(
        wide, Shape(16, 8, 8), [(narrow, Shape(16, 8, 8)), (narrow, Shape(8, 8, 8))], convert=False
    )


def test_slices_of_attention() -> None:
    """A narrower one has fewer heads; one without an encoding lacks that part alone."""
    wide = FastViTAttention(3, 4, encoding=7)
    narrow = FastViTAttention(2, 4, encoding=5)
    for shape in (Shape(16, 8, 8), Shape(8, 8, 8)):
        check_slice(wide, Shape(16, 8, 8), narrow, shape)
        check_slice(wide, Shape(16, 8, 8), FastViTAttention(2, 4), shape, silent=False)


def test_slices_of_entries_and_heads() -> None:
    """The two outputs of an input channel go with it."""
    wide = FastViTDown(32, squeeze=True)
    for narrow in (FastViTDown(24, squeeze=True), FastViTDown(12)):
        check_slice(wide, Shape(16, 8, 8), narrow, Shape(8, 8, 8), silent=False)
    check_slice(FastViTHead(10), Shape(16, 3, 3), FastViTHead(10), Shape(8, 3, 3), silent=False)
    image = Shape(3, 16, 16)
    check_slice(FastViTStem(16), image, FastViTStem(8), image, silent=False)


def test_outputs_of_a_kept_channel_stay_side_by_side() -> None:
    shape = Shape(8, 8, 8)
    wide = build_block(FastViTDown(16), shape)
    narrow = build_block(FastViTDown(8), Shape(4, 8, 8))
    assert isinstance(wide, FastViTDownBlock)
    kept = torch.tensor([1, 2, 5, 7])
    sliced = slice_block(wide, narrow, {"in": kept, "out": torch.arange(8)}, {})
    rows = torch.tensor([2, 3, 4, 5, 10, 11, 14, 15])
    name = "spatial.large.conv.weight"
    assert torch.equal(sliced[name], wide.state_dict()[name][rows])
    name = "project.large.conv.weight"
    assert torch.equal(sliced[name], wide.state_dict()[name][:8][:, rows])


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"kind": "repmixer", "kernel": 1}, "repmixer: kernel 1 must be odd and at least 3"),
        ({"kind": "repmixer", "ffn_kernel": 4}, "repmixer: ffn_kernel 4 must be odd, to keep"),
        ({"kind": "repmixer", "expansion": 0}, "repmixer: expansion 0 must be at least 0.25"),
        ({"kind": "repmixer", "activation": "gleu"}, "activation: "),
        ({"kind": "fastvit_attention", "encoding": 2}, "encoding 2 must be odd, or 0 for none"),
        ({"kind": "fastvit_attention", "head_dim": 0}, "head_dim 0 must be at least 1"),
        (
            {"kind": "fastvit_down", "width": 8, "kernel": 3},
            "fastvit_down: kernel 3 must be odd and larger than the 3x3 beside it",
        ),
    ],
)
def test_wrong_hyperparameters_are_named(block: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_dict(block)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="head_dim 32 does not divide the width 48"):
        FastViTAttention().check(Shape(48, 8, 8))
