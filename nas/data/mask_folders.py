"""Folders of images with masks as a source: pairs them by their names, and finds splits and classes.

`nas.data.sources` calls `mask_folder_source`. An image and its mask have one path but for the folder
that says which is which (`images` and `masks`, `train` and `trainannot`) and a suffix of the name
(`_mask`). So one rule reads CamVid, Cityscapes, ADE20K, Pascal VOC and most other layouts, whether
the folders of splits are above or below.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data import mask_classes
from nas.data.decoding import Refused
from nas.data.images import IGNORED
from nas.data.listing import Folder, Listing
from nas.data.mask_classes import LISTS, MaskClasses
from nas.data.masks import MaskCode, read_mask
from nas.data.notes import counted, shown
from nas.data.source import Encoded, Pair, Source, SourceSplit
from nas.data.splits import TEST, TRAIN, VALIDATION, chosen_test, split_named
from nas.errors import InputError
from nas.files import read_bytes

_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "rgb", "photos"}
"""Names of folders of images, in lower case."""
_MASKS = {
    *("masks", "mask", "annotations", "annotation", "annot", "annots", "labels", "label"),
    *("segmentationclass", "gtfine", "gt", "groundtruth", "ground_truth", "seg", "segmentation"),
    *("segmentations", "labelids", "label_images", "masks_png"),
}
"""Names of folders of masks, in lower case."""
_OTHERS = {"segmentationobject", "gtcoarse", "instances", "instance", "bounding_boxes"}
"""Names of folders that hold something else than the class of each pixel."""
_FOLDER_OF_MASKS = re.compile(r"(.+?)[_-]?(annot|annots|annotations?|labels?|masks?|gt)")
"""The folder of masks beside a folder of images: `trainannot`, `train_labels`."""
_IMAGE_NAME = re.compile(r"(.+?)(_leftImg8bit|_image|_img|_sat)?")
_MASK_NAME = re.compile(
    r"(.+?)(_gtFine_labelTrainIds|_gtFine_labelIds|_labelTrainIds|_labelIds"
    r"|[_-](L|P|mask|masks|label|labels|seg|gt|annot|annotation|segmentation|target))?"
)
"""What the names of images and of masks have besides the name that they share."""
_UNUSED_NAME = re.compile(r".*_gtFine_(color|instanceIds|instanceTrainIds)")
"""Names of further files that Cityscapes has for each image."""
_TRAIN_IDS = "labelTrainIds"
_LABEL_IDS = "_labelIds"
_LISTED_SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_PROBED = 16
"""Masks of a test split that are looked at: those of a benchmark may be blank."""


@dataclass(frozen=True)
class _File:
    """A file of a folder: its path, its stamp, and whether it is a mask."""

    path: str
    stamp: bytes
    is_mask: bool


@dataclass
class _Found:
    """The images and the masks of a folder by the key that pairs them."""

    images: dict[tuple[str, ...], _File] = field(default_factory=dict)
    masks: dict[tuple[str, ...], _File] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class PairSplit(SourceSplit):
    """Images of a folder with their masks, by their paths.

    Attributes:
        root: the folder, as it was given.
        paths: of each image and its mask, relative to it.
        code: what the values of the masks mean.
        labels: (N,) int64, all 0.
    """

    root: str
    paths: Sequence[tuple[str, str]]
    code: MaskCode
    labels: NDArray[np.int64]

    def fetch(self, indices: Sequence[int]) -> list[Encoded]:
        """Return the paths of some images and of their masks."""
        pairs = [self.paths[index] for index in indices]
        return [
            Pair(os.path.join(self.root, image), os.path.join(self.root, mask), self.code)
            for image, mask in pairs
        ]

    def where(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.root, self.paths[index][0])


def holds_masks(listing: Listing) -> bool:
    """Return whether a folder is one of images with masks, by the names of its folders alone.

    Classes are seldom called `images` and `masks`. A `train` and a `trainannot` say the same.
    """
    base = listing.root
    while not base.files and len(base.filled) == 1:
        base = base.filled[0]
    splits = [each for each in base.filled if split_named(each.name)]
    return any(_has_both(each) for each in (base, *splits))


def _has_both(folder: Folder) -> bool:
    """Return whether the folders in a folder are named like images and their masks."""
    names = {each.name.lower() for each in folder.filled}
    pairs = bool(names & _IMAGES) and bool(names & _MASKS)
    # Nothing but these two: with others beside them they may be classes.
    alone = names <= _IMAGES | _MASKS | _OTHERS
    beside = [
        match for name in names if (match := _FOLDER_OF_MASKS.fullmatch(name)) and match[1] in names
    ]
    return (pairs and alone) or any(split_named(match[1]) == TRAIN for match in beside)


def mask_folder_source(data: str, path: Path, listing: Listing) -> Source:
    """Return the source of a folder of images with masks.

    Args:
        data: the data set by name.
        path: the folder.
        listing: of the folder.

    Raises:
        InputError: when no image has a mask, or when splits or classes cannot be recognised.
    """
    found = _find(listing.root)
    if not found.masks:
        raise InputError(
            f"data {data}: there are no masks ({counted(listing.root.count, 'image')}). Fix: put images"
            " into a folder 'images' and their masks, of the same names, into 'masks'"
        )
    keys = [key for key in sorted(found.images) if key in found.masks]
    notes = list(found.notes)
    _note_unpaired(found, _listed_names(path, listing.root), notes)
    if not keys:
        raise InputError(
            f"data {data}: no image has a mask of its name (got"
            f" {next(iter(sorted(each.path for each in found.images.values())), 'no image')} and"
            f" {min(each.path for each in found.masks.values())}). Fix: give both the same name"
        )
    splits = _splits(data, path, listing.root, keys, notes)
    classes = _classes(data, path, listing.root, found, splits[TRAIN])
    _choose_test(path, found, splits, classes, notes)
    described = (*notes, *classes.notes)
    made: dict[str, SourceSplit] = {}
    digest = hashlib.sha256(os.fsencode(path.resolve()) + repr(classes).encode())
    for split, members in splits.items():
        pairs = [(found.images[key], found.masks[key]) for key in members]
        for image, mask in pairs:
            digest.update(os.fsencode(f"{split}\0{image.path}\0{mask.path}\0"))
            digest.update(image.stamp + mask.stamp)
        paths = [(image.path, mask.path) for image, mask in pairs]
        made[split] = PairSplit(
            str(path), paths, classes.code, np.zeros(len(paths), dtype=np.int64)
        )
    return Source(
        name=data,
        description=f"image folder {data} ({sum(map(len, made.values()))} images with masks)",
        key=digest.hexdigest(),
        classes=classes.names,
        splits=made,
        notes=described,
        has_masks=True,
    )


def _find(root: Folder) -> _Found:
    """Return all images and masks of a folder by the key that pairs them."""
    found = _Found()
    folders = {folder.path.lower() for folder in root.walk()}
    doubles: list[str] = []
    for path, stamp in root.images():
        *above, name = path.split("/")
        stem = name.rpartition(".")[0]
        lowered = [part.lower() for part in above]
        if _OTHERS & set(lowered) or _UNUSED_NAME.fullmatch(stem):
            continue
        where, is_mask = _without_kind(lowered, folders)
        pattern = _MASK_NAME if is_mask else _IMAGE_NAME
        match = pattern.fullmatch(stem)
        assert match is not None
        into = found.masks if is_mask else found.images
        # The whole name comes first: `a_L` may be the name of an image, too.
        for shared in dict.fromkeys((stem, match[1])):
            key = (*where, shared)
            there = into.get(key)
            if there is None:
                into[key] = _File(path, stamp, is_mask)
            elif _TRAIN_IDS in path:
                # Both kinds of Cityscapes' masks lie there: the train ids need no table.
                into[key] = _File(path, stamp, is_mask)
            elif not (_TRAIN_IDS in there.path and _LABEL_IDS in path) and shared == stem:
                doubles.append(path)
    # A name was entered in full and without its suffix; what found no partner is dropped.
    found.images = _single(found.images, found.masks)
    found.masks = _single(found.masks, found.images)
    if doubles:
        found.notes.append(
            f"{counted(len(doubles), 'file')} of a name that another one has not used"
            f" ({shown(doubles)})"
        )
    return found


def _without_kind(above: Sequence[str], folders: Iterable[str]) -> tuple[list[str], bool]:
    """Return folders without the one that says image or mask, and whether it said mask."""
    for place in reversed(range(len(above))):
        name = above[place]
        if name in _MASKS or name in _IMAGES:
            return [*above[:place], *above[place + 1 :]], name in _MASKS
        match = _FOLDER_OF_MASKS.fullmatch(name)
        beside = posixpath.join(*above[:place], match[1]) if match else ""
        if match and beside in folders:
            return [*above[:place], match[1], *above[place + 1 :]], True
    return list(above), False


def _single(
    files: dict[tuple[str, ...], _File], others: Mapping[tuple[str, ...], _File]
) -> dict[tuple[str, ...], _File]:
    """Return each file under one key: that of its partner, or else its own name."""
    chosen: dict[str, tuple[str, ...]] = {}
    for key, file in files.items():
        if file.path not in chosen or (key in others and chosen[file.path] not in others):
            chosen[file.path] = key
    return {key: files[key] for key in chosen.values()}


def _note_unpaired(found: _Found, listed: set[str] | None, notes: list[str]) -> None:
    """Note images without masks, and masks without images; those that no list names are expected."""
    images = [file.path for key, file in sorted(found.images.items()) if key not in found.masks]
    masks = [file.path for key, file in sorted(found.masks.items()) if key not in found.images]
    # Where both kinds of Cityscapes' masks lie there, one of them is used.
    if any(_TRAIN_IDS in each.path for each in found.masks.values()):
        masks = [each for each in masks if _LABEL_IDS not in each]
    if listed is not None:
        images = [each for each in images if Path(each).stem in listed]
    if images:
        notes.append(f"{counted(len(images), 'image')} without a mask not used ({shown(images)})")
    if masks:
        notes.append(f"{counted(len(masks), 'mask')} without an image not used ({shown(masks)})")


# Splits.


def _splits(
    data: str, path: Path, root: Folder, keys: Sequence[tuple[str, ...]], notes: list[str]
) -> dict[str, list[tuple[str, ...]]]:
    """Return the keys of each split, by the folders or by the lists of names beside them.

    Raises:
        InputError: when some are in a split and none is in the one to train on.
    """
    by_split: dict[str, list[tuple[str, ...]]] = {}
    for key in keys:
        named = [split for part in key[:-1] if (split := split_named(part))]
        by_split.setdefault(named[-1] if named else "", []).append(key)
    if set(by_split) == {""}:
        by_split = _listed_splits(path, root, keys, notes) or {TRAIN: list(keys)}
    unnamed = by_split.pop("", [])
    if unnamed:
        some = shown(["/".join(key) for key in unnamed])
        notes.append(f"{counted(len(unnamed), 'image')} in no folder of a split not used ({some})")
    if TRAIN not in by_split:
        raise InputError(
            f"data {data}: there is no split to train on (found: {', '.join(sorted(by_split))}). Fix:"
            " name the folder of images to train on 'train'"
        )
    return by_split


def _listed_splits(
    path: Path, root: Folder, keys: Sequence[tuple[str, ...]], notes: list[str]
) -> dict[str, list[tuple[str, ...]]]:
    """Return the keys of each split by files such as VOC's ImageSets/Segmentation/train.txt."""
    lists = _split_lists(root)
    result: dict[str, list[tuple[str, ...]]] = {}
    for split, file in lists.items():
        names = _names(path / file)
        chosen = [key for key in keys if key[-1] in names]
        if chosen:
            result[split] = chosen
            missing = len(names) - len({key[-1] for key in chosen})
            if missing:
                notes.append(f"{counted(missing, 'image')} of {file} not there, or without a mask")
    if result:
        used = {key for members in result.values() for key in members}
        notes.append(f"splits are read from {shown([lists[split] for split in result])}")
        if len(keys) > len(used):
            notes.append(f"{counted(len(keys) - len(used), 'image')} in no list not used")
    return result


def _split_lists(root: Folder) -> dict[str, str]:
    """Return the relative path of the list of each split; VOC has lists for other tasks, too."""
    lists: dict[str, str] = {}
    for folder in root.walk():
        for name in folder.others:
            stem, _, suffix = name.lower().rpartition(".")
            if suffix == "txt" and stem in _LISTED_SPLITS and folder.name in ("", "Segmentation"):
                lists[_LISTED_SPLITS[stem]] = folder.join(name)
    return lists


def _listed_names(path: Path, root: Folder) -> set[str] | None:
    """Return the names in all lists of splits, or None where there are no lists."""
    lists = _split_lists(root)
    return set[str]().union(*(_names(path / file) for file in lists.values())) if lists else None


def _names(path: Path) -> set[str]:
    """Return the names of the images that a list has: the first word of each line, without suffix."""
    lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


def _choose_test(
    path: Path,
    found: _Found,
    splits: dict[str, list[tuple[str, ...]]],
    classes: MaskClasses,
    notes: list[str],
) -> None:
    """Keep the train split and the better test split, which must have labelled pixels."""
    chosen = ""
    for split in chosen_test((split, split) for split in splits):
        members = splits.pop(split)
        if chosen:
            notes.append(f"its split '{split}' is not used; '{chosen}' is the test split")
        elif _is_blank(path, found, members, classes.code):
            # A benchmark keeps the masks of its test images to itself.
            notes.append(f"its split '{split}' is not used: its masks are blank")
        else:
            chosen = split
            splits[TEST] = members


def _is_blank(
    path: Path, found: _Found, members: Sequence[tuple[str, ...]], code: MaskCode
) -> bool:
    for key in members[:_PROBED]:
        try:
            mask = read_mask(str(path / found.masks[key].path), code)
        except Refused:
            return False  # it is named when it is decoded
        if bool((mask != IGNORED).any()):
            return False
    return True


# Classes.


def _classes(
    data: str, path: Path, root: Folder, found: _Found, train: Sequence[tuple[str, ...]]
) -> MaskClasses:
    """Return the classes: by a list, by the layout of a known data set, or by the masks."""
    lists = [
        folder.join(name)
        for folder in sorted(root.walk(), key=lambda each: each.path.count("/"))
        for name in sorted(folder.others)
        if name.lower() in LISTS
    ]
    if lists:
        return mask_classes.listed(data, path / lists[0])
    masks = [found.masks[key].path for key in train]
    folders = {part.lower() for mask in masks for part in mask.split("/")[:-1]}
    if "gtfine" in folders or all(
        _TRAIN_IDS in each or each.rpartition(".")[0].endswith(_LABEL_IDS) for each in masks
    ):
        return mask_classes.cityscapes(all(_TRAIN_IDS in each for each in masks))
    if "segmentationclass" in folders and any(each.name == "ImageSets" for each in root.walk()):
        return mask_classes.voc()
    encoded = [(each, str(path / each)) for each in masks]
    return mask_classes.scanned(data, encoded, guess="trainannot" in folders)
