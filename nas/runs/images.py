"""Images that a network was trained on or chosen by, so that none of them is in its reported test.

A supernet's training, a search and a fine-tuning keep the hashes of these images in images.csv of
their folder, and pass on what they inherit. It imports no torch.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.csv_files import as_written, harmless
from nas.display import shortened
from nas.errors import InputError
from nas.files import YamlFile, read_text, text_sha256, write_text
from nas.runs.schema import IMAGES_FILE, RUN_FILE
from nas.weight_files import read_header

if TYPE_CHECKING:
    from nas.data import ImageData, Splits

TRAINED, HELD_OUT, UNKNOWN = "trained", "held_out", "unknown"
"""Values of the column `use`: trained on, chosen by, and weights whose images are not recorded."""
COLUMNS = ("use", "image")
_HASH = re.compile("[0-9a-f]{16}")
_MOST_BYTES = 1 << 31
"""Maximum size of an images.csv; the list of ImageNet-21k has 350 MB."""


def _none() -> NDArray[np.uint64]:
    return np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class UsedImages:
    """The images that made a network what it is, by the hashes of `ImageData.image_hashes`.

    Attributes:
        trained: (N,) sorted hashes of the images that its weights were trained on.
        held_out: (M,) sorted hashes of the images that it was scored, evaluated or chosen by.
        unknown: files of weights or scores whose images are not recorded.
    """

    trained: NDArray[np.uint64] = field(default_factory=_none)
    held_out: NDArray[np.uint64] = field(default_factory=_none)
    unknown: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(len(self.trained) or len(self.held_out) or self.unknown)

    def __or__(self, other: UsedImages) -> UsedImages:
        """Return the images of both."""
        return UsedImages(
            np.union1d(self.trained, other.trained),
            np.union1d(self.held_out, other.held_out),
            tuple(sorted({*self.unknown, *other.unknown})),
        )

    def text(self) -> str:
        """Return the content of images.csv."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((TRAINED, f"{each:016x}") for each in self.trained)
        writer.writerows((HELD_OUT, f"{each:016x}") for each in self.held_out)
        writer.writerows((UNKNOWN, harmless(each)) for each in self.unknown)
        return text.getvalue()

    def save(self, folder: Path) -> None:
        """Write images.csv in a folder."""
        write_text(folder / IMAGES_FILE, self.text())

    def record(self) -> dict[str, Any]:
        """Return the entry of a run's or a fine-tuning's YAML file."""
        return {
            "file": IMAGES_FILE,
            "sha256": text_sha256(self.text()),
            "trained": len(self.trained),
            "held_out": len(self.held_out),
            "unknown": list(self.unknown),
        }


def used_by(data: Splits) -> UsedImages:
    """Return the images that a training on these splits uses; its test images are not among them."""
    return UsedImages(np.unique(data.train.image_hashes()), held_out_by(data.held_out))


def held_out_by(data: ImageData) -> NDArray[np.uint64]:
    """Return the sorted hashes of images that something is evaluated on."""
    return np.unique(data.image_hashes())


def read_images(path: Path) -> UsedImages:
    """Return the content of an images.csv.

    Raises:
        InputError: naming the line that is damaged.
    """
    hashes: dict[str, list[int]] = {TRAINED: [], HELD_OUT: []}
    unknown = []
    rows = csv.reader(io.StringIO(read_text(path, _MOST_BYTES), newline=""))
    try:
        header = next(rows, [])
        if tuple(header) != COLUMNS:
            raise ValueError(f"got {_shown(header)}, expected {','.join(COLUMNS)}")
        for row in rows:
            use, image = row
            if use == UNKNOWN:
                unknown.append(as_written(image))
            elif use in hashes and _HASH.fullmatch(image):
                hashes[use].append(int(image, 16))
            else:
                raise ValueError(f"got {_shown(row)}, expected a use and 16 digits")
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path}:{rows.line_num or 1}: is not a row of {IMAGES_FILE} ({error}). Fix: copy the file"
            " from where it was written, or remove it"
        ) from None
    trained, held_out = (np.unique(np.array(hashes[use], np.uint64)) for use in hashes)
    return UsedImages(trained, held_out, tuple(unknown))


def _shown(row: Sequence[str]) -> str:
    return shortened(",".join(row), 60) or "nothing"


def images_of_weights(weights: Path) -> UsedImages:
    """Return the images of a file of weights, from the list beside it or that of its supernet."""
    beside = weights.with_name(IMAGES_FILE)
    if beside.is_file():
        return read_images(beside)
    named = read_header(weights).get("supernet")
    if named and (Path(named) / IMAGES_FILE).is_file():
        return read_images(Path(named) / IMAGES_FILE)
    return UsedImages(unknown=(str(weights),))


def images_of_supernet(folder: Path) -> UsedImages:
    """Return the images of a supernet's training and scoring; unknown where they are not listed."""
    there = folder / IMAGES_FILE
    return read_images(there) if there.is_file() else UsedImages(unknown=(str(folder),))


def images_of_run(folder: Path) -> UsedImages:
    """Return the images that a search's result was trained on or chosen by.

    A search by the accuracy law alone used none.
    """
    own = folder / IMAGES_FILE
    if own.is_file():
        return read_images(own)
    file = folder / RUN_FILE
    data = YamlFile(file).data if file.is_file() else {}
    named = data.get("supernet")
    if not isinstance(named, str):
        return UsedImages()
    # Runs of older versions have no list. Their supernet may have been scored again since.
    return images_of_supernet(Path(named))


def images_of_scores(name: str) -> UsedImages:
    """Return the images that measured scores are of: those of the list beside them.

    Args:
        name: as `--scores` takes it.
    """
    path = Path(name)
    if not path.exists():
        # Scores that ship with this package.
        return UsedImages(unknown=(name,))
    return images_of_supernet(path if path.is_dir() else path.parent)


def images_of_evidence(run: str, folders: Iterable[str]) -> UsedImages:
    """Return the images that a fine-tuning was evaluated on, as `--evidence` uses it.

    Its training images chose nothing: only its accuracy enters a search.

    Args:
        run: the folder of a run or of a fine-tuning.
        folders: names of the fine-tuning's folder in a run.
    """
    homes = [*(Path(run) / each for each in folders), Path(run)]
    there = next((each / IMAGES_FILE for each in homes if (each / IMAGES_FILE).is_file()), None)
    if there is None:
        return UsedImages(unknown=(run,))
    return UsedImages(held_out=read_images(there).held_out)


def merged(parts: Iterable[UsedImages]) -> UsedImages:
    """Return the images of all parts."""
    return reduce(UsedImages.__or__, parts, UsedImages())


@dataclass(frozen=True)
class Clean:
    """Test images that a network has never seen.

    Attributes:
        images: the test images that are left; None where the data has none.
        trained, held_out: the number of test images that were left out, by the reason. An image of
            both counts as trained on.
    """

    images: ImageData | None
    trained: int = 0
    held_out: int = 0

    @property
    def left_out(self) -> int:
        return self.trained + self.held_out


def clean_test(test: ImageData | None, used: UsedImages) -> Clean:
    """Return test images without those that made the network what it is.

    Raises:
        InputError: when none is left.
    """
    if test is None:
        return Clean(None)
    hashes = test.image_hashes()
    trained = np.isin(hashes, used.trained)
    held_out = np.isin(hashes, used.held_out) & ~trained
    clean = Clean(test, int(trained.sum()), int(held_out.sum()))
    if not clean.left_out:
        return clean
    if clean.left_out == len(test):
        raise InputError(
            f"data {test.name or test.source}: all {len(test)} test images were used before"
            f" ({clean.trained} trained on, {clean.held_out} held out to choose by), so they test"
            " nothing. Fix: give other test images, or data without a test split"
        )
    return Clean(test.selected(~(trained | held_out)), clean.trained, clean.held_out)
