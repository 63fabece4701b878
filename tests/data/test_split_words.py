"""Words in names of folders and files that name splits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.data.splits import chosen_test, only_names_split, rest_of, split_files, split_named
from nas.errors import InputError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("Training", "train"), ("TRAIN_SET", "train"), ("trainset", "train")),
        *(("seg_train", "train"), ("train-00000-of-00001", "train"), ("myTrainData", "train")),
        *(("train2017", "train"), ("Training Images", "train"), ("split=train", "train")),
        *(("test", "test"), ("Testing", "test"), ("test1", "test"), ("eval", "test")),
        *(("test-multiple_fruits", "test"), ("evaluation", "test"), ("x.TEST.v2", "test")),
        *(("val", "validation"), ("valid", "validation"), ("Validation", "validation")),
        *(("trn", "train"), ("tst", "test"), ("validate", "validation")),
        *(("dev", "validation"), ("ILSVRC2012_val", "validation"), ("valSet", "validation")),
        *(("testudo", None), ("valve", None), ("contest", None), ("valley", None)),
        *(("trainer", None), ("restrain", None), ("device", None), ("medieval", None)),
        *(("invalid", None), ("", None), ("12", None), ("train_test", None), ("été", None)),
    ],
)
def test_a_split_is_named_by_whole_words(name: str, split: str | None) -> None:
    assert split_named(name) == split


@pytest.mark.parametrize("name", ["test_tube", "crash_test", "dev_board", "train station"])
def test_a_name_that_says_more_may_be_a_class(name: str) -> None:
    assert only_names_split(name) is None
    assert split_named(name) is not None


@pytest.mark.parametrize("name", ["test", "Test_Images", "val2", "testset", "eval data"])
def test_a_name_that_says_a_split_alone(name: str) -> None:
    assert only_names_split(name) is not None


def test_names_of_one_pattern() -> None:
    assert rest_of("flowers_train") == rest_of("flowers-test2") == "flowers"
    assert rest_of("training_set") == rest_of("test") == ""
    assert rest_of("test_tube") != rest_of("train")


@given(
    st.sampled_from(["train", "Training", "TEST", "testing", "eval", "val", "valid", "dev"]),
    st.sampled_from(["", "x_", "my data-", "2017.", "é "]),
    st.sampled_from(["", "_v2", "-00001-of-00002", " 3", ".é"]),
)
def test_words_around_a_split_change_nothing(word: str, before: str, after: str) -> None:
    assert split_named(before + word + after) == split_named(word) is not None


def test_test_splits_in_order() -> None:
    named = [("validation", "val"), ("test", "x_test"), ("train", "train"), ("test", "test")]
    assert chosen_test(named) == ["test", "x_test", "val"]


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["default/train/0000.parquet", "default/test/0000.parquet"], {"train": [0], "test": [1]}),
        (["flowers_train.parquet", "flowers_test.parquet"], {"train": [0], "test": [1]}),
        (["a.parquet", "b.parquet"], {"train": [0, 1]}),
        (["train/a.parquet", "train/b.parquet"], {"train": [0, 1]}),
        (["test/a.parquet", "test/b.parquet"], {"test": [0, 1]}),
        (["train_test_split/a.parquet"], {"train": [0]}),
        (["all_train_test/train.parquet", "all_train_test/dev.parquet"], None),
        (["flowers.parquet", "flowers_test.parquet"], {"test": [1], "train": [0]}),
        (["split=train/0.parquet", "split=val/0.parquet"], {"train": [0], "validation": [1]}),
        ([], {}),
    ],
)
def test_files_are_divided(paths: list[str], splits: dict[str, list[int]] | None) -> None:
    expected = {"train": [0], "validation": [1]} if splits is None else splits
    assert split_files("d", paths) == expected


def test_a_file_of_no_split_or_of_several_is_refused() -> None:
    with pytest.raises(InputError, match=r"extra\.parquet names no split"):
        split_files("d", ["train-0.parquet", "test-0.parquet", "extra.parquet"])
    with pytest.raises(InputError, match=r"train/test\.parquet names several splits"):
        split_files("d", ["train/test.parquet", "b/train.parquet"])


@given(st.lists(st.text("train/teslovd_.0 ", min_size=1, max_size=20), max_size=6))
def test_any_paths_are_divided_whole_or_refused(paths: list[str]) -> None:
    try:
        found = split_files("d", paths)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert sorted(index for each in found.values() for index in each) == list(range(len(paths)))
