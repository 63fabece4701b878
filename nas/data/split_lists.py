"""Text files that list the images of each split, such as Pascal VOC's ImageSets/Segmentation/train.txt.

`nas.data.mask_folders` divides images by them where folders do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.data.decoding import readable_suffixes
from nas.data.listing import Folder, suffix_of
from nas.data.splits import TEST, TRAIN, VALIDATION
from nas.files import read_bytes

_LISTS = {
    **dict.fromkeys(("train.txt", "training.txt", "trainval.txt"), TRAIN),
    **dict.fromkeys(("val.txt", "valid.txt", "validation.txt"), VALIDATION),
    "test.txt": TEST,
}
"""Splits by the names of their lists."""
_BOTH = "trainval.txt"
"""List of the images of `train.txt` and `val.txt`, which is read where there is no `train.txt`."""
_SEGMENTATION = "segmentation"
"""Folder of VOC's lists for this task; folders beside it have those of other tasks."""
_FOLDERS = ("imagesets", "splits", "split", "lists")
"""Names of folders that hold lists alone."""


@dataclass(frozen=True)
class SplitList:
    """The lists of one split.

    Attributes:
        files: relative paths.
        names: what each line may call its image: the whole line or its first word, without folders
            and suffix.
    """

    files: Sequence[str]
    names: Sequence[frozenset[str]]

    @property
    def every(self) -> frozenset[str]:
        """All names."""
        return frozenset[str]().union(*self.names)


def read_split_lists(path: Path, root: Folder) -> dict[str, SplitList]:
    """Return the lists of each split; empty where there are none.

    Those of several data sets that lie beside one another, as VOC's of two years, are put together.

    Args:
        path: a folder.
        root: its listing.
    """
    return {
        split: SplitList(files, [line for file in files for line in _lines(path / file)])
        for split, files in _files(root).items()
    }


def _files(root: Folder) -> Mapping[str, list[str]]:
    """Return the relative paths of the lists of each split."""
    ranked: dict[int, dict[str, list[str]]] = {}
    for folder in root.walk():
        lists = {name.lower(): name for name in folder.others if name.lower() in _LISTS}
        name = folder.name.lower()
        # Lists also lie beside or above the images themselves.
        rank = (
            0 if name == _SEGMENTATION else 1 if folder.count else 2 if name in _FOLDERS else None
        )
        if rank is None:
            continue
        if "train.txt" in lists:
            lists.pop(_BOTH, None)
        for lowered, actual in lists.items():
            ranked.setdefault(rank, {}).setdefault(_LISTS[lowered], []).append(folder.join(actual))
    return ranked[min(ranked)] if ranked else {}


def _lines(path: Path) -> list[frozenset[str]]:
    text = read_bytes(path).decode("utf-8-sig", errors="replace")
    return [
        frozenset((_bare(line.strip()), _bare(line.split()[0])))
        for line in text.splitlines()
        if line.strip()
    ]


def _bare(name: str) -> str:
    """Return the name of an image without its folders and its suffix; `a.5` has none."""
    name = name.replace("\\", "/").rpartition("/")[2]
    suffix = suffix_of(name)
    return name[: -len(suffix)] if suffix in readable_suffixes() else name
