"""Hashes of images before decoding: equal wherever one image lies, and in both stores."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import noise, write_parquet
from PIL import Image

from nas.data import ImageData, Splits, load_data
from nas.data.images import SelectedImages
from nas.files import remove

COUNT = 12


def photo(number: int) -> bytes:
    file = io.BytesIO()
    noise(number, (20 + number, 24)).save(file, "PNG")
    return file.getvalue()


def folder(root: Path) -> Path:
    for number in range(COUNT):
        path = root / "ab"[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    return root


def parquet(root: Path) -> Path:
    labels = [number % 2 for number in range(COUNT)]
    return write_parquet(
        root / "t.parquet", image=[photo(number) for number in range(COUNT)], label=labels
    )


def segmentation(root: Path) -> Path:
    for number in range(COUNT):
        for kind in ("images", "masks"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{number}.png").write_bytes(photo(number))
        columns = np.arange(24) // 8 + (number == 0)
        mask = np.broadcast_to(columns, (20 + number, 24)).astype(np.uint8)
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "parquet": parquet,
    "segmentation": segmentation,
}


def load(
    name: Path | str, store: str, masks: bool = False, size: int = 32, seed: int = 0
) -> Splits:
    return load_data(str(name), (size, size), 0.25, seed=seed, store=store, masks=masks)  # type: ignore[arg-type]


def every(data: Splits) -> set[int]:
    return {*data.train.image_hashes().tolist(), *data.held_out.image_hashes().tolist()}


@pytest.mark.parametrize("kind", SOURCES)
def test_stores_sizes_and_seeds_change_no_hash(tmp_path: Path, kind: str) -> None:
    name = SOURCES[kind](tmp_path / kind)
    masks = kind == "segmentation"
    memory, stream = (load(name, store, masks) for store in ("memory", "stream"))
    for part in ("train", "held_out"):
        ours = getattr(memory, part).image_hashes()
        assert ours.dtype == np.uint64 and len(ours) == len(getattr(memory, part))
        # The same image at the same place.
        assert np.array_equal(ours, getattr(stream, part).image_hashes())
    assert len(every(memory)) == COUNT
    assert every(load(name, "memory", masks, size=64, seed=5)) == every(memory)


def test_one_image_is_one_in_a_folder_a_table_and_below_a_mask(tmp_path: Path) -> None:
    found = [
        every(load(make(tmp_path / kind), "memory", kind == "segmentation"))
        for kind, make in SOURCES.items()
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_pixels_without_a_file_have_hashes(store: str) -> None:
    data = load_data("digits", (32, 32), limit=60, store=store)  # type: ignore[arg-type]
    assert len(every(data)) == 60


def test_broken_images_have_no_hash_in_memory(tmp_path: Path) -> None:
    name = folder(tmp_path / "photos")
    (name / "a" / "000.png").write_bytes(photo(0)[:40])
    data = load(name, "memory")
    assert data.train.skipped == 1 and len(every(data)) == COUNT - 1
    kept = load(folder(tmp_path / "whole"), "memory")
    assert every(data) < every(kept)


def test_files_that_vanish_are_told_apart(tmp_path: Path) -> None:
    name = folder(tmp_path / "photos")
    stream = load(name, "stream")
    shutil.rmtree(name)
    assert len(every(stream)) == COUNT


def test_a_map_without_hashes_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    name = folder(tmp_path / "photos")
    before = every(load(name, "memory"))
    (file,) = own_cache.glob("*/train.hashes.npy")
    remove(file)
    assert every(load(name, "memory")) == before and file.is_file()


@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize("kind", SOURCES)
def test_selected_images_are_those(tmp_path: Path, kind: str, store: str) -> None:
    masks = kind == "segmentation"
    data = load(SOURCES[kind](tmp_path / kind), store, masks).train
    chosen = np.arange(len(data)) % 3 == 1
    some: ImageData = data.selected(chosen)
    assert len(some) == chosen.sum()
    assert some.images.shape == (chosen.sum(), 3, 32, 32)
    assert np.array_equal(np.asarray(some.images), np.asarray(data.images)[chosen])
    assert np.array_equal(some.labels, data.labels[chosen])
    assert np.array_equal(some.image_hashes(), data.image_hashes()[chosen])
    pixels, targets = some.read(slice(1, 3))
    all_pixels, all_targets = data.read(slice(0, len(data)))
    assert np.array_equal(pixels, all_pixels[chosen][1:3])
    assert np.array_equal(targets, all_targets[chosen][1:3])
    assert isinstance(some.images, SelectedImages) is (store == "memory")


def test_hashes_of_images_from_elsewhere_are_those_of_their_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 5), dtype=np.uint8)
    labels = np.zeros(3, np.int64)
    data = ImageData(pixels, labels, ("a", "b"), 0, "made", "f")
    hashes = data.image_hashes()
    assert len(set(hashes.tolist())) == 3
    other = ImageData(pixels[::-1].reshape(3, 3, 5, 4), labels, ("a", "b"), 0, "made", "f")
    assert not set(other.image_hashes().tolist()) & set(hashes.tolist())
