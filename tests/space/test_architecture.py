"""Architectures: plain data that is written, read back, and counted."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.blocks import MB3D, MB4D, Flatten, Identity, Operation, Unflatten
from nas.errors import InputError
from nas.space import Architecture, Space, load_architecture
from nas.space.architecture import Misfit
from nas.space.fit import refusal
from nas.space.place import Place

SPACE = nas.load_space("efficientformer")
L1 = SPACE.published["efficientformer_l1"]


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from([32, 224, (64, 96)]), st.sampled_from([2, 10, 1000]))
def test_any_member_is_read_back_as_it_was(
    seed: int, resolution: int | tuple[int, int], classes: int
) -> None:
    arch = SPACE.sample(seed).at(resolution, classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        arch.save(path)
        assert nas.load_architecture(path) == arch


def test_operations_of_l1() -> None:
    names = [operation.name for operation in L1.operations()]
    assert names[:5] == ["stem", "stage1_block1", "stage1_block2", "stage1_block3", "stage2_entry"]
    assert names[-5:] == [
        "stage4_block2",
        "stage4_block3",
        "stage4_flatten",
        "stage4_block4",
        "head",
    ]
    assert L1.operations()[-2].key == (
        "mb3d",
        "heads=8;key_dim=32;value_ratio=4;expansion=4;activation=gelu",
        "tokens:448x7x7",
    )
    assert sum(operation.macs for operation in L1.operations()) == L1.macs
    assert sum(operation.params for operation in L1.operations()) == L1.params == 12_289_928


def test_attention_in_stage_3_is_unflattened_before_the_next_convolution() -> None:
    arch = SPACE.member([48, 96, 224, 448], [1, 1, 3, 2], [0, 0, 2, 2])
    kinds = [operation.spec for operation in arch.operations()]
    assert kinds.count(Flatten()) == 2 and kinds.count(Unflatten()) == 1
    assert all(a.output == b.input for a, b in pairwise(arch.operations()))


def test_dropped_positions_keep_the_names_of_the_others() -> None:
    dropped = L1.with_stage(0, L1.stages[0].with_block(1, Identity()))
    names = [operation.name for operation in dropped.operations()]
    assert "stage1_block2" not in names and "stage1_block3" in names
    assert dropped.depths == (2, 2, 6, 4)
    assert len(dropped.compact().stages[0].blocks) == 2
    assert L1.macs - dropped.macs == L1.operations()[2].macs


def test_is_frozen_hashable_and_equal_by_value() -> None:
    with pytest.raises(FrozenInstanceError):
        L1.name = "other"  # type: ignore[misc]
    again = nas.load_space("efficientformer").published["efficientformer_l1"]
    assert again == L1 and hash(again) == hash(L1) and {L1: 1}[again] == 1
    L1.operations()
    assert copy.deepcopy(L1) == L1


def test_at_changes_input_and_classes_alone() -> None:
    moved = L1.at((256, 128), classes=7)
    assert (
        moved.classes == 7
        and moved.operations()[-1].input.height == 8
        and moved.operations()[-1].input.width == 4
    )
    assert moved.stages == L1.stages
    assert L1.at(224) == L1
    for resolution in (0, 100, (224, 33)):
        with pytest.raises(ValueError, match="both sides must be multiples of 32"):
            L1.at(resolution)


def test_block_that_is_no_block_is_refused() -> None:
    with pytest.raises(
        InputError, match="stage1_block1: flatten changes its input 48x56x56 to tokens"
    ):
        L1.with_stage(0, L1.stages[0].with_block(0, Flatten())).operations()


def test_architectures_by_name_file_and_run(tmp_path: Path) -> None:
    assert load_architecture("efficientformer_l3") == SPACE.published["efficientformer_l3"]
    L1.save(tmp_path / "run" / "architecture.yaml")
    assert (
        load_architecture(tmp_path / "run")
        == load_architecture(tmp_path / "run" / "architecture.yaml")
        == L1
    )
    with pytest.raises(InputError, match="unknown architecture 'resnet50'"):
        load_architecture("resnet50")


def test_saving_over_a_file_replaces_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.yaml"
    L1.save(path)
    SPACE.smallest().save(path)
    assert nas.load_architecture(path) == SPACE.smallest()
    assert [file.name for file in path.parent.iterdir()] == ["a.yaml"]


HEAD = "head: {kind: token_head, classes: 1000, distillation: true}"
FIRST = "- {kind: mb4d, expansion: 4, pool: 3, activation: gelu}"
BAD = [
    (
        "format: nas-architecture-1",
        "format: nas-space-1",
        "1: format: is 'nas-space-1', expected 'nas-architecture-1'",
    ),
    ("format: nas-architecture-1\n", "", "1: format: is None"),
    ("name: ", "nme: ", "2: nme: unknown key"),
    ("stages:", "stges:", "5: stges: unknown key"),
    (
        "resolution: [224, 224]",
        "resolution: [224, 220]",
        "4: resolution: resolution 224x220: both sides must be",
    ),
    (
        "resolution: [224, 224]",
        "resolution: [224.0, 224]",
        "4: resolution: [224.0, 224] is not a list of two whole",
    ),
    ("resolution: [224, 224]\n", "", "resolution: None is not a list"),
    (
        "kind: mb3d",
        "kind: mb5d",
        "28: stages[3].blocks[3]: unknown block kind 'mb5d', did you mean 'mb",
    ),
    ("heads: 8", "heads: -8", "28: stages[3].blocks[3]: mb3d: heads -8 must be at least 1"),
    (
        "heads: 8",
        "heads: eight",
        "28: stages[3].blocks[3]: mb3d: heads: Input should be a valid integer",
    ),
    ("heads: 8", "head: 8", "28: stages[3].blocks[3]: mb3d: head: unknown key"),
    ("width: 448", "width: 0", "23: stages[3].entry: conv_embedding: width 0 must be positive"),
    (
        "kind: conv_stem, width: 48, activation: relu",
        "kind: mb4d",
        "6: stages[0].entry: mb4d cannot enter a stage",
    ),
    (
        "{kind: conv_embedding, width: 448}",
        "{kind: conv_head, classes: 5, width: 448, features: 8}",
        "23: stages[3].entry: conv_head cannot enter a stage",
    ),
    (FIRST, "- 7", "8: stages[0].blocks[0]: expected a block, got 7"),
    (
        FIRST,
        "- {kind: conv_embedding, width: 3}",
        "stage1_block1: conv_embedding changes its input 48x56x56",
    ),
    (FIRST, "- flatten", "stage1_block1: flatten changes its input"),
    ("  blocks:\n", "  block:\n", "6: stages[0]: expected the keys entry and blocks"),
    (HEAD, "head: {kind: mb4d}", "29: head: mb4d cannot be a head"),
    (HEAD, "head: token_head", "29: head: token_head: classes: is missing"),
    (HEAD, "", "head: expected a block, got None"),
]


@pytest.mark.parametrize("good, bad, message", BAD, ids=[message for _, _, message in BAD])
def test_bad_files_name_line_key_and_reason(
    good: str, bad: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    L1.save(path)
    text = path.read_text()
    assert good in text
    path.write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError) as caught:
        nas.load_architecture(path)
    found = str(caught.value)
    assert (
        re.match(re.escape(f"{path}:") + r"\d+: ", found) and message in found and "\n" not in found
    ), found


def test_architecture_needs_no_space_file(tmp_path: Path) -> None:
    arch = replace(L1, space="gone", name="mine")
    arch = arch.with_stage(3, replace(arch.stages[3], blocks=(MB4D(expansion=3), MB3D(heads=4))))
    arch.save(tmp_path / "a.yaml")
    assert nas.load_architecture(tmp_path / "a.yaml") == arch


def test_a_misfit_says_its_place_and_the_space_names_the_key(
    small_space: Callable[..., Space], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key in the YAML file follows from the error's attribute: its message may say anything."""
    space = small_space()

    def refuse(self: Architecture) -> tuple[Operation, ...]:
        misfit = Misfit(Place.entry(1), "no room")
        misfit.args = ("other words",)
        raise misfit

    monkeypatch.setattr(Architecture, "operations", refuse)
    assert refusal(space) == (["stages", 1], "other words")
    error = Misfit(Place.parse("head"), "no room")
    assert (error.place, error.reason, str(error)) == (
        Place.parse("head"),
        "no room",
        "head: no room",
    )
