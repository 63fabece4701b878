"""Images that a network was trained on or chosen by: their list, and a test without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from nas.data import ImageData, Splits
from nas.errors import InputError
from nas.files import write_yaml
from nas.runs.images import (
    UsedImages,
    clean_test,
    images_of_evidence,
    images_of_run,
    images_of_scores,
    images_of_weights,
    merged,
    read_images,
    used_by,
)

hashes = st.lists(st.integers(0, 2**64 - 1), max_size=6).map(
    lambda each: np.unique(np.array(each, np.uint64))
)
names = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=9)
lists = st.builds(UsedImages, hashes, hashes, st.lists(names, max_size=2).map(tuple))


def images(first: int, count: int) -> ImageData:
    """Return images whose only pixel is their number."""
    pixels = np.broadcast_to(np.arange(first, first + count, dtype=np.uint8), (1, 3, 1, count))
    return ImageData(
        np.ascontiguousarray(pixels.transpose(3, 1, 0, 2)),
        np.arange(count, dtype=np.int64) % 2,
        ("a", "b"),
        0,
        "numbers",
        f"{first}-{count}",
    )


@given(lists)
def test_a_list_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, used: UsedImages
) -> None:
    folder = tmp_path_factory.mktemp("list")
    used.save(folder)
    found = read_images(folder / "images.csv")
    assert np.array_equal(found.trained, used.trained)
    assert np.array_equal(found.held_out, used.held_out)
    assert found.unknown == used.unknown
    assert found.record() == used.record()


def test_no_cell_of_a_list_is_a_formula(tmp_path: Path) -> None:
    UsedImages(unknown=("=1+1/weights",)).save(tmp_path)
    assert "unknown,'=1+1/weights" in (tmp_path / "images.csv").read_text()
    assert read_images(tmp_path / "images.csv").unknown == ("=1+1/weights",)


@given(lists, lists)
def test_lists_are_merged(one: UsedImages, other: UsedImages) -> None:
    both = merged([one, other])
    assert set(both.trained.tolist()) == {*one.trained.tolist(), *other.trained.tolist()}
    assert set(both.held_out.tolist()) == {*one.held_out.tolist(), *other.held_out.tolist()}
    assert bool(both) == (bool(one) or bool(other))
    assert not merged([])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("image,use\n", "images.csv:1: .*got image,use, expected use,image"),
        ("use,image\ntrained,12\n", "images.csv:2: "),
        ("use,image\ntrained,00000000000000zz\n", "images.csv:2: "),
        ("use,image\ntrained,0000000000000001\nseen,0000000000000001\n", "images.csv:3: "),
        ("use,image\ntrained\n", "images.csv:2: "),
        ("use,image\ntrained,-000000000000001\n", "images.csv:2: "),
        ("use,image\ntrained,0x00000000000001\n", "images.csv:2: "),
        ("", "images.csv:1: .*got nothing"),
        (f"{'x' * 5_000}\n", "images.csv:1: .*got x{59}…"),
        ("use,image\ntrained,\xe9\n", "images.csv: cannot be read: it is not UTF-8"),
    ],
)
def test_damaged_lists_are_refused_with_their_line(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "images.csv").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=where):
        read_images(tmp_path / "images.csv")


def test_a_test_without_the_images_that_were_used() -> None:
    used = used_by(Splits(images(0, 8), images(8, 4), None))
    assert (len(used.trained), len(used.held_out)) == (8, 4)
    assert clean_test(None, used).images is None
    untouched = clean_test(images(12, 5), used)
    assert untouched.left_out == 0 and len(untouched.images or ()) == 5
    # 6 and 7 were trained on, 8 to 11 held out, 12 and 13 are new.
    clean = clean_test(images(6, 8), used)
    assert (clean.trained, clean.held_out) == (2, 4)
    assert clean.images is not None
    assert np.asarray(clean.images.images)[:, 0, 0, 0].tolist() == [12, 13]
    assert clean.images.labels.tolist() == [0, 1]
    # An image of both uses is counted once.
    both = clean_test(images(0, 13), merged([used, UsedImages(held_out=used.trained)]))
    assert (both.trained, both.held_out) == (8, 4)
    with pytest.raises(InputError, match=r"all 4 test images were used before \(1 trained on, 3"):
        clean_test(images(7, 4), used)


def test_a_list_is_found_by_weights_runs_scores_and_evidence(tmp_path: Path) -> None:
    used = used_by(Splits(images(0, 3), images(3, 2), None))
    supernet = tmp_path / "supernet"
    weights = tmp_path / "weights.safetensors"
    supernet.mkdir()

    save_file({"a": torch.zeros(1)}, weights, {"supernet": str(supernet)})
    run = tmp_path / "run"
    write_yaml(run / "run.yaml", {"supernet": str(supernet)})
    # Nothing is listed yet.
    assert images_of_weights(weights).unknown == (str(weights),)
    assert images_of_run(run).unknown == (str(supernet),)
    assert images_of_scores(str(supernet / "scores.csv")).unknown == (str(supernet / "scores.csv"),)
    assert images_of_evidence(str(run), ["finetune"]).unknown == (str(run),)
    # The supernet's list serves what was cut from it.
    used.save(supernet)
    (supernet / "scores.csv").write_text("")
    for found in (
        images_of_weights(weights),
        images_of_run(run),
        images_of_scores(str(supernet)),
        images_of_scores(str(supernet / "scores.csv")),
    ):
        assert found.record() == used.record()
    # Their own come first.
    more = merged([used, UsedImages(trained=np.array([1], np.uint64))])
    more.save(tmp_path)
    more.save(run)
    assert images_of_weights(weights).record() == more.record()
    assert images_of_run(run).record() == more.record()
    # Evidence is an accuracy: its network's training images chose nothing.
    more.save(run / "finetune")
    evidence = images_of_evidence(str(run), ["finetune"])
    assert (len(evidence.trained), len(evidence.held_out)) == (0, 2)
    # A search by the law alone used no image.
    write_yaml(tmp_path / "law" / "run.yaml", {"format": "nas-run-1"})
    assert not images_of_run(tmp_path / "law")
