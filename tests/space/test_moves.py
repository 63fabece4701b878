"""Moves keep to the space, shrink the network, and lead to the smallest member."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.blocks import IRMB, MB3D, MB4D, ConvStem, EMOStem, Identity, MapHead
from nas.search import Drop, Exchange, Localise, Narrow, moves
from nas.space import Architecture, load_space
from nas.space.moves import exchanges, localise, narrow
from nas.space.place import Place


def walk(space, choose) -> list[Architecture]:
    """The architectures from the largest member to one without moves, each step taken by `choose`."""
    path = [space.largest()]
    while options := moves(space, path[-1]):
        path.append(choose(options).apply(path[-1]))
    return path


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    path = [space.largest()]
    # An exchange may be undone by a later one, so only those that shrink a block lead to an end.
    while options := [
        move
        for move in moves(space, path[-1])
        if not isinstance(move, Exchange) or move.block.expansion < move.before.expansion  # type: ignore[attr-defined]
    ]:
        path.append(options[len(options) // 2].apply(path[-1]))
        space.validate(path[-1])
    assert path[-1].compact().stages == space.smallest().stages


def test_the_largest_member_offers_every_drop_one_narrowing_a_stage_and_the_first_attention_block():
    space = load_space("efficientformer")
    options = moves(space, space.largest())
    assert [str(m) for m in options if m.action == "DR"] == [
        f"drop stage {stage} block {position}"
        for stage, depth in enumerate((6, 6, 18, 8), start=1)
        for position in range(1, depth + 1)
    ]
    assert [m for m in options if m.action == "WR"] == [
        Narrow(0, 80),
        Narrow(1, 176),
        Narrow(2, 368),
        Narrow(3, 752),
    ]
    assert [m for m in options if m.action == "MR"] == [Localise(2, 0, MB4D())]


def test_only_the_first_attention_block_of_each_stage_may_become_local_where_suffixes_are_per_stage(
    small_space,
):
    space = small_space("stage_suffix")
    arch = Drop(2, 0).apply(space.largest())
    assert [(m.stage, m.position) for m in moves(space, arch) if isinstance(m, Localise)] == [
        (2, 1),
        (3, 0),
    ]


def test_published_members_are_reached_by_moves():
    space = load_space("efficientformer")
    arch = space.largest()
    target = space.place(space.published["efficientformer_l1"])
    for index, (stage, choice) in enumerate(zip(target.stages, space.stages, strict=True)):
        for width in [w for w in reversed(choice.widths) if stage.width <= w < arch.widths[index]]:
            assert Narrow(index, width) in moves(space, arch)
            arch = Narrow(index, width).apply(arch)
        for position, block in enumerate(stage.blocks):
            move = {Identity: Drop(index, position), MB4D: Localise(index, position, MB4D())}.get(
                type(block)
            )
            if move and arch.stages[index].blocks[position] != block:
                assert move in moves(space, arch)
                arch = move.apply(arch)
    assert arch.stages == target.stages


def test_moves_are_values_that_say_what_they_do(small_space):
    arch = small_space().largest()
    assert str(Drop(2, 4)) == "drop stage 3 block 5"
    assert str(Narrow(3, 448)) == "narrow stage 4 to 448"
    assert str(Localise(3, 1, MB4D())) == "make stage 4 block 2 local (mb4d)"
    assert Drop(0, 1) == Drop(0, 1) and hash(Drop(0, 1)) == hash(Drop(0, 1))
    before = arch.to_dict()
    Drop(0, 1).apply(arch), Narrow(0, 8).apply(arch), Localise(2, 0, MB4D(2)).apply(arch)
    assert arch.to_dict() == before
    assert isinstance(arch.stages[2].blocks[0], MB3D)


PLACEMENTS = ("network_suffix", "stage_suffix")
SETTINGS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def spaces(choices_space, stem_space):
    """A function from the placement of attention to the two spaces whose places have several
    candidates."""
    return lambda attention: (choices_space(attention), stem_space(attention))


def places(arch):
    """What stands where: every stem, entry, position, head by its place's name."""
    entries = {f"stage{i}_entry": stage.entry for i, stage in enumerate(arch.stages, start=1)}
    blocks = {
        f"stage{i}_block{p}": b
        for i, s in enumerate(arch.stages, start=1)
        for p, b in enumerate(s.blocks, start=1)
    }
    if arch.stem is None:
        entries["stem"] = entries.pop("stage1_entry")
    return {"head": arch.head, **({"stem": arch.stem} if arch.stem else {}), **entries, **blocks}


@pytest.mark.parametrize("attention", PLACEMENTS)
@given(seed=st.integers(0, 2**32))
@SETTINGS
def test_with_choices_every_move_from_any_member_leads_to_another_and_changes_only_what_it_names(
    spaces, attention, seed
):
    for space in spaces(attention):
        arch = space.sample(seed)
        options = moves(space, arch)
        assert len(set(options)) == len(options)
        for move in options:
            after = move.apply(arch)
            space.validate(after)
            assert after.operations() != arch.operations(), move
            was = places(arch)
            now = places(after)
            assert was.keys() == now.keys()
            changed = {place for place in was if was[place] != now[place]}
            if isinstance(move, Exchange):
                assert changed == {str(move.place)}
                assert (was[str(move.place)], now[str(move.place)]) == (move.before, move.block)
                assert Exchange(move.place, move.block, move.before) in moves(space, after), (
                    "it may be undone"
                )
            elif isinstance(move, Narrow):
                entry = (
                    "stem"
                    if move.stage == 0 and arch.stem is None
                    else f"stage{move.stage + 1}_entry"
                )
                instead = {p for p in changed if p.startswith(f"stage{move.stage + 1}_block")}
                assert changed == {entry, *instead}
                assert now[entry] == replace(was[entry], width=move.width)
                assert {was[p]: now[p] for p in instead} == {
                    b: c for b, c in move.instead if b in was.values()
                }
                assert all(not fits(space, move.stage, was[p], move.width) for p in instead)
            else:
                assert changed == {f"stage{move.stage + 1}_block{move.position + 1}"}


def fits(space, stage, block, width):
    return block in space.candidates(stage, space.stages[stage].kind(block), width)


@pytest.mark.parametrize("attention", PLACEMENTS)
@given(seed=st.integers(0, 2**32))
@SETTINGS
def test_with_choices_the_exchanges_are_all_that_the_space_allows(spaces, attention, seed):
    """By trying every candidate of the space at every place, and asking the space."""
    for space in spaces(attention):
        arch = space.sample(seed)
        blocks = {*space.heads, *space.stems}
        for stage in space.stages:
            blocks |= {*stage.local, *stage.global_}
            blocks |= {
                replace(entry, width=width) for entry in stage.entries for width in stage.widths
            }
        allowed = set()
        for place, before in places(arch).items():
            for block in () if isinstance(before, Identity) else blocks - {before}:
                if hasattr(block, "classes") != (place == "head") or hasattr(block, "width") != (
                    place == "stem" or place.endswith("entry")
                ):
                    continue
                after = arch.with_block(place, block)
                same_width = after.widths == arch.widths
                if (
                    space.contains(after)
                    and same_width
                    and role(space, place, before) == role(space, place, block)
                ):
                    allowed.add((place, block))
        stands = {(str(move.place), move.block) for move in exchanges(space, arch)}
        assert stands == {
            (place, block) for place, block in allowed if valid(arch.with_block(place, block))
        }


def role(space, place, block):
    return space.stages[int(place[5]) - 1].kind(block) if "_block" in place else place


def valid(arch):
    try:
        arch.operations()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("attention", PLACEMENTS)
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_choices_any_walk_of_moves_that_shrink_stays_in_the_space_and_ends_smallest(
    spaces, attention, data
):
    for space in spaces(attention):
        arch = space.largest()
        while smaller := [
            after
            for move in moves(space, arch)
            if (after := move.apply(arch)).macs < arch.macs or not isinstance(move, Exchange)
        ]:
            arch = data.draw(st.sampled_from(smaller))
            space.validate(arch)
        assert arch.macs == space.smallest().macs
        assert (arch.widths, arch.depths) == (space.smallest().widths, space.smallest().depths)


EXCHANGES = [
    ("ER", MB4D(2), MB4D(1), "stage1_block2", "stage 1 block 2: expansion 2 to 1"),
    (
        "AR",
        MB4D(2),
        MB4D(2, activation="relu"),
        "stage1_block1",
        "stage 1 block 1: activation gelu to relu",
    ),
    ("AR", ConvStem(8), ConvStem(8, "gelu"), "stem", "stem: activation relu to gelu"),
    (
        "BR",
        MB4D(2),
        MB4D(1, activation="relu"),
        "stage1_block1",
        "stage 1 block 1: expansion 2 to 1, activation gelu to relu",
    ),
    (
        "BR",
        IRMB(attention=True, head_dim=8),
        IRMB(attention=True, head_dim=16),
        "stage3_block10",
        "stage 3 block 10: head_dim 8 to 16",
    ),
    (
        "BR",
        MB4D(2),
        IRMB(2, attention=False),
        "stage2_block1",
        f"make stage 2 block 1 irmb({IRMB(2, attention=False)})",
    ),
    ("BR", MapHead(10), MapHead(10, "layer"), "head", "head: norm batch to layer"),
    ("BR", EMOStem(8), EMOStem(4), "stem", "stem: width 8 to 4"),
    (
        "BR",
        ConvStem(8),
        EMOStem(8, "relu"),
        "stage2_entry",
        "make stage 2 entry emo_stem(width=8;activation=relu)",
    ),
]


@pytest.mark.parametrize(("action", "before", "after", "place", "text"), EXCHANGES)
def test_an_exchange_says_what_it_reduces(action, before, after, place, text):
    place = Place.parse(place)
    move = Exchange(place, before, after)
    assert (move.action, str(move)) == (action, text)
    assert move == Exchange(place, before, after) and hash(move) == hash(
        Exchange(place, before, after)
    )


def test_narrowing_replaces_what_does_not_fit_by_what_is_most_like_it(choices_space):
    space = choices_space()
    wide = IRMB(expansion=2, attention=True, window=2, head_dim=16)
    arch = space.largest().with_block("stage3_block1", wide)
    move = narrow(space, arch, 2, 24)
    assert move in moves(space, arch)
    assert move.instead == ((wide, replace(wide, head_dim=8)),)
    assert [block.head_dim for block in move.apply(arch).stages[2].blocks] == [8, 8]
    assert narrow(space, space.largest(), 2, 24).instead == ()
    assert str(move) == "narrow stage 3 to 24" and hash(move) == hash(narrow(space, arch, 2, 24))


def test_localising_takes_the_local_candidate_that_is_most_alike(choices_space):
    irmb = "irmb, expansion: 2, attention: false, activation: [relu, silu]"
    space = choices_space(
        "network_suffix",
        ("mb4d, expansion: 2, activation: [gelu, relu]", irmb),
        ("12, null]", "[null, 12], null]"),
    )
    move = localise(space, space.largest(), 2, 0)
    assert move in moves(space, space.largest())
    assert move.block == IRMB(expansion=2, attention=False, activation="silu")


@pytest.mark.parametrize("attention", PLACEMENTS)
def test_with_choices_published_members_are_reached_by_moves(spaces, attention):
    for space in spaces(attention):
        for member in space.published.values():
            arch = space.largest()
            target = space.place(member)
            for index, stage in enumerate(target.stages):
                while arch.stages[index].width > stage.width:
                    arch = next(
                        m for m in moves(space, arch) if isinstance(m, Narrow) and m.stage == index
                    ).apply(arch)
                for position, block in enumerate(stage.blocks):
                    here = {
                        Drop: isinstance(block, Identity),
                        Localise: block in space.stages[index].local,
                    }
                    for kind in (kind for kind, wanted in here.items() if wanted):
                        if stage_kind(space, index, arch, position) == "local" and kind is Localise:
                            continue
                        wanted = [m for m in moves(space, arch) if isinstance(m, kind)]
                        arch = next(
                            m for m in wanted if (m.stage, m.position) == (index, position)
                        ).apply(arch)
            for place, block in places(target).items():
                if places(arch)[place] != block:
                    arch = next(
                        m
                        for m in exchanges(space, arch)
                        if (str(m.place), m.block) == (place, block)
                    ).apply(arch)
            assert (arch.stem, arch.stages, arch.head) == (target.stem, target.stages, target.head)


def stage_kind(space, index, arch, position):
    return space.stages[index].kind(arch.stages[index].blocks[position])
