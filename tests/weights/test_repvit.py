"""RepViT's published members: their sizes in both forms, and their outputs against timm's and the authors'."""

from __future__ import annotations

from pathlib import Path

import pytest
import seeded
import torch
from recorded import assert_recorded
from torch import Tensor, nn

import nas
from nas.blocks.module import fold
from nas.space import published_member

FOLDER = Path(seeded.__file__).parent / "repvit"
SPACE = nas.load_space("repvit")
EVERY_LAYOUT = pytest.mark.parametrize("layout", ["timm", "official"])
EVERY_MEMBER = pytest.mark.parametrize("name", SPACE.published)
COUNTS = {
    # parameters and multiply-accumulates at 224 pixels, as trained and in inference
    "repvit_m0_9": (5_489_328, 817_280_832, 5_067_056, 815_617_344),
    "repvit_m1_0": (7_302_796, 1_108_077_600, 6_810_312, 1_106_136_864),
    "repvit_m1_1": (8_802_912, 1_339_242_240, 8_244_312, 1_337_124_608),
    "repvit_m1_5": (14_644_432, 2_276_968_192, 14_049_992, 2_273_596_160),
    "repvit_m2_3": (23_688_792, 4_521_490_880, 22_926_792, 4_515_958_720),
}
"""Counted on timm 1.0.31, before and after its own fusion."""


def checkpoint(name: str, layout: str = "timm") -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(FOLDER / f"{name}.{layout}.csv"))


@EVERY_MEMBER
def test_counts_are_those_of_timm_in_both_forms(name: str) -> None:
    arch = SPACE.published[name]
    inference = sum(
        layer.macs
        for operation in arch.operations()
        for layer in operation.spec.deployed_layers(operation.input)
    )
    with torch.device("meta"):
        net = nas.build(arch).eval().to_empty(device="cpu")
    folded = fold(net.deploy())
    params = sum(parameter.numel() for parameter in folded.parameters())
    assert (arch.params, arch.macs, params, inference) == COUNTS[name]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


@EVERY_MEMBER
@EVERY_LAYOUT
def test_output_equals_the_reference(name: str, layout: str) -> None:
    """As trained, and in inference, where every branch is one convolution."""
    weights = checkpoint(name, layout)
    file = FOLDER / f"{name}.{layout}.npz"
    assert_recorded(SPACE.published[name], weights, f"repvit/{layout}", file)


@EVERY_MEMBER
def test_every_second_block_squeezes_from_the_first_one_on(name: str) -> None:
    for stage in SPACE.published[name].stages:
        squeezed = [block.hyperparameters()["squeeze"] for block in stage.blocks]
        assert squeezed == [position % 2 == 0 for position in range(stage.depth)]


def test_a_member_is_found_as_its_paper_writes_it() -> None:
    assert published_member("RepViT-M0.9") == SPACE.published["repvit_m0_9"]


def test_checkpoint_of_another_member_is_refused() -> None:
    with torch.device("meta"):
        net = nas.build(SPACE.published["repvit_m1_1"])
    for other in ("repvit_m0_9", "repvit_m1_5"):
        with pytest.raises(nas.InputError, match=r"the checkpoint .*is of another architecture"):
            nas.import_weights(net, checkpoint(other))
