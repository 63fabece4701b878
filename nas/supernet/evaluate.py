"""The sliced supernet as a judge: what each member that a search weighs scores on held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.accuracy.evaluations import Evaluated, member_key
from nas.accuracy.recorded_file import weights_digest
from nas.accuracy.scores import accuracy_error
from nas.accuracy.single_moves import Variant
from nas.data import Splits, load_data
from nas.errors import InputError
from nas.space import Architecture
from nas.supernet.checkpoint import Folder, load_supernet, open_folder
from nas.supernet.score import first_images
from nas.supernet.sensitivity import Evaluator

IMAGES, CALIBRATION = 1000, 512
"""Held-out images to judge by, and training images that give the batch norms their statistics."""


class SlicedSupernet:
    """Members with the weights that they would inherit; a `nas.accuracy.evaluations.Source`.

    EfficientFormer (arXiv:2206.01191), Sec. 4.2, evaluates the accuracy drop of each action on the
    supernet like this. Batch norms are recalibrated for each member on the same training images,
    and all are judged by the same held-out ones, so that a member has one accuracy, whichever way a
    search came to it.

    Args:
        root: the folder of a finished training.
        data: the images that it was trained on, as `--data` takes them.
        images, calibration: how many held-out and training images to use, at most.

    Attributes:
        space: the supernet's, at its resolution.

    Raises:
        InputError: for a folder without a training, or data that are not those of the training.
        NasError: for a training that is not done.
    """

    def __init__(
        self, root: str | Path, data: str, images: int = IMAGES, calibration: int = CALIBRATION
    ) -> None:
        splits = training_splits(root, data)
        supernet, description = load_supernet(root)
        held_out = first_images(splits.held_out, images)
        train = first_images(splits.train, calibration)
        bf16 = description["recipe"]["precision"] == "bf16"
        self.space = supernet.space
        self._evaluator = Evaluator(supernet, train, held_out, bf16=bf16)
        self.words = f"the sliced supernet {root} on {held_out.source}"
        self.of: dict[str, Any] = {
            "supernet": weights_digest(Folder(Path(root)).weights),
            "data": splits.train.fingerprint,
            "images": len(held_out),
            "calibration_images": len(train),
        }

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        """Yield each member, in the order in which a walk through `base` comes to where they differ
        from it."""
        resolution = self.space.resolution
        known = {("member", member_key(member), ""): member for member in members}
        wanted = [Variant(key, member.at(resolution)) for key, member in known.items()]
        for row in self._evaluator.evaluate(wanted, base.at(resolution)):
            error = accuracy_error(row.accuracy, self.of["images"])
            yield known[row.key], Evaluated(row.accuracy, row.loss, error)


def training_splits(root: str | Path, data: str) -> Splits:
    """Return the images that a supernet was trained on and those that were held out, found again by
    name.

    Raises:
        InputError: when these are others than those of the training.
    """
    _, description, space = open_folder(root)
    about = description["data"]
    seed = description["recipe"]["seed"]
    total, held_out = _counts(about, Folder(Path(root)).description)
    for limit in (None, total):
        whole = load_data(data, space.resolution, 0.5, limit, seed)
        if len(whole.train) + len(whole.held_out) > total:  # the training had a --limit
            continue
        if len(whole.train) + len(whole.held_out) == total:
            splits = load_data(data, space.resolution, held_out, limit, seed)
            if splits.train.fingerprint == about["fingerprint"]:
                return splits
        break
    raise InputError(
        f"--data {data}: other images than the supernet in {root} was trained on"
        f" ({about['source']}); held-out images of another split may be among those"
    )


def _counts(about: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Return how many images the data set of a training has, and how many of them were held out."""
    if "total" in about and "held_out" in about:
        return int(about["total"]), int(about["held_out"])
    raise InputError(
        f"{path}: data: total and held_out are missing, so that the held-out images are not known"
    )
