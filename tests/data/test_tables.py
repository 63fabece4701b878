"""Parquet files and hub data: columns, labels of every type, splits, access by row."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import RED, png, rows, tree, write_parquet

from nas.data.columns import Column
from nas.data.labels import RawLabels, named_labels, unify
from nas.data.source import Source
from nas.data.sources import find_source
from nas.data.table_values import as_labels
from nas.errors import InputError

ALTERNATING = [i % 2 for i in range(12)]


def source(path: Path) -> Source:
    return find_source(str(path))


def read(tmp_path: Path, **columns: Any) -> Source:
    return source(write_parquet(tmp_path / "x.parquet", **{"image": rows(12), **columns}))


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (ALTERNATING, ("0", "1")),
        ([bool(x) for x in ALTERNATING], ("False", "True")),
        ([float(x) for x in ALTERNATING], ("0", "1")),
        ([[1 - x, x] for x in ALTERNATING], ("0", "1")),
        ([[bool(1 - x), bool(x), False] for x in ALTERNATING], ("0", "1")),
        ([[x] for x in ALTERNATING], ("0", "1")),
        (["b" if x else "a" for x in ALTERNATING], ("a", "b")),
        (pa.array(["b" if x else "a" for x in ALTERNATING]).dictionary_encode(), ("a", "b")),
        (pa.array(["b" if x else "a" for x in ALTERNATING], pa.large_string()), ("a", "b")),
        (pa.array(ALTERNATING, pa.uint8()), ("0", "1")),
        (pa.array([x + 9 for x in ALTERNATING], pa.int64()), ("9", "10")),
    ],
)
def test_types_of_labels(tmp_path: Path, values: Any, classes: tuple[str, ...]) -> None:
    found = read(tmp_path, label=values)
    assert found.classes == classes
    assert found.splits["train"].labels.tolist() == ALTERNATING


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([-1, -1, *ALTERNATING[2:]], 10),
        ([None, None, *ALTERNATING[2:]], 10),
        ([-1.0, float("nan"), *map(float, ALTERNATING[2:])], 10),
        ([[0, 0], None, *([1 - x, x] for x in ALTERNATING[2:])], 10),
        ([None, "", *("ab"[x] for x in ALTERNATING[2:])], 10),
    ],
)
def test_unlabelled_rows_are_left_out_and_told(tmp_path: Path, values: Any, count: int) -> None:
    found = read(tmp_path, label=values)
    split = found.splits["train"]
    assert len(split) == count and len(found.classes) == 2
    assert split.where(0).endswith("row 2")
    assert any("2 images of 12 unlabelled" in text for text in found.notes)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([x + 0.5 for x in ALTERNATING], r"double .*0\.5"),
        ([[1, 1], *([1 - x, x] for x in ALTERNATING[1:])], r"\[1, 1\], which is not one-hot"),
        ([[0, 2], *([1 - x, x] for x in ALTERNATING[1:])], r"\[0, 2\]"),
        ([[1], *([1 - x, x] for x in ALTERNATING[1:])], "different lengths"),
        ([["a", "b"]] * 12, "list"),
        ([{"x": 1}] * 12, "struct"),
        ([[x + 0.5] for x in ALTERNATING], r"\[0\.5\]"),
        (pa.array([1] * 12, pa.timestamp("s")), "timestamp"),
        (pa.nulls(12), "no class at all"),
        ([-1] * 12, r"no class at all .*12 images unlabelled"),
        ([-1, 1] * 6, r"only the class '1' .*6 images unlabelled"),
    ],
)
def test_what_is_no_label_is_refused_by_name(tmp_path: Path, values: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        read(tmp_path, label=values)
    assert "\n" not in str(caught.value)


def test_class_labels_are_joined_by_name(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    orders = {"train-0": ["cat", "dog", "owl"], "train-1": ["dog", "cat"], "test-0": ["dog", "cat"]}
    for stem, names in orders.items():
        features = datasets.Features(
            {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)}
        )
        images = [{"bytes": png(), "path": None}] * 4
        table = datasets.Dataset.from_dict(
            {"image": images, "label": [0, 1, 0, 0]}, features=features
        )
        table.to_parquet(tmp_path / "set" / f"{stem}.parquet")
    found = source(tmp_path / "set")
    assert found.classes == ("cat", "dog")
    assert found.splits["train"].labels.tolist() == [0, 1, 0, 0, 1, 0, 1, 1]
    assert found.splits["test"].labels.tolist() == [1, 0, 1, 1]
    assert any("'owl'" in text for text in found.notes)


def test_a_label_beyond_the_names_is_refused() -> None:
    column = Column("label", "int64", is_label=True, names=("a", "b"))
    with pytest.raises(InputError, match="label 2, but 2 names"):
        as_labels("x", column, pa.chunked_array([[0, 1, 2]]))


@pytest.mark.parametrize("name", ["id", "image_id", "idx", "key", "uuid", "Unnamed: 0"])
def test_ids_are_no_classes(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot tell the label column"):
        read(tmp_path, **{name: list(range(12))})


def test_a_column_of_texts_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'caption' has 12 values in 12 rows"):
        read(tmp_path, caption=[f"a cat, number {i}" for i in range(12)])


def test_the_index_of_pandas_is_no_label(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": rows(12), "species": ["cat", "dog"] * 6})
    for name in (None, "species_number"):
        frame.index = pd.Index([3, 4] * 6, name=name)
        frame.to_parquet(tmp_path / "x.parquet")
        assert source(tmp_path / "x.parquet").classes == ("cat", "dog")


@pytest.mark.parametrize("order", [("annotation", "image"), ("image", "annotation")])
def test_of_two_columns_of_images_the_usual_name_wins(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    columns: dict[str, Any] = {
        name: rows(12) if name == "image" else [png(RED)] * 12 for name in order
    }
    write_parquet(tmp_path / "x.parquet", **columns, label=ALTERNATING)
    found = source(tmp_path / "x.parquet")
    assert found.splits["train"].fetch([0, 1]) == rows(2)
    assert any("'image'" in text for text in found.notes)


def test_two_columns_of_images_without_a_usual_name_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", left=rows(12), right=rows(12), label=ALTERNATING)
    with pytest.raises(InputError, match="left, right"):
        source(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("image", "kind"), [(["iVBORw0KGgo"] * 12, "string"), ([[[1, 2], [3, 4]]] * 12, "list")]
)
def test_a_column_of_images_of_another_type_is_refused_by_its_type(
    tmp_path: Path, image: Any, kind: str
) -> None:
    for masks, more in ((False, {"label": ALTERNATING}), (True, {"mask": rows(12)})):
        path = write_parquet(tmp_path / "x.parquet", image=image, **more)
        with pytest.raises(InputError, match=rf"column 'image' has the type {kind}.*Fix: encode"):
            find_source(str(path), masks)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    folder = tree(tmp_path / "set", *(f"img/{i}.png" for i in range(12)))
    paths = [f"img/{i}.png" for i in range(12)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    linked = pa.array([{"bytes": None, "path": path} for path in paths], struct)
    for columns in ({"image": linked}, {"image": paths}, {"file_name": paths}):
        write_parquet(folder / "train.parquet", **columns, label=ALTERNATING)
        found = source(folder)
        assert found.splits["train"].fetch([1]) == [str(folder / "img" / "1.png")]
        # A change of an image that a row refers to is seen.
        (folder / "img" / "0.png").write_bytes(png((1, 2, 3), (10 + len(columns), 10)))
        (folder / "img" / "0.png").write_bytes(png((1, 2, 3), (20, 10)))
        assert source(folder).key != found.key


def test_a_column_of_splits_divides_the_rows(tmp_path: Path) -> None:
    splits = ["train"] * 8 + ["test"] * 3 + ["val"]
    found = read(tmp_path, label=ALTERNATING, split=splits)
    assert [len(found.splits[name]) for name in ("train", "test")] == [8, 3]
    assert found.splits["test"].where(0).endswith("row 8")
    assert any("column 'split'" in text for text in found.notes)
    assert any("'validation' is not used" in text for text in found.notes)
    with pytest.raises(InputError, match="value 'fold 1'"):
        read(tmp_path, label=ALTERNATING, split=["train"] * 11 + ["fold 1"])


def test_a_column_of_splits_may_have_any_type(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["train", "test"])
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.Value("int64"), "split": names}
    )
    columns = {
        "image": [{"bytes": png(), "path": None}] * 4,
        "label": [0, 1, 0, 1],
        "split": [0, 0, 1, 1],
    }
    path = tmp_path / "hub.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    assert {name: len(split) for name, split in source(path).splits.items()} == {
        "train": 2,
        "test": 2,
    }
    coded = pa.array(["train"] * 8 + ["test"] * 4).dictionary_encode()
    assert len(read(tmp_path, label=ALTERNATING, split=coded).splits["train"]) == 8
    with pytest.raises(InputError, match=r"column 'split' has the value '0' .*Fix: rename"):
        read(tmp_path, label=ALTERNATING, split=[0] * 8 + [1] * 4)
    for name in ("is_test", "isTrain", "is_valid", "test"):
        flags = {name: [False] * 8 + [True] * 4}
        with pytest.raises(InputError, match=rf"column '{name}' may say which split .*Fix: "):
            read(tmp_path, label=ALTERNATING, **flags)
        assert read(tmp_path, label=ALTERNATING, split=["train"] * 12, **flags)
    assert read(tmp_path, label=ALTERNATING, val=[0.5] * 12, is_cat=[True] * 12)


def test_parquet_files_below_images_do_not_hide_them(tmp_path: Path) -> None:
    folder = tree(tmp_path / "set", "cat/1.png", "cat/2.png", "dog/1.png")
    write_parquet(folder / "cat" / "embeddings.parquet", x=[1.0, 2.0])
    (folder / "dog" / "bad.parquet").write_bytes(b"nothing")
    found = source(folder)
    assert found.classes == ("cat", "dog")
    assert any("2 .parquet files" in text for text in found.notes)
    write_parquet(folder / "all.parquet", image=rows(4), label=[0, 1, 0, 1])
    with pytest.raises(InputError, match=r"3 images in folders and 1 parquet file .*all\.parquet"):
        source(folder)


def test_test_rows_without_labels_leave_their_place_to_the_validation_rows(
    tmp_path: Path,
) -> None:
    for split, labels in (("train", [0, 1] * 3), ("test", [-1] * 4), ("val", [0, 1])):
        columns = {"image": rows(len(labels)), "label": labels}
        write_parquet(tmp_path / "set" / f"{split}.parquet", **columns)
    found = source(tmp_path / "set")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 6, "test": 2}
    assert any("'test' is not used" in text for text in found.notes)


def test_a_file_of_the_test_split_alone_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "flowers_test.parquet", image=rows(4), label=[0, 1, 0, 1])
    with pytest.raises(InputError, match="no parquet file to train on"):
        source(tmp_path / "flowers_test.parquet")


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    """Of several files with several row groups, also by a copy of the split."""
    pictures = [png((i, 0, 0), (3, 3)) for i in range(250)]
    for number in range(2):
        part = slice(125 * number, 125 * (number + 1))
        table = pa.table({"image": pictures[part], "label": [i % 2 for i in range(125)]})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=100)
    found = source(tmp_path)
    split = found.splits["train"]
    order = np.random.default_rng(0).permutation(250).tolist()
    assert split.fetch(order) == [pictures[i] for i in order]
    assert split.fetch(range(250)) == pictures
    # Workers of a loader get the split by its state, without the open file.
    other = copy.deepcopy(split)
    assert other.fetch([249, 0]) == [pictures[249], pictures[0]]
    assert split.where(130) == "1.parquet row 5"


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", image=rows(300), label=[0, 1] * 150)
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as parquet") as caught:
        source(path).splits["train"].fetch(range(300))
    assert "\n" not in str(caught.value)


def test_an_empty_table_is_one_line(tmp_path: Path) -> None:
    columns = {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}
    write_parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(InputError, match="no class at all"):
        source(tmp_path / "x.parquet")
    write_parquet(tmp_path / "y.parquet", file_name=pa.array([], pa.string()))
    with pytest.raises(InputError, match="image column"):
        source(tmp_path / "y.parquet")


def test_hub_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from nas.data import hub

    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "red"])}
    )

    def made(count: int) -> Any:
        images = [{"bytes": each, "path": None} for each in rows(count)]
        labels = [i % 2 for i in range(count)]
        return datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)

    there = {"train": made(8), "validation": made(2), "test": made(4), "extra": made(2)}
    # Of files other than parquet, such as WebDataset archives.
    monkeypatch.setattr(hub, "_parquet_files", lambda name: None)
    monkeypatch.setattr(hub, "_load_dataset", lambda name: there)
    found = source(Path("someone/flags"))
    assert found.classes == ("blue", "red")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "test": 4}
    assert found.splits["train"].fetch([3, 0]) == [rows(4)[3], rows(4)[0]]
    told = " ".join(found.notes)
    assert "'validation' is not used" in told and "'extra' is not used" in told


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "C", None]), max_size=6), min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "B", "c", "d", None]), max_size=6),
)
def test_labels_keep_their_names(train: list[list[str | None]], test: list[str | None]) -> None:
    parts = [named_labels(part) for part in train]
    try:
        found = unify("x", {"train": parts, "test": [named_labels(test)]})
    except InputError:
        assert len({name for part in train for name in part if name}) < 2
        return
    joined = [name for part in train for name in part]
    labels = found.labels["train"].tolist()
    assert [None if i < 0 else found.classes[i] for i in labels] == joined
    for label, name in zip(found.labels.get("test", np.zeros(0)).tolist(), test, strict=False):
        assert label < 0 or (name is not None and found.classes[label].lower() == name.lower())


def test_two_spellings_of_a_class_are_kept_and_told() -> None:
    train = [named_labels(["Cat", "cat", "dog"])]
    test = [RawLabels(("CAT", "dog"), np.array([0, 1]))]
    found = unify("x", {"train": train, "test": test})
    assert found.classes == ("Cat", "cat", "dog")
    assert found.labels["test"].tolist() == [-1, 2]
    assert any("differ in spelling alone" in text for text in found.notes)
