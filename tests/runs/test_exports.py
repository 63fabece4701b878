"""What is finished and what is not: files written aside, checksums, export.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.devices.board.runner.plan import sha256
from nas.errors import InputError, NasError
from nas.files import tree_sha256
from nas.runs.exports import Record, aside, size


def fill(path: Path, text: str = "model", folder: bool = False) -> None:
    """An exported file, or folder of two."""
    if folder:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "weights.bin").write_text(text)
        path = path / "manifest.json"
    path.write_text(text)


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_written_aside_replaces_the_old_one_at_the_end(
    tmp_path: Path, folder: bool
) -> None:
    path = tmp_path / "export" / "model.x"
    for text in ("old", "new"):
        with aside(path) as temporary:
            fill(temporary, text, folder)
            assert path.exists() == (text == "new"), "nothing happens to the old one before the end"
    assert (path / "manifest.json" if folder else path).read_text() == "new"
    assert [child.name for child in path.parent.iterdir()] == ["model.x"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_its_writer_kept_private_is_as_readable_as_the_folder(
    tmp_path: Path, folder: bool
) -> None:
    tmp_path.chmod(0o755)
    with aside(tmp_path / "model.x") as temporary:
        fill(temporary, folder=folder)
        for file in temporary.rglob("*") if folder else [temporary]:
            file.chmod(0o700 if file.is_dir() else 0o600)
    files = (
        [file for file in (tmp_path / "model.x").rglob("*") if file.is_file()]
        if folder
        else [tmp_path / "model.x"]
    )
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


@pytest.mark.parametrize("entry", ["[1]", "null", "3"])
def test_a_damaged_entry_counts_as_none(tmp_path: Path, entry: str) -> None:
    (tmp_path / "export.yaml").write_text(f"format: nas-export-1\ntargets: {{litert: {entry}}}\n")
    assert Record(tmp_path).targets == {}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, NasError("differs")])
@pytest.mark.parametrize("folder", [False, True])
def test_an_interruption_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, folder: bool, stop: BaseException
) -> None:
    path = tmp_path / "model.x"
    fill(path, "old", folder)
    before = tree_sha256(path)
    with pytest.raises((KeyboardInterrupt, NasError)), aside(path) as temporary:
        fill(temporary, "half", folder)
        raise stop
    assert tree_sha256(path) == before
    assert [child.name for child in tmp_path.iterdir()] == ["model.x"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(NasError, match=r"model\.x: could not be written"),
        aside(tmp_path / "model.x"),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("a file")
    with (
        pytest.raises(
            NasError, match=r"model\.x: could not be written \((File exists|Not a directory)"
        ),
        aside(tmp_path / "export" / "model.x"),
    ):
        pass


def test_digest_of_a_folder_goes_by_names_and_content(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        fill(tmp_path / name, text, folder=True)
    assert tree_sha256(tmp_path / "a") == tree_sha256(tmp_path / "b") != tree_sha256(tmp_path / "c")
    assert size(tmp_path / "a") == 2
    (tmp_path / "b" / "inner" / "weights.bin").rename(tmp_path / "b" / "weights.bin")
    assert tree_sha256(tmp_path / "a") != tree_sha256(tmp_path / "b")


def test_whole_is_what_is_recorded_made_from_the_same_and_unchanged(tmp_path: Path) -> None:
    fill(tmp_path / "model.x")
    Record(tmp_path).put(
        "x",
        {"file": "model.x", "sha256": tree_sha256(tmp_path / "model.x"), "made": "1"},
        {"run": "r"},
    )
    record = Record(tmp_path)
    assert record.whole("x", "1") == record.targets["x"]
    assert record.whole("x", "2") is None and record.whole("y", "1") is None
    fill(tmp_path / "model.x", "tampered with")
    assert record.whole("x", "1") is None
    (tmp_path / "model.x").unlink()
    assert record.whole("x", "1") is None


@pytest.mark.parametrize("file", ["/", "../other/model.x", "a/b", ".."])
def test_a_recorded_file_is_one_of_the_folder(tmp_path: Path, file: str) -> None:
    Record(tmp_path).put("x", {"file": file, "made": "1"}, {"run": "r"})
    with pytest.raises(
        InputError, match=r"export.yaml:\d+: targets.x.file: is .*, expected the name"
    ):
        Record(tmp_path)


def test_a_dropped_target_is_forgotten_on_disk(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.put("x", {"file": "model.x"}, {})
    record.put("y", {"file": "model.y"}, {})
    record.drop("x", {})
    assert list(Record(tmp_path).targets) == ["y"]


@pytest.mark.parametrize(
    "text", ["format: other\ntargets: {}\n", "format: nas-export-1\ntargets: 3\n", "- 1\n"]
)
def test_another_kind_of_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "export.yaml").write_text(text)
    with pytest.raises(InputError, match=r"export\.yaml"):
        Record(tmp_path)


def test_what_finder_leaves_in_a_package_damages_nothing(tmp_path: Path) -> None:
    """macOS writes such files into every folder that it has shown, or that exFAT holds."""
    fill(tmp_path / "a", "1", folder=True)
    before = (tree_sha256(tmp_path / "a"), sha256(tmp_path / "a"))
    (tmp_path / "a" / ".DS_Store").write_bytes(b"notes")
    (tmp_path / "a" / "inner" / "._weights.bin").write_bytes(b"attributes")
    assert (tree_sha256(tmp_path / "a"), sha256(tmp_path / "a")) == before
    (tmp_path / "a" / "inner" / ".hidden").write_bytes(b"ours")
    assert tree_sha256(tmp_path / "a") != before[0]
    assert sha256(tmp_path / "a") != before[1]
