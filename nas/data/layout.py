"""Decides what the folders of a listing mean: splits and classes. Imports no library.

`nas.data.folders` calls `arrange`. The class of an image is the first folder below the root of its
split. What fits no reading is refused by name, or left out with a note, and never becomes a class.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from nas.data.listing import Folder
from nas.data.notes import counted, shown
from nas.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    chosen_test,
    only_names_split,
    rest_of,
    split_named,
    splits_named,
)
from nas.errors import InputError

_SPLIT_WORD = re.compile("train|trn|test|tst|eval|val|dev", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """An image of a split.

    Attributes:
        path: relative to the listed folder.
        stamp: see `nas.data.listing.stamp_of`.
        label: name of its class.
    """

    path: str
    stamp: bytes
    label: str


@dataclass
class Arranged:
    """The images of each split, and notes on what is not read or not read as it stands.

    Attributes:
        splits: `train`, and `test` where there is one, sorted by path.
        empty: names of class folders without images, by the path of the folder.
        notes: sentences for people.
    """

    splits: dict[str, list[Item]] = field(default_factory=dict)
    empty: dict[str, Folder] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def folded(name: str) -> str:
    """Return a name for comparison: `Cat`, `cat` and a decomposed `Café` equal their like."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def arrange(data: str, root: Folder) -> Arranged:
    """Return the splits and classes of a listed folder.

    Args:
        data: the data set by name, for messages.
        root: the folder; it holds images somewhere.

    Raises:
        InputError: for a folder that is named like a split but cannot be read as one, and for
            images without class folders.
    """
    return _Reading(data).of(root)


class _Reading:
    """One reading of a folder, which collects its notes."""

    def __init__(self, data: str) -> None:
        self.data = data
        self.result = Arranged()

    def of(self, root: Folder) -> Arranged:
        base = root
        while True:
            trains = [each for each in base.filled if split_named(each.name) == TRAIN]
            deep = [each for each in trains if each.filled]
            if deep:
                self._by_split(base, deep)
                break
            if not _is_wrapper(base):
                if base is not root:
                    self.note(f"{base.path}: its sub-folders are the classes")
                self._by_class(base)
                break
            base = base.filled[0]
            if only_names_split(base.name):
                raise self._no_train(base, [])
        self._split_by_file_names()
        for items in self.result.splits.values():
            items.sort(key=lambda item: item.path)
        return self.result

    def note(self, text: str) -> None:
        self.result.notes.append(text)

    def refuse(self, what: str, fix: str) -> InputError:
        return InputError(f"data {self.data}: {what}. Fix: {fix}")

    # Folders of splits, with class folders below.

    def _by_split(self, base: Folder, trains: list[Folder]) -> None:
        """Read a folder whose sub-folders are splits: `train` and its siblings."""
        if len(trains) > 1:
            several = shown([each.path for each in trains])
            raise self.refuse(
                f"several folders are named like the split to train on ({several})",
                "give the folder of one of them",
            )
        train = trains[0]
        self._outside(base)
        root = self._class_root(train, None)
        names = {folded(each.name) for each in root.filled}
        siblings = [each for each in base.filled if each is not train]
        tests = {
            each.name: each for each in siblings if split_named(each.name) in (TEST, VALIDATION)
        }
        for each in siblings:
            if each.name not in tests:
                self._not_a_split(each, names, alone=not tests)
        self._classes(TRAIN, root)
        self._test_of(tests)

    def _not_a_split(self, folder: Folder, names: set[str], alone: bool) -> None:
        """Refuse a sibling of splits that may be one itself, or note that it is not used.

        Args:
            folder: of the name that is not understood.
            names: the folded names of the classes to train on.
            alone: whether there is no validation or test split, so that `train` may be a class.
        """
        inner = self._class_root(folder, names)
        shares = any(folded(each.name) in names for each in inner.filled)
        if alone or shares or splits_named(folder.name):
            raise self.refuse(
                f"{folder.path} lies beside the split to train on, with "
                f"{counted(folder.count, 'image')}, and its name is not understood as a split"
                " (expected train, validation or test)",
                "rename it, or move it elsewhere",
            )
        self.note(
            f"{folder.path}: {counted(folder.count, 'image')} not used, as the folder names no"
            " split"
        )

    def _test_of(self, tests: dict[str, Folder]) -> None:
        """Read the test split from the first candidate that has one; note those not used."""
        order = chosen_test((split_named(name) or "", name) for name in tests)
        names = {folded(item.label) for item in self.result.splits[TRAIN]}
        chosen = ""
        for name in order:
            if chosen:
                self.note(f"its split '{name}' is not used; '{chosen}' is the test split")
                continue
            self._classes(TEST, self._class_root(tests[name], names), nested=False)
            # The test images of a competition have no labels, its validation images do.
            if any(folded(item.label) in names for item in self.result.splits[TEST]):
                chosen = name
            else:
                self._forget_test(name)

    def _forget_test(self, name: str) -> None:
        """Drop a test split of which no image can be used."""
        items = self.result.splits.pop(TEST)
        if items:
            labels = sorted({item.label for item in items})
            self.note(
                f"its split '{name}' is not used: none of its {counted(len(items), 'image')} is of"
                f" a class to train on ({shown(labels)})"
            )

    def _class_root(self, folder: Folder, names: set[str] | None) -> Folder:
        """Return the folder of a split's class folders.

        That is the folder itself, or the innermost of folders around it, as in
        `seg_train/seg_train/buildings` and in `train/images/cat`.

        Args:
            folder: of the split.
            names: the folded names of the classes to train on, where they are known.
        """
        while _is_wrapper(folder):
            if names is not None and folded(folder.filled[0].name) in names:
                break
            folder = folder.filled[0]
            if names is None and not splits_named(folder.name):
                self.note(f"{folder.path}: its sub-folders are the classes")
        return folder

    def _classes(self, split: str, root: Folder, nested: bool = True) -> None:
        """Add the images below the class folders of a root to a split."""
        self._outside(root)
        items = self.result.splits.setdefault(split, [])
        for folder in root.folders:
            if not folder.count:
                if split == TRAIN:
                    self.result.empty[folder.path] = folder
                continue
            # `valid` beside `cat` and `dog` holds images of all classes, or none.
            named = only_names_split(folder.name)
            if not folder.filled and named in (TEST, VALIDATION):
                self.note(
                    f"{folder.path}: {counted(folder.count, 'image')} not used, as the folder is"
                    " named like a split and has no class folders; rename it if it is a class"
                )
                continue
            if not folder.filled and named == TRAIN:
                self.note(f"{folder.path}: read as a class, as it has no class folders")
            if nested:
                self._refuse_split_below(folder)
            items += [Item(path, stamp, folder.name) for path, stamp in folder.images()]

    def _refuse_split_below(self, folder: Folder) -> None:
        """Refuse a folder below a class that is named like a split that is not trained on."""
        for inner in folder.walk():
            named = only_names_split(inner.name)
            if inner is not folder and inner.count and named in (TEST, VALIDATION):
                raise self.refuse(
                    f"{inner.path} is named like a {named} split, but lies below the class"
                    f" '{folder.name}' beside images to train on",
                    "move it beside the class folders, or rename it",
                )

    def _outside(self, folder: Folder) -> None:
        """Note images that lie beside class folders or beside splits."""
        if folder.files:
            names = shown([folder.join(name) for name in folder.files])
            self.note(
                f"{counted(len(folder.files), 'image')} outside class folders not used ({names})"
            )

    # Class folders at the top.

    def _by_class(self, base: Folder) -> None:
        """Read a folder whose sub-folders are classes."""
        if not base.filled:
            raise self.refuse(
                f"{counted(len(base.files), 'image')} outside class folders"
                f" ({shown([base.join(name) for name in base.files])})",
                "put the images into one sub-folder per class",
            )
        if self._split_below_classes(base):
            return
        self._refuse_scattered_splits(base)
        self._refuse_flat_splits(base)
        tests = self._tests_beside_classes(base)
        kept = Folder(base.path, base.files, base.others)
        kept.folders = [each for each in base.folders if each.name not in tests]
        self._classes(TRAIN, kept)
        inner = {frozenset(folded(below.name) for below in each.filled) for each in kept.filled}
        if len(kept.filled) > 1 and len(inner) == 1 and len(kept.filled[0].filled) > 1:
            self.note(
                f"{shown([each.path for each in kept.filled])} have the same sub-folders"
                f" ({shown([each.name for each in kept.filled[0].filled])}): the outer folders are the"
                " classes"
            )
        if tests:
            self._test_of(tests)

    def _split_below_classes(self, base: Folder) -> bool:
        """Read splits that lie below the classes, as `cat/train` and `cat/test`; return whether.

        Raises:
            InputError: where such splits hold folders themselves, or some classes have none.
        """
        has_train = [
            each for each in base.filled if any(split_named(i.name) == TRAIN for i in each.filled)
        ]
        pure = [
            each
            for each in has_train
            if all(split_named(inner.name) for inner in each.filled)
            and any(split_named(inner.name) != TRAIN for inner in each.filled)
        ]
        if not pure:
            return False
        deep = [inner for each in pure for inner in each.filled if inner.filled]
        if deep:
            names = shown([each.path for each in pure])
            raise self.refuse(
                f"several folders have splits of their own ({names})",
                "give the folder of one of them",
            )
        others = [each for each in base.filled if each not in pure]
        if others:
            raise self.refuse(
                f"{pure[0].path} has splits below it, {others[0].path} has none",
                "give all classes the same layout",
            )
        self._outside(base)
        splits = {split_named(inner.name) for each in pure for inner in each.filled}
        test = TEST if TEST in splits else VALIDATION
        if {TEST, VALIDATION} <= splits:
            self.note("its validation split is not used; 'test' is the test split")
        for each in pure:
            self._outside(each)
            for inner in each.filled:
                split = split_named(inner.name)
                if split in (TRAIN, test):
                    items = self.result.splits.setdefault(TRAIN if split == TRAIN else TEST, [])
                    items += [Item(path, stamp, each.name) for path, stamp in inner.images()]
        return True

    def _refuse_scattered_splits(self, base: Folder) -> None:
        """Refuse splits at several places, as `a/flowers_train` and `b/flowers_test`."""
        inner = [each for folder in base.filled for each in folder.walk() if each is not folder]
        by_split = {split_named(each.name): each for each in reversed(inner) if each.count}
        test = by_split.get(TEST, by_split.get(VALIDATION))
        if TRAIN in by_split and test is not None:
            raise self.refuse(
                f"splits lie at several places ({by_split[TRAIN].path} and {test.path})",
                "put them beside one another",
            )

    def _refuse_flat_splits(self, base: Folder) -> None:
        """Refuse splits without class folders, as `train/1.png` and `test/1.png`."""
        flat = [each for each in base.filled if not each.filled]
        for train in flat:
            if split_named(train.name) != TRAIN:
                continue
            for other in flat:
                if split_named(other.name) in (TEST, VALIDATION) and (
                    rest_of(other.name) == rest_of(train.name)
                ):
                    raise self.refuse(
                        f"{train.path} and {other.path} are named like splits and have no class"
                        " folders",
                        "put the images of each split into one sub-folder per class",
                    )

    def _tests_beside_classes(self, base: Folder) -> dict[str, Folder]:
        """Return the test splits that lie beside the classes to train on, as `cat`, `dog`, `test`.

        Raises:
            InputError: for a folder that is named like a split, with class folders of which some
                are not beside it.
        """
        tests: dict[str, Folder] = {}
        candidates = [
            each
            for each in base.filled
            if each.filled and split_named(each.name) in (TEST, VALIDATION)
        ]
        classes = {folded(each.name) for each in base.filled if each not in candidates}
        inner = {
            folded(below.name)
            for each in base.filled
            if each not in candidates
            for below in each.filled
        }
        for each in candidates:
            names = {folded(below.name) for below in self._class_root(each, classes).filled}
            if names <= classes:
                tests[each.name] = each
            # A class of its own, as `crash_test` with views of it, shares no names.
            elif only_names_split(each.name) or names & inner:
                raise self._no_train(each, [other for other in base.filled if other is not each])
        return tests

    def _no_train(self, folder: Folder, others: list[Folder]) -> InputError:
        """Return the error of a split that has no split to train on beside it."""
        found = shown([each.name for each in others]) or "nothing"
        return self.refuse(
            f"{folder.path} is named like a split, and no split to train on is understood beside it"
            f" (found {found})",
            "name the folder of images to train on 'train', or rename this one",
        )

    # File names.

    def _split_by_file_names(self) -> None:
        """Divide images to train on whose file names all name a split; note where some do."""
        items = self.result.splits.get(TRAIN, [])
        if TEST in self.result.splits:
            return
        named = [_split_in_file_name(item) for item in items]
        others = [
            item for item, split in zip(items, named, strict=True) if split not in ("", TRAIN)
        ]
        if not others:
            return
        if TRAIN in named and all(named):
            order = chosen_test((split, split) for split in sorted(set(named)))
            for split in order[1:]:
                self.note(
                    f"images named like a {split} split are not used; those of '{order[0]}' are the"
                    " test split"
                )
            pairs = list(zip(items, named, strict=True))
            self.result.splits[TRAIN] = [item for item, split in pairs if split == TRAIN]
            self.result.splits[TEST] = [item for item, split in pairs if split == order[0]]
            self.note("splits are read from the names of the image files")
            return
        self.note(
            f"{counted(len(others), 'image')} to train on named like a validation or test image"
            f" ({shown([item.path for item in others])})"
        )


def _is_wrapper(folder: Folder) -> bool:
    """Return whether a folder holds nothing but one folder of folders with images."""
    return (
        not folder.files
        and len(folder.filled) == 1
        and not folder.filled[0].files
        and bool(folder.filled[0].filled)
    )


def _split_in_file_name(item: Item) -> str:
    """Return the split that the name of an image file has a word for, or an empty text."""
    name = item.path.rpartition("/")[2].rpartition(".")[0]
    # The search spares most names the analysis of their words. Images of a class `test_tube` have
    # its name.
    if not _SPLIT_WORD.search(name) or splits_named(item.label):
        return ""
    return split_named(name) or ""
