"""Folders of a bundle are packed in place, and unpacked elsewhere for as long as they are used."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from nas.devices import packed as packed_module
from nas.devices.packed import LEAST_BYTES, SUFFIX, packed, unpacked
from nas.errors import InputError

WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "chain.mlpackage"
    (folder / "Data" / "weights").mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    (folder / "Data" / "model.mlmodel").write_bytes(b"model")
    (folder / "Data" / "weights" / "weight.bin").write_bytes(WEIGHTS)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        part.relative_to(folder).as_posix(): part.read_bytes()
        for part in folder.rglob("*")
        if part.is_file()
    }


def test_a_package_stays_a_folder_with_small_parts_as_they_are(package: Path) -> None:
    before = content(package)
    assert packed(package) == package
    inside = content(package)
    assert inside.keys() == {
        "Manifest.json",
        "Data/model.mlmodel",
        f"Data/weights/weight.bin{SUFFIX}",
    }
    assert sum(map(len, inside.values())) < len(WEIGHTS) / 100
    assert content(packed(package)) == inside, "packing again changes nothing"
    with unpacked(package) as copy:
        assert copy.name == package.name and content(copy) == before
    assert not copy.exists() and content(package) == inside


def test_equal_content_gives_equal_archives(package: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mlpackage"
    packed(package)
    with unpacked(package) as copy:
        copy.rename(again)
    assert content(packed(again)) == content(package)


def test_what_has_nothing_packed_is_used_where_it_is(package: Path, tmp_path: Path) -> None:
    file = tmp_path / "chain.tflite"
    file.write_bytes(b"x" * 2 * LEAST_BYTES)
    for path in (file, package):
        with unpacked(path) as used:
            assert used == path
    assert packed(file) == file and file.stat().st_size == 2 * LEAST_BYTES


def test_a_link_in_a_strangers_package_is_not_read(package: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("dear to me")
    packed(package)
    (package / "Data" / "link").symlink_to(secret)
    with unpacked(package) as copy:
        assert "Data/link" not in content(copy)


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_part_is_named(package: Path, damage: str) -> None:
    packed(package)
    part = package / "Data" / "weights" / f"weight.bin{SUFFIX}"
    part.write_bytes(part.read_bytes()[:-20] if damage == "cut" else b"garbage")
    with (
        pytest.raises(InputError, match=r"weight\.bin\.gz: is damaged .*Fix: copy it again"),
        unpacked(package),
    ):
        raise AssertionError("not reached")


def test_a_part_that_grows_without_end_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "MOST_BYTES", 1 << 20)
    part = package / "Data" / "weights" / f"bomb{SUFFIX}"
    part.write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(InputError, match=r"bomb\.gz: is larger than"), unpacked(package):
        raise AssertionError("not reached")
