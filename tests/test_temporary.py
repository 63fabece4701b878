"""What a killed process leaves is removed by the next one; what a living one uses stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas import temporary
from nas.files import replacing, write_text
from nas.temporary import part_beside, scratch_folder, sweep_once

PROGRAM = """\
import pathlib, sys, tempfile
from nas.temporary import part_beside, scratch_folder
tempfile.tempdir = sys.argv[1]
made = scratch_folder("nas-test-") if sys.argv[2] == "scratch" else part_beside(pathlib.Path(sys.argv[2]))
with made as path:
    (path / "inner" if path.is_dir() else path).write_text("half")
    print("made", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that has not swept any folder yet."""
    monkeypatch.setattr(temporary, "_swept", set())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def another(tmp_path: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has made something temporary and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "made\n"
    try:
        yield process
    finally:
        process.communicate("")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("what", ["scratch", "file"])
def test_it_stays_while_its_process_lives_and_goes_after_a_kill(tmp_path: Path, what: str) -> None:
    with another(tmp_path, what if what == "scratch" else str(tmp_path / "weights")) as process:
        (left,) = names(tmp_path)

        def use() -> list[str]:
            temporary._swept.clear()
            with scratch_folder("nas-test-") if what == "scratch" else part_beside(tmp_path / "b"):
                return [name for name in names(tmp_path) if name == left]

        assert use() == [left]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert use() == []
    assert names(tmp_path) == []


def test_a_part_that_an_older_version_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".state.safetensors.a1_b2c3d.part").write_bytes(b"half")
    for kept in (".hidden", ".a.part", "b.a1_b2c3d.part", ".lock"):
        (tmp_path / kept).touch()
    sweep_once(tmp_path)
    assert names(tmp_path) == [".a.part", ".hidden", ".lock", "b.a1_b2c3d.part"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    (tmp_path / ".x.a1_b2c3d.part").symlink_to(tmp_path / "mine")
    sweep_once(tmp_path)
    assert (tmp_path / "mine" / "kept").exists()


def test_a_folder_is_swept_once(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    (tmp_path / ".b.a1_b2c3d.part").touch()
    write_text(tmp_path / "b", "")
    assert names(tmp_path) == [".b.a1_b2c3d.part", "a", "b"]


@pytest.mark.parametrize("length", [100, 255])
@pytest.mark.parametrize("letter", ["x", "ä"])
def test_any_name_that_a_file_may_have(tmp_path: Path, letter: str, length: int) -> None:
    path = tmp_path / (letter * (length // len(letter.encode())))
    write_text(path, "text")
    assert names(tmp_path) == [path.name]


def test_what_a_library_writes_beside_its_file_goes_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "weights") as path:
        path.with_name(".tmp123").write_text("half")
        raise RuntimeError
    assert names(tmp_path) == []


def test_nothing_is_locked_where_the_system_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".x.a1_b2c3d.part").touch()
    monkeypatch.setattr(temporary, "fcntl", None)
    write_text(tmp_path / "a", "text")
    assert names(tmp_path) == [".x.a1_b2c3d.part", "a"]
