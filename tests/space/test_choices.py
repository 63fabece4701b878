"""Places with several candidates: how a file lists them, what is in the space, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.blocks import (
    IRMB,
    MB3D,
    MB4D,
    ConvEmbedding,
    ConvStem,
    EfficientViTStem,
    EMOStem,
    Identity,
    IRMBDown,
    MapHead,
)
from nas.errors import InputError
from nas.files import YamlFile, write_yaml
from nas.space import Architecture, Space
from nas.space.candidates import likeness
from nas.space.schema import space_from

PLACEMENTS = pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
SETTINGS = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
Make = Callable[..., Space]
ATTENTION = [IRMB(expansion=2, attention=True, window=2, head_dim=size) for size in (8, 12, 16)]
LOCAL = IRMB(expansion=2, attention=False)


def test_lists_of_values_expand_in_order_the_last_one_fastest(choices_space: Make) -> None:
    first, second, third, fourth = choices_space().stages
    assert first.entries == (ConvStem(16, "relu"), ConvStem(16, "gelu"))
    assert first.local == (
        MB4D(1, activation="gelu"),
        MB4D(1, activation="relu"),
        MB4D(2, activation="gelu"),
        MB4D(2, activation="relu"),
    )
    assert second.entries == (
        ConvEmbedding(24),
        IRMBDown(24, expansion=2),
        IRMBDown(24, expansion=3),
    )
    assert second.local == fourth.local == (MB4D(2), LOCAL) and second.global_ == ()
    assert third.global_ == tuple(ATTENTION)
    assert fourth.global_ == tuple(MB3D(2, 8, 2, expansion) for expansion in (1, 2))
    assert choices_space().heads == (
        MapHead(10),
        MapHead(10, "layer", True),
        MapHead(10, "layer", False),
    )
    assert choices_space().stems == ()


def test_lists_of_a_stem(stem_space: Make) -> None:
    stems = [
        EfficientViTStem(width, activation=act)
        for width, act in product((4, 8), ("hardswish", "relu"))
    ]  # type: ignore[arg-type]
    assert stem_space().stems == (*stems, EMOStem(8))


def test_one_block_or_one_value_is_a_list_of_one(choices_space: Make) -> None:
    listed = (
        "entry: {kind: conv_embedding}\n  width: [24",
        "entry: [{kind: [conv_embedding]}]\n  width: [24",
    )
    assert choices_space("network_suffix", listed).stages == choices_space().stages


def test_published_members_have_what_their_selectors_say(
    choices_space: Make, stem_space: Make
) -> None:
    small, large = choices_space().published.values()
    assert [stage.entry for stage in small.stages] == [
        ConvStem(8, "gelu"),
        IRMBDown(16, expansion=3),
        ConvEmbedding(24),
        ConvEmbedding(32),
    ]
    assert [stage.blocks for stage in small.stages] == [
        (MB4D(2, activation="relu"),),
        (LOCAL,),
        (MB4D(2, activation="relu"), ATTENTION[1]),
        (MB3D(2, 8, 2, 1),),
    ]
    assert small.head == MapHead(10, "layer", False)
    assert large.stages[0].blocks == (MB4D(1), MB4D(2)), "a list in a stage's value has one a block"
    assert large.head == MapHead(10) and large.stages[1].entry == ConvEmbedding(24), (
        "else the first listed"
    )
    member = stem_space().published["stem_s"]
    assert member.stem == EfficientViTStem(4, activation="relu")
    assert member.stages[0].entry.expansion == 1, (
        "a selector of entries may say what some kinds have not"
    )  # type: ignore[attr-defined]
    assert [block.expansion for stage in member.stages for block in stage.blocks] == [2, 1, 2, 2]  # type: ignore[attr-defined]


STEM = "entry: {kind: conv_stem, activation: [relu, gelu]}"
LOCAL_1 = "local: {kind: mb4d, expansion: [1, 2], activation: [gelu, relu]}"
LOCAL_2 = "local: [{kind: mb4d, expansion: 2}, {kind: irmb, expansion: 2, attention: false}]"
GLOBAL_3 = "global: {kind: irmb, expansion: 2, attention: true, window: 2, head_dim: [8, 12, 16]}"
HEAD = (
    "head: [{kind: map_head, classes: 10}, {kind: map_head, classes: 10, norm: layer, distillation:"
    " [true, false]}]"
)
BLOCK = (
    "block: {activation: [relu, null, [relu, null], null], kind: [null, irmb, null, null],"
    " expansion: [2, 2, 2, 1],"
)
S = "published.choices_s: "
BAD = [
    (
        STEM,
        STEM.replace("gelu]", "relu]"),
        "6: stages[0].entry: conv_stem(width=16;activation=relu) is listed twice",
    ),
    (STEM, "entry: []", "6: stages[0].entry: has 0 values (expected at least 1)"),
    (
        STEM,
        "entry: conv_stem",
        "6: stages[0].entry: expected a block, or a list of blocks (got 'conv_stem')",
    ),
    (
        STEM,
        "entry: [conv_stem]",
        "6: stages[0].entry[0]: Input should be a valid dictionary (got 'conv_stem')",
    ),
    (
        STEM,
        STEM.replace("[relu, gelu]", "[relu, glu]"),
        "6: stages[0].entry: conv_stem: activation: Input should be",
    ),
    (
        LOCAL_1,
        LOCAL_1.replace("[1, 2]", "[1, 2, 0]"),
        "9: stages[0].local: mb4d: expansion 0 must be at least 0.25",
    ),
    (
        LOCAL_1,
        LOCAL_1.replace("[1, 2]", "[1, [2]]"),
        "9: stages[0].local: mb4d: expansion: Input should be a valid number",
    ),
    (
        LOCAL_1,
        LOCAL_1.replace("expansion", "expand"),
        "9: stages[0].local: mb4d: expand: unknown key",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace(
            "{kind: irmb, expansion: 2, attention: false}", "{kind: mb4d, expansion: [1, 2]}"
        ),
        "13: stages[1].local[1]: mb4d(expansion=2;pool=3;activation=gelu) is listed twice",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("attention: false", "attention: false, window: [7, 8]"),
        "is listed twice",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("false}", "false}, identity"),
        "13: stages[1].local[2]: Input should be a valid dict",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("false}", "false}, {kind: identity}"),
        "13: stages[1].local[2]: identity is a choice at",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("irmb,", "irmbs,"),
        "13: stages[1].local[1]: unknown block kind 'irmbs', did you mean",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("false}", "false}, {kind: mb3d}"),
        "13: stages[1].local: candidates of one place must all",
    ),
    (
        LOCAL_2,
        LOCAL_2.replace("false}", "true, head_dim: [5, 8]}"),
        "stages[1].local: stage 2: fits no width; irmb(",
    ),
    (
        GLOBAL_3,
        GLOBAL_3.replace("[8, 12, 16]", "12"),
        "18: stages[2].global: stage 3, width 32: irmb(expansion=2;",
    ),
    (GLOBAL_3, GLOBAL_3.replace("[8, 12, 16]", "12"), "width 32 is not divisible by head_dim 12"),
    (
        GLOBAL_3,
        GLOBAL_3.replace("[8, 12, 16]", "[12, 16, 64]"),
        "does not fit 32x4x4: width 32 is not divisible by head_dim 64",
    ),
    (HEAD, HEAD.replace("[{", "[{kind: mb4d}, {"), "mb4d cannot be a head"),
    (
        HEAD,
        HEAD.replace("{kind: map_head, classes: 10}", "{kind: token_head, classes: 10}"),
        "24: head: candidates of one",
    ),
    (
        "width: [8, 16]",
        "width: [7, 16]",
        "7: stages[0].width: conv_stem: width 7 must be a positive multiple of 2",
    ),
    (
        "resolution: [64, 64]",
        "resolution: [64, 48]",
        "3: resolution: resolution 64x48: both sides must be multiples of 32",
    ),
    (
        "entry: {activation: [gelu",
        "entry: {activation: [silu",
        S + "stem: none of its candidates has activation silu",
    ),
    (
        "kind: [null, irmb_down",
        "kind: [null, mbconv_down",
        S + "stage2_entry: none of its candidates has kind mbconv_down, ex",
    ),
    (
        BLOCK,
        BLOCK.replace("2, 2, 2, 1]", "2, 2, 2, 3]"),
        S + "stage4_block1: none of its candidates has expansion 3",
    ),
    (
        BLOCK,
        BLOCK.replace("2, 2, 2, 1]", "2, 2, 2]"),
        "published.choices_s.block.expansion: no value for stage4_block1",
    ),
    (
        BLOCK,
        BLOCK.replace("[relu, null]", "[relu]"),
        "published.choices_s.block.activation: no value for stage3_block2",
    ),
    (
        "head_dim: [null, null, 12, null]",
        "head_dim: [null, null, 16, null]",
        S + "stage3_block2: none of its candidates has",
    ),
    (
        "head: {norm: layer, dis",
        "head: {norm: group, dis",
        S + "head: none of its candidates has norm group, distillation",
    ),
    (
        "head: {norm: layer, dis",
        "heads: {norm: layer, dis",
        "published.choices_s.heads: unknown key",
    ),
    (
        "head: {norm: layer, distillation: false}",
        "head: map_head",
        "published.choices_s.head: Input should be a valid dict",
    ),
]


@pytest.mark.parametrize(("good", "bad", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_files_name_line_key_and_reason(
    choices_space: Make, good: str, bad: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        choices_space("network_suffix", (good, bad))
    found = str(caught.value)
    assert (
        re.match(r"\S*choices-network_suffix\.yaml:\d+: ", found)
        and message in found
        and "\n" not in found
    ), found


SELECTORS = [
    (
        "stem: {kind: efficientvit_stem, width: 4",
        "stem: {kind: conv_stem, width: 4",
        "stem: none of its candidates has",
    ),
    (
        "stem: {kind: efficientvit_stem, width: 4",
        "stem: {width: 5",
        "stem: none of its candidates has width 5, act",
    ),
    (
        "    stem: {kind: efficientvit_stem, width: 4",
        "    stems: {width: 4",
        "published.stem_s.stems: unknown key",
    ),
    ("stem: [{kind", "stem: [{king", "5: stem[0]: unknown block kind 'None'"),
]


@pytest.mark.parametrize(
    ("good", "bad", "message"), SELECTORS, ids=[message for _, _, message in SELECTORS]
)
def test_bad_stems_name_line_key_and_reason(
    stem_space: Make, good: str, bad: str, message: str
) -> None:
    path = stem_space().path
    with open(path) as file:
        text = file.read()
    assert good in text
    with open(path, "w") as file:
        file.write(text.replace(good, bad, 1))
    with pytest.raises(InputError) as caught:
        from nas.space import load_space

        load_space(path)
    assert re.match(r"\S*\.yaml:\d+: ", str(caught.value)) and message in str(caught.value), (
        caught.value
    )


def operations_of(arch: Architecture) -> tuple[object, ...]:
    return tuple(
        (operation.name, operation.spec, operation.input)
        for operation in arch.compact().operations()
    )


@PLACEMENTS
def test_count_equals_enumeration(stem_space: Make, attention: str) -> None:
    space = stem_space(attention)
    members = list(space.enumerate())
    assert space.count() == len(members) == len(set(map(operations_of, members)))
    assert all(space.contains(member) for member in members)
    # Of a stage: what fits at its widths, local and global in a row that ends global.
    stage3 = [sum(2**globals_ for globals_ in range(depth + 1)) for depth in (1, 2)]
    stage4 = [depth + 1 for depth in (1, 2)]
    if attention == "network_suffix":  # where stage 3 has a global block, stage 4 has no other
        rows = sum((a - 1) * 1 + b for a, b in product(stage3, stage4))
    else:
        rows = sum(a * b for a, b in product(stage3, stage4))
    assert len(members) == 5 * (2 * 2) * 2 * (2 * rows)


@PLACEMENTS
def test_count_of_more_than_can_be_listed_is_the_product_by_hand(
    choices_space: Make, attention: str
) -> None:
    """Stages 1 and 2 alone: 2 widths, 2 entries, 4 + 16 rows; 2 widths, 3 entries, 2 blocks. Then 3
    heads."""
    front = (2 * 2 * (4 + 16)) * (2 * 3 * 2)
    # At each width two of the three sizes of heads fit. Rows by the number of global blocks: depth
    # 1, then 2.
    only_local = 2 * (2 + 4)
    mixed = 2 * (2 * 2)
    only_global = 2 * (2 + 4)
    last_local = 2 * (2 + 4)
    last_mixed = 2 * (2 * 2)
    last_global = 2 * (2 + 4)
    if attention == "stage_suffix":
        back = (only_local + mixed + only_global) * (last_local + last_mixed + last_global)
    else:
        back = (
            only_local * (last_local + last_mixed + last_global)
            + (mixed + only_global) * last_global
        )
    assert choices_space(attention).count() == front * back * 3


@PLACEMENTS
def test_every_sample_is_one_of_the_enumerated(stem_space: Make, attention: str) -> None:
    space = stem_space(attention)
    members = {operations_of(member) for member in space.enumerate()}
    samples = [space.sample(seed) for seed in range(2000)]
    assert {operations_of(sample) for sample in samples} <= members
    assert len({operations_of(sample.compact()) for sample in samples}) > 0.25 * len(members)


@PLACEMENTS
@given(seed=st.integers(0, 2**32))
@SETTINGS
def test_samples_are_members_with_every_position(
    choices_space: Make, attention: str, seed: int
) -> None:
    space = choices_space(attention)
    arch = space.sample(seed)
    space.validate(arch)
    assert arch == space.sample(seed)
    assert [len(stage.blocks) for stage in arch.stages] == [
        stage.depths[1] for stage in space.stages
    ]
    operations = arch.operations()
    assert all(a.output == b.input for a, b in pairwise(operations))
    for operation in operations:
        operation.spec.check(operation.input)
    assert space.place(arch.compact()).compact() == arch.compact()
    assert space.contains(space.place(arch.compact()))


def test_samples_have_every_candidate(choices_space: Make, stem_space: Make) -> None:
    for space in (choices_space(), stem_space()):
        samples = [space.sample(seed) for seed in range(400)]
        assert {arch.head for arch in samples} == set(space.heads)
        assert {arch.stem for arch in samples} == set(space.stems or [None])
        for index, stage in enumerate(space.stages):
            entries = {
                replace(arch.stages[index].entry, width=stage.widths[-1]) for arch in samples
            }  # type: ignore[call-arg]
            assert entries == set(stage.entries)
            found = {block for arch in samples for block in arch.stages[index].blocks} - {
                Identity()
            }
            assert found == set(stage.local + stage.global_)


@PLACEMENTS
def test_extremes(stem_space: Make, choices_space: Make, attention: str) -> None:
    tiny = stem_space(attention)
    members = list(tiny.enumerate())
    assert tiny.smallest().macs == min(member.macs for member in members)
    assert tiny.smallest().params == min(member.params for member in members)
    for space in (tiny, choices_space(attention)):
        largest = space.largest()
        smallest = space.smallest()
        space.validate(largest)
        space.validate(smallest)
        assert largest.widths == tuple(stage.widths[-1] for stage in space.stages)
        assert largest.depths == tuple(stage.depths[1] for stage in space.stages)
        assert smallest.widths == tuple(stage.widths[0] for stage in space.stages)
        for choices, stage in zip(space.stages, smallest.stages, strict=True):
            assert not set(stage.blocks) & set(choices.global_)
        for operation in largest.operations():
            # Nothing that may stand there, where it stands, takes more.
            others = [
                space.largest().with_block(operation.name, block)
                for block in candidates_of(space, operation.name)
            ]
            assert all(operation.macs >= at(other, operation.name).macs for other in others)


def candidates_of(space: Space, place: str) -> tuple[object, ...]:
    if "flatten" in place:
        return ()
    if place in ("stem", "head"):
        return space.heads if place == "head" else space.stems or space.stages[0].entries
    stage = space.stages[int(place[5]) - 1]
    if place.endswith("entry"):
        return stage.entries
    width = space.largest().widths[int(place[5]) - 1]
    return space.candidates(int(place[5]) - 1, "global" if stage.global_ else "local", width)


def at(arch: Architecture, name: str):  # type: ignore[no-untyped-def]
    return next(operation for operation in arch.operations() if operation.name == name)


@PLACEMENTS
def test_to_dict_is_the_file(
    choices_space: Make, stem_space: Make, attention: str, tmp_path
) -> None:  # type: ignore[no-untyped-def]
    for space in (choices_space(attention), stem_space(attention), stem_space(attention).at(64, 7)):
        write_yaml(tmp_path / "space.yaml", space.to_dict())
        file = YamlFile(tmp_path / "space.yaml")
        again = space_from(file, file.data, [])
        assert again == replace(space, published={}, default_scores=None, path="", paper="")
        assert again.to_dict() == space.to_dict()


def test_candidates_are_those_that_fit_the_width(choices_space: Make) -> None:
    space = choices_space()
    assert space.candidates(2, "global", 24) == (ATTENTION[0], ATTENTION[1])
    assert space.candidates(2, "global", 32) == (ATTENTION[0], ATTENTION[2])
    assert space.candidates(2, "local", 24) == space.stages[2].local
    assert space.candidates(0, "global", 8) == ()


def test_fitted_is_the_block_itself_or_the_most_alike_that_fits(choices_space: Make) -> None:
    space = choices_space()
    assert space.fitted(2, ATTENTION[0], 24) == ATTENTION[0]
    assert space.fitted(2, ATTENTION[2], 24) == ATTENTION[0], "equally alike: the one listed first"
    assert space.fitted(2, MB4D(2, activation="relu"), 24) == MB4D(2, activation="relu"), (
        "local blocks stay local"
    )
    assert space.fitted(2, Identity(), 24) == Identity()
    with pytest.raises(ValueError, match=r"mb3d.* is not a candidate here"):
        space.fitted(2, MB3D(), 24)


def test_likeness_is_the_kind_then_the_number_of_equal_values() -> None:
    assert (
        likeness(MB4D(2), MB4D(2))
        > likeness(MB4D(2), MB4D(1))
        > likeness(MB4D(2), MB4D(1, activation="relu"))
    )
    assert likeness(MB4D(2), MB4D(1, pool=5, activation="relu")) > likeness(MB4D(2), LOCAL)


def test_what_is_no_member(choices_space: Make, stem_space: Make) -> None:
    space = choices_space()
    stemmed = stem_space()
    largest = space.largest()
    for arch, reason in [
        (
            largest.with_block("stem", ConvStem(16, "silu")),
            "stage 1: entry conv_stem(width=16;activation=silu) is not one of",
        ),
        (
            largest.with_block("stage2_entry", IRMBDown(24, expansion=4)),
            "stage 2: entry irmb_down(",
        ),
        (
            largest.with_block("stage1_block2", MB4D(3)),
            "stage 1: mb4d(expansion=3;pool=3;activation=gelu) is not a candidate",
        ),
        (replace(largest, stem=EMOStem(8)), "a stem before stage 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(reason)):
            space.validate(arch)
    for arch, reason in [
        (
            replace(stemmed.largest(), stem=EMOStem(6)),
            "stem emo_stem(width=6;activation=silu) is not one of efficientvit",
        ),
        (replace(stemmed.largest(), stem=None), "no stem before stage 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(reason)):
            stemmed.validate(arch)


def test_an_empty_list_of_values_is_refused(choices_space: Make) -> None:
    with pytest.raises(InputError, match=r"yaml:6: stages\[0\]\.entry"):
        choices_space("network_suffix", (STEM, STEM.replace("relu, gelu", "")))


def test_a_block_that_does_not_fit_its_width_makes_no_member(choices_space: Make) -> None:
    """Heads of 16 channels do not fit 24: `enumerate` has no such member, and its operations cannot
    be listed."""
    space = choices_space()
    largest = space.largest()
    narrow = largest.with_stage(
        2, replace(largest.stages[2].with_width(24), blocks=(ATTENTION[2],))
    )
    with pytest.raises(InputError, match="not divisible by head_dim 16"):
        narrow.operations()
    assert not space.contains(narrow)


def test_at_and_with_head_move_every_candidate(choices_space: Make) -> None:
    space = choices_space()
    moved = space.at(96, classes=7)
    assert [head.classes for head in moved.heads] == [7, 7, 7]  # type: ignore[attr-defined]
    assert moved.classes == 7 and moved.count() == space.count()
    assert moved.sample(3) == space.sample(3).at(96, 7)
    head = MapHead(5)
    headed = space.with_head(head)
    assert headed.heads == (head,) and headed.count() * 3 == space.count()
    assert all(member.head == head for member in headed.published.values())
