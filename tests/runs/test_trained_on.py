"""What weights know: the names of their classes, and the images that they have seen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from nas.data import ImageData, Part
from nas.errors import InputError
from nas.files import write_yaml
from nas.runs.trained_on import (
    ImageRange,
    TrainedOn,
    check_names,
    from_header,
    images_of,
    read_trained_on,
    same_names,
    seen_lines,
)

DATA = ImageRange("photos", "/data/photos", 100, 10, 100, 0, "a")
ranges = st.builds(
    ImageRange,
    dataset=st.text(max_size=5),
    name=st.text(max_size=5),
    total=st.integers(2, 99),
    start=st.integers(0, 99),
    stop=st.integers(0, 99),
    seed=st.integers(0, 9),
    fingerprint=st.text(max_size=5),
)


@given(classes=st.none() | st.lists(st.text(max_size=8)), images=st.lists(ranges, max_size=3))
def test_headers_keep_everything(classes: list[str] | None, images: list[ImageRange]) -> None:
    known = TrainedOn(None if classes is None else tuple(classes), tuple(images))
    found = from_header(known.header())
    numbers = known.classes == tuple(map(str, range(len(known.classes or ()))))
    assert found == (replace(known, classes=None) if numbers and not images else known)


@given(st.dictionaries(st.sampled_from(["classes", "trained_on"]), st.text(max_size=30)))
def test_other_headers_say_nothing(header: dict[str, str]) -> None:
    assert from_header(header).images == ()


@pytest.mark.parametrize(
    "change", [{"total": "9"}, {"start": None}, {"seed": -1}, {"stop": 1.5}, {"name": 3}, {"x": 1}]
)
def test_a_range_of_other_values_says_nothing(change: dict[str, object]) -> None:
    header = {"trained_on": json.dumps([{**asdict(DATA), **change}])}
    assert from_header(header) == TrainedOn()
    # Nor does one of no image divide by it.
    none = from_header({"trained_on": json.dumps([{**asdict(DATA), "total": 0}])})
    assert none.images[0].share == 0


def test_numbers_are_names_only_beside_the_images_that_had_them() -> None:
    assert from_header(TrainedOn(("0", "1")).header()).classes is None
    assert from_header(TrainedOn(("0", "1"), (DATA,)).header()).classes == ("0", "1")


def test_same_names() -> None:
    assert same_names("abc", "cab") and same_names("abc", "abc") and same_names("aab", "aab")
    assert not same_names("abc", "abd") and not same_names("abc", "ab")
    assert not same_names("aab", "aba"), "which of the two is which cannot be told"


def test_other_names_are_refused_with_both() -> None:
    assert not check_names("w", None, ("cat", "dog"), "x")
    assert not check_names("w", ("cat", "dog"), ("cat", "dog"), "x")
    assert check_names("w", ("cat", "dog"), ("dog", "cat"), "x")
    with pytest.raises(
        InputError, match=r"w: its classes are 2 \(cat, dog\), .* data 2 \(cat, cow\)\. Fix: --new"
    ):
        check_names("w", ("cat", "dog"), ("cat", "cow"), "--new-head")
    many = [f"class{index}" for index in range(1000)]
    with pytest.raises(InputError, match=r"are 1000 \(class0, .*class4, \.\.\), those"):
        check_names("w", many, ("cat", "cow"), "x")


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        # The same split, and the same pixels under another name.
        ({}, []),
        ({"name": "/other/things"}, []),
        # More or fewer images held out of one order.
        ({"start": 50}, ["40 of the 50 held-out images were trained on by W"]),
        ({"start": 4}, ["6 of the images to train on were held out by W"]),
        # A limit takes the beginning of the order.
        ({"start": 5, "total": 50, "stop": 50}, ["5 of the images to train on were held out by W"]),
        ({"start": 20, "total": 50, "stop": 50}, ["10 of the 20 held-out images were trained on"]),
        # Another order.
        (
            {"seed": 1},
            [
                "about 9 of the 10 held-out images were trained on by W",
                "about 9 of the images to train on were held out by W",
            ],
        ),
        # The same data moved to another place, and other data.
        ({"start": 50, "name": "/new/photos"}, ["40 of the 50 held-out images were trained on"]),
        ({"start": 50, "name": "/new/photos", "total": 99, "stop": 99}, []),
        ({"start": 50, "name": "/data/other"}, []),
        ({"start": 50, "name": ""}, ["40 of the 50 held-out images were trained on"]),
        ({"start": 50, "name": "", "dataset": "others"}, []),
    ],
)
def test_overlaps_of_splits_are_said(now: dict[str, object], lines: list[str]) -> None:
    fingerprint = "a" if now.keys() <= {"name"} and "start" not in now else "b"
    current = replace(DATA, fingerprint=fingerprint, **now)  # type: ignore[arg-type]
    found = seen_lines("W", [DATA], current)
    assert len(found) == len(lines), found
    for line, wanted in zip(found, lines, strict=True):
        assert line.startswith(wanted)
        assert "--held-out 10" in line
        assert ("--seed 0" in line) == ("seed" in now)
    assert seen_lines("W", [DATA], None) == []


def test_the_images_of_a_split(tmp_path: Path) -> None:
    pixels = np.zeros((90, 3, 1, 1), np.uint8)
    labels = np.zeros(90, np.int64)
    data = ImageData(pixels, labels, ("a", "b"), 0, "photos; train", "f", name=str(tmp_path))
    assert images_of(data, 3) is None
    split = replace(data, part=Part("photos", 10, 100, 100))
    assert images_of(split, 3) == ImageRange("photos", str(tmp_path), 100, 10, 100, 3, "f")


def test_older_files_are_known_by_what_stands_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    assert read_trained_on(file) == TrainedOn()
    write_yaml(tmp_path / "run.yaml", {"classes": ["r", "s"]})
    assert read_trained_on(file).classes == ("r", "s")
    write_yaml(tmp_path / "finetune.yaml", {"data": {"classes": ["f", "g"]}})
    assert read_trained_on(file).classes == ("f", "g")
    save_file({"a": torch.zeros(1)}, file, TrainedOn(("h", "i"), (DATA,)).header())
    assert read_trained_on(file) == TrainedOn(("h", "i"), (DATA,))
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    assert read_trained_on(other).classes is None
