"""What weights were trained on: the names of their classes, and the images that they have seen.

Trainings and searches write it into the header of a weights file; fine-tuning, exports and warm
starts read it, to refuse classes of other names and to say where held-out images were trained on.
It imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError
from nas.files import YamlFile
from nas.resources import expanded
from nas.runs.schema import FINETUNE_FILE, RUN_FILE, WEIGHTS_FILE
from nas.weight_files import read_header

if TYPE_CHECKING:
    from nas.data import ImageData

CLASSES, IMAGES = "classes", "trained_on"
"""Keys of a weights file's header."""
SHOWN = 5
"""Maximum number of class names in a message."""


@dataclass(frozen=True)
class ImageRange:
    """The images that a training used: a range of its data set in the order of a seed.

    The images before `start` were held out of the training.

    Attributes:
        dataset: the data set in words.
        name: the value of --data, absolute where it is a path; empty where it is not known.
        total: number of images of the data set.
        start, stop: the first image trained on, and the one after the last.
        seed: of the order.
        fingerprint: of the images trained on; empty where it is not known.
    """

    dataset: str
    name: str
    total: int
    start: int
    stop: int
    seed: int
    fingerprint: str = ""

    @property
    def share(self) -> float:
        """Return the share of the data set that was trained on, 0 to 1."""
        return (self.stop - self.start) / self.total if self.total else 0.0

    def is_of(self, other: ImageRange) -> bool:
        """Return whether both are of the same data set, as far as their records tell."""
        if self.name and other.name:
            # A data set may have been moved: then its folder's name and its size are the same.
            moved = Path(self.name).name == Path(other.name).name and self.total == other.total
            return self.name == other.name or moved
        return self.dataset == other.dataset


@dataclass(frozen=True)
class TrainedOn:
    """What weights were trained on.

    Attributes:
        classes: their names, in the order of the outputs; None where they are not known.
        images: what they have seen, a range per training; empty where it is not known.
    """

    classes: tuple[str, ...] | None = None
    images: tuple[ImageRange, ...] = ()

    def header(self) -> dict[str, str]:
        """Return the entries of a weights file's header; `from_header` reads them."""
        entries = {}
        if self.classes is not None:
            entries[CLASSES] = json.dumps(self.classes, ensure_ascii=False)
        if self.images:
            entries[IMAGES] = json.dumps([asdict(each) for each in self.images])
        return entries

    def then(self, classes: Sequence[str], images: ImageRange | None) -> TrainedOn:
        """Return the record after a further training."""
        return TrainedOn(tuple(classes), self.images + ((images,) if images else ()))


def images_of(data: ImageData, seed: int) -> ImageRange | None:
    """Return the record of the images to train on; None where `load_data` did not split them."""
    if data.part is None:
        return None
    part = data.part
    return ImageRange(
        dataset=part.dataset,
        name=absolute(data.name),
        total=part.total,
        start=part.start,
        stop=part.stop,
        seed=seed,
        fingerprint=data.fingerprint,
    )


def absolute(name: str) -> str:
    """Return the value of --data, absolute where it names a file or a folder that exists."""
    path = expanded(name)
    return str(path.resolve()) if name and path.exists() else name


def from_header(header: Mapping[str, str]) -> TrainedOn:
    """Return what the header of a weights file says; nothing where it has no such entries."""
    try:
        names = json.loads(header.get(CLASSES, "null"))
        ranges = json.loads(header.get(IMAGES, "[]"))
        images = tuple(_range(each) for each in ranges)
    except (ValueError, TypeError, RecursionError):
        return TrainedOn()
    classes = tuple(map(str, names)) if isinstance(names, list) else None
    # Exports of weights whose classes are not known number them, and know no images either.
    if classes == tuple(map(str, range(len(classes or ())))) and not images:
        classes = None
    return TrainedOn(classes, images)


def _range(entry: Mapping[str, Any]) -> ImageRange:
    """Return the record in an entry of a header; raise ValueError or TypeError for another one."""
    found = ImageRange(**entry)
    counts = (found.start, found.stop, found.total, found.seed)
    texts = (found.dataset, found.name, found.fingerprint)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"expected counts (got {counts})")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected texts (got {texts})")
    return found


def read_trained_on(weights: Path) -> TrainedOn:
    """Return what a file of weights was trained on, from its header or the records beside it.

    Those are finetune.yaml and run.yaml, which older files had in place of a header's entries.
    """
    found = from_header(read_header(weights))
    if found.classes is not None or weights.name != WEIGHTS_FILE:
        return found
    for name, keys in ((FINETUNE_FILE, ("data", CLASSES)), (RUN_FILE, (CLASSES,))):
        file = weights.with_name(name)
        if not file.is_file():
            continue
        entry: Any = YamlFile(file).data
        for key in keys:
            entry = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(entry, list):
            return replace(found, classes=tuple(map(str, entry)))
    return found


def same_names(before: Sequence[str], after: Sequence[str]) -> bool:
    """Return whether two lists of class names have the same names, in any order.

    Lists with duplicate names are the same only when they are equal: otherwise the names do not
    identify the outputs.
    """
    if tuple(before) == tuple(after):
        return True
    return len(set(before)) == len(before) and sorted(before) == sorted(after)


def check_names(what: str, before: Sequence[str] | None, after: Sequence[str], remedy: str) -> bool:
    """Return whether the outputs must be reordered for the classes of the data.

    Args:
        what: the weights, for the message.
        before: names of their classes; None where they are not known.
        after: names of the data's classes.
        remedy: what to do about other names.

    Raises:
        InputError: when the names differ.
    """
    if before is None or tuple(before) == tuple(after):
        return False
    if same_names(before, after):
        return True
    raise InputError(
        f"{what}: its classes are {listed(before)}, those of the data {listed(after)}."
        f" Fix: {remedy}"
    )


def listed(names: Sequence[str]) -> str:
    """Return names for a message: the number of classes, and the first names."""
    some = ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")
    return f"{len(names)} ({some})"


def seen_lines(who: str, earlier: Sequence[ImageRange], now: ImageRange | None) -> list[str]:
    """Return a line for the user on each overlap of a training's split with an earlier one's.

    Images that were trained on earlier and are held out now make the accuracy on these too high.
    The reverse makes the choice that was based on the earlier held-out images part of the training.

    Args:
        who: what was trained earlier, for the lines.
        earlier: what it was trained on.
        now: what is to be trained on.
    """
    lines: list[str] = []
    for each in earlier:
        if now is None or not each.is_of(now) or each.fingerprint == now.fingerprint != "":
            continue
        if each.seed == now.seed:
            # One seed gives one order, of which a limit takes the beginning.
            seen = max(0, min(each.stop, now.start) - each.start)
            newly_trained = max(0, min(now.stop, each.start) - now.start)
            about = ""
        else:
            seen = round(now.start * each.share)
            newly_trained = round((now.stop - now.start) * each.start / each.total)
            about = "about "
        split = f"--held-out {each.start}" + (f" --seed {each.seed}" if about else "")
        if seen:
            lines.append(
                f"{about}{seen} of the {now.start} held-out images were trained on by {who}: their"
                f" accuracy will be too high. Fix: {split} holds out the same images as then"
            )
        if newly_trained:
            lines.append(
                f"{about}{newly_trained} of the images to train on were held out by {who}, which was"
                f" evaluated on them. Fix: {split} holds out the same images as then"
            )
    return lines
