"""Labels from metadata.csv and metadata.jsonl, as the hub documents them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pictures import tree

from nas.data.source import Source
from nas.data.sources import find_source
from nas.errors import InputError


def source(folder: Path) -> Source:
    return find_source(str(folder))


def images(folder: Path, count: int = 6, prefix: str = "") -> Path:
    return tree(folder, *(f"{prefix}{i}.png" for i in range(count)))


def test_a_csv_names_the_classes(tmp_path: Path) -> None:
    folder = images(tmp_path / "x")
    lines = ["file_name,label,note", *(f"{i}.png,{'NA' if i % 2 else 'dog'},x" for i in range(6))]
    (folder / "metadata.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = source(folder)
    assert found.classes == ("NA", "dog")
    assert found.splits["train"].labels.tolist() == [1, 0, 1, 0, 1, 0]
    (folder / "metadata.csv").write_text("\n".join(lines).replace("5.png,NA", "5.png,dog"))
    assert source(folder).key != found.key


def test_json_lines_in_folders_of_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("Testing", 4)):
        folder = images(tmp_path / "x" / split, count)
        rows = [{"file_name": f"{i}.png", "label": i % 2} for i in range(count)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = source(tmp_path / "x")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 6, "test": 4}
    assert found.classes == ("0", "1")


def test_one_table_for_all_splits(tmp_path: Path) -> None:
    folder = images(images(tmp_path / "x", 6, "train/"), 4, "val/")
    rows = [f"train/{i}.png,{'ab'[i % 2]}" for i in range(6)]
    rows += [f"val/{i}.png,{'ab'[i % 2]}" for i in range(4)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    found = source(folder)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 6, "test": 4}


def test_a_column_of_splits(tmp_path: Path) -> None:
    folder = images(tmp_path / "x")
    rows = [f"{i}.png,{'ab'[i % 2]},{'train' if i < 4 else 'test'}" for i in range(6)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
    found = source(folder)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 4, "test": 2}


def test_rows_and_images_without_one_another_are_told(tmp_path: Path) -> None:
    folder = images(tmp_path / "x", 7)
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(5)]
    extra = ["gone.png,a", "../../etc/passwd,b", "5.png,"]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows, *extra]))
    found = source(folder)
    assert len(found.splits["train"]) == 5
    told = " ".join(found.notes)
    assert "gone.png" in told and "6.png" in told and "1 image without a label" in told


def test_captions_leave_the_class_folders(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)))
    rows = [f"{c}/{i}.png,a {c} number {i}" for c in ("cat", "dog") for i in range(3)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    found = source(folder)
    assert found.classes == ("cat", "dog")
    assert any("metadata.csv" in text for text in found.notes)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("file_name\n0.png\n", "no column of labels"),
        ("name,label\n0.png,a\n", r"row without file_name \(found: name, label\).*Fix: "),
        ("file_name,label\nx/0.png,a\nx/1.png,b\n", r"none of its 2 images is there .*Fix: "),
        ("file_name,text\n0.png,x\n1.png,y\n2.png,z\n", "'text' has 3 values"),
        ('file_name,label\n0.png,"a\n', "cannot be read"),
        ("file_name,label\n0.png,a\n0.png,b\n1.png,a\n", "several rows"),
        ("", "no column of labels"),
    ],
)
def test_a_malformed_table_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    folder = images(tmp_path / "x")
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(InputError, match=named) as caught:
        source(folder)
    assert "metadata.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_of_something_else_leaves_the_class_folders(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)))
    (folder / "metadata.csv").write_text("image_id,age\n1,2\n")
    found = source(folder)
    assert found.classes == ("cat", "dog")
    assert any("metadata.csv: has no labels" in text for text in found.notes)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_tables_of_spreadsheets_and_of_windows(tmp_path: Path, delimiter: str, slash: str) -> None:
    folder = images(tmp_path / "x", prefix="a/")
    lines = [delimiter.join(("file_name", "label"))]
    lines += [delimiter.join((f"a{slash}{i}.png", "ab"[i % 2])) for i in range(6)]
    (folder / "metadata.csv").write_text("\n".join(lines))
    found = source(folder)
    assert found.classes == ("a", "b") and len(found.splits["train"]) == 6
    # What is read is not counted among what is not.
    assert not any("not read" in text for text in found.notes)


@pytest.mark.parametrize("label", [["a", "b"], {"name": "a"}])
def test_several_labels_of_an_image_are_no_class(tmp_path: Path, label: object) -> None:
    folder = images(tmp_path / "x")
    rows = [{"file_name": f"{i}.png", "label": label if i else "a"} for i in range(6)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"metadata\.jsonl: column 'label' .* is no label"):
        source(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"file_name": 3}', "[" * 5000])
def test_malformed_json_lines_are_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = images(tmp_path / "x")
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"metadata\.jsonl"):
        source(folder)
