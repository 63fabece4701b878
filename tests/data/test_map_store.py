"""The cache of decoded images: going on after a kill, damage, full disks, listing and removal."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import RED_AND_BLUE, fill, noise, png, rows, tree, write_parquet
from PIL import Image

from nas.data import load_data, map_store
from nas.data.cache import cached_maps, prune
from nas.errors import InputError, NasError

SIZE = (8, 8)


def maps(own_cache: Path) -> list[str]:
    return [path.name for path in own_cache.iterdir() if path.is_dir()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """80 pictures of noise in two classes, of which three are broken, two deep, one transparent."""
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            noise(i + 100 * (name == "dog")).save(folder / name / f"{i}.png")
    for name in ("cat/3.png", "dog/5.png", "dog/39.png"):
        (folder / name).write_bytes(b"broken")
    for name in ("cat/7.png", "dog/8.png"):
        Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(folder / name)
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(folder / "cat" / "20.png")
    return folder


def test_a_cache_is_reused_and_follows_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE)
    first = load_data(str(folder), SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(map_store, "decode", lambda *_: pytest.fail("decoded again"))
        again = load_data(str(folder), SIZE)
        assert again.train.fingerprint == first.train.fingerprint
    (folder / "red" / "new.png").write_bytes(png())
    assert len(load_data(str(folder), SIZE, held_out=2).train) == 19


def test_order_and_pixels_belong_together(tmp_path: Path) -> None:
    """The image at a place is the one whose label stands there, also around broken ones."""
    names = ("a", "b", "c")
    folder = tmp_path / "x"
    for c, name in enumerate(names):
        for i in range(9):
            tree(folder, f"{name}/{i}.png")
            (folder / name / f"{i}.png").write_bytes(png((80 * c, 10 * i, 0)))
    (folder / "b" / "4.png").write_bytes(b"broken")
    data = load_data(str(folder), SIZE, held_out=5)
    seen = set()
    for part in (data.train, data.held_out):
        for image, label in zip(part.images, part.labels, strict=True):
            assert image[0, 0, 0] == 80 * label
            seen.add((int(image[0, 0, 0]), int(image[1, 0, 0])))
    assert len(seen) == 26


class Stop(BaseException):
    """Stands for a kill or an interrupt."""


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let decoding stop after some images, and save its progress at each."""
    done = 0

    def keep(self: Any, *arguments: Any) -> None:
        nonlocal done
        if done == count:
            raise Stop
        done += 1
        return original(self, *arguments)

    original = map_store._SplitWriter._keep
    monkeypatch.setattr(map_store._SplitWriter, "_keep", keep)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
@pytest.mark.parametrize("count", [1, 40, 79, 81])
def test_decoding_goes_on_where_it_stopped(
    photos: Path,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    count: int,
    kind: str,
) -> None:
    data = str(photos)
    if kind == "parquet":
        files = sorted(photos.rglob("*.png"))
        write_parquet(
            tmp_path / "x.parquet",
            image=[file.read_bytes() for file in files],
            label=[file.parent.name for file in files],
        )
        data = str(tmp_path / "x.parquet")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        whole = load_data(data, SIZE)
    told = capsys.readouterr().err
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Stop):
            load_data(data, SIZE)
    capsys.readouterr()
    assert [name.endswith(".part") for name in maps(own_cache)] == [True]
    decoded = []
    original = map_store.decode
    monkeypatch.setattr(map_store, "decode", lambda *a: (decoded.append(a[0]), original(*a))[1])
    again = load_data(data, SIZE)
    assert again.train.fingerprint == whole.train.fingerprint
    assert np.array_equal(again.held_out.images, whole.held_out.images)
    # What is left, and the two deep pictures once more.
    assert len(decoded) == max(0, 80 - count) + 2
    said = capsys.readouterr().err
    assert (f"{count} of 80 train images are decoded already" in said) == (count < 80)
    assert told.splitlines()[1:] == [
        line for line in said.splitlines()[1:] if "already" not in line
    ]
    assert [name.endswith(".part") for name in maps(own_cache)] == [False]


def test_a_killed_process_loses_seconds(
    photos: Path, own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import sys, time\n"
        "from nas.data import load_data, map_store\n"
        "map_store._SAVE_S = 0\n"
        "original = map_store.decode\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.02)\n"
        "    return original(*arguments)\n"
        "map_store.decode = slow\n"
        "load_data(sys.argv[1], (8, 8))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(photos)])
    journal = None
    while journal is None or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.02)
        journal = next(own_cache.glob("*.part/progress.jsonl"), None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    data = load_data(str(photos), SIZE)
    assert len(data.train) + len(data.held_out) == 77
    assert "are decoded already; going on" in capsys.readouterr().err


@settings(max_examples=20)
@given(st.binary(max_size=60))
def test_a_damaged_journal_is_not_trusted(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes
) -> None:
    folder = tmp_path_factory.mktemp("x")
    photos = fill(folder / "photos", RED_AND_BLUE, count=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
        with pytest.MonkeyPatch.context() as inner:
            stop_after(inner, 3)
            with pytest.raises(Stop):
                load_data(str(photos), SIZE)
        journal = next((folder / "xdg").rglob("progress.jsonl"))
        journal.write_bytes(damage + journal.read_bytes() + damage)
        data = load_data(str(photos), SIZE, held_out=2)
        assert {tuple(image[:, 0, 0]) for image in data.train.images} == {(200, 0, 0), (0, 0, 200)}


def test_a_full_disk_keeps_what_is_decoded(
    photos: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(NasError, match="No space left on device") as caught:
            load_data(str(photos), SIZE)
        assert "\n" not in str(caught.value)
    assert [name.endswith(".part") for name in maps(own_cache)] == [True]
    # Decoding is done: only the deep pictures, which wait for their scale, are decoded again.
    monkeypatch.setattr(map_store._SplitWriter, "decode", lambda self, pool: None)
    assert len(load_data(str(photos), SIZE).train) == 69


def test_too_little_room_is_told_before_decoding(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(photos)._replace(free=80 * 3 * 64 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(map_store, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(NasError, match=r"are free\. Fix: set XDG_CACHE_HOME") as caught:
        load_data(str(photos), SIZE)
    assert caught.value.exit_code == 1


def test_data_that_is_refused_leaves_nothing(photos: Path, own_cache: Path) -> None:
    for path in list((photos / "cat").iterdir()):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match="42 of 80"):
        load_data(str(photos), SIZE)
    assert maps(own_cache) == []


def test_all_broken_images_are_listed(
    photos: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cat" / "4.png").write_bytes(b"")
    load_data(str(photos), SIZE)
    assert "all are in broken.csv" in capsys.readouterr().err
    with next(own_cache.rglob("broken.csv")).open(newline="") as file:
        listed = [row["image"] for row in csv.DictReader(file)]
    assert sorted(Path(name).name for name in listed) == ["3.png", "39.png", "4.png", "5.png"]


def test_every_source_names_its_broken_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [{"bytes": data, "path": "x.png"} for data in rows(8)]
    images[5] = {"bytes": b"broken", "path": "x.png"}
    write_parquet(tmp_path / "set" / "train-0.parquet", image=images, label=[0, 1] * 4)
    load_data(str(tmp_path / "set"), SIZE)
    assert "train-0.parquet row 5: " in capsys.readouterr().err


def damage_size(folder: Path) -> None:
    with (folder / "train.u8").open("ab") as file:
        file.write(b"x")


def damage_json(folder: Path) -> None:
    (folder / "data.json").write_text("{", encoding="utf-8")


def damage_labels(folder: Path) -> None:
    (folder / "train.labels.npy").unlink()


@pytest.mark.parametrize("damage", [damage_size, damage_json, damage_labels])
def test_a_damaged_map_is_made_anew(own_cache: Path, damage: Callable[[Path], None]) -> None:
    first = load_data("digits", (8, 8))
    (folder,) = (path for path in own_cache.iterdir() if path.is_dir())
    damage(folder)
    assert load_data("digits", (8, 8)).train.fingerprint == first.train.fingerprint


def test_maps_are_listed_and_removed(photos: Path, own_cache: Path) -> None:
    load_data(str(photos), SIZE)
    load_data("digits", (32, 32))
    (own_cache / "old-8x8-0123456789abcdef0123").mkdir()
    (own_cache / "half-8x8-0123456789abcdef0123.part").mkdir()
    (own_cache / "something").mkdir()
    (own_cache / "file-8x8-0123456789abcdef0123").write_text("x")
    listed = cached_maps()
    assert listed[0].name == "digits" and listed[0].images == 1797
    assert {each.name: each.state for each in listed} == {
        "digits": "complete",
        str(photos): "complete",
        "old": "old",
        "half": "incomplete",
    }
    sizes = {each.name: each.bytes for each in listed}
    assert 1797 * 3 * 32 * 32 <= sizes["digits"] < 1.1 * 1797 * 3 * 32 * 32
    # One that is being decoded stays.
    with FileLock(own_cache / "half-8x8-0123456789abcdef0123.lock"):
        removed, busy = prune(listed)
    assert [each.name for each in busy] == ["half"]
    assert len(removed) == 3
    assert sorted(maps(own_cache)) == ["half-8x8-0123456789abcdef0123.part", "something"]
    assert prune(listed)[0] == [each for each in listed if each.name == "half"]


def test_the_last_use_is_remembered() -> None:
    load_data("digits", (8, 8))
    (each,) = cached_maps()
    for path in each.path.iterdir():
        os.utime(path, (1e9, 1e9))
    assert cached_maps()[0].days > 1000
    load_data("digits", (8, 8))
    assert cached_maps()[0].days < 1


def test_names_of_data_sets_make_names_of_folders(tmp_path: Path, own_cache: Path) -> None:
    for name in ("a" * 250, "a b*c", "é"):
        load_data(str(fill(tmp_path / name, RED_AND_BLUE, count=2)), SIZE, held_out=1)
    assert all(len(os.fsencode(name)) < 150 for name in maps(own_cache))
