"""Evaluates whole members on held-out images, sliced out of the trained supernet.

A search calls it for its candidates (--score-by evaluate).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.accuracy.evaluations import Evaluated, member_key
from nas.accuracy.recorded_file import weights_digest
from nas.accuracy.single_moves import Variant
from nas.data import Splits, divide, load_whole
from nas.errors import InputError, NasError
from nas.files import data_sha256
from nas.runs.images import UsedImages, held_out_by
from nas.space import Architecture
from nas.supernet.checkpoint import Folder, load_supernet, open_folder
from nas.supernet.score import first_images
from nas.supernet.sensitivity import Evaluator, NoMemory
from nas.supernet.walk import calibration_images
from nas.tasks import task_of
from nas.training.distributed import processes

IMAGES, CALIBRATION = 1000, 512
"""Default numbers of held-out images to evaluate on, and of training images for batch norms."""


class SlicedSupernet:
    """An evaluator of members with the weights that they would inherit.

    It is a `nas.accuracy.evaluations.Source`. EfficientFormer (arXiv:2206.01191), Sec. 4.2,
    evaluates the accuracy drop of each action on the supernet like this. Batch norms of each member
    are recalibrated on the same training images, and all members are evaluated on the same held-out
    ones. So a member has one accuracy, by whichever path a search reached it.

    Args:
        root: folder of a finished training.
        data: the images that it was trained on, as `--data` takes them.
        images, calibration: maximum numbers of held-out and of training images to use.

    Attributes:
        space: the supernet's, at its resolution.
        task: what the supernet was trained for.
        words: description of the evaluation for people.
        of: everything that decides an accuracy, for a record to compare. Its `held_out` is a hash
            of the images that members are evaluated on.
        used: these images, for the run's list.

    Raises:
        InputError: for a folder without a training, or for other data than those of the training.
        NasError: for a training that is not finished.
    """

    def __init__(
        self, root: str | Path, data: str, images: int = IMAGES, calibration: int = CALIBRATION
    ) -> None:
        splits = training_splits(root, data)
        supernet, description = load_supernet(root)
        held_out = first_images(splits.held_out, images)
        train = first_images(
            splits.train, calibration_images(supernet.space.largest(), calibration)
        )
        bf16 = description["recipe"]["precision"] == "bf16"
        self.space = supernet.space
        self.task = task_of(self.space.heads[0])
        self.root = root
        self._evaluator = Evaluator(supernet.to(processes().device), train, held_out, bf16=bf16)
        self.words = f"the sliced supernet {root} on {held_out.source}"
        self.used = UsedImages(held_out=held_out_by(held_out))
        self.of: dict[str, Any] = {
            "supernet": weights_digest(Folder(Path(root)).weights),
            "data": splits.train.fingerprint,
            "images": len(held_out),
            "calibration_images": len(train),
            "held_out": data_sha256(self.used.held_out.tolist()),
        }
        # Records of older versions have no metric; theirs is top-1.
        if self.task.metric != "top1":
            self.of["metric"] = self.task.metric

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        """Yield each member with its evaluation, in the order of `Evaluator.results`.

        Args:
            base: the member that the others share most of their operations with.
            members: at any resolution; they are evaluated at the supernet's.

        Raises:
            NasError: when memory ran out. Evaluations that were yielded are complete.
        """
        resolution = self.space.resolution
        # Evaluations are returned by the member as it was asked for, which may have another input
        # size.
        known = {("member", member_key(member), ""): member for member in members}
        wanted = [Variant(key, member.at(resolution)) for key, member in known.items()]
        try:
            for group in self._evaluator.results(wanted, base.at(resolution)):
                for variant, result in group:
                    figure = self.task.figure(result.tally)
                    yield (
                        known[variant.key],
                        Evaluated(figure.value, result.loss, figure.standard_error),
                    )
        except NoMemory as error:
            raise NasError(
                f"{self.root}: {error}. Finished evaluations are kept. Fix: free memory and run the"
                " same command again"
            ) from error


def training_splits(root: str | Path, data: str) -> Splits:
    """Return the images that a supernet was trained on, and those that were held out.

    Args:
        root: folder of the training.
        data: the images by name, as `--data` takes them.

    Raises:
        InputError: when the images are not those of the training.
    """
    _, description, space = open_folder(root)
    about = description["data"]
    seed = description["recipe"]["seed"]
    total, held_out = _counts(about, Folder(Path(root)).description)
    # The description has the number of images but not the training's --limit. First without a
    # limit; where that gives more images than the training had, its number is the limit.
    background = about.get("background", "white")
    # The fingerprint is that of a store. Descriptions of older versions have none.
    store = about.get("store", "memory")
    masks = task_of(space.heads[0]).has_maps
    for limit in (None, total):
        whole = load_whole(data, space.resolution, limit, seed, background, store, masks)
        if len(whole.train) > total:  # the training had a --limit
            continue
        if len(whole.train) == total:
            splits = divide(whole, held_out)
            # Equal numbers do not prove equal images; the hash of their pixels does.
            if splits.train.fingerprint == about.get("fingerprint"):
                return splits
        break
    raise InputError(
        f"--data {data}: other images than the supernet in {root} was trained on (expected"
        f" {about['source']}), so held-out images may be among those. Fix: the --data of that"
        " training"
    )


def _counts(about: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Return the number of images of a training's data set, and of those that were held out.

    Raises:
        InputError: naming the file that lacks them.
    """
    if about.get("total") is not None and about.get("held_out") is not None:
        return int(about["total"]), int(about["held_out"])
    raise InputError(
        f"{path}: data: total and held_out are missing, so the held-out images are unknown. Fix:"
        " train again with `nas train`"
    )
