"""Images with masks: the layouts in which they lie, what their values mean, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import png, write_parquet
from PIL import Image

from nas.data import ImageData, Splits, load_data
from nas.data.images import IGNORED
from nas.data.mask_classes import CAMVID, CITYSCAPES, VOC
from nas.errors import InputError

SIZE = (32, 48)
"""Height and width of the images; the tests load them at this size, so that no pixel is resampled."""


def mask_of(values: Sequence[int]) -> NDArray[np.uint8]:
    """Return a mask of one column per value."""
    columns = np.repeat(values, SIZE[1] // len(values)).astype(np.uint8)
    return np.broadcast_to(columns, SIZE).copy()


def encoded(mask: NDArray[np.uint8], mode: str = "L", kind: str = "PNG") -> bytes:
    image = Image.fromarray(mask)
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pair(
    root: Path, image: str, mask: str, values: Sequence[int] = (0, 1, 2), mode: str = "L"
) -> None:
    put(root / image, png(size=(SIZE[1], SIZE[0])))
    put(root / mask, encoded(mask_of(values), mode))


def loaded(root: Path, store: str = "memory", held_out: int = 1) -> Splits:
    return load_data(str(root), SIZE, held_out=held_out, masks=True, store=store)  # type: ignore[arg-type]


def values_in(data: ImageData) -> set[int]:
    return set(np.unique(np.asarray(data.masks)).tolist())


LAYOUTS = {
    "no splits": ("images/{n}.png", "masks/{n}.png"),
    "splits below": ("images/{split}/{n}.png", "annotations/{split}/{n}.png"),
    "splits above": ("{split}/images/{n}.png", "{split}/labels/{n}.png"),
    "suffix of the name": ("{split}/image/{n}.png", "{split}/mask/{n}_mask.png"),
    "folders of masks beside": ("{split}/{n}.png", "{split}annot/{n}.png"),
    "CamVid of Kaggle": ("{split}/{n}.png", "{split}_labels/{n}_L.png"),
    "wrapped": ("set/{split}/Images/a/{n}.png", "set/{split}/Masks/a/{n}.png"),
    "mmsegmentation": ("img_dir/{split}/{n}.png", "ann_dir/{split}/{n}_labelTrainIds.png"),
    "one folder per kind and split": ("{split}_images/{n}.png", "{split}_masks/{n}.png"),
    "words in capitals": ("{split}Images/{n}.png", "{split}Masks/{n}.png"),
    "split words in capitals": ("data{split_}/images/{n}.png", "data{split_}/masks/{n}.png"),
    "LoveDA": ("{split}/Rural/images_png/{n}.png", "{split}/Rural/masks_png/{n}.png"),
    "COCO-Stuff": ("images/{split}2017/{n}.png", "stuffthingmaps/{split}2017/{n}.png"),
    "Oxford pets": ("images/{split}/{n}.png", "annotations/trimaps/{split}/{n}.png"),
    "BDD100K": ("seg/images/{split}/{n}.png", "seg/labels/{split}/{n}_train_id.png"),
    "drones": ("{split}/original_images/{n}.png", "{split}/label_images_semantic/{n}.png"),
    "polyps": ("{split}/Original/{n}.png", "{split}/Ground Truth/{n}.png"),
    "archives": ("leftImg8bit_all/leftImg8bit/{split}/{n}.png", "gt_all/gt/{split}/{n}.png"),
    "file names": ("images/{split}_{n}.png", "masks/{split}_{n}.png"),
}


@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize(("image", "mask"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path: Path, image: str, mask: str, store: str) -> None:
    for split in ("train", "val"):
        for n in range(4):
            names = (
                text.format(split=split, split_=split.title(), n=f"a{split}{n}")
                for text in (image, mask)
            )
            pair(tmp_path, *names, values=(3, 7, 9 if n else IGNORED))
    data = loaded(tmp_path, store)
    everything = "{split" not in image
    assert len(data.train) + len(data.held_out) == (8 if everything else 4)
    assert (data.test is None) is everything
    # Values are numbered in their order, and 255 is none.
    assert data.train.classes == ("3", "7", "9")
    whole = np.concatenate([np.asarray(data.train.masks), np.asarray(data.held_out.masks)])
    assert set(np.unique(whole).tolist()) == {0, 1, 2, IGNORED}
    pixels, targets = data.train.read(slice(0, 2))
    assert pixels.shape == (2, 3, *SIZE) and targets.shape == (2, *SIZE)
    assert targets.dtype == np.int64 and bool((targets[:, :, :16] == 0).all())
    assert np.array_equal(np.asarray(data.train.images[:2]), pixels)
    assert np.array_equal(data.train.layers(np.array([1, 0]))[:, 3], targets[::-1])


def test_both_stores_have_the_same_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(5):
        image = Image.fromarray(rng.integers(0, 256, (40, 33, 3), dtype=np.uint8))
        image.save(tmp_path / "image.png")
        put(tmp_path / f"images/{n}.png", (tmp_path / "image.png").read_bytes())
        put(tmp_path / f"masks/{n}.png", encoded(rng.integers(0, 3, (40, 33), dtype=np.uint8)))
    (tmp_path / "image.png").unlink()
    memory, stream = (loaded(tmp_path, store) for store in ("memory", "stream"))
    every = slice(0, 4)
    assert np.array_equal(memory.train.layers(every), stream.train.layers(every))
    # The whole image is there, in the middle; what it does not cover is ignored.
    masks = np.asarray(memory.train.masks)
    width = round(33 * SIZE[0] / 40)
    covered = (masks != IGNORED).all(axis=(0, 1))
    assert covered.sum() == width and not covered[0] and not covered[-1]


def test_names_in_a_list_and_a_class_of_no_name(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png", values=(0, 1, 2))
    (tmp_path / "classes.txt").write_text("sky\nVoid\n2: road\ncar\n")
    data = loaded(tmp_path)
    assert data.train.classes == ("sky", "road", "car")
    assert values_in(data.train) == {0, 1, IGNORED}


def test_colours_in_a_list(tmp_path: Path) -> None:
    colours = {0: (10, 20, 30), 1: (0, 0, 0), 2: (40, 50, 60)}
    for n in range(3):
        put(tmp_path / f"train/{n}.png", png(size=(SIZE[1], SIZE[0])))
        mask = np.array([colours[value] for value in range(3)], dtype=np.uint8)[mask_of((0, 1, 2))]
        put(tmp_path / f"train_labels/{n}_L.png", encoded(mask))
    (tmp_path / "class_dict.csv").write_text(
        "name,r,g,b\nsky,10,20,30\nVoid,0,0,0\nroad,40,50,60\n"
    )
    data = loaded(tmp_path)
    assert data.train.classes == ("sky", "road")
    assert values_in(data.train) == {0, 1, IGNORED}
    (tmp_path / "class_dict.csv").unlink()
    with pytest.raises(
        InputError, match=r"3 of 3 masks cannot be read .*RGB.* Fix: .*class_dict\.csv"
    ):
        loaded(tmp_path)


def test_voc(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    for n in range(6):
        mode = "P"
        pair(root, f"JPEGImages/a{n}.png", f"SegmentationClass/a{n}.png", (0, 20, IGNORED), mode)
        put(root / f"SegmentationObject/a{n}.png", encoded(mask_of((0, 9, 9))))
    put(root / "JPEGImages/of_another_task.png", png())
    put(root / "ImageSets/Segmentation/train.txt", b"a0\na1\na2\n")
    put(root / "ImageSets/Segmentation/val.txt", b"a3\na4\n")
    put(root / "ImageSets/Main/train.txt", b"of_another_task\n")
    for place in (root, tmp_path):
        data = loaded(place)
        assert data.train.classes == VOC
        assert (len(data.train) + len(data.held_out), data.test and len(data.test)) == (3, 2)
        assert values_in(data.train) == {0, 20, IGNORED}


def listed(root: Path, lists: dict[str, str], names: Sequence[str], above: str = "") -> Splits:
    """Load images of some names, with masks, that text files divide."""
    for name in names:
        pair(root, f"{above}images/{name}.png", f"{above}masks/{name}.png")
    for path, text in lists.items():
        put(root / path, text.encode())
    return loaded(root)


@pytest.mark.parametrize(
    "lists",
    [
        {"splits/train.txt": "a\nb c\nd.5\n", "splits/val.txt": "e\n"},
        {"ImageSets/train.txt": "a\nb c\nd.5\n", "ImageSets/test.txt": "e\n"},
        {"masks/trainval.txt": "a 1 2\nb c\nd.5\n", "masks/test.txt": "e 3 4\n"},
        {"train.txt": "images/a.png masks/a.png\nb c.png\nd.5.png\n", "test.txt": "x\\e.png\n"},
        # The list of both splits is not trained on where the list of each is there, or one.
        {"train.txt": "a\nb c\nd.5\n", "val.txt": "e\n", "trainval.txt": "a\nb c\nd.5\ne\n"},
        {"trainval.txt": "a\nb c\nd.5\ne\n", "val.txt": "e\n"},
        # VOC's of two years.
        {
            **{"1/Segmentation/train.txt": "a\nb c\n", "2/Segmentation/train.txt": "d.5\n"},
            **{"1/Segmentation/val.txt": "e\n", "2/Main/train.txt": "e\n"},
        },
    ],
)
@pytest.mark.parametrize("above", ["", "voc_trainval/"])
def test_lists_of_the_images_of_each_split(
    tmp_path: Path, lists: dict[str, str], above: str
) -> None:
    lists = {f"{above}{path}": text for path, text in lists.items()}
    data = listed(tmp_path, lists, ("a", "b c", "d.5", "e"), above)
    assert (len(data.train) + len(data.held_out), data.test and len(data.test)) == (3, 1)


def test_some_images_named_like_test_images_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = listed(tmp_path, {}, ("a", "b", "test_c"))
    assert len(data.train) + len(data.held_out) == 3
    assert "1 image to train on named like a validation or test image" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_cityscapes(tmp_path: Path, kind: str) -> None:
    # Road, car and what is out of the region of interest, by both kinds of ids.
    values = (0, 13, IGNORED) if kind == "labelTrainIds" else (7, 26, 3)
    for split, city in (("train", "ulm"), ("val", "bonn"), ("test", "bonn")):
        for n in range(3):
            name = f"{split}/{city}/{city}_00000{n}_000019"
            blank = (IGNORED,) * 3 if kind == "labelTrainIds" else (0, 1, 3)
            pair(
                tmp_path,
                f"leftImg8bit/{name}_leftImg8bit.png",
                f"gtFine/{name}_gtFine_{kind}.png",
                values if split != "test" else blank,
            )
            put(tmp_path / f"gtFine/{name}_gtFine_color.png", png())
            put(tmp_path / f"gtFine/{name}_gtFine_instanceIds.png", encoded(mask_of((1, 2, 3))))
    data = loaded(tmp_path)
    assert data.train.classes == CITYSCAPES
    # The masks of the test images are not published; those of the validation images are.
    assert data.test is not None and len(data.test) == 3
    assert values_in(data.train) == values_in(data.test) == {0, 13, IGNORED}


def test_ade20k(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        for n in range(2):
            name = f"ADE_{split}_{n}.png"
            pair(tmp_path, f"images/{split}/{name}", f"annotations/{split}/{name}", (0, 1, 150))
    rows = [f"{n}\t0.1\t1\t1\t0\tthing {n}, other name" for n in range(1, 151)]
    put(
        tmp_path / "objectInfo150.txt",
        "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]).encode(),
    )
    data = loaded(tmp_path)
    assert len(data.train.classes) == 150 and data.train.classes[0] == "thing 1, other name"
    assert values_in(data.train) == {IGNORED, 0, 149}
    assert data.test is not None and len(data.test) == 2


def test_camvid_of_segnet(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path, f"train/{n}.png", f"trainannot/{n}.png", (0, 10, 11))
    data = loaded(tmp_path)
    assert data.train.classes == CAMVID
    assert values_in(data.train) == {0, 10, IGNORED}


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_parquet(tmp_path: Path, store: str) -> None:
    image = png(size=(SIZE[1], SIZE[0]))
    mask = encoded(mask_of((4, 5, IGNORED)))
    for split, count in (("train", 4), ("validation", 2)):
        columns = {
            "file": [f"{n}" for n in range(count)],
            "image": [{"bytes": image, "path": None}] * count,
            "mask": [{"bytes": mask, "path": None}] * count,
        }
        write_parquet(tmp_path / f"{split}.parquet", **columns)
    data = loaded(tmp_path, store)
    assert data.train.classes == ("4", "5") and values_in(data.train) == {0, 1, IGNORED}
    assert data.test is not None and len(data.test) == 2
    (tmp_path / "classes.txt").write_text("\n".join("abcdef"))
    assert loaded(tmp_path, store).train.classes == tuple("abcdef")
    write_parquet(tmp_path / "train.parquet", image=[image], label=[1])
    with pytest.raises(InputError, match=r"cannot tell the columns of images and of masks"):
        loaded(tmp_path, store)


BAD = {
    "value": (encoded(mask_of((0, 1, 9))), "has the value 9, which is none of the 3 classes"),
    "size": (encoded(mask_of((0, 1, 2))[:-1]), "another size than it (got 48x31, expected 48x32)"),
    "colours": (
        encoded(np.stack([mask_of((0, 1, 2)), *[mask_of((5, 1, 2))] * 2], axis=2)),
        "is RGB",
    ),
    "lossy": (encoded(mask_of((0, 1, 2)), kind="JPEG"), "is a JPEG"),
    "damaged": (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
}


@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_mask_that_is_not_understood_is_named_and_counted_and_never_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str, store: str
) -> None:
    for n in range(6):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png")
    put(tmp_path / "masks/3.png", content)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    data = loaded(tmp_path, store, held_out=2)
    assert values_in(data.train) | values_in(data.held_out) == {0, 1, 2}
    err = capsys.readouterr().err
    assert "images/3.png" in err and reason in err
    if store == "memory":
        assert "skipped 1 of 6 images" in err and len(data.train) + len(data.held_out) == 5


def test_what_has_no_partner_or_no_label_is_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(4):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png")
    put(tmp_path / "images/lonely.png", png(size=(SIZE[1], SIZE[0])))
    put(tmp_path / "masks/widow.png", encoded(mask_of((0, 1, 2))))
    put(tmp_path / "masks/2.png", encoded(mask_of((IGNORED,) * 3)))
    data = loaded(tmp_path)
    err = capsys.readouterr().err
    assert "1 image without a mask not used (images/lonely.png)" in err
    assert "1 mask without an image not used (masks/widow.png)" in err
    assert "1 image whose masks are ignored everywhere" in err and "images/2.png" in err
    assert len(data.train) + len(data.held_out) == 4


def test_a_split_whose_only_mask_is_not_understood_names_no_class(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png")
    data = loaded(tmp_path, "stream", held_out=2)
    for n in range(4):
        put(tmp_path / f"masks/{n}.png", b"nothing")
    with pytest.raises(InputError, match=r"no image of a split can be decoded, .*Fix: mend"):
        np.asarray(data.held_out.images)


def test_most_masks_that_are_not_understood_are_an_error(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png", values=(0, 7, 8))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"4 of 4 images that are broken .*the value 7"):
        loaded(tmp_path)


def test_masks_of_one_object_may_have_255_for_it(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png", values=(0, 255))
    data = loaded(tmp_path)
    assert data.train.classes == ("0", "255") and values_in(data.train) == {0, 1}


@pytest.mark.parametrize(
    ("text", "values", "classes", "kept"),
    [
        # Lines that begin with a number say the value.
        ("1: cat\n2: dog\n7: owl\n", (1, 2, 7), ("cat", "dog", "owl"), {0, 1, 2}),
        ("0 void\n2 dog\n1 cat\n", (0, 1, 2), ("dog", "cat"), {0, 1, IGNORED}),
        # labelme's list begins with the value -1.
        ("__ignore__\n_background_\ncat\n", (0, 1, 255), ("_background_", "cat"), {0, 1, IGNORED}),
    ],
)
def test_values_in_a_list(
    tmp_path: Path, text: str, values: tuple[int, ...], classes: tuple[str, ...], kept: set[int]
) -> None:
    for n in range(3):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png", values=values)
    (tmp_path / "labels.txt").write_text(text)
    data = loaded(tmp_path)
    assert data.train.classes == classes and values_in(data.train) == kept


@pytest.mark.parametrize("second", ["road,10,20,30", "sky,1,2,3"])
def test_a_list_that_gives_one_colour_or_name_twice(tmp_path: Path, second: str) -> None:
    pair(tmp_path, "images/1.png", "masks/1.png")
    (tmp_path / "class_dict.csv").write_text(f"name,r,g,b\nsky,10,20,30\n{second}\n")
    with pytest.raises(InputError, match=r"class_dict\.csv:3: .* of 'sky' .*Fix: "):
        loaded(tmp_path)


def test_negative_values_are_not_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        put(tmp_path / f"images/{n}.png", png(size=(SIZE[1], SIZE[0])))
        mask = mask_of((0, 3, 9)).astype(np.int32)
        mask[mask == 9] = -1
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{n}.tif")
    data = loaded(tmp_path)
    assert data.train.classes == ("0", "3") and values_in(data.train) == {0, 1, IGNORED}
    assert "value 255 is ignored" in capsys.readouterr().err


def test_palettes_that_number_colours_anew_in_each_file(tmp_path: Path) -> None:
    # A GIF has the greys 0 and 90 as 0 and 1 in one file, 0 and 200 in the other.
    for n, values in enumerate(((0, 90), (0, 200), (90, 200), (0, 90, 200))):
        put(tmp_path / f"images/{n}.png", png(size=(SIZE[1], SIZE[0])))
        put(tmp_path / f"masks/{n}.gif", encoded(mask_of(values), kind="GIF"))
    data = loaded(tmp_path)
    assert data.train.classes == ("0", "90", "200")
    pixels = np.concatenate([np.asarray(data.train.masks), np.asarray(data.held_out.masks)])
    assert sorted(len(np.unique(each)) for each in pixels) == [2, 2, 2, 3]
    assert np.bincount(pixels.ravel()).tolist() == [2048, 2048, 2048]
    image = Image.fromarray(mask_of((0, 1, 2)))
    for n in range(2):
        image.putpalette([0, 0, 0, *((255, 0, 0) if n else (0, 255, 0)), 0, 0, 255])
        image.save(tmp_path / f"masks/{n}.gif")
    with pytest.raises(InputError, match=r"palettes .* differ .*value 1 .*Fix: .*class_dict\.csv"):
        loaded(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"palettes .* differ .*value 1 .*Fix: .*class_dict\.csv"):
        loaded(tmp_path)


def test_masks_that_parquet_files_refer_to_are_looked_at_again(tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / f"{n}.png", png(size=(SIZE[1], SIZE[0])))
        put(tmp_path / f"m{n}.png", encoded(mask_of((0, 1))))
    columns = {
        name: [{"bytes": None, "path": f"{prefix}{n}.png"} for n in range(3)]
        for name, prefix in (("image", ""), ("mask", "m"))
    }
    table = write_parquet(tmp_path / "train.parquet", **columns)
    assert load_data(str(table), SIZE, 1, masks=True).train.classes == ("0", "1")
    for n in range(3):
        put(tmp_path / f"m{n}.png", encoded(mask_of((1, 0))))
    masks = np.asarray(load_data(str(table), SIZE, 1, masks=True).train.masks)
    assert bool((masks[:, :, 0] == 1).all())


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"cat/1.png": None}, "there are no masks .*Fix: "),
        ({"images/1.png": None, "masks/1.npy": 0}, r"there are no masks .*masks/1\.npy.*Fix: "),
        ({"images/1.png": None, "masks/2.png": 0}, "no image has a mask of its name"),
        ({"images/val/1.png": None, "masks/val/1.png": 0}, "no split to train on"),
    ],
)
def test_folders_without_pairs(tmp_path: Path, files: dict[str, int | None], match: str) -> None:
    for path, value in files.items():
        put(tmp_path / path, png() if value is None else encoded(mask_of((0, 1, 2))))
    with pytest.raises(InputError, match=match):
        loaded(tmp_path)


def test_images_and_masks_are_no_classes(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path / "first", f"train/{n}.png", f"trainannot/{n}.png")
    for n in range(3):
        pair(tmp_path / "other", f"images/{n}.png", f"masks/{n}.png")
    for n in range(3):
        pair(tmp_path / "third", f"a/train/images/{n}.png", f"a/train/masks/{n}.png")
    for n in range(3):
        pair(tmp_path / "fourth", f"img_dir/{n}.png", f"ann_dir/{n}.png")
    roots = [tmp_path / name for name in ("first", "other", "third", "fourth")]
    for root in roots:
        with pytest.raises(InputError, match=r"no classes. Fix: add --segment"):
            load_data(str(root), (32, 32))


def test_digit_scenes() -> None:
    data = load_data("digit-scenes", (64, 64), limit=40, masks=True)
    assert data.train.classes == ("background", *"0123456789")
    assert data.test is not None and len(data.test) == 40
    masks = np.asarray(data.test.masks)
    shares = np.bincount(masks.ravel(), minlength=256) / masks.size
    assert 0.55 < shares[0] < 0.8 and shares[1:11].min() > 0 and 0 < shares[IGNORED] < 0.1
    again = load_data("digit-scenes", (64, 64), limit=40, masks=True, store="stream")
    assert np.array_equal(data.test.layers(slice(0, 5)), again.test.layers(slice(0, 5)))  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"Fix: add --segment, or --data digits"):
        load_data("digit-scenes", (64, 64))
    with pytest.raises(InputError, match=r"has no masks .* Fix: --data digit-scenes"):
        load_data("digits", (32, 32), masks=True)
