"""Spaces: what is in them, counting and sampling, and every way in which their file can be wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas import resources
from nas.blocks import MB3D, MB4D, Identity, Shape
from nas.errors import InputError

SPACE = nas.load_space("efficientformer")
TEXT = (resources.shipped(resources.SPACES) / "efficientformer.yaml").read_text()
SEEDS = st.integers(0, 2**32)

SMALL = """\
format: nas-space-1
name: small
resolution: [64, 64]
attention: {placement}
stages:
- entry: {{kind: conv_stem, activation: relu}}
  width: {{min: 16, max: 32, step: 16}}
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
- entry: {{kind: conv_embedding}}
  width: [32]
  depth: {{min: 1, max: 1}}
  local: {{kind: mb4d}}
- entry: {{kind: conv_embedding}}
  width: [48, 32, 48]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d}}
  global: {{kind: mb3d, heads: 2, key_dim: 8}}
- entry: {{kind: conv_embedding}}
  width: [64]
  depth: {{min: 1, max: 3}}
  local: {{kind: mb4d}}
  global: {{kind: mb3d, heads: 2, key_dim: 8}}
head: {{kind: token_head, classes: 10}}
"""


@pytest.fixture(params=["network_suffix", "stage_suffix"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> nas.Space:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(placement=request.param))
    return nas.load_space(str(path))


def test_published_members() -> None:
    assert list(SPACE.published) == [
        "efficientformer_l1",
        "efficientformer_l3",
        "efficientformer_l7",
    ]
    l3 = SPACE.published["efficientformer_l3"]
    assert l3.widths == (64, 128, 320, 512) and l3.depths == (4, 4, 12, 6)
    assert l3.stages[3].blocks == (MB4D(),) * 2 + (MB3D(),) * 4
    assert all(SPACE.contains(member) for member in SPACE.published.values())


def test_extremes() -> None:
    largest = SPACE.largest()
    smallest = SPACE.smallest()
    assert SPACE.contains(largest) and SPACE.contains(smallest)
    assert largest.widths == (96, 192, 384, 768) and largest.depths == (6, 6, 18, 8)
    assert set(largest.stages[2].blocks) == set(largest.stages[3].blocks) == {MB3D()}
    assert smallest.depths == (1, 1, 1, 1)
    assert smallest.macs < min(member.macs for member in SPACE.published.values()) < largest.macs


def test_count_equals_enumeration(small: nas.Space) -> None:
    """Widths 2*1*2*1, depths 2*1*2*3, and the allowed numbers of global blocks at each of them."""
    members = list(small.enumerate())
    assert small.count() == len(members) == len(set(members))
    assert all(small.contains(member) for member in members)
    by_hand = sum(
        1 + n4 + n3 if small.placement == "network_suffix" else (1 + n3) * (1 + n4)
        for n3 in (1, 2)
        for n4 in (1, 2, 3)
    )
    assert small.count() == 4 * 2 * by_hand


@pytest.mark.parametrize("placement", ["network_suffix", "stage_suffix"])
def test_a_stage_may_be_its_entry_alone(placement: str, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    text = SMALL.format(placement=placement).replace("max: 3}", "max: 2}")
    path.write_text(text.replace("depth: {min: 1", "depth: {min: 0"))
    space = nas.load_space(str(path))
    members = list(space.enumerate())
    assert space.count() == len(members) == len(set(members))
    assert all(space.contains(member) for member in members)
    assert {member.depths for member in members} == set(
        product(range(3), range(2), range(3), range(3))
    )
    # Behind a global block of stage 3, stage 4 may be empty.
    assert any(
        not member.depths[3] and any(isinstance(b, MB3D) for b in member.stages[2].blocks)
        for member in members
    )
    smallest = space.smallest()
    assert smallest.depths == (0, 0, 0, 0) and space.contains(smallest)
    assert space.place(smallest).compact() == smallest


def test_every_sample_is_one_of_the_enumerated(small: nas.Space) -> None:
    members = {replace(member, name="") for member in small.enumerate()}
    samples = [small.sample(seed) for seed in range(300)]
    compact = {replace(sample.compact(), name="") for sample in samples}
    assert compact <= members
    assert len(compact) > 0.5 * len(members)
    assert any(Identity() in sample.stages[3].blocks[:-1] for sample in samples)


@given(SEEDS)
def test_samples_are_members_with_every_position(seed: int) -> None:
    arch = SPACE.sample(seed)
    SPACE.validate(arch)
    assert [len(stage.blocks) for stage in arch.stages] == [
        stage.depths[1] for stage in SPACE.stages
    ]
    assert arch == SPACE.sample(seed)
    operations = arch.operations()
    assert operations[0].name == "stem" and operations[-1].name == "head"
    assert operations[0].input == Shape(3, 224, 224)
    assert all(a.output == b.input for a, b in pairwise(operations))
    assert len({operation.name for operation in operations}) == len(operations)
    assert arch.macs == arch.compact().macs and arch.params == arch.compact().params


@given(SEEDS)
def test_place_keeps_the_network_and_fills_the_positions(seed: int) -> None:
    compact = SPACE.sample(seed).compact()
    placed = SPACE.place(compact)
    assert placed.compact() == compact
    assert [len(stage.blocks) for stage in placed.stages] == [
        stage.depths[1] for stage in SPACE.stages
    ]
    assert SPACE.place(placed) == placed
    SPACE.validate(placed)


def test_place_puts_local_blocks_first_and_global_ones_last() -> None:
    placed = SPACE.place(SPACE.published["efficientformer_l1"])
    assert placed.stages[3].blocks == (MB4D(),) * 3 + (Identity(),) * 4 + (MB3D(),)
    assert placed.stages[2].blocks == (MB4D(),) * 6 + (Identity(),) * 12


def test_place_refuses_what_is_too_deep() -> None:
    arch = SPACE.largest()
    stage = arch.stages[0]
    with pytest.raises(
        InputError, match=r"stage 1: has too many positions \(got 7, the space has 6"
    ):
        SPACE.place(arch.with_stage(0, replace(stage, blocks=stage.blocks + stage.blocks[:1])))


L1 = SPACE.published["efficientformer_l1"]


@pytest.mark.parametrize(
    "arch, reason",
    [
        (
            L1.with_stage(1, L1.stages[1].with_width(100)),
            "stage 2: width 100 is not one of 64, 80 .. 192",
        ),
        (
            L1.with_stage(1, replace(L1.stages[1], blocks=(MB4D(),) * 7)),
            "stage 2: depth 7 is outside 1..6",
        ),
        (
            L1.with_stage(1, replace(L1.stages[1], blocks=(Identity(),))),
            "stage 2: depth 0 is outside 1..6",
        ),
        (L1.with_stage(0, L1.stages[0].with_block(0, MB3D())), "stage 1: mb3d"),
        (
            L1.with_stage(2, L1.stages[2].with_block(1, MB4D(expansion=5))),
            "is not a candidate here (expected one of mb4d",
        ),
        (
            L1.with_stage(3, L1.stages[3].with_block(0, MB3D())),
            "global blocks must be the last of their network",
        ),
        (
            L1.with_stage(2, L1.stages[2].with_block(5, MB3D())),
            "global blocks must be the last of their network",
        ),
        (
            L1.with_stage(
                0, replace(L1.stages[0], entry=replace(L1.stages[0].entry, activation="gelu"))
            ),
            "stage 1: entry",
        ),
        (replace(L1, stages=L1.stages[:3]), "3 stages, the space has 4"),
    ],
)
def test_what_is_no_member(arch: nas.Architecture, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        SPACE.validate(arch)
    assert not SPACE.contains(arch)


def test_at_moves_the_whole_space() -> None:
    moved = SPACE.at(64, classes=10)
    assert moved.resolution == (64, 64) and moved.count() == SPACE.count()
    assert all(
        member.classes == 10 and member.resolution == (64, 64)
        for member in moved.published.values()
    )
    assert moved.sample(0) == SPACE.sample(0).at(64, classes=10)
    with pytest.raises(ValueError, match="resolution 100x100: both sides must be multiples of 32"):
        SPACE.at(100)


def test_own_space_in_the_working_directory_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "efficientformer.yaml").write_text(
        SMALL.format(placement="stage_suffix")
    )
    monkeypatch.chdir(tmp_path)
    assert nas.load_space("efficientformer").name == "small"


def test_a_space_that_was_edited_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(SMALL.format(placement="stage_suffix"))
    first = nas.load_space(file)
    assert nas.load_space(file) is first
    file.write_text(SMALL.format(placement="network_suffix"))
    assert (first.placement, nas.load_space(file).placement) == ("stage_suffix", "network_suffix")


def test_folder_of_the_same_name_does_not_hide_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "efficientformer").mkdir()
    monkeypatch.chdir(tmp_path)
    assert nas.load_space("efficientformer").name == "efficientformer"


WIDTH = "width: {min: 32, max: 96, step: 16}"
LOCAL = "local: {kind: mb4d}"
GLOBAL = "global: {kind: mb3d}"
HEAD = "head: {kind: token_head, classes: 1000, distillation: true}"
MEMBER = (
    "efficientformer_l1: {widths: [48, 96, 224, 448], depths: [3, 2, 6, 4], attention: [0, 0,"
    " 0, 1], block: {expansion: 4}}"
)

BAD = [
    ("format: nas-space-1", "format: nas-space-9", "4: format: Input should be 'nas-space-1'"),
    ("format: nas-space-1\n", "", "1: format: is missing"),
    ("name: efficientformer", "name: Efficient Former", "5: name: String should match"),
    (
        "resolution: [224, 224]",
        "resolution: [224, 225]",
        "7: resolution: resolution 224x225: both sides must be mult",
    ),
    ("resolution: [224, 224]", "resolution: 224", "7: resolution: Input should be a valid list"),
    ("resolution: [224, 224]", "resolution: [224, 224", "8: malformed YAML:"),
    (
        "attention: network_suffix",
        "attention: anywhere",
        "8: attention: Input should be 'stage_suffix' or",
    ),
    ("attention: network_suffix", "atention: network_suffix", "8: atention: unknown key"),
    (
        WIDTH,
        "width: {min: 32, max: 97, step: 16}",
        "15: stages[0].width: max 97 is not min 32 plus a multiple of",
    ),
    (WIDTH, "width: {min: 96, max: 32, step: 16}", "15: stages[0].width: min 96 is above max 32"),
    (
        WIDTH,
        "width: {min: 32, max: 96, step: 0}",
        "15: stages[0].width.step: Input should be greater than 0",
    ),
    (WIDTH, "width: {min: 32, max: 96, stride: 16}", "15: stages[0].width.stride: unknown key"),
    (WIDTH, "width: 48", "15: stages[0].width: expected {min, max, step} or a list (got 48)"),
    (WIDTH, "width: []", "15: stages[0].width: has 0 values (expected at least 1)"),
    (WIDTH, "width: [a, 48]", "15: stages[0].width[0]: Input should be a valid integer (got 'a')"),
    (
        WIDTH,
        "width: [33, 48, 64, 96]",
        "15: stages[0].width: conv_stem: width 33 must be a positive multiple of 2",
    ),
    (
        "depth: {min: 1, max: 18}",
        "depth: {min: -1, max: 18}",
        "24: stages[2].depth.min: Input should be greater than or equal to 0",
    ),
    (
        "depth: {min: 1, max: 18}",
        "depth: {min: 1, max: many}",
        "24: stages[2].depth.max: Input should be a valid",
    ),
    ("depth: {min: 1, max: 18}", "depths: {min: 1, max: 18}", "stages[2].depth: is missing"),
    (
        "kind: conv_stem",
        "kind: conv_stm",
        "14: stages[0].entry: unknown block kind 'conv_stm', did you",
    ),
    (
        "kind: conv_stem, activation: relu",
        "kind: mb4d",
        "14: stages[0].entry: mb4d: width: unknown key",
    ),
    ("activation: relu}", "act: relu}", "14: stages[0].entry: conv_stem: act: unknown key"),
    (
        LOCAL,
        LOCAL.replace("}", ", expansion: 0}"),
        "17: stages[0].local: mb4d: expansion 0 must be at least 0.25",
    ),
    (LOCAL, LOCAL.replace("}", ", pool: 2}"), "17: stages[0].local: mb4d: pool 2 must be odd"),
    (
        LOCAL,
        "local: {kind: identity}",
        "17: stages[0].local: identity is a choice at every position",
    ),
    (
        LOCAL,
        "local: {kind: conv_embedding, width: 8}",
        "stages[0]: stage1_block1: conv_embedding changes its input",
    ),
    (
        GLOBAL,
        GLOBAL.replace("}", ", heads: 0}"),
        "26: stages[2].global: mb3d: heads 0 must be at least 1",
    ),
    (HEAD, "head: {kind: mb4d}", "32: head: mb4d cannot be a head"),
    (HEAD, "head: {kind: token_head}", "32: head: token_head: classes: is missing"),
    (
        HEAD,
        "head: {kind: token_head, classes: 1}",
        "32: head: token_head: classes 1 must be at least 2",
    ),
    (
        MEMBER,
        MEMBER.replace("48", "50"),
        "34: published.efficientformer_l1: stage 1: width 50 is not one of 32, 48, 64",
    ),
    (
        MEMBER,
        MEMBER.replace("48, ", "", 1),
        "34: published.efficientformer_l1: widths, depths and attention need 4",
    ),
    (
        MEMBER,
        MEMBER.replace("[3, 2", "[3, 20"),
        "34: published.efficientformer_l1: stage 2: depth 20 is outside 1..6",
    ),
    (
        MEMBER,
        MEMBER.replace("0, 1]", "1, 1]"),
        "34: published.efficientformer_l1: global blocks must be the last of",
    ),
    (
        MEMBER,
        MEMBER.replace("0, 1]", "0, 9]"),
        "34: published.efficientformer_l1.attention[3]: 9 blocks of attention",
    ),
    (
        MEMBER,
        MEMBER.replace("[0, 0", "[0, 2"),
        "attention[1]: 2 blocks of attention are too many: the stage has no global block",
    ),
    (
        "name: efficientformer\n",
        "name: efficientformer\nname: b\n",
        "6: name: duplicates the key of line 5. Fix: remove one of them",
    ),
    ("name: efficientformer\n", "\tname: efficientformer\n", "5: malformed YAML:"),
    (
        "name: efficientformer\n",
        "name: !!python/object:os.system {}\n",
        "5: malformed YAML: could not determine",
    ),
    ("name: efficientformer\n", "name: &a [*a]\n", "5: malformed YAML: *a contains itself"),
]


@pytest.mark.parametrize("good, bad, message", BAD, ids=[message for _, _, message in BAD])
def test_bad_files_name_line_key_and_reason(
    good: str, bad: str, message: str, tmp_path: Path
) -> None:
    assert good in TEXT
    path = tmp_path / "space.yaml"
    path.write_text(TEXT.replace(good, bad, 1))
    with pytest.raises(InputError) as caught:
        nas.load_space(str(path))
    found = str(caught.value)
    assert (
        re.match(re.escape(f"{path}:") + r"\d+: ", found) and message in found and "\n" not in found
    ), found


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file is empty"),
        (b"[]", "is not a mapping of keys"),
        (b"7", "is not a mapping of keys"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"\x00", "malformed YAML"),
        (b"a: [", "malformed YAML"),
    ],
)
def test_files_that_are_no_space_at_all(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        nas.load_space(str(path))
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value)
    assert "\n" not in str(caught.value)


WIDTHS = "width: {min: 16, max: 32, step: 16}"
NUMBERS = "[" + ", ".join(str(number) for number in range(1, 2001, 2)) + "]"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (WIDTHS, "width: {min: 1, max: 1000000000}", "width.max: Input should be less than"),
        (WIDTHS, "width: {min: 2, max: 60000, step: 2}", "has 30000 values, expected at most 1000"),
        (WIDTHS, f"width: {NUMBERS[:-1]}, 2001]", "width: has 1001 values (expected at most 1000)"),
        (WIDTHS, "width: [1000000000]", "width[0]: Input should be less than or equal to 65536"),
        ("{min: 1, max: 2}", "{min: 1, max: 1000000000}", "depth.max: Input should be less than"),
        (
            "{kind: mb4d, expansion: 2}",
            f"{{kind: mb4d, expansion: {NUMBERS}, pool: {NUMBERS}}}",
            "local: has 1000000 candidates, expected at most 1000",
        ),
        (
            "format: nas-space-1",
            f"format: nas-space-1\ndefaults: {{mb4d: {{expansion: {NUMBERS}, pool: {NUMBERS}}}}}",
            "defaults.mb4d: has 1000000 candidates, expected at most 1000",
        ),
        (
            "depth: {min: 1, max: 2}\n  local: {kind: mb4d, expansion: 2}",
            f"depth: {{min: 1, max: 200}}\n  local: {{kind: mb4d, expansion: {NUMBERS}}}",
            "stages[0]: has 400000 choices (widths x blocks x candidates), expected at most 20000",
        ),
    ],
    ids=str.split("range step list width depth candidates defaults choices"),
)
def test_a_small_file_of_an_unbounded_space_is_refused(
    good: str, bad: str, message: str, tmp_path: Path
) -> None:
    text = SMALL.format(placement="stage_suffix")
    assert good in text
    path = tmp_path / "space.yaml"
    path.write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError) as caught:
        nas.load_space(str(path))
    assert str(caught.value).startswith(f"{path}:") and message in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 150


def test_settings_that_blocks_share_by_an_anchor(tmp_path: Path) -> None:
    text = SMALL.format(placement="stage_suffix")
    shared = text.replace(
        "local: {kind: mb4d, expansion: 2}", "local: &l {kind: mb4d, expansion: 2}"
    )
    path = tmp_path / "space.yaml"
    path.write_text(shared.replace("local: {kind: mb4d}", "local: {<<: *l, expansion: 3}", 1))
    assert nas.load_space(str(path)).stages[1].local == (MB4D(expansion=3),)


def test_unknown_names() -> None:
    with pytest.raises(
        InputError, match="unknown space 'efficentformer', did you mean 'efficientformer'"
    ):
        nas.load_space("efficentformer")
    with pytest.raises(InputError, match=r"gone\.yaml: there is no such space file"):
        nas.load_space("gone.yaml")
