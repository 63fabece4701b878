"""Loading image data: sources, splits, the cache, and what is said of data that will not do."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.data import Splits, load_data
from nas.data.cache import decode
from nas.data.images import stratified_order
from nas.errors import InputError, NasError

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 48)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, colours: dict[str, tuple[int, int, int]], count: int = 10) -> Path:
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i}.png").write_bytes(picture(colour))
    return folder


RED_AND_BLUE = {"red": (200, 0, 0), "blue": (0, 0, 200)}


def rows(count: int) -> list[bytes]:
    return [picture((200, 0, 0) if i % 2 else (0, 0, 200)) for i in range(count)]


def write_parquet(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


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
    with pytest.raises(InputError, match="held-out"):
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


def test_class_that_is_only_tested(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", image=rows(20), label=["a", "b"] * 10)
    write_parquet(tmp_path / "set" / "test.parquet", image=rows(2), label=["a", "c"])
    with pytest.raises(InputError, match="'c'"):
        load_data(str(tmp_path / "set"), SIZE)


def test_columns_that_cannot_be_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", image=rows(4), speed=[1.0] * 4)
    with pytest.raises(InputError, match="label column among: image, speed"):
        load_data(str(tmp_path / "x.parquet"), SIZE)
    write_parquet(tmp_path / "y.parquet", label=[1, 2], text=["a", "b"])
    with pytest.raises(InputError, match="image column"):
        load_data(str(tmp_path / "y.parquet"), SIZE)


def test_missing_label(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", image=rows(4), label=["a", None, "b", "a"])
    with pytest.raises(InputError, match=r"a training image has no label \(got"):
        load_data(str(tmp_path / "x.parquet"), SIZE)


def test_malformed_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read") as caught:
        load_data(str(tmp_path / "x.parquet"), SIZE)
    assert "\n" not in str(caught.value)


def test_full_disk_while_reading_is_no_fault_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def full(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetGenerationError("x") from OSError(
            28, "No space left on device"
        )

    write_parquet(tmp_path / "x.parquet", image=rows(4), label=[0, 1, 0, 1])
    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(NasError, match="No space left") as caught:
        load_data(str(tmp_path / "x.parquet"), SIZE)
    assert caught.value.exit_code == 1


def test_broken_images_are_skipped_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE)
    (folder / "red" / "3.png").write_bytes(b"not an image")
    (folder / "red" / "4.png").write_bytes(picture((1, 2, 3))[:60])
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


def test_cache_is_reused_and_follows_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "photos", RED_AND_BLUE)
    first = load_data(str(folder), SIZE)
    with monkeypatch.context() as patch:
        patch.setattr("nas.data.cache.decode", lambda *_: pytest.fail("decoded again"))
        again = load_data(str(folder), SIZE)
        assert again.train.fingerprint == first.train.fingerprint
    (folder / "red" / "new.png").write_bytes(picture((200, 0, 0)))
    assert len(load_data(str(folder), SIZE, held_out=2).train) == 19


def test_fingerprint_follows_the_pixels_not_the_path(tmp_path: Path) -> None:
    here, there = (load_data(str(fill(tmp_path / name, RED_AND_BLUE)), SIZE) for name in ("a", "b"))
    assert here.train.fingerprint == there.train.fingerprint
    other = load_data(str(fill(tmp_path / "c", RED_AND_BLUE | {"red": (201, 0, 0)})), SIZE)
    assert here.train.fingerprint != other.train.fingerprint


def damage_size(folder: Path) -> None:
    with (folder / "train.u8").open("ab") as file:
        file.write(b"x")


def damage_json(folder: Path) -> None:
    (folder / "data.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize("damage", [damage_size, damage_json])
def test_damaged_cache_is_made_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    first = load_data("digits", (8, 8))
    (folder,) = (path for path in (tmp_path / "xdg" / "nas" / "data").iterdir() if path.is_dir())
    damage(folder)
    assert load_data("digits", (8, 8)).train.fingerprint == first.train.fingerprint


def test_full_disk_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(NasError, match="No space left on device"):
            load_data("digits", (8, 8))
    assert not [path for path in (tmp_path / "xdg" / "nas" / "data").iterdir() if path.is_dir()]


def test_decode_crops_the_centre() -> None:
    """A wide picture, left half red and right half blue: the centre square has both in equal parts."""
    picture = Image.new("RGB", (200, 50), (200, 0, 0))
    picture.paste((0, 0, 200), (100, 0, 200, 50))
    file = io.BytesIO()
    picture.save(file, "PNG")
    pixels = decode(file.getvalue(), (10, 10))
    assert isinstance(pixels, np.ndarray)
    assert tuple(pixels[:, 5, 0]) == (200, 0, 0) and tuple(pixels[:, 5, 9]) == (0, 0, 200)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "I;16", "CMYK"])
def test_decode_takes_every_mode(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (9, 9)).save(file, "TIFF")
    pixels = decode(file.getvalue(), (8, 8))
    assert isinstance(pixels, np.ndarray) and pixels.shape == (3, 8, 8)
