"""Labels of all splits as indices into one list of classes, joined by the names of the classes.

`nas.data.folders` and `nas.data.tables` make a `RawLabels` per folder or file and call `unify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.data.layout import folded
from nas.data.notes import counted, shown
from nas.data.splits import TRAIN
from nas.errors import InputError


@dataclass(frozen=True)
class RawLabels:
    """Labels as one file or folder has them.

    Attributes:
        names: names of the values.
        ids: (N,) int64, indices into `names`; -1 for images without a label.
        declared: whether the data lists the names, so that their order is kept.
        numeric: whether the names are whole numbers, which are sorted by their value.
    """

    names: tuple[str, ...]
    ids: NDArray[np.int64]
    declared: bool = False
    numeric: bool = False


def named_labels(values: Sequence[str | None]) -> RawLabels:
    """Return labels from the name of each image's class; None is no label."""
    names = tuple(dict.fromkeys(value for value in values if value is not None))
    index = {name: position for position, name in enumerate(names)}
    ids = np.array([-1 if value is None else index[value] for value in values], dtype=np.int64)
    return RawLabels(names, ids)


@dataclass(frozen=True)
class Unified:
    """Labels of all splits.

    Attributes:
        classes: names of the classes to train on.
        labels: of each split, (N,) int64; -1 for images that cannot be used.
        notes: sentences for people on what cannot be used.
    """

    classes: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...]


def unify(data: str, splits: Mapping[str, Sequence[RawLabels]]) -> Unified:
    """Return the labels of all splits as indices into the classes of the train split.

    A value is joined by its name, so that files may list the names in different orders. Names of
    the test split may differ in case.

    Args:
        data: the data set by name, for messages.
        splits: of each split the labels of its files in order.

    Raises:
        InputError: for fewer than two classes to train on.
    """
    notes: list[str] = []
    classes = _classes(data, splits[TRAIN], notes)
    labels: dict[str, NDArray[np.int64]] = {}
    for split, parts in splits.items():
        indexed = _indexed(split, parts, classes, notes)
        # A test split without any usable image is none.
        if split == TRAIN or bool(np.any(indexed >= 0)):
            labels[split] = indexed
    return Unified(classes, labels, tuple(notes))


def _classes(data: str, parts: Sequence[RawLabels], notes: list[str]) -> tuple[str, ...]:
    """Return the names that images to train on have, in the order of the data or sorted."""
    listed = dict.fromkeys(name for part in parts if part.declared for name in part.names)
    used = {
        part.names[index] for part in parts for index in np.unique(part.ids).tolist() if index >= 0
    }
    numeric = all(part.numeric for part in parts)
    others = sorted(used - listed.keys(), key=int if numeric else str)
    classes = tuple(name for name in (*listed, *others) if name in used)
    unused = [name for name in listed if name not in used]
    if unused:
        notes.append(f"no image to train on for {_class_names(unused)}: left out of the classes")
    if len(classes) < 2:
        only = f"only the class '{classes[0]}'" if classes else "no class at all"
        without = sum(int(np.sum(part.ids < 0)) for part in parts)
        unlabelled = f" ({counted(without, 'image')} unlabelled)" if without else ""
        raise InputError(
            f"data {data}: there is {only} to train on{unlabelled}; at least two classes are needed"
        )
    folds: dict[str, str] = {}
    for name in classes:
        if folds.setdefault(folded(name), name) != name:
            notes.append(
                f"classes '{folds[folded(name)]}' and '{name}' differ in spelling alone and are"
                " kept apart"
            )
    return classes


def _indexed(
    split: str, parts: Sequence[RawLabels], classes: Sequence[str], notes: list[str]
) -> NDArray[np.int64]:
    """Return the labels of a split as indices into `classes`; -1 where there is none."""
    index = {name: position for position, name in enumerate(classes)}
    folds: dict[str, int] = {}
    for name, position in index.items():
        # Of two classes that differ in case alone neither is meant by a third spelling.
        folds[folded(name)] = -1 if folded(name) in folds else position
    renamed: dict[str, str] = {}
    unknown: dict[str, int] = {}
    arrays = []
    for part in parts:
        # The last entry serves the index -1.
        table = np.full(len(part.names) + 1, -1, dtype=np.int64)
        counts = np.bincount(part.ids[part.ids >= 0], minlength=len(part.names))
        for number, name in enumerate(part.names):
            position = index.get(name, folds.get(folded(name), -1))
            table[number] = position
            if counts[number] and position < 0:
                unknown[name] = unknown.get(name, 0) + int(counts[number])
            elif counts[number] and classes[position] != name:
                renamed[name] = classes[position]
        arrays.append(table[part.ids])
    if renamed:
        pairs = shown([f"'{name}' as '{other}'" for name, other in renamed.items()])
        notes.append(f"{split}: classes read by another spelling: {pairs}")
    if unknown:
        notes.append(
            f"{split}: {counted(sum(unknown.values()), 'image')} of {_class_names(list(unknown))}"
            " not used, as there are none to train on"
        )
    labels = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
    without = sum(int(np.sum(part.ids < 0)) for part in parts)
    if without == len(labels):
        notes.append(f"its {split} split has no labels and is not used")
    elif without:
        notes.append(f"{split}: {counted(without, 'image')} of {len(labels)} unlabelled, not used")
    return labels


def _class_names(names: Sequence[str]) -> str:
    """Return `class 'a'`, or `classes 'a', 'b' and 2 more`."""
    noun = "class" if len(names) == 1 else "classes"
    return f"{noun} {shown([repr(name) for name in names])}"
