"""What other parts ask of blocks is said by their classes, so that a block of another name is
treated alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from nas.blocks import (
    SPECS,
    BlockSpec,
    ConvHead,
    ConvStem,
    EntrySpec,
    FPNHead,
    HeadSpec,
    Shape,
    entry_from,
    head_from,
    parse_head,
)
from nas.blocks.module import Block
from nas.convert.int8 import float_tensors
from nas.export.targets.coreml import rescale
from nas.space import load_space, sizes, space_names

SPACES = {name: load_space(name) for name in space_names()}


class Sums(nn.Module):
    """A part that sums products, of a package of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class OwnBlock(Block):
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = (Sums,)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.sums = Sums()

    def fit_float16(self) -> None:
        with torch.no_grad():
            self.scale.mul_(0.5)


@dataclass(frozen=True)
class OwnHead(FPNHead):
    kind: ClassVar[str] = "own_head"


@dataclass(frozen=True)
class OwnStem(ConvStem):
    kind: ClassVar[str] = "own_stem"


def test_an_own_blocks_sums_stay_float32_in_8_bits() -> None:
    pattern = float_tensors(nn.Sequential(OwnBlock()))
    assert re.search(pattern, "nas.network.Network/own.OwnBlock_stage1_block1/own.Sums_sums;1")
    assert not re.search(
        pattern, "nas.network.Network/own.OwnBlock_stage1_block1/torch.nn.Conv2d_expand;1"
    )
    assert not re.search(
        pattern, "own.OwnBlock_stage1_block1/own.Sums_sums/torch.nn.Conv2d_query;1"
    )
    assert re.search(
        float_tensors(nn.Sequential()), "torch.nn.modules.normalization.LayerNorm_norm;"
    )


def test_an_own_block_fits_float16_as_it_says() -> None:
    network = nn.Sequential(OwnBlock(), nn.Sequential(OwnBlock()))
    assert [
        block.scale.item() for block in rescale(network).modules() if isinstance(block, OwnBlock)
    ] == [0.5, 0.5]


@pytest.mark.parametrize("name", SPACES)
def test_a_segmentation_head_of_any_name_is_asked_for_by_its_classes(name: str) -> None:
    space = SPACES[name]
    for head in (FPNHead(5), OwnHead(5)):
        sized = space.with_head(head)
        assert (
            sizes.between(space, sized)
            == sizes.between(space, sized.smallest())
            == sizes.Sizes(segment=5)
        )
    assert sizes.between(space, space.at(classes=7)) == sizes.Sizes(classes=7)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: str(spec.kind))
def test_types_say_what_a_block_is_for(spec: type[BlockSpec]) -> None:
    """Asked by key, as a file has it: a width alone enters no stage, and classes alone make no
    head."""
    assert issubclass(spec, EntrySpec) is (spec.breakdown == "patch_embedding")
    assert spec.changes_layout is (spec.breakdown == "reshape")
    if spec.changes_layout:
        shape = Shape(8, 4, 4, spec.layout)
        assert spec().params(shape) == 0
        assert spec().output_shape(shape).elements == shape.elements
    if issubclass(spec, HeadSpec):
        assert (spec.layout == "pyramid") is (spec.task == "segmentation")


def test_every_place_of_every_space_has_blocks_of_its_type() -> None:
    for space in SPACES.values():
        assert all(
            isinstance(head, HeadSpec) and bool(head.levels) is (head.layout == "pyramid")
            for head in space.heads
        )
        entries = [*space.stems, *(entry for stage in space.stages for entry in stage.entries)]
        assert all(isinstance(entry, EntrySpec) for entry in entries)


def test_a_block_of_another_type_is_refused_where_it_is_read() -> None:
    head = ConvHead(10, width=8, features=8)  # it has a width, too
    with pytest.raises(ValueError, match="conv_head cannot enter a stage"):
        entry_from(head.to_dict())
    with pytest.raises(ValueError, match="conv_stem cannot be a head"):
        head_from(ConvStem(8).to_dict())
    with pytest.raises(ValueError, match="mb4d cannot be a head"):
        parse_head("mb4d", "expansion=4;pool=3")
    assert (entry_from(ConvStem(8).to_dict()), head_from(head.to_dict())) == (ConvStem(8), head)
    arch = SPACES["efficientformer"].smallest()
    with pytest.raises(ValueError, match="stage2_entry: conv_head cannot enter a stage"):
        arch.with_block("stage2_entry", head)
    with pytest.raises(ValueError, match="head: conv_stem is not a head"):
        arch.with_block("head", ConvStem(8))
    assert arch.with_block("stem", OwnStem(arch.widths[0])).stages[0].entry.kind == "own_stem"
