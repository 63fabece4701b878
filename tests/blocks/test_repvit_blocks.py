"""RepViT's blocks: parameters by formula, the sums that they fold, and slices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.blocks import Shape, from_dict
from nas.blocks.build import build_block
from nas.blocks.module import fold
from nas.blocks.repvit.module import RepViTBlockBlock, RepViTHeadBlock
from nas.blocks.repvit.spec import RepViTBlock, RepViTDown, RepViTHead, RepViTStem
from nas.testing.blocks import check_block, check_slice, randomised


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("ratio", [2, 3])
def test_parameters_of_a_block(ratio: int, squeeze: bool) -> None:
    c = 64
    mixing = (9 * c + 2 * c) + (c + c) + 2 * c
    gate = (c * 16 + 16) + (16 * c + c)
    ffn = 2 * ratio * c**2 + 2 * ratio * c + 2 * c
    spec = RepViTBlock(ratio, squeeze=squeeze)
    assert spec.params(Shape(c, 8, 8)) == mixing + gate * squeeze + ffn
    folded = sum(layer.params for layer in spec.deployed_layers(Shape(c, 8, 8)))
    assert folded == 10 * c + gate * squeeze + ffn


@torch.no_grad()
def test_mixing_is_that_of_the_paper_and_one_convolution_in_inference() -> None:
    block = randomised(RepViTBlock(2), Shape(8, 6, 6)).eval()
    assert isinstance(block, RepViTBlockBlock)
    x = torch.randn(2, 8, 6, 6)
    mixing = block.mixing
    expected = mixing.norm(mixing.large.norm(mixing.large.conv(x)) + mixing.small(x) + x)
    whole = block(x)
    torch.testing.assert_close(mixing(x), expected)
    fold(block)
    assert type(block.mixing) is nn.Conv2d
    assert (block.mixing(x) - expected).abs().max() <= 1e-5
    torch.testing.assert_close(block(x), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_two_classifiers_with_norms_of_their_own_are_one_in_inference() -> None:
    block = randomised(RepViTHead(10), Shape(8, 3, 3))
    assert isinstance(block, RepViTHeadBlock)
    x = torch.randn(4, 8, 3, 3)
    assert [each.shape for each in block.train()(x)] == [(4, 10), (4, 10)]
    expected = block.eval()(x)
    block.deploy()
    kept = [part for part in block.modules() if isinstance(part, nn.Linear | nn.BatchNorm2d)]
    assert kept == [block.classifier]
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    # A second call changes nothing.
    block.deploy()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_a_new_network_begins_as_its_shortcuts() -> None:
    block = build_block(RepViTBlock(), Shape(8, 6, 6))
    assert isinstance(block, RepViTBlockBlock)
    assert not block.ffn.project.norm.weight.any()


@pytest.mark.parametrize("narrow", [RepViTBlock(2), RepViTBlock(3, 3)])
def test_slices_are_the_block_with_the_rest_silenced(narrow: RepViTBlock) -> None:
    wide = RepViTBlock(3, 5)
    check_block(
        wide, Shape(16, 8, 8), [(narrow, Shape(16, 8, 8)), (narrow, Shape(8, 8, 8))], convert=False
    )


def test_slices_without_a_gate_and_of_entries() -> None:
    shape = Shape(64, 8, 8)
    for narrow in (RepViTBlock(2), RepViTBlock(2, squeeze=True)):
        check_slice(RepViTBlock(3, squeeze=True), shape, narrow, Shape(32, 8, 8), silent=False)
    check_slice(RepViTDown(32, 3), Shape(16, 8, 8), RepViTDown(24, 2), Shape(8, 8, 8))
    check_slice(RepViTHead(10), Shape(16, 3, 3), RepViTHead(10), Shape(8, 3, 3))
    image = Shape(3, 16, 16)
    check_slice(RepViTStem(16), image, RepViTStem(8), image, silent=False)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (
            {"kind": "repvit_block", "kernel": 1},
            "repvit_block: kernel 1 must be odd and at least 3",
        ),
        (
            {"kind": "repvit_block", "expansion": 0},
            "repvit_block: expansion 0 must be at least 0.25",
        ),
        ({"kind": "repvit_down", "width": 0}, "repvit_down: width 0 must be positive"),
        ({"kind": "repvit_stem", "width": 7}, "repvit_stem: width 7 must be a positive multiple"),
        ({"kind": "repvit_head", "classes": 1}, "repvit_head: classes 1 must be at least 2"),
    ],
)
def test_wrong_hyperparameters_are_named(block: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_dict(block)
