"""Folders of images with masks as a source: pairs them by their names, and finds splits and classes.

`nas.data.sources` calls `mask_folder_source`. An image and its mask have one path but for the folder
that says which is which (`images` and `masks`, `train` and `trainannot`) and a suffix of the name
(`_mask`). So one rule reads CamVid, Cityscapes, ADE20K, Pascal VOC and most other layouts, whether
the folders of splits are above or below.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data import mask_classes
from nas.data.decoding import Refused
from nas.data.folders import unread_notes
from nas.data.images import IGNORED
from nas.data.listing import Folder, Listing
from nas.data.mask_classes import LISTS, MaskClasses
from nas.data.masks import MaskCode, read_mask
from nas.data.notes import counted, shown
from nas.data.source import Encoded, Pair, Source, SourceSplit
from nas.data.split_lists import SplitList, read_split_lists
from nas.data.splits import TEST, TRAIN, chosen_test, split_named
from nas.errors import InputError

_IMAGES = {
    *("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "rgb", "photos"),
    *("original", "originals"),
}
"""Words in the names of folders of images, in lower case."""
_MASKS = {
    *("masks", "mask", "annotations", "annotation", "annot", "annots", "ann", "labels", "label"),
    *("segmentationclass", "segmentationclassaug", "segmentationclassraw", "segmentationclasspng"),
    *("gtfine", "gt", "groundtruth", "ground_truth", "seg", "segmentation", "segmentations"),
    *("labelids", "label_images", "masks_png", "stuffthingmaps", "trimaps"),
}
"""Words in the names of folders of masks, in lower case; a name with both is one of masks."""
_NEUTRAL = {"dir", "folder", "png", "jpg", "tif", "all", "files", "data", "raw", "semantic"}
"""Words beside these that say nothing: `img_dir` and `ann_dir`, `images_png` and `masks_png`."""
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a word begins inside a name, as in `trainMasks`."""
_OTHERS = {"segmentationobject", "gtcoarse", "instances", "instance", "bounding_boxes"}
"""Names of folders that hold something else than the class of each pixel."""
_FOLDER_OF_MASKS = re.compile(r"(.+?)[_-]?(annot|annots|annotations?|labels?|masks?|gt)")
"""The folder of masks beside a folder of images: `trainannot`, `train_labels`."""
_IMAGE_NAME = re.compile(r"(.+?)(_leftImg8bit|_image|_img|_sat)?")
_MASK_NAME = re.compile(
    r"(.+?)(_gtFine_labelTrainIds|_gtFine_labelIds|_labelTrainIds|_labelIds"
    r"|[_-](L|P|mask|masks|label|labels|seg|gt|annot|annotation|segmentation|target|train_id))?"
)
"""What the names of images and of masks have besides the name that they share."""
_UNUSED_NAME = re.compile(r".*_gtFine_(color|instanceIds|instanceTrainIds)")
"""Names of further files that Cityscapes has for each image."""
_TRAIN_IDS = "labelTrainIds"
_LABEL_IDS = "_labelIds"
_PROBED = 16
"""Masks of a test split that are looked at: those of a benchmark may be blank."""


Key = tuple[str, ...]
"""Folders and name that an image shares with its mask."""


@dataclass(frozen=True)
class _File:
    """A file of a folder: its path, its stamp, and whether it is a mask."""

    path: str
    stamp: bytes
    is_mask: bool

    @property
    def stem(self) -> str:
        return self.path.rpartition("/")[2].rpartition(".")[0]


@dataclass
class _Found:
    """The images and the masks of a folder by the key that pairs them."""

    images: dict[Key, _File] = field(default_factory=dict)
    masks: dict[Key, _File] = field(default_factory=dict)
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
    kinds = [_kind(each.name) for each in folder.filled if each.name.lower() not in _OTHERS]
    # Nothing but these two: with others beside them they may be classes.
    pairs = None not in kinds and any(
        (True, rest) in kinds and (False, rest) in kinds
        for rest in {kind[1] for kind in kinds if kind}
    )
    beside = [
        match for name in names if (match := _FOLDER_OF_MASKS.fullmatch(name)) and match[1] in names
    ]
    return pairs or any(split_named(match[1]) == TRAIN for match in beside)


def _kind(name: str) -> tuple[bool, str] | None:
    """Return whether a folder is one of masks, by its name, and what else the name says.

    `train_masks` is one of masks, and says train. None is for a name that says neither image nor
    mask.
    """
    whole = "_".join(re.split(r"[\W_]+", name.lower()))
    if whole in _MASKS or whole in _IMAGES:
        return whole in _MASKS, ""
    words: list[str] = []
    for part in re.split(r"[\W_]+", name):
        known = part.lower() in _MASKS | _IMAGES
        words += [part.lower()] if known else re.sub(_CAPITAL, " ", part).lower().split()
    if not (_MASKS | _IMAGES) & set(words):
        return None
    rest = [word for word in words if word not in _MASKS | _IMAGES | _NEUTRAL]
    return bool(_MASKS & set(words)), "_".join(rest)


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
    lists = read_split_lists(path, listing.root)
    names = _class_lists(listing.root)
    unread = unread_notes(
        listing, [*names, *(file for each in lists.values() for file in each.files)]
    )
    if not found.masks:
        there = "; ".join([counted(listing.root.count, "image"), *unread])
        raise InputError(
            f"data {data}: there are no masks ({there}). Fix: put images into a folder 'images' and"
            " their masks, as images of the same names, into 'masks'"
        )
    keys = [key for key in sorted(found.images) if key in found.masks]
    notes = [*unread, *found.notes]
    _note_unpaired(found, lists, notes)
    if not keys:
        raise InputError(
            f"data {data}: no image has a mask of its name (got"
            f" {next(iter(sorted(each.path for each in found.images.values())), 'no image')} and"
            f" {min(each.path for each in found.masks.values())}). Fix: give both the same name and the"
            " same folders but for 'images' and 'masks'"
        )
    splits = _splits(data, lists, found.images, keys, notes)
    classes = _classes(
        data, path, listing.root, names, [found.masks[key].path for key in splits[TRAIN]]
    )
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
        if _OTHERS & {part.lower() for part in above} or _UNUSED_NAME.fullmatch(stem):
            continue
        where, is_mask = _without_kind(above, folders)
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


def _without_kind(above: Sequence[str], folders: Container[str]) -> tuple[list[str], bool]:
    """Return folders, in lower case, without what says image or mask, and whether masks are meant.

    The innermost folder that says one of both decides. Those above it say it again, or hold both.
    """
    where: list[str] = []
    is_mask: bool | None = None
    for place in reversed(range(len(above))):
        name = above[place].lower()
        match = _FOLDER_OF_MASKS.fullmatch(name)
        beside = match and "/".join([*above[:place], match[1]]).lower() in folders
        kind = (True, match[1]) if match and beside else _kind(above[place])
        rest = name if kind is None else kind[1]
        where = [rest, *where] if rest else where
        if is_mask is None and kind is not None:
            is_mask = kind[0]
    return where, bool(is_mask)


def _single(files: dict[Key, _File], others: Mapping[Key, _File]) -> dict[Key, _File]:
    """Return each file under one key: that of its partner, or else its own name."""
    chosen: dict[str, Key] = {}
    for key, file in files.items():
        if file.path not in chosen or (key in others and chosen[file.path] not in others):
            chosen[file.path] = key
    return {key: files[key] for key in chosen.values()}


def _note_unpaired(found: _Found, lists: Mapping[str, SplitList], notes: list[str]) -> None:
    """Note images without masks, and masks without images; those that no list names are expected."""
    images = [file for key, file in sorted(found.images.items()) if key not in found.masks]
    masks = [file.path for key, file in sorted(found.masks.items()) if key not in found.images]
    # Where both kinds of Cityscapes' masks lie there, one of them is used.
    if any(_TRAIN_IDS in each.path for each in found.masks.values()):
        masks = [each for each in masks if _LABEL_IDS not in each]
    if lists:
        listed = frozenset[str]().union(*(each.every for each in lists.values()))
        images = [each for each in images if each.stem in listed]
    if images:
        names = shown([each.path for each in images])
        notes.append(f"{counted(len(images), 'image')} without a mask not used ({names})")
    if masks:
        notes.append(f"{counted(len(masks), 'mask')} without an image not used ({shown(masks)})")


# Splits.


def _splits(
    data: str,
    lists: Mapping[str, SplitList],
    images: Mapping[Key, _File],
    keys: Sequence[Key],
    notes: list[str],
) -> dict[str, list[Key]]:
    """Return the keys of each split: by folders, by lists of names beside them, or by file names.

    Raises:
        InputError: when some are in a split and none is in the one to train on.
    """
    by_split: dict[str, list[Key]] = {}
    for key in keys:
        folders = images[key].path.split("/")[:-1]
        named = [split for part in folders if (split := split_named(part))]
        by_split.setdefault(named[-1] if named else "", []).append(key)
    # A single split, as that of a folder `trainval` around all images, divides nothing.
    if len(by_split) == 1:
        by_split = _listed_splits(lists, images, keys, notes) or by_split
    if set(by_split) == {""}:
        by_split = _named_splits(images, keys, notes) or {TRAIN: list(keys)}
    unnamed = by_split.pop("", [])
    if unnamed:
        some = shown([images[key].path for key in unnamed])
        notes.append(f"{counted(len(unnamed), 'image')} in no folder of a split not used ({some})")
    if TRAIN not in by_split:
        raise InputError(
            f"data {data}: there is no split to train on (found: {', '.join(sorted(by_split))}). Fix:"
            " name the folder of images to train on 'train'"
        )
    return by_split


def _named_splits(
    images: Mapping[Key, _File], keys: Sequence[Key], notes: list[str]
) -> dict[str, list[Key]]:
    """Return the keys of each split where all file names name one; note where some do."""
    named = {key: split_named(key[-1]) for key in keys}
    others = [images[key].path for key, split in named.items() if split not in (None, TRAIN)]
    if not others:
        return {}
    if TRAIN not in named.values() or None in named.values():
        notes.append(
            f"{counted(len(others), 'image')} to train on named like a validation or test image"
            f" ({shown(others)})"
        )
        return {}
    notes.append("splits are read from the names of the image files")
    by_split: dict[str, list[Key]] = {}
    for key, split in named.items():
        by_split.setdefault(split or "", []).append(key)
    return by_split


def _listed_splits(
    lists: Mapping[str, SplitList],
    images: Mapping[Key, _File],
    keys: Sequence[Key],
    notes: list[str],
) -> dict[str, list[Key]]:
    """Return the keys of each split by lists; empty where these name none of the images."""
    result: dict[str, list[Key]] = {}
    used: list[str] = []
    for split, each in lists.items():
        chosen = {key: {key[-1], images[key].stem} & each.every for key in keys}
        if any(chosen.values()):
            result[split] = [key for key, names in chosen.items() if names]
            used += each.files
            there = set[str]().union(*chosen.values())
            missing = sum(1 for line in each.names if not line & there)
            if missing:
                notes.append(
                    f"{counted(missing, 'image')} of {shown(each.files)} not there, or without a mask"
                )
    if TRAIN in result:
        others = {key for split, members in result.items() if split != TRAIN for key in members}
        double = [key for key in result[TRAIN] if key in others]
        if double:
            result[TRAIN] = [key for key in result[TRAIN] if key not in others]
            if not result[TRAIN]:
                del result[TRAIN]
            some = shown([images[key].path for key in double])
            notes.append(
                f"{counted(len(double), 'image')} of {shown(lists[TRAIN].files)} in another list, too,"
                f" not trained on ({some})"
            )
    if result:
        listed = {key for members in result.values() for key in members}
        notes.append(f"splits are read from {shown(used)}")
        if len(keys) > len(listed):
            notes.append(f"{counted(len(keys) - len(listed), 'image')} in no list not used")
    return result


def _choose_test(
    path: Path,
    found: _Found,
    splits: dict[str, list[Key]],
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


def _is_blank(path: Path, found: _Found, members: Sequence[Key], code: MaskCode) -> bool:
    for key in members[:_PROBED]:
        try:
            mask = read_mask(str(path / found.masks[key].path), code)
        except Refused:
            return False  # it is named when it is decoded
        if bool((mask != IGNORED).any()):
            return False
    return True


# Classes.


def _class_lists(root: Folder) -> list[str]:
    """Return the relative paths of lists of classes, the one to read first."""
    return [
        folder.join(name)
        for folder in sorted(root.walk(), key=lambda each: each.path.count("/"))
        for name in sorted(folder.others)
        if name.lower() in LISTS
    ]


def _classes(
    data: str, path: Path, root: Folder, lists: Sequence[str], masks: Sequence[str]
) -> MaskClasses:
    """Return the classes: by a list, by the layout of a known data set, or by the masks."""
    encoded = [(each, str(path / each)) for each in masks]
    folders = {part.lower() for mask in masks for part in mask.split("/")[:-1]}
    if lists:
        found = mask_classes.listed(data, path / lists[0])
        return mask_classes.check_palettes(data, encoded, found)
    # Others name their masks `labelTrainIds`, too, such as COCO-Stuff for mmsegmentation.
    if "gtfine" in folders or all("_gtfine_" in each.lower() for each in masks):
        return mask_classes.cityscapes(all(_TRAIN_IDS in each for each in masks))
    if "segmentationclass" in folders and any(each.name == "ImageSets" for each in root.walk()):
        return mask_classes.check_palettes(data, encoded, mask_classes.voc())
    return mask_classes.scanned(data, encoded, guess="trainannot" in folders)
