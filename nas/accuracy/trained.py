"""Accuracies of fine-tuned members of a space, read from run folders as evidence.

`nas search --evidence RUN` corrects the accuracy law by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import InputError
from nas.files import YamlFile
from nas.space import Architecture, Space, load_architecture

DESCRIPTION = "finetune.yaml"
SUBFOLDER = "finetune"


@dataclass(frozen=True)
class TrainedMember:
    """A member with its accuracy after fine-tuning.

    Attributes:
        architecture: the member.
        accuracy: on held-out images, in percent.
        standard_error: of `accuracy`, in points.
        data: fingerprint of the training images.
        source: description of the training images.
        run: folder that it was read from.
    """

    architecture: Architecture
    accuracy: float
    standard_error: float
    data: str
    source: str
    run: str


def trained_members(space: Space, runs: Sequence[str | Path]) -> list[TrainedMember]:
    """Return the fine-tuned members of a space from run folders, all of one data set.

    Raises:
        InputError: a folder has no finished fine-tuning, its network is not a member of the space,
            or the runs are of different images and cannot be compared.
    """
    members = [_read(space, Path(run)) for run in runs]
    # Accuracies on different images or at different input sizes have no common level.
    for member in members[1:]:
        if (member.data, member.architecture.resolution) != (
            members[0].data,
            members[0].architecture.resolution,
        ):
            raise InputError(
                f"{member.run}: trained on {member.source}, {members[0].run} on"
                f" {members[0].source}. Fix: name runs of the same images and input size"
            )
    return members


def _read(space: Space, run: Path) -> TrainedMember:
    folder = next((each for each in (run / SUBFOLDER, run) if (each / DESCRIPTION).is_file()), None)
    if folder is None:
        raise InputError(f"{run}: has no {SUBFOLDER}/{DESCRIPTION}. Fix: nas finetune {run}")
    file = YamlFile(folder / DESCRIPTION)
    try:
        accuracies = file.data["accuracy"]
        figure = accuracies["held_out"][accuracies["weights"]]
        value = float(figure["accuracy"])
        error = float(figure["standard_error"])
        data = file.data["data"]
        fingerprint = str(data["fingerprint"])
        source = str(data["source"])
    except (KeyError, TypeError, ValueError):
        raise file.error(
            ["accuracy"], f"is missing. Fix: finish the training with nas finetune {run}"
        ) from None
    if not (0 <= value <= 100 and error > 0):
        raise file.error(
            ["accuracy"], f"is {value:g} ± {error:g}, expected a percentage and a positive error"
        )
    architecture = load_architecture(folder / "architecture.yaml")
    try:
        space.validate(architecture)
    except ValueError as mismatch:
        raise InputError(f"{run}: not a member of space '{space.name}': {mismatch}") from None
    return TrainedMember(architecture, value, error, fingerprint, source, str(run))
