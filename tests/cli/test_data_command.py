"""`nas data`: what is kept, as text and as JSON, and its removal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas.cli.options import run_command
from nas.data import load_data


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_data("digits", (8, 8), limit=50)
    load_data("digits", (16, 16), limit=50)
    return tmp_path / "nas" / "data"


def document(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    capsys.readouterr()
    run_command("data", json=True, **options)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_maps_are_listed(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys)
    assert found["folder"] == str(kept)
    assert [each["resolution"] for each in found["maps"]] == ["16x16", "8x8"]
    for each in found["maps"]:
        assert (each["name"], each["images"], each["state"]) == ("digits", 50, "complete")
        assert Path(each["path"]).is_dir() and each["bytes"] > 0 and not each["removed"]
    assert found["bytes"] == sum(each["bytes"] for each in found["maps"])
    run_command("data")
    text = capsys.readouterr()
    assert "total 0." in text.out and "digits" in text.out and "nas data --unused" in text.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "photos"}, "no decoded images of photos are kept\n"),
        ({"unused": "30"}, "no decoded images are kept, unused for 30 days\n"),
    ],
)
def test_what_is_not_there_is_named(
    options: dict[str, str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run_command("data", **options)
    assert capsys.readouterr().out == text


def test_maps_are_removed(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, prune=True, unused="1")["removed_bytes"] == 0
    assert document(capsys, prune=True, name="photos")["maps"] == []
    found = document(capsys, prune=True, name="digits")
    assert found["removed_bytes"] == found["bytes"] > 0
    assert [path for path in kept.iterdir() if path.is_dir()] == []
    run_command("data")
    assert capsys.readouterr().out == "no decoded images are kept\n"
