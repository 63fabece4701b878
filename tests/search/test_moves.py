"""Moves keep to the space, shrink the network, and lead to the smallest member."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.search import Drop, Localise, Narrow, moves
from nas.space import Architecture, load_space
from nas.specs import MB3D, MB4D, Identity


def walk(space, choose) -> list[Architecture]:
    """The architectures from the largest member to one without moves, each step taken by `choose`."""
    path = [space.largest()]
    while options := moves(space, path[-1]):
        path.append(choose(options).apply(path[-1]))
    return path


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_walk_stays_in_the_space_never_grows_and_ends_smallest(small_space, attention, data):
    space = small_space(attention)
    path = walk(space, lambda options: data.draw(st.sampled_from(options)))
    for before, after in pairwise(path):
        space.validate(after)
        assert after.macs <= before.macs and after.params <= before.params
        assert (after.macs, after.params) != (before.macs, before.params)
    assert path[-1].compact().stages == space.smallest().stages


def test_a_walk_through_the_shipped_space_stays_in_it():
    space = load_space("efficientformer")
    path = walk(space, lambda options: options[len(options) // 2])
    for arch in path:
        space.validate(arch)
    assert path[-1].compact().stages == space.smallest().stages


def test_the_largest_member_offers_every_drop_one_narrowing_a_stage_and_the_first_attention_block():
    space = load_space("efficientformer")
    options = moves(space, space.largest())
    assert [str(m) for m in options if m.action == "DR"] == [
        f"drop stage {stage} block {position}"
        for stage, depth in enumerate((6, 6, 18, 8), start=1)
        for position in range(1, depth + 1)
    ]
    assert [m for m in options if m.action == "WR"] == [Narrow(0, 80), Narrow(1, 176), Narrow(2, 368), Narrow(3, 752)]
    assert [m for m in options if m.action == "MR"] == [Localise(2, 0, MB4D())]


def test_only_the_first_attention_block_of_each_stage_may_become_local_where_suffixes_are_per_stage(small_space):
    space = small_space("stage_suffix")
    arch = Drop(2, 0).apply(space.largest())
    assert [(m.stage, m.position) for m in moves(space, arch) if isinstance(m, Localise)] == [(2, 1), (3, 0)]


def test_published_members_are_reached_by_moves():
    space = load_space("efficientformer")
    arch, target = space.largest(), space.place(space.published["efficientformer_l1"])
    for index, (stage, choice) in enumerate(zip(target.stages, space.stages, strict=True)):
        for width in [w for w in reversed(choice.widths) if stage.width <= w < arch.widths[index]]:
            assert Narrow(index, width) in moves(space, arch)
            arch = Narrow(index, width).apply(arch)
        for position, block in enumerate(stage.blocks):
            move = {Identity: Drop(index, position), MB4D: Localise(index, position, choice.local)}.get(type(block))
            if move and arch.stages[index].blocks[position] != block:
                assert move in moves(space, arch)
                arch = move.apply(arch)
    assert arch.stages == target.stages


def test_moves_are_values_that_say_what_they_do(small_space):
    arch = small_space().largest()
    assert str(Drop(2, 4)) == "drop stage 3 block 5"
    assert str(Narrow(3, 448)) == "narrow stage 4 to 448"
    assert str(Localise(3, 1, MB4D())) == "make stage 4 block 2 mb4d"
    assert Drop(0, 1) == Drop(0, 1) and hash(Drop(0, 1)) == hash(Drop(0, 1))
    before = arch.to_dict()
    Drop(0, 1).apply(arch), Narrow(0, 8).apply(arch), Localise(2, 0, MB4D(2)).apply(arch)
    assert arch.to_dict() == before
    assert isinstance(arch.stages[2].blocks[0], MB3D)
