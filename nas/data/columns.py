"""Chooses the columns of a table: images, labels, splits. Recognised by type first, then by name.

`nas.data.tables` asks it about parquet files and hub data, `nas.data.metadata` about metadata.csv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.data.notes import counted
from nas.data.splits import only_names_split, words_of
from nas.errors import InputError

LABELS = (
    *("label", "labels", "fine_label", "class", "class_name", "classname", "target", "targets"),
    *("category", "y", "label_name", "class_label", "label_id", "class_id", "category_id"),
    *("target_id",),
)
"""Names of label columns, the first one that exists before the others."""
IMAGES = ("image", "img", "images", "picture", "photo", "bytes", "png", "jpg", "jpeg")
"""Names of image columns, the first one that exists before the others."""
PATHS = ("file_name", "filename", "image_path", "img_path", "filepath", "file_path", "path", "file")
"""Names of columns with the paths of images, where no column holds images."""
SPLITS = ("split", "subset", "set", "partition")
"""Names of columns that may say which split a row belongs to."""

_IDS = re.compile(
    r"(.*_)?(id|ids|idx|index|uuid|guid|key|hash|md5|sha1|sha256|row|url|uri)"
    r"|__index_level_\d+__|unnamed:? ?\d+|__.*__",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """A column as its file declares it.

    Attributes:
        name: of the column.
        type: in words, for messages.
        is_image: whether its type is the hub's type of images.
        is_encoded: whether it may hold encoded images: bytes, or a struct of bytes and path.
        is_text: whether it holds texts, which may be paths or names of classes.
        is_label: whether its type may be that of labels.
        names: names of the classes that the column lists, or None.
        is_index: whether it is an index of pandas.
    """

    name: str
    type: str
    is_image: bool = False
    is_encoded: bool = False
    is_text: bool = False
    is_label: bool = False
    names: tuple[str, ...] | None = None
    is_index: bool = False


def image_column(data: str, columns: Sequence[Column], is_path: Callable[[str], bool]) -> str:
    """Return the name of the column of images, or of their paths.

    Args:
        data: the data set by name, for messages.
        columns: of the table.
        is_path: tells whether the texts of a column are paths of images.

    Raises:
        InputError: when there is none, or several of which none has a usual name.
    """
    typed = [each for each in columns if each.is_image]
    encoded = [each for each in columns if each.is_encoded]
    candidates = typed or encoded
    if not candidates:
        texts = [each for each in columns if each.is_text]
        named = [each for each in texts if each.name.lower() in (*IMAGES, *PATHS)]
        candidates = [each for each in named or texts if is_path(each.name)][:1]
    names = _usual_first([each.name for each in candidates], IMAGES)
    if not names:
        called = next((each for each in columns if each.name.lower() in IMAGES), None)
        if called is not None:
            raise holds_no_images(data, called)
        raise _untold(data, "image", "bytes, {bytes, path} or paths of images", columns)
    if len(names) > 1 and names[0].lower() not in IMAGES:
        raise InputError(
            f"data {data}: several columns hold images ({', '.join(names)}). Fix: call the one to"
            " use 'image'"
        )
    return names[0]


def holds_no_images(data: str, column: Column) -> InputError:
    """Return the error for a column that is called like one of images and is of another type."""
    return InputError(
        f"data {data}: column '{column.name}' has the type {column.type}, which holds no images"
        " (expected bytes, {bytes, path} or paths of image files). Fix: encode them as PNG, in a column"
        " of bytes"
    )


def label_column(
    data: str, columns: Sequence[Column], image: str, distinct: Callable[[str], tuple[int, int]]
) -> str:
    """Return the name of the column of labels.

    Args:
        data: the data set by name, for messages.
        columns: of the table.
        image: the name of the column of images.
        distinct: returns the numbers of distinct values and of values of a column.

    Raises:
        InputError: when there is none, when several could be meant, or when the only one holds ids.
    """
    others = [each for each in columns if each.name != image and not each.is_index]
    # A column of a usual name is meant, whatever its type; reading it says what is wrong with it.
    usual = _usual_first([e.name for e in others if e.name.lower() in LABELS], LABELS)
    # A column of splits may list the names of its values, too.
    typed = [e.name for e in others if e.names is not None and e.name.lower() not in SPLITS]
    if usual and not (typed and usual[0] not in typed):
        return usual[0]
    if typed:
        chosen = [name for name in usual if name in typed] or typed
        if len(chosen) == 1 or chosen[0].lower() in LABELS:
            return chosen[0]
        raise _untold(data, "label", "whole numbers or strings", columns)
    plain = [each for each in others if each.is_label]
    skipped = (*PATHS, *SPLITS, *IMAGES)
    likely = [e for e in plain if not _IDS.fullmatch(e.name) and e.name.lower() not in skipped]
    if len(likely) != 1:
        raise _untold(data, "label", "whole numbers or strings", columns)
    name = likely[0].name
    values, rows = distinct(name)
    if values > rows / 2:
        raise InputError(
            f"data {data}: column '{name}' has {counted(values, 'value')} in"
            f" {counted(rows, 'row')}, which are ids or texts and no classes. Fix: call the column"
            " of the labels 'label'"
        )
    return name


def split_column(data: str, columns: Sequence[Column], label: str) -> Column | None:
    """Return the column that says which split a row belongs to, or None.

    Raises:
        InputError: for a column of truth values that may say so, as `is_test`. One called `is_valid`
            may also say that an image is usable, so none of them is guessed.
    """
    others = [each for each in columns if each.is_label and each.name != label]
    named = next((each for usual in SPLITS for each in others if each.name.lower() == usual), None)
    flag = next((each.name for each in others if _is_flag(each)), None)
    if named is None and flag is not None:
        raise InputError(
            f"data {data}: column '{flag}' may say which split a row belongs to. Fix: give a column"
            " 'split' with the values train and test, or call it otherwise"
        )
    return named


def _is_flag(column: Column) -> bool:
    """Return whether a column is one of truth values that is named like a split."""
    first, *rest = words_of(column.name) or ("",)
    name = " ".join(rest) if first == "is" else column.name if column.type == "bool" else ""
    return only_names_split(name) is not None


def _usual_first(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Return names in the order of the usual ones; others come after them as they stand."""
    places = {name: place for place, name in enumerate(usual)}
    return sorted(names, key=lambda name: places.get(name.lower(), len(usual)))


def _untold(data: str, what: str, expected: str, columns: Sequence[Column]) -> InputError:
    """Return the error for a column that cannot be recognised."""
    there = ", ".join(f"{each.name} ({each.type})" for each in columns)
    return InputError(
        f"data {data}: cannot tell the {what} column among: {there}; call it '{what}' ({expected})"
    )
