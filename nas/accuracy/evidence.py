"""Evidence that corrects the accuracy law: scores of a supernet, and fine-tuned members.

`nas search` reads it from the files and run folders of `--scores` and `--evidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior import Observation, Posterior
from nas.accuracy.posterior_scores import PosteriorScores
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.single_moves import variants
from nas.errors import InputError
from nas.files import YamlFile
from nas.space import Architecture, Space, load_architecture

DESCRIPTION = "finetune.yaml"
SUBFOLDER = "finetune"
_LEAST_ERROR = 1e-3
"""Minimum standard error of an accuracy in percent; that of a billion images is larger."""


@dataclass(frozen=True)
class TrainedMember:
    """A member with its accuracy after fine-tuning.

    Attributes:
        architecture: the member.
        accuracy: on held-out images, in percent of top-1, as the law's.
        standard_error: of `accuracy`, in points.
        data: fingerprint of the training images.
        source: description of the training images.
        run: folder that the member was read from.
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
        InputError: a folder has no finished fine-tuning, a network is not a member of the space, or
            the runs are of different images or input sizes and cannot be compared.
    """
    there = [Path(run).resolve() for run in runs]
    for index, run in enumerate(runs):
        # One measurement is not two, whatever it is called.
        if there[index] in there[:index]:
            raise InputError(f"--evidence {run}: is given twice. Fix: name each run once")
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
    # The folder of a search holds its fine-tuning in a subfolder. A fine-tuning may be named
    # itself.
    folder = next((each for each in (run / SUBFOLDER, run) if (each / DESCRIPTION).is_file()), None)
    if folder is None:
        raise InputError(f"{run}: has no {SUBFOLDER}/{DESCRIPTION}. Fix: nas finetune {run}")
    file = YamlFile(folder / DESCRIPTION)
    try:
        accuracies = file.data["accuracy"]
        # Older files have no metric; theirs is top-1.
        metric = accuracies.get("metric", "top1")
        figure = accuracies["held_out"][accuracies["weights"]]
        value = float(figure["accuracy"])
        error = float(figure["standard_error"])
        data = file.data["data"]
        fingerprint = str(data["fingerprint"])
        source = str(data["source"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise file.error(
            ["accuracy"], f"is missing. Fix: finish the training with nas finetune {run}"
        ) from None
    if metric != "top1":
        raise file.error(
            ["accuracy", "metric"],
            f"is '{metric}' (expected 'top1', as that of the accuracy law). Fix: leave this run out of"
            " --evidence",
        )
    if not (0 <= value <= 100 and _LEAST_ERROR <= error <= 100):
        raise file.error(
            ["accuracy"],
            f"is {value:g} ± {error:g}, expected a percentage and an error from {_LEAST_ERROR:g} to"
            " 100",
        )
    architecture = load_architecture(folder / "architecture.yaml")
    try:
        space.validate(architecture)
    except ValueError as mismatch:
        raise InputError(f"{run}: not a member of space '{space.name}': {mismatch}") from None
    return TrainedMember(architecture, value, error, fingerprint, source, str(run))


def observations(recorded: RecordedScores) -> list[Observation]:
    """Return the measurements of a supernet's scores as observations.

    There is one per row that has an accuracy drop and a standard error.
    """
    members = {variant.key: variant for variant in variants(recorded.scored, every=True)}
    measured = []
    for row in recorded.rows:
        if row.accuracy_drop is None or row.standard_error is None or row.key not in members:
            continue
        variant = members[row.key]
        base = None if variant.base not in members else members[variant.base].arch
        # Drops from the largest member share the error of its accuracy. A drop from another member
        # does not, and the model must know which it is.
        compared = None if base == recorded.scored.largest() else base
        measured.append(
            Observation(variant.arch, row.accuracy_drop, row.standard_error, base=compared)
        )
    return measured


def corrected(
    law: LawScores, recorded: RecordedScores | None = None, trained: Sequence[TrainedMember] = ()
) -> PosteriorScores:
    """Return the law corrected by a supernet's measurements, by fine-tuned members, or by both.

    The level is that of the fine-tuned members where there are any, because inherited weights have
    not been fine-tuned.

    Args:
        law: the prior.
        recorded: the supernet's scores, if any.
        trained: the fine-tuned members, if any.
    """
    # The law's deficits depend on the sizes of maps, so the prior is taken at the input size of the
    # measurements.
    sized = recorded.scored if recorded is not None else trained[0].architecture
    # Costs are corrected for the choices that were evaluated. Others have no rows.
    space = law.scored if recorded is None else recorded.covered(law.scored)
    prior = law.at(space.at(sized.resolution, sized.classes))
    seen = observations(recorded) if recorded is not None else []
    sources = []
    level = recorded.baseline_accuracy if recorded is not None else None
    if recorded is not None:
        sources.append(f"the supernet {recorded.supernet}" if recorded.supernet else "a supernet")
    if trained:
        # Almost any level would do. With `leveled=False` these drops share an unknown offset, and
        # the largest member's accuracy follows from the fit (`Posterior._expected_level`).
        level = max(member.accuracy for member in trained)
        seen += [
            Observation(
                member.architecture,
                level - member.accuracy,
                member.standard_error,
                inherited=False,
                leveled=False,
            )
            for member in trained
        ]
        sources.append(f"{len(trained)} trained members")
    return Posterior(prior, seen, level, " and ".join(sources)).expected()
