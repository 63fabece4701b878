"""The stream store: the images of the memory store, decoded when they are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import RED_AND_BLUE, fill, noise, rows, write_parquet
from PIL import Image

from nas.data import Splits, load_data, load_whole
from nas.data.memory import usable_memory
from nas.data.stream_store import StreamImages
from nas.errors import InputError

SIZE = (24, 32)


def photos(folder: Path, count: int = 12) -> Path:
    """Make two classes of pictures that all differ."""
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number, (40 + number, 50)).save(path)
    return folder


def splits(name: Path | str, store: str, **options: object) -> Splits:
    return load_data(str(name), SIZE, store=store, **options)  # type: ignore[arg-type]


def assert_equal(ours: Splits, theirs: Splits) -> None:
    for part in ("train", "held_out"):
        one = getattr(ours, part)
        other = getattr(theirs, part)
        assert np.array_equal(np.asarray(one.images), np.asarray(other.images))
        assert one.images.shape == other.images.shape
        assert np.array_equal(one.labels, other.labels)
        assert (one.classes, one.source, one.part) == (other.classes, other.source, other.part)


@pytest.mark.parametrize("kind", ["folder", "parquet", "digits"])
def test_both_stores_have_the_same_images(tmp_path: Path, kind: str) -> None:
    name: Path | str = "digits"
    if kind == "folder":
        name = photos(tmp_path / "photos")
    elif kind == "parquet":
        name = write_parquet(tmp_path / "t.parquet", image=rows(20), label=[0, 1] * 10)
    options = {"limit": 30, "held_out": 0.25, "seed": 3}
    assert_equal(splits(name, "stream", **options), splits(name, "memory", **options))


def test_nothing_is_written(tmp_path: Path, own_cache: Path) -> None:
    data = splits(photos(tmp_path / "photos"), "stream")
    assert np.asarray(data.train.images).any()
    assert not own_cache.exists()


def test_images_are_indexed_as_an_array(tmp_path: Path) -> None:
    images = splits(photos(tmp_path / "photos"), "stream").train.images
    assert isinstance(images, StreamImages)
    whole = np.asarray(images)
    assert np.array_equal(np.array(images[2:5]), whole[2:5])
    assert np.array_equal(np.array(images[np.array([4, 0, 4])]), whole[[4, 0, 4]])
    assert (len(images[2:5]), images[2:5].shape) == (3, (3, 3, *SIZE))


def test_images_of_more_than_8_bits_are_scaled_as_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "deep" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (30, 40), dtype=np.uint16)).save(path)
    name = tmp_path / "deep"
    assert_equal(splits(name, "stream"), splits(name, "memory"))


def test_another_image_of_its_class_takes_the_place_of_a_broken_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE, 200)
    (folder / "red" / "7.png").write_bytes(b"no picture")
    data = splits(folder, "stream", held_out=0.5)
    for part in (data.train, data.held_out):
        colours = np.asarray(part.images)[:, :, 0, 0].tolist()
        wanted = [list(RED_AND_BLUE[part.classes[label]]) for label in part.labels]
        assert colours == wanted
    told = capsys.readouterr().err
    assert told.count("red/7.png cannot be decoded (it is not an image") == 1


def test_a_class_without_a_good_image_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE, 3)
    fill(folder, {"green": (0, 200, 0)}, 2)
    for path in (folder / "green").iterdir():
        path.write_bytes(b"no picture")
    data = splits(folder, "stream", held_out=1)
    with pytest.raises(InputError, match=r"no image of class green can be decoded.*Fix: mend"):
        np.asarray(data.train.images)


def test_mostly_broken_images_are_refused_at_once(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    for path in list(folder.rglob("*.png"))[:8]:
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"8 of 12 images that were tried are broken"):
        splits(folder, "stream")


def test_the_fingerprint_is_that_of_a_copy_and_not_of_a_changed_picture(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    first = splits(folder, "stream").train.fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert splits(tmp_path / "copy", "stream").train.fingerprint == first
    assert splits(folder, "memory").train.fingerprint != first
    noise(99).save(folder / "a" / "000.png")
    assert splits(folder, "stream").train.fingerprint != first


@pytest.mark.parametrize(("memory", "store"), [(10**9, "memory"), (50_000, "stream")])
def test_the_store_is_chosen_by_the_bytes_of_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, store: str
) -> None:
    # 12 images of 24x32 take 27,648 bytes, and half of the memory may be taken.
    monkeypatch.setattr("nas.data.usable_memory", lambda: memory)
    folder = str(photos(tmp_path / "photos"))
    assert load_whole(folder, SIZE).train.store == store
    assert load_whole(folder, SIZE, store="memory").train.store == "memory"
    assert load_whole(folder, SIZE, limit=4).train.store == "memory"


def test_usable_memory_is_the_smallest_limit(tmp_path: Path) -> None:
    limit = tmp_path / "limit"
    limit.write_text("max\n")
    machine = usable_memory([limit, tmp_path / "none"])
    assert machine is not None and machine > 10**8
    limit.write_text("12345678\n")
    assert usable_memory([limit]) == 12345678
    # Version 1 says a huge number where there is no limit.
    limit.write_text(str(2**63))
    assert usable_memory([limit]) == machine


def test_images_of_a_block_lie_together_in_their_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": rows(1000), "label": [0, 1] * 500})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=300)
    images = load_whole(str(tmp_path / "t.parquet"), SIZE, store="stream").train.images
    assert isinstance(images, StreamImages) and images.blocks is not None
    order = images.stream.order
    found = {int(block): np.sort(order[images.blocks == block]) for block in set(images.blocks)}
    # Groups of 300, 300, 300 and 100 rows, in blocks of at most 256.
    spans = sorted((int(rows_[0]), int(rows_[-1]), len(rows_)) for rows_ in found.values())
    assert spans == [
        (0, 255, 256),
        (256, 299, 44),
        (300, 555, 256),
        (556, 599, 44),
        (600, 855, 256),
        (856, 899, 44),
        (900, 999, 100),
    ]
