"""Names of the classes of masks, and what the values of masks mean: from lists, tables, or the masks.

`nas.data.mask_folders` and `nas.data.mask_tables` call it. A list lies beside the images; data sets
that are known by their folders have tables here; otherwise the values in the masks are the classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.data.decoding import Refused
from nas.data.images import IGNORED
from nas.data.masks import MOST_CLASSES, MaskCode, listed_code, values_of
from nas.data.notes import counted, shown
from nas.data.source import EncodedImage
from nas.data.threads import decoding_pool
from nas.errors import InputError
from nas.files import read_text

NAME_LISTS = ("classes.txt", "class_names.txt", "label_names.txt", "labels.txt", "names.txt")
"""Files with one class per line; the number of the line is the value in masks."""
COLOUR_LISTS = ("class_dict.csv", "label_colors.txt", "labelmap.txt")
"""Files with the colour and the name of each class."""
ADE20K_LIST = "objectinfo150.txt"
LISTS = (*NAME_LISTS, *COLOUR_LISTS, ADE20K_LIST)

_IGNORED_NAMES = {
    *("void", "ignore", "ignored", "unlabeled", "unlabelled", "unlabel", "notlabeled"),
    *("notlabelled", "dontcare", "ignoreregion"),
}
"""Names of classes that are ignored, in letters alone."""
_PAIR = {0, IGNORED}


@dataclass(frozen=True)
class MaskClasses:
    """The classes of a data set with masks.

    Attributes:
        names: of the classes.
        code: what the values of masks mean.
        notes: sentences for people on where both are from.
    """

    names: tuple[str, ...]
    code: MaskCode
    notes: tuple[str, ...] = ()


def is_ignored(name: str) -> bool:
    """Return whether a class of this name is no class: its pixels are not labelled."""
    return re.sub(r"[^a-z]", "", name.lower()) in _IGNORED_NAMES


def numbered(names: Mapping[int, str], note: str) -> MaskClasses:
    """Return the classes of masks whose values are listed with their names."""
    ignored = {value: is_ignored(name) for value, name in names.items()}
    kept = tuple(name for value, name in names.items() if not ignored[value])
    left_out = [name for value, name in names.items() if ignored[value]]
    notes = [note] + ([f"class {shown(left_out)} is ignored"] if left_out else [])
    return MaskClasses(kept, listed_code(ignored), tuple(notes))


# Lists.


def listed(data: str, path: Path) -> MaskClasses:
    """Return the classes that a file of `LISTS` names.

    Raises:
        InputError: for a file that is not understood.
    """
    try:
        text = read_text(path)
    except InputError as error:
        raise InputError(f"data {data}: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name = path.name.lower()
    if name == ADE20K_LIST:
        found = _ade20k(lines)
    elif name in COLOUR_LISTS:
        found = _colours(f"data {data}: {path.name}", name, text)
    else:
        found = numbered(dict(enumerate(map(_bare, lines))), f"classes are read from {path.name}")
    if not 2 <= len(found.names) <= MOST_CLASSES:
        raise InputError(
            f"data {data}: {path.name}: names {counted(len(found.names), 'class')} (expected 2 to"
            f" {MOST_CLASSES}). Fix: name one class per line"
        )
    repeated = [each for each in found.names if found.names.count(each) > 1]
    if repeated:
        raise InputError(
            f"data {data}: {path.name}: names '{repeated[0]}' more than once. Fix: give each class"
            " its own name"
        )
    return found


def _bare(line: str) -> str:
    """Return the name in a line that may begin with a number, as `3: cat` or `3 cat`."""
    return re.sub(r"^\d+\s*[:,;\t ]\s*", "", line).strip() or line


def _ade20k(lines: Sequence[str]) -> MaskClasses:
    """Return the 150 classes of ADE20K's scene parsing, whose value 0 is everything else."""
    rows = list(csv.DictReader(lines, delimiter="\t"))
    names = [(row.get("Name") or "").strip() for row in rows]
    values = {0: "ignored", **dict(enumerate(names, start=1))}
    found = numbered(values, f"classes are read from {ADE20K_LIST}")
    return MaskClasses(found.names, found.code, (found.notes[0], "value 0 of ADE20K is ignored"))


def _colours(where: str, name: str, text: str) -> MaskClasses:
    """Return the classes of a list of colours.

    Raises:
        InputError: naming the line that is not understood.
    """
    colours: dict[str, tuple[int, int, int]] = {}
    for number, line in enumerate(io.StringIO(text), start=1):
        found = _colour(line)
        if found is not None:
            colours[found[0]] = found[1]
        # The first line of a table names its columns.
        elif line.strip() and not line.startswith("#") and number > 1:
            raise InputError(
                f"{where}:{number}: is not understood (expected a name and red, green and blue from"
                f" 0 to 255). Fix: write it as in '{'sky,128,128,128' if 'csv' in name else '128 128 128 sky'}'"
            )
    kept = [each for each in colours if not is_ignored(each)]
    left_out = [each for each in colours if is_ignored(each)]
    classes = {colours[each]: IGNORED for each in left_out}
    classes |= {colours[each]: index for index, each in enumerate(kept)}
    notes = [f"classes and their colours are read from {name}"]
    notes += [f"class {shown(left_out)} is ignored"] if left_out else []
    return MaskClasses(tuple(kept), MaskCode({}, len(kept), classes), tuple(notes))


def _colour(line: str) -> tuple[str, tuple[int, int, int]] | None:
    """Return the name and the colour in a line: `sky,1,2,3`, `1 2 3 sky` or `sky:1,2,3::`."""
    last = re.fullmatch(r"\s*(.+?)\s*[,:;]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:*\s*", line)
    first = re.fullmatch(r"\s*(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+?)\s*", line)
    if last:
        name, *values = last.groups()
    elif first:
        *values, name = first.groups()
    else:
        return None
    red, green, blue = map(int, values)
    return (name, (red, green, blue)) if max(red, green, blue) < 256 else None


# Data sets that are known by their folders.

CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The `labelIds` of the classes in turn; the others of 0 to 33 are ignored."""
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
CAMVID = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
"""The 11 classes of SegNet's copy of CamVid; its value 11 is not labelled."""


def cityscapes(by_train_id: bool) -> MaskClasses:
    """Return the 19 classes of Cityscapes, by its `labelTrainIds` or its `labelIds`."""
    if by_train_id:
        found = numbered(dict(enumerate(CITYSCAPES)), "masks are Cityscapes' labelTrainIds")
        # Some copies write the -1 of "license plate" as 254.
        values = {**found.code.values, 254: IGNORED}
        return MaskClasses(found.names, MaskCode(values, len(found.names)), found.notes)
    values = dict.fromkeys(range(34), IGNORED) | {IGNORED: IGNORED}
    values |= {identity: index for index, identity in enumerate(_CITYSCAPES_IDS)}
    note = "masks are Cityscapes' labelIds, of which 19 are classes and the others are ignored"
    return MaskClasses(CITYSCAPES, MaskCode(values, len(CITYSCAPES)), (note,))


def voc() -> MaskClasses:
    """Return the 21 classes of Pascal VOC."""
    return numbered(dict(enumerate(VOC)), "masks are Pascal VOC's")


def camvid() -> MaskClasses:
    """Return the 11 classes of SegNet's copy of CamVid."""
    return numbered(
        {**dict(enumerate(CAMVID)), len(CAMVID): "void"},
        "masks are read as those of SegNet's CamVid; a classes.txt beside the images names others",
    )


# Masks without any list.


def scanned(
    data: str, masks: Sequence[tuple[str, EncodedImage]], guess: bool = False
) -> MaskClasses:
    """Return the classes whose values the masks to train on have.

    Masks that cannot be read are left to the decoding, which names them.

    Args:
        data: the data set by name, for messages.
        masks: name and content of each.
        guess: whether values of up to 11 are CamVid's classes.

    Raises:
        InputError: for fewer than two values, for more than a mask can have, and for masks none of
            which can be read.
    """
    with decoding_pool() as pool:
        found = list(pool.map(_values, (mask for _, mask in masks)))
    kinds = [each for each in found if not isinstance(each, str)]
    if not kinds:
        reasons = [each for each in found if isinstance(each, str)]
        example = f"{masks[0][0]}: {reasons[0]}" if masks else "there are none"
        raise InputError(
            f"data {data}: {len(masks)} of {counted(len(masks), 'mask')} cannot be read ({example})."
            " Fix: give masks of one value per pixel, or a list of colours in class_dict.csv"
        )
    values = set[int]().union(*kinds)
    # Almost every image of CamVid has pixels of its last value, which are not labelled.
    if guess and max(values - {IGNORED}, default=0) == len(CAMVID):
        return camvid()
    # Masks of one object often have 255 for it; with a single other value it is a class.
    kept = sorted(values if values == _PAIR else values - {IGNORED})
    if not 2 <= len(kept) <= MOST_CLASSES or kept[-1] > 65535:
        some = ", ".join(map(str, kept[:5]))
        raise InputError(
            f"data {data}: its masks have {counted(len(kept), 'value')} ({some}), which are no"
            f" classes of pixels (expected 2 to {MOST_CLASSES} values, and {IGNORED} for pixels that"
            " are not labelled). Fix: name the classes in classes.txt, one per line"
        )
    note = (
        f"the {len(kept)} values in the masks are the classes; a classes.txt beside the images names"
        " them"
    )
    codes = {IGNORED: IGNORED} | {value: index for index, value in enumerate(kept)}
    return MaskClasses(tuple(map(str, kept)), MaskCode(codes, len(kept)), (note,))


def _values(mask: EncodedImage) -> set[int] | str:
    """Return the values in a mask, or why it cannot be read."""
    try:
        return set(np.unique(values_of(mask)).tolist())
    except Refused as error:
        return str(error)
    except Exception as error:  # Pillow's readers raise whatever a malformed file leads them to
        return str(error) or type(error).__name__
