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
from nas.data.masks import (
    MOST_CLASSES,
    Colour,
    MaskCode,
    listed_code,
    palette_of,
    palette_table,
    values_of,
)
from nas.data.notes import counted, shown
from nas.data.source import EncodedImage
from nas.data.threads import decoding_pool
from nas.errors import InputError
from nas.files import read_text

NAME_LISTS = ("classes.txt", "class_names.txt", "label_names.txt", "labels.txt", "names.txt")
"""Files with one class per line; the number of the line is the value in masks."""
COLOUR_LISTS = (
    *("class_dict.csv", "class_dict_seg.csv", "label_class_dict.csv"),
    *("label_colors.txt", "labelmap.txt"),
)
"""Files with the colour and the name of each class."""
ADE20K_LIST = "objectinfo150.txt"
LISTS = (*NAME_LISTS, *COLOUR_LISTS, ADE20K_LIST)

_IGNORED_NAMES = {
    *("void", "ignore", "ignored", "unlabeled", "unlabelled", "unlabel", "notlabeled"),
    *("notlabelled", "dontcare", "ignoreregion"),
}
"""Names of classes that are ignored, in letters alone."""
_PAIR = {0, IGNORED}
_MOST_VALUE = 65535
"""Largest value of a class in masks, that of 16 bits."""
_NUMBERED = re.compile(r"(\d+)\s*[:,;\t ]\s*(.+)")
"""A line of a list that begins with a number."""


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
        found = numbered(_by_line(lines), f"classes are read from {path.name}")
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


def _by_line(lines: Sequence[str]) -> dict[int, str]:
    """Return the names in lines by the value that each has in masks.

    It is the number that each line begins with, as in `3: cat` or `3 cat`, or else that of the line.
    """
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) == len(lines) and max(numbers, default=0) <= _MOST_VALUE:
        return {int(match[1]): match[2] for match in matches if match}
    # labelme begins its list with a name that has the value -1.
    start = -1 if lines and lines[0] == "__ignore__" else 0
    names = enumerate(
        (match[2] if match else line for match, line in zip(matches, lines, strict=True)), start
    )
    return {value: name for value, name in names if value >= 0}


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
            earlier = next(
                (each for each in colours.items() if each[0] == found[0] or each[1] == found[1]),
                None,
            )
            if earlier is not None:
                raise InputError(
                    f"{where}:{number}: '{found[0]}' has the name or the colour of '{earlier[0]}' (got"
                    f" {found[1]}, {earlier[1]} before). Fix: give each class its own name and colour"
                )
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
        found = list(pool.map(_look, (mask for _, mask in masks)))
    seen = {masks[n][0]: each for n, each in enumerate(found) if not isinstance(each, str)}
    if not seen:
        reasons = [each for each in found if isinstance(each, str)]
        example = f"{masks[0][0]}: {reasons[0]}" if masks else "there are none"
        raise InputError(
            f"data {data}: {len(masks)} of {counted(len(masks), 'mask')} cannot be read ({example})."
            " Fix: give masks of one value per pixel, or a list of colours in class_dict.csv"
        )
    by_grey = _palettes_differ(data, {name: colours for name, (_, colours) in seen.items()})
    values = set[int]().union(
        *(
            {colours[value][0] if by_grey and value in colours else value for value in each}
            for each, colours in seen.values()
        )
    )
    # Almost every image of CamVid has pixels of its last value, which are not labelled.
    if guess and max(values - {IGNORED}, default=0) == len(CAMVID):
        return camvid()
    # Masks of one object often have 255 for it; with a single other value it is a class.
    kept = sorted(values if values == _PAIR else values - {IGNORED})
    if not 2 <= len(kept) <= MOST_CLASSES or kept[-1] > _MOST_VALUE:
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
    if IGNORED in values and IGNORED not in kept:
        note += f"; value {IGNORED} is ignored"
    codes = {IGNORED: IGNORED} | {value: index for index, value in enumerate(kept)}
    greys = {(value, value, value): index for value, index in codes.items()} if by_grey else {}
    return MaskClasses(tuple(map(str, kept)), MaskCode(codes, len(kept), greys), (note,))


def check_palettes(
    data: str, masks: Sequence[tuple[str, EncodedImage]], found: MaskClasses
) -> MaskClasses:
    """Return classes whose values are listed, unless palettes give these values several meanings.

    Args:
        data: the data set by name, for messages.
        masks: name and content of each.
        found: the classes.

    Raises:
        InputError: where a value stands for several colours.
    """
    with decoding_pool() as pool:
        tables = list(pool.map(_table_of, (mask for _, mask in masks)))
        if found.code.colours or len(set(tables) - {()}) < 2:
            return found
        looked = list(pool.map(_look, (mask for _, mask in masks)))
    palettes = {masks[n][0]: each[1] for n, each in enumerate(looked) if not isinstance(each, str)}
    if _palettes_differ(data, palettes):
        raise InputError(
            f"data {data}: the palettes of its masks differ, so that their values are not those of the"
            " list of classes. Fix: save the masks without a palette, as grey PNG"
        )
    return found


def _table_of(mask: EncodedImage) -> tuple[int, ...]:
    """Return the palette of a mask, of which no pixel is read; empty without one."""
    try:
        return palette_table(mask)
    except Exception:  # decoding names a malformed file
        return ()


def _palettes_differ(data: str, palettes: Mapping[str, Mapping[int, Colour]]) -> bool:
    """Return whether a value stands for several greys, which then are the classes.

    Programs that save few colours number them anew in each file, as a GIF of grey values.

    Args:
        data: the data set by name, for messages.
        palettes: the colours that the values of each mask stand for.

    Raises:
        InputError: where a value stands for several colours.
    """
    first: dict[int, tuple[str, Colour]] = {}
    for name, colours in palettes.items():
        for value, colour in colours.items():
            other, before = first.setdefault(value, (name, colour))
            if before == colour:
                continue
            every = {each for mask in palettes.values() for each in mask.values()}
            if all(len(set(each)) == 1 for each in every):
                return True
            raise InputError(
                f"data {data}: the palettes of its masks differ (value {value} is the colour"
                f" {before} in {other}, {colour} in {name}). Fix: name the classes by their colours in"
                " class_dict.csv, one per line as in 'sky,128,128,128'"
            )
    return False


def _look(mask: EncodedImage) -> tuple[set[int], dict[int, Colour]] | str:
    """Return the values in a mask and their colours in its palette, or why it cannot be read."""
    try:
        return set(np.unique(values_of(mask)).tolist()), palette_of(mask)
    except Refused as error:
        return str(error)
    except Exception as error:  # Pillow's readers raise whatever a malformed file leads them to
        return str(error) or type(error).__name__
