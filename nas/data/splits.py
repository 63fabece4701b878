"""Splits of a data set by the words in names of folders and files. Imports no library.

`nas.data.layout` asks it about folders, `nas.data.tables` about parquet files and about the values
of a column that names splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from nas.data.notes import shown
from nas.errors import InputError

TRAIN, TEST, VALIDATION = "train", "test", "validation"
SPLITS = (TRAIN, TEST, VALIDATION)

_WORDS = {
    TRAIN: ("train", "training", "trainval", "trn"),
    TEST: ("test", "testing", "eval", "evaluation", "tst"),
    VALIDATION: ("val", "valid", "validation", "validate", "dev"),
}
_NEUTRAL = (
    "set|sets|data|dataset|image|images|img|imgs|picture|pictures|photo|photos|file|files|folder"
    "|sample|samples|split|part|of|full"
)
"""Words beside a split's that say nothing of the content: `test_images` is a split as `test` is."""

_KINDS = {word: split for split, words in _WORDS.items() for word in words}
_COMPOUND = re.compile(rf"({'|'.join(_KINDS)})(?:{_NEUTRAL})?")
_NEUTRAL_WORD = re.compile(_NEUTRAL)


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case.

    Words end at anything but a letter, and before a capital: `dataTrain-00001` has data and train.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return tuple(word.lower() for word in re.findall(r"[^\W\d_]+", spaced))


def splits_named(name: str) -> set[str]:
    """Return the splits that a name has words for: none, one, or several as in `train_test`."""
    return {_KINDS[match[1]] for word in words_of(name) if (match := _COMPOUND.fullmatch(word))}


def split_named(name: str) -> str | None:
    """Return the one split that a name has a word for, or None."""
    named = splits_named(name)
    return named.pop() if len(named) == 1 else None


def only_names_split(name: str) -> str | None:
    """Return the split of a name that says nothing else (`Testing`, `val_images2`), or None.

    `test_tube` says something else, and so may be the name of a class.
    """
    if any(not (_COMPOUND.fullmatch(w) or _NEUTRAL_WORD.fullmatch(w)) for w in words_of(name)):
        return None
    return split_named(name)


def rest_of(name: str) -> str:
    """Return a name with its split words replaced, so that names of one pattern become equal.

    `flowers_train` and `flowers_test2` are of one pattern; `train` and `test_tube` are not.
    """
    return " ".join(
        word for word in words_of(name) if not _COMPOUND.fullmatch(word) and word != "set"
    )


def chosen_test(named: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names of splits that could serve as the test split, the best one first.

    A test split comes before a validation split. Of several, the one that says nothing else comes
    first, then the alphabet decides.

    Args:
        named: the split and the name of each folder or column value.
    """
    others = [(split, name) for split, name in named if split != TRAIN]
    others.sort(key=lambda each: (each[0] != TEST, only_names_split(each[1]) is None, each[1]))
    return [name for _, name in others]


def split_files(data: str, paths: Sequence[str]) -> dict[str, list[int]]:
    """Return the files of each split, as indices into `paths`, by the words in their paths.

    The split of a file is named in its own name or in a folder above it, as in the hub's
    `default/train/0000.parquet`. Where no path names a split, all files are to train on.

    Args:
        data: the data set by name, for messages.
        paths: relative paths with `/`.

    Raises:
        InputError: for a path whose words name several splits, or none beside others that do.
    """
    parts = [path.split("/") for path in paths]
    # What all paths share does not tell them apart: a folder `train_test_split` above all files.
    shared = _shared(parts)
    named = [_named(each[shared:]) for each in parts]
    if not any(named):
        above = [_named(each) for each in parts]
        named = [each if len(each) == 1 else set() for each in above]
    for path, each in zip(paths, named, strict=True):
        if len(each) > 1:
            raise InputError(
                f"data {data}: {path} names several splits ({' and '.join(sorted(each))}). Fix:"
                " rename it, or give the files to train on alone"
            )
    found: dict[str, list[int]] = {}
    unnamed: list[int] = []
    for index, each in enumerate(named):
        (found.setdefault(next(iter(each)), []) if each else unnamed).append(index)
    if unnamed and TRAIN in found:
        names = shown([paths[index] for index in unnamed])
        raise InputError(
            f"data {data}: {names} names no split that is understood, while other files do"
            " (expected train, validation or test). Fix: rename or remove it"
        )
    if unnamed:
        found[TRAIN] = unnamed
    return found


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Return the number of folders that all paths begin with."""
    count = 0
    for level in zip(*(each[:-1] for each in parts), strict=False):
        if len(set(level)) > 1:
            break
        count += 1
    return count


def _named(parts: Sequence[str]) -> set[str]:
    """Return the splits that the folders and the name of a file have words for."""
    if not parts:
        return set()
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    return set().union(*(splits_named(part) for part in (*parts[:-1], stem)))
