"""Loading image data: sources, splits, the cache, and what is said of data that will not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import RED_AND_BLUE, fill, png, rows, tree, write_parquet
from PIL import Image

from nas import data as package
from nas.data import Splits, divide, load_data, load_whole
from nas.data.images import stratified_order
from nas.errors import InputError

SIZE = (32, 32)


def test_digits() -> None:
    data = load_data("digits", (64, 32), held_out=0.2)
    assert data.test is None
    assert data.train.images.shape == (1438, 3, 64, 32)
    assert data.held_out.images.shape == (359, 3, 64, 32)
    assert isinstance(data.train.images, np.memmap)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.train.classes == tuple("0123456789")
    assert "digits" in data.train.source
    assert data.train.fingerprint != data.held_out.fingerprint


def test_digits_keep_their_label() -> None:
    """The pixels that come with a label are those that scikit-learn gives that label."""
    from sklearn.datasets import load_digits

    source = load_digits()
    data = load_data("digits", (8, 8))
    pixels = np.round(source.images * (255 / 16)).astype(np.uint8)
    known = {image.tobytes(): label for image, label in zip(pixels, source.target, strict=True)}
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert known[image[0].tobytes()] == label


def test_held_out_is_apart_stratified_and_repeatable() -> None:
    first, again, other = (load_data("digits", (8, 8), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.held_out.images, again.held_out.images)
    assert not np.array_equal(first.held_out.images, other.held_out.images)
    counts = np.bincount(np.concatenate([first.train.labels, first.held_out.labels]))
    assert np.all(np.abs(np.bincount(first.held_out.labels) - counts * 0.1) <= 1)
    seen = {image.tobytes() for image in first.train.images}
    assert not any(image.tobytes() in seen for image in first.held_out.images)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 2**31), st.floats(0, 1)
)
def test_every_prefix_of_the_order_is_stratified(
    labels: list[int], seed: int, share: float
) -> None:
    array = np.array(labels, dtype=np.int64)
    order = stratified_order(array, seed)
    assert sorted(order) == list(range(len(labels)))
    prefix = order[: round(share * len(labels))]
    for label in set(labels):
        expected = len(prefix) * labels.count(label) / len(labels)
        assert abs(np.sum(array[prefix] == label) - expected) <= len(set(labels))


def test_limit_and_number_held_out() -> None:
    data = load_data("digits", (8, 8), held_out=20, limit=100)
    assert (len(data.train), len(data.held_out)) == (80, 20)
    assert np.bincount(data.held_out.labels).tolist() == [2] * 10


@pytest.mark.parametrize("held_out", [0, -0.5, 1.5, 1797, 5000, float("nan")])
def test_held_out_that_leaves_nothing(held_out: float) -> None:
    with pytest.raises(InputError, match=r"held-out .* of 1797 images .*Fix: --held-out 359"):
        load_data("digits", (8, 8), held_out=held_out)


def colours_match(data: Splits, red: str, blue: str) -> None:
    for part in (data.train, data.held_out, *([data.test] if data.test else [])):
        assert len(part) and part.images.shape[1:] == (3, *SIZE)
        for image, label in zip(part.images, part.labels, strict=True):
            expected = {red: (200, 0, 0), blue: (0, 0, 200)}[part.classes[label]]
            assert tuple(image[:, 5, 5]) == expected


def test_image_folder(tmp_path: Path) -> None:
    data = load_data(str(fill(tmp_path / "my data", RED_AND_BLUE)), SIZE, held_out=0.2)
    assert data.train.classes == ("blue", "red")
    assert (len(data.train), len(data.held_out), data.test) == (16, 4, None)
    colours_match(data, "red", "blue")


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_image_folder_with_splits(tmp_path: Path, test_name: str) -> None:
    fill(tmp_path / "photos" / "train", RED_AND_BLUE)
    fill(tmp_path / "photos" / test_name, RED_AND_BLUE, count=3)
    data = load_data(str(tmp_path / "photos"), SIZE, held_out=0.2)
    assert (len(data.train), len(data.held_out)) == (16, 4)
    assert data.test is not None and len(data.test) == 6
    colours_match(data, "red", "blue")


def test_classes_called_like_splits(tmp_path: Path) -> None:
    """`train` and `test_tube` as classes, in a folder whose name has glob characters."""
    data = load_data(
        str(fill(tmp_path / "a[1]", {"train": (200, 0, 0), "test_tube": (0, 0, 200)})), SIZE
    )
    assert data.train.classes == ("test_tube", "train")
    assert data.test is None and len(data.train) + len(data.held_out) == 20
    colours_match(data, "train", "test_tube")


def test_parquet_with_hub_features(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "red"])}
    )
    for split, count in (("train", 20), ("test", 6)):
        images = [{"bytes": data, "path": None} for data in rows(count)]
        table = datasets.Dataset.from_dict(
            {"img": images, "label": [i % 2 for i in range(count)]}, features=features
        )
        table.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    data = load_data(str(tmp_path / "set"), SIZE)
    assert data.train.classes == ("blue", "red")
    assert data.test is not None and len(data.test) == 6
    colours_match(data, "red", "blue")


def test_parquet_with_plain_bytes_and_string_labels(tmp_path: Path) -> None:
    labels = ["red" if i % 2 else "blue" for i in range(20)]
    write_parquet(tmp_path / "any.parquet", picture=rows(20), id=list(range(20)), category=labels)
    data = load_data(str(tmp_path / "any.parquet"), SIZE)
    assert data.train.classes == ("blue", "red")
    colours_match(data, "red", "blue")


def test_parquet_pattern_with_structs_and_numbers(tmp_path: Path) -> None:
    for part in range(2):
        images = [{"bytes": data, "path": "x.png"} for data in rows(10)]
        write_parquet(
            tmp_path / f"part-{part}.parquet",
            image=images,
            label=[7 if i % 2 else 3 for i in range(10)],
        )
    data = load_data(str(tmp_path / "part-*.parquet"), SIZE)
    assert data.train.classes == ("3", "7")
    assert len(data.train) + len(data.held_out) == 20
    colours_match(data, "7", "3")


def test_unlabelled_test_split_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(
        tmp_path / "set" / "train.parquet", image=rows(20), label=[i % 2 for i in range(20)]
    )
    write_parquet(tmp_path / "set" / "test.parquet", image=rows(4), label=[-1] * 4)
    assert load_data(str(tmp_path / "set"), SIZE).test is None
    assert "no labels" in capsys.readouterr().err


def test_class_that_is_only_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", image=rows(20), label=["a", "b"] * 10)
    write_parquet(tmp_path / "set" / "test.parquet", image=rows(2), label=["a", "c"])
    data = load_data(str(tmp_path / "set"), SIZE)
    assert data.train.classes == ("a", "b")
    assert data.test is not None and len(data.test) == 1
    assert "1 image of class 'c' not used" in capsys.readouterr().err


def test_columns_that_cannot_be_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", image=rows(4), speed=[1.0] * 4)
    with pytest.raises(InputError, match=r"label column among: image \(binary\), speed \(double\)"):
        load_data(str(tmp_path / "x.parquet"), SIZE)
    write_parquet(tmp_path / "y.parquet", label=[1, 2], text=["a", "b"])
    with pytest.raises(InputError, match="image column"):
        load_data(str(tmp_path / "y.parquet"), SIZE)


def test_malformed_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read") as caught:
        load_data(str(tmp_path / "x.parquet"), SIZE)
    assert "\n" not in str(caught.value)


def test_broken_images_are_skipped_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE)
    (folder / "red" / "3.png").write_bytes(b"not an image")
    (folder / "red" / "4.png").write_bytes(png((1, 2, 3))[:60])
    for _ in range(2):  # decoded, then from the cache
        data = load_data(str(folder), SIZE, held_out=2)
        assert data.train.skipped == 2
        assert len(data.train) == 16
        said = capsys.readouterr().err
        assert "skipped 2 of 20" in said and "3.png" in said and "4.png" in said
    colours_match(data, "red", "blue")


def test_mostly_broken_images_are_refused(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "skipped photos", RED_AND_BLUE
    )  # a name that has a word of the message
    for name in RED_AND_BLUE:
        for i in range(6):
            (folder / name / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"^data .*/skipped photos: 12 of 20 images that are broken"
    ):
        load_data(str(folder), SIZE)


def test_class_whose_every_image_is_broken(tmp_path: Path) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE)
    for file in (folder / "red").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="10 of 20"):
        load_data(str(folder), SIZE)


@pytest.mark.parametrize("layout", ["photos", "photos/train"])
def test_one_class_is_refused_by_name(tmp_path: Path, layout: str) -> None:
    fill(tmp_path / layout, {"cat": (1, 2, 3)})
    with pytest.raises(InputError, match="only the class 'cat'"):
        load_data(str(tmp_path / "photos"), SIZE)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        load_data(str(tmp_path), SIZE)


@pytest.mark.parametrize(
    "name", ["./nothing", "/no/such", "x.parquet", "a/b/c", "nothing-*.parquet", ""]
)
def test_path_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such|no parquet|no images"):
        load_data(name, SIZE)


def test_unknown_name_suggests_digits() -> None:
    with pytest.raises(InputError, match="did you mean 'digits'") as caught:
        load_data("digist", SIZE)
    assert "\n" not in str(caught.value)


def test_fingerprint_follows_the_pixels_not_the_path(tmp_path: Path) -> None:
    here, there = (load_data(str(fill(tmp_path / name, RED_AND_BLUE)), SIZE) for name in ("a", "b"))
    assert here.train.fingerprint == there.train.fingerprint
    other = load_data(str(fill(tmp_path / "c", RED_AND_BLUE | {"red": (201, 0, 0)})), SIZE)
    assert here.train.fingerprint != other.train.fingerprint


def test_the_numbers_of_images_are_always_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "x" / "train", RED_AND_BLUE).parent
    fill(folder / "test", RED_AND_BLUE, count=2)
    for _ in range(2):  # decoded, then from the cache
        load_data(str(folder), SIZE)
        said = capsys.readouterr().err
        assert f"data {folder}: train 20 images, test 4 images from {folder}/test/blue/" in said
        assert " on; 2 classes (blue, red)\n" in said


def test_other_processes_of_a_training_tell_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    load_data("digits", (8, 8))
    assert capsys.readouterr().err == ""


def test_a_data_set_is_divided_again() -> None:
    whole = load_whole("digits", (8, 8), limit=100)
    for held_out in (0.5, 20):
        again = divide(whole, held_out)
        first = load_data("digits", (8, 8), held_out, limit=100)
        assert again.train.fingerprint == first.train.fingerprint
        assert np.array_equal(again.held_out.images, first.held_out.images)


def test_classes_without_an_image_to_train_on_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tree(tmp_path / "x", *(f"{name}/1.png" for name in "abcde"))
    load_data(str(folder), SIZE, held_out=1)
    assert "warning: " in (told := capsys.readouterr().err) and "for class " in told
    load_data(str(folder), SIZE, held_out=4)
    assert "and 1 more" in capsys.readouterr().err
    splits = load_data(str(fill(tmp_path / "y", RED_AND_BLUE)), SIZE)
    assert package._untrained_classes(splits) == []


def test_transparent_pixels_show_the_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "x", RED_AND_BLUE)
    Image.new("RGBA", (8, 8), (7, 7, 7, 0)).save(folder / "red" / "0.png")
    seen = {}
    for background in ("white", "#102030"):
        data = load_data(str(folder), SIZE, background=background)
        assert data.train.background == background
        images = np.concatenate([data.train.images, data.held_out.images])
        seen[background] = {tuple(image[:, 0, 0]) for image in images}
        told = capsys.readouterr().err
        assert f"1 image with transparent pixels, laid on {background}" in told
        assert "red/0.png" in told
    assert (255, 255, 255) in seen["white"] and (16, 32, 48) in seen["#102030"]


def test_deep_images_of_a_data_set_share_one_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 bits in 16: a dark picture stays darker than a bright one."""
    for name, value in (("dark", 400), ("bright", 4000)):
        (tmp_path / "x" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((8, 8), value, dtype=np.uint16)
            Image.fromarray(pixels).save(tmp_path / "x" / name / f"{i}.png")
    data = load_data(str(tmp_path / "x"), (8, 8), held_out=2)
    levels = {
        data.train.classes[label]: int(image[0, 0, 0])
        for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    assert levels == {"dark": 25, "bright": 249}
    assert "8 images of more than 8 bits, scaled from 0..4095" in capsys.readouterr().err


def test_images_of_earlier_versions_have_the_same_fingerprint(tmp_path: Path) -> None:
    """A training of version 0.1 finds its images again by these hashes (of commit ab417f9)."""
    for name, shade in (("a b", 40), ("Z", 90), ("é", 160)):
        for i in range(4):
            pixels = np.arange(12 * 10 * 3).reshape(10, 12, 3) * (i + 3) + shade
            path = tmp_path / "x" / "train" / name / f"{10 - i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels % 256).astype(np.uint8)).save(path)
    folder = load_data(str(tmp_path / "x"), (8, 8), held_out=3, seed=5)
    digits = load_data("digits", (8, 8), held_out=100, limit=300, seed=2)
    assert [folder.train.fingerprint[:16], digits.train.fingerprint[:16]] == [
        "b7b0811393e69526",
        "1e7ca5c38689b662",
    ]
