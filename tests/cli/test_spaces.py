"""`nas spaces`: what it prints for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas.cli.spaces import spaces
from nas.errors import InputError


def test_json_has_every_space_with_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    spaces(as_json=True)
    document = json.loads(capsys.readouterr().out)
    found = {space["name"]: space for space in document}["efficientformer"]
    members = {member["name"]: member for member in found["members"]}
    assert members["efficientformer_l1"]["params"] == 12_289_928
    assert members["efficientformer_l3"]["attention"] == [0, 0, 0, 4]
    assert isinstance(members["efficientformer_l7"]["macs"], int)
    assert found["stages"][0]["widths"] == [32, 48, 64, 80, 96]
    assert found["stages"][0]["global"] is None


def test_text_of_one_space(capsys: pytest.CaptureFixture[str]) -> None:
    spaces("efficientformer")
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
    own.write_text(text.replace("width: {min: 32, max: 96, step: 16}", "width: [32, 48, 96]"), encoding="utf-8")
    with pytest.raises(InputError, match=r"own\.yaml.*width 64"):
        spaces(str(own))
    own.write_text(own.read_text(encoding="utf-8").replace("[32, 48, 96]", "[32, 48, 64, 96]"), encoding="utf-8")
    spaces(str(own))
    assert "32 48 64 96" in capsys.readouterr().out


def test_unknown_space() -> None:
    with pytest.raises(InputError, match="did you mean 'efficientformer'"):
        spaces("efficientfromer")
