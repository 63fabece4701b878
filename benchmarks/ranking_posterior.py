"""The accuracy law, and the law corrected by evidence, as scores of members.

`benchmarks/ranking.py` calls it. Nothing here sees the accuracy of a member that it scores: members
trained alone correct the law only for the members of other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.accuracy import default_scores
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior import Observation, Posterior
from nas.space import Architecture, Space
from nas.tasks.classify import accuracy_error

Floats = NDArray[np.float64]
FOLDS = 6


def law_of(space: Space) -> LawScores:
    law = default_scores(space)
    assert isinstance(law, LawScores)
    return law


def law_costs(space: Space, archs: Sequence[Architecture]) -> Floats:
    """Return the points below the largest member by the law, (members,)."""
    law = law_of(space)
    return np.array([law.cost(arch) for arch in archs])


def inherited_evidence(
    archs: Sequence[Architecture], inherited: Sequence[float], level: float | None, images: int
) -> list[Observation]:
    """Return what a supernet says of members.

    Args:
        archs: the members.
        inherited: their accuracies with inherited weights, in percent.
        level: that of the largest member; None where it was not evaluated. Drops then share an
            unknown offset.
        images: held-out images that they were evaluated on.
    """
    highest = max(inherited) if level is None else level
    return [
        Observation(arch, highest - value, accuracy_error(value, images), leveled=level is not None)
        for arch, value in zip(archs, inherited, strict=True)
    ]


def trained_evidence(
    archs: Sequence[Architecture], accuracies: Sequence[float], images: int, deviation: float
) -> list[Observation]:
    """Return what members trained alone say; all drops share an unknown offset.

    Args:
        archs: the members.
        accuracies: in percent.
        images: held-out images that they were evaluated on.
        deviation: standard deviation between seeds, in points.
    """
    level = max(accuracies)
    return [
        Observation(
            arch,
            level - value,
            float(np.hypot(accuracy_error(value, images), deviation)),
            inherited=False,
            leveled=False,
        )
        for arch, value in zip(archs, accuracies, strict=True)
    ]


def with_supernet(
    space: Space, archs: Sequence[Architecture], evidence: Sequence[Observation]
) -> Floats:
    """Return the points below the largest member by the law and a supernet, negative, (members,)."""
    scores = Posterior(law_of(space), evidence).expected()
    return np.array([-scores.cost(arch) for arch in archs])


def with_other_members(
    space: Space,
    archs: Sequence[Architecture],
    accuracies: Sequence[float],
    images: int,
    deviation: float,
    evidence: Sequence[Observation] = (),
) -> Floats:
    """Return expected accuracies by the law and by members of other folds, (members,).

    Args:
        space: of the members.
        archs: the members, in an order by which every fold has the same range.
        accuracies: of each after training alone, in percent.
        images: held-out images of `accuracies`.
        deviation: standard deviation between seeds, in points.
        evidence: of a supernet, on any members.
    """
    law = law_of(space)
    measured = np.asarray(accuracies, dtype=float)
    expected = np.empty(len(archs))
    folds = np.arange(len(archs)) % FOLDS
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        trained = trained_evidence(
            [archs[place] for place in others], measured[others].tolist(), images, deviation
        )
        level = float(measured[others].max())
        scores = Posterior(law, [*evidence, *trained], level, "other members").expected()
        for place in np.flatnonzero(folds == fold):
            expected[place] = scores.accuracy(archs[place]).top1
    return expected


def posterior_scores(
    space: Space,
    archs: Sequence[Architecture],
    accuracies: Sequence[float],
    supernets: Mapping[str, tuple[Sequence[float], float | None, int]],
    images: int,
    deviation: float,
) -> dict[str, Floats]:
    """Return the scores by prior and evidence, (members,); more is better.

    Args:
        space: of the members.
        archs: the members.
        accuracies: after training alone, in percent.
        supernets: by name the inherited accuracies, that of the largest member (None where it was
            not evaluated), and the number of images of both.
        images: held-out images of `accuracies`.
        deviation: standard deviation between seeds, in points.
    """
    truth = (accuracies, images, deviation)
    found = {"prior_and_members": with_other_members(space, archs, *truth)}
    for name, (inherited, level, evaluated_on) in supernets.items():
        evidence = inherited_evidence(archs, inherited, level, evaluated_on)
        found[f"prior_and_{name}"] = with_supernet(space, archs, evidence)
        found[f"prior_and_{name}_and_members"] = with_other_members(space, archs, *truth, evidence)
    return found
