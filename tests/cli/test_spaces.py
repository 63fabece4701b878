"""`nas spaces`: what it prints for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nas.cli.options import run_command
from nas.errors import InputError
from nas.space import Space

spaces = partial(run_command, "spaces")


def test_json_has_every_space_with_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    spaces(json=True)
    document = json.loads(capsys.readouterr().out)
    found = {space["name"]: space for space in document}["efficientformer"]
    members = {member["name"]: member for member in found["members"]}
    assert members["efficientformer_l1"]["params"] == 12_289_928
    assert members["efficientformer_l3"]["attention"] == [0, 0, 0, 4]
    assert isinstance(members["efficientformer_l7"]["macs"], int)
    assert found["stages"][0]["widths"] == [32, 48, 64, 80, 96]
    assert found["stages"][0]["global"] == []


def test_text_of_one_space(capsys: pytest.CaptureFixture[str]) -> None:
    spaces(name="efficientformer")
    said = capsys.readouterr()
    assert "256..768 by 16" in said.out
    assert "efficientformer_l7" in said.out and "82.23 M" in said.out
    assert "nas search --space efficientformer" in said.err


def test_text_of_all_spaces_names_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    spaces()
    said = capsys.readouterr()
    assert "efficientformer:" in said.out
    assert "next: nas spaces" in said.err


def test_space_of_ones_own_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nas.space import load_space

    text = Path(load_space("efficientformer").path).read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(
        text.replace("width: {min: 32, max: 96, step: 16}", "width: [32, 48, 96]"), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"own\.yaml.*width 64"):
        spaces(name=str(own))
    own.write_text(
        own.read_text(encoding="utf-8").replace("[32, 48, 96]", "[32, 48, 64, 96]"),
        encoding="utf-8",
    )
    spaces(name=str(own))
    assert "32 48 64 96" in capsys.readouterr().out


def test_unknown_space() -> None:
    with pytest.raises(InputError, match="did you mean 'efficientformer'"):
        spaces(name="efficientfromer")


def test_text_shows_all_candidates_of_a_place(
    choices_space: Callable[..., Space], capsys: pytest.CaptureFixture[str]
) -> None:
    space = choices_space()
    spaces(name=space.path)
    said = capsys.readouterr().out
    assert "mb4d(expansion=1|2;pool=3;activation=gelu|relu)" in said
    assert (
        "head_dim=8|12|16" in said
        and "mb3d(heads=2;key_dim=8;value_ratio=2;expansion=1|2;activation=gelu)" in said
    )
    assert "Each block has one of the values separated by |." in said
    assert "choices: 1,797,120 networks, 64x64 pixels" in said
    for name in ("choices_s", "choices_l", "choices-smallest", "choices-largest"):
        assert name in said


def test_json_lists_all_candidates_of_a_place(
    choices_space: Callable[..., Space], capsys: pytest.CaptureFixture[str]
) -> None:
    space = choices_space("stage_suffix")
    spaces(name=space.path, json=True)
    (document,) = json.loads(capsys.readouterr().out)
    assert document["networks"] == space.count() and document["attention"] == "stage_suffix"
    for said, stage in zip(document["stages"], space.stages, strict=True):
        assert said["entries"] == [block.to_dict() for block in stage.entries]
        assert said["local"] == [block.to_dict() for block in stage.local]
        assert said["global"] == [block.to_dict() for block in stage.global_]
    assert document["members"][0]["attention"] == [0, 0, 1, 1]
