"""What folders mean: splits, classes, and what is neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import png, tree

from nas.data.layout import Arranged, arrange
from nas.data.listing import Folder, list_folder
from nas.data.source import Source
from nas.data.sources import find_source
from nas.errors import InputError


def folder_of(paths: list[str]) -> Folder:
    """Return a listing of files that are not there."""
    root = Folder("")
    for path in paths:
        here = root
        *folders, name = path.split("/")
        for part in folders:
            inner = next((each for each in here.folders if each.name == part), None)
            if inner is None:
                inner = Folder(here.join(part))
                here.folders.append(inner)
            here = inner
        here.files[name] = b""
    return root


def arranged(*paths: str) -> Arranged:
    return arrange("pets", folder_of(list(paths)))


def labels(result: Arranged) -> dict[str, dict[str, str]]:
    """Return the class of each image by split."""
    return {
        split: {item.path: item.label for item in items} for split, items in result.splits.items()
    }


def pets(prefix: str = "", names: tuple[str, ...] = ("cat", "dog"), count: int = 2) -> list[str]:
    return [f"{prefix}{name}/{i}.png" for name in names for i in range(count)]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train/", "test/"), ("Training/", "Testing/"), ("x/train/", "x/test/")),
        *(("data_train/", "data_test/"), ("train/", "eval/"), ("training/", "validation/")),
        *(("seg_train/seg_train/", "seg_test/seg_test/"), ("a/b/TRAIN/", "a/b/dev/")),
        *(("training_set/training_set/", "test_set/test_set/"), ("train/images/", "val/images/")),
        *(("Training Images/", "test-multiple_pets/"), ("train2017/", "val2017/")),
        ("train_test_split/train/", "train_test_split/test/"),
    ],
)
def test_folders_of_splits(train: str, test: str) -> None:
    result = labels(arranged(*pets(train), *pets(test, count=1)))
    assert result == {
        "train": {f"{train}{c}/{i}.png": c for c in ("cat", "dog") for i in range(2)},
        "test": {f"{test}{c}/0.png": c for c in ("cat", "dog")},
    }


def test_splits_below_classes() -> None:
    paths = [f"{c}/{s}/{i}.png" for c in ("cat", "dog") for s in ("train", "test") for i in "01"]
    result = labels(arranged(*paths))
    assert set(result["train"].values()) == {"cat", "dog"}
    assert all("/train/" in path for path in result["train"])
    assert all("/test/" in path for path in result["test"])


def test_a_test_split_beside_the_classes_to_train_on() -> None:
    result = labels(arranged(*pets(), *pets("test/", count=1)))
    assert list(result["train"]) == pets()
    assert result["test"] == {"test/cat/0.png": "cat", "test/dog/0.png": "dog"}


def test_splits_in_the_names_of_the_images() -> None:
    paths = [f"{c}/{s}_{i}.png" for c in ("cat", "dog") for s in ("train", "test") for i in "01"]
    result = labels(arranged(*paths))
    assert all("train" in path for path in result["train"]) and len(result["train"]) == 4
    assert all("test" in path for path in result["test"]) and len(result["test"]) == 4


def test_some_images_named_like_test_images_are_told() -> None:
    result = arranged(*pets(), "cat/test_1.png")
    assert len(result.splits["train"]) == 5
    assert any("cat/test_1.png" in text for text in result.notes)
    # A class of test tubes says it in every name.
    result = arranged("test_tube/test_tube_1.png", "valve/valve_1.png")
    assert result.notes == []


@pytest.mark.parametrize(
    "names", [("testudo", "valve"), ("train", "bus"), ("test_tube", "train"), ("train", "car")]
)
def test_classes_named_almost_like_splits(names: tuple[str, str]) -> None:
    result = labels(arranged(*pets(names=names)))
    assert set(result) == {"train"} and set(result["train"].values()) == set(names)


def test_the_class_is_the_first_folder() -> None:
    result = labels(arranged(*pets("cat/", ("black", "white")), *pets("dog/", ("black", "white"))))
    assert set(result["train"].values()) == {"cat", "dog"}
    assert not arranged(*pets("cat/", ("black", "white")), *pets("dog/", ("brown",))).notes
    both = arranged(*pets("a/"), *pets("b/"))
    assert both.notes == [
        "a, b have the same sub-folders (cat, dog): the outer folders are the classes"
    ]
    result = labels(arranged("train/n01/images/1.png", "train/n02/images/1.png"))
    assert result["train"] == {
        "train/n01/images/1.png": "n01",
        "train/n02/images/1.png": "n02",
    }


def test_a_folder_around_the_classes_is_none() -> None:
    result = arranged(*pets("archive/PetImages/"))
    assert set(labels(result)["train"].values()) == {"cat", "dog"}
    assert any("archive/PetImages" in text for text in result.notes)


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["train/1.png", "test/1.png"], "train and test"),
        (["flowers_train/1.png", "flowers_test/1.png"], "flowers_train and flowers_test"),
        ([*pets("test/")], "test is named like a split"),
        ([*pets("test/"), *pets("val/")], "named like a split"),
        ([*pets("learn/"), *pets("x_test/")], "x_test is named like a split"),
        ([*pets("train/"), *pets("test/"), *pets("holdout/")], "holdout lies beside"),
        ([*pets("train/"), *pets("train_val/"), *pets("test/")], "train_val lies beside"),
        ([*pets("train/", ("steam", "diesel")), "car/1.png", "bus/1.png"], "lies beside"),
        ([*pets("train/"), *pets("train_extra/")], "train, train_extra"),
        ([*pets(), "cat/test/1.png"], "cat/test is named like a test split"),
        ([*pets("train/"), "train/cat/val/1.png"], "train/cat/val is named like"),
        (
            [*pets("bottle/train/"), *pets("bottle/test/"), *pets("jar/train/")],
            "bottle, jar|bottle",
        ),
        (["cat/train/1.png", "cat/test/1.png", "dog/1.png"], "dog has none"),
        (["1.png", "2.png"], "outside class folders"),
        ([*pets("x/my_train/"), *pets("y/my_test/")], "x/my_train and y/my_test"),
    ],
)
def test_what_may_be_a_split_is_refused_by_name(paths: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        arranged(*paths)
    assert "Fix: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ([*pets(), "cover.png"], "cover.png"),
        ([*pets("train/"), "train/cover.png"], "train/cover.png"),
        ([*pets("train/"), "test/1.png", "test/2.png"], "test/1.png"),
        ([*pets(), "test/1.png", "test/2.png"], "test: 2 images not used"),
        ([*pets("train/"), *pets("test/"), *pets("val/")], "'val' is not used"),
        ([*pets("train/"), *pets("test/"), "unlabelled/1.png"], "unlabelled: 1 image not used"),
    ],
)
def test_what_is_left_out_is_told(paths: list[str], named: str) -> None:
    result = arranged(*paths)
    used = {item.path for items in result.splits.values() for item in items}
    assert used < set(paths)
    assert any(named in text for text in result.notes), result.notes


def test_a_test_split_without_labels_leaves_its_place_to_the_validation_split() -> None:
    for test in (["test/1.png"], ["test/images/1.png"]):
        result = arranged(*pets("train/"), *test, *pets("val/"))
        assert {item.path for item in result.splits["test"]} == set(pets("val/"))
        assert any("test" in text for text in result.notes)


def test_a_refusal_names_what_was_left_out(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets(names=("valid", "invalid")))
    with pytest.raises(InputError, match=r"only the class 'invalid' .*valid: 2 images not used"):
        source(data)


def test_names_of_folders_are_sorted_as_text(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets(names=("2", "10", "1")))
    assert source(data).classes == ("1", "10", "2")


SPLIT_FOLDERS = st.sampled_from(["Test", "testing", "x_test", "val", "dev set", "eval", "VALID"])


@given(
    st.sampled_from(["train", "Training", "my_train", "train set"]),
    SPLIT_FOLDERS,
    st.sampled_from(["", "data/", "a/b/"]),
    st.lists(st.sampled_from("abcdef"), min_size=2, max_size=4, unique=True),
    st.booleans(),
    st.booleans(),
)
def test_no_test_image_is_trained_on(
    train: str, test: str, around: str, classes: list[str], deep: bool, flat: bool
) -> None:
    """Whatever the names: images of the other split are in no class to train on."""
    inner = "x/" if deep else ""
    paths = [f"{around}{train}/{name}/{inner}1.png" for name in classes]
    others = [f"{around}{test}/{'' if flat else f'{name}/{inner}'}{name}.png" for name in classes]
    result = arranged(*paths, *others)
    assert {item.path for item in result.splits["train"]} == set(paths)
    assert {item.path for item in result.splits.get("test", [])} <= set(others)
    assert flat or len(result.splits["test"]) == len(classes)


# On the disk.


def source(folder: Path) -> Source:
    return find_source(str(folder))


def test_links_are_followed_once(tmp_path: Path) -> None:
    store = tree(tmp_path / "store", *pets(names=("owl", "elk")))
    data = tree(tmp_path / "data", *pets())
    (data / "owl").symlink_to(store / "owl")
    (data / "elk.png").symlink_to(store / "elk" / "0.png")
    (data / "cat" / "link.png").symlink_to(store / "elk" / "0.png")
    (data / "cat" / "back").symlink_to(data / "cat")
    (data / "again").symlink_to(data)
    (data / "a_first").symlink_to(data / "dog")
    (data / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = source(data)
    assert found.classes == ("cat", "dog", "owl")
    assert len(found.splits["train"]) == 7
    told = " ".join(found.notes)
    for name in ("elk.png", "cat/back", "again", "a_first", "gone.png"):
        assert name in told


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets())
    (data / "cat" / "one").symlink_to(data / "cat" / "two")
    (data / "cat" / "two").symlink_to(data / "cat" / "one")
    assert len(source(data).splits["train"]) == 4


def test_what_is_not_read_is_counted_by_suffix(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets())
    for name in ("cat/1.heic", "cat/2.HEIC", "notes.txt", "dog/README", ".DS_Store", "Thumbs.db"):
        (data / name).write_bytes(b"x")
    (data / ".ipynb_checkpoints").mkdir()
    (data / ".ipynb_checkpoints" / "1.png").write_bytes(png())
    (data / "__MACOSX" / "cat").mkdir(parents=True)
    (data / "__MACOSX" / "cat" / "._1.png").write_bytes(b"x")
    os.mkfifo(data / "cat" / "pipe.png")
    found = source(data)
    assert found.classes == ("cat", "dog") and len(found.splits["train"]) == 4
    told = " ".join(found.notes)
    assert "2 .heic files" in told and "pillow-heif" in told
    assert "1 .txt file" in told and "without suffix" in told and "pipe.png" in told
    assert "DS_Store" not in told and "ipynb" not in told and "MACOSX" not in told


def test_a_class_whose_pictures_cannot_be_read_is_refused(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets())
    (data / "owl").mkdir()
    (data / "owl" / "1.HEIC").write_bytes(b"x")
    with pytest.raises(InputError, match=r"owl: its 1 \.heic file .* pip install pillow-heif"):
        source(data)


def test_an_empty_class_is_told(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets())
    (data / "elk").mkdir()
    assert any("elk" in text for text in source(data).notes)


def test_classes_that_only_the_test_split_has_are_told(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets("train/"), *pets("test/", ("Cat", "dog", "owl"), count=1))
    found = source(data)
    assert found.classes == ("cat", "dog") and len(found.splits["test"]) == 2
    told = " ".join(found.notes)
    assert "'owl'" in told and "'Cat' as 'cat'" in told


def test_a_test_split_without_usable_labels_is_none(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets("train/"), *(f"test/images/{i}.png" for i in range(3)))
    found = source(data)
    assert list(found.splits) == ["train"]
    assert any("3 images" in text and "(images)" in text for text in found.notes)


def test_names_of_bytes(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets())
    try:
        os.rename(data / "cat", os.fsencode(data) + b"/\xff\xfe")
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    found = source(data)
    assert found.classes == ("\\xff\\xfe", "dog") or found.classes == ("dog", "\\xff\\xfe")
    found.description.encode()


def test_a_change_of_any_image_changes_the_key(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", *pets(), "cat/a.jfif", "dog/b.tga")
    keys = {source(data).key}
    for name in ("cat/0.png", "cat/a.jfif", "dog/b.tga"):
        before = (data / name).stat()
        replacement = data / "new"
        replacement.write_bytes((data / name).read_bytes()[::-1])
        os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
        # A file of equal size and time of modification.
        replacement.replace(data / name)
        keys.add(source(data).key)
    assert len(keys) == 4
    (data / "dog" / "1.png").rename(data / "cat" / "moved.png")
    assert source(data).key not in keys


def test_deep_trees_are_listed(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(600):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "1.png").write_bytes(b"x")
    listing = list_folder(tmp_path, {".png"})
    assert listing.root.count == 1


def test_the_folder_digits_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path / "digits", *pets())
    monkeypatch.chdir(tmp_path)
    assert source(Path("digits")).classes == ("cat", "dog")
    assert "./digits is read" in capsys.readouterr().err
