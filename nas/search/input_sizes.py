"""Search several input sizes at once: one answer, and one Pareto front over all of them.

`nas search --resolution 192,224,256` calls it. A size is one more choice of the network, but one
that changes the shape of every operation. So each size is a problem of its own, with the space, the
scores and the table at that size, and the answers are compared here. They are compared by expected
accuracy, since a cost counts from the largest member of its own size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any

from nas.errors import InputError
from nas.search.description import expected
from nas.search.engines.exact import TIE, FrontPoint, front
from nas.search.problem import Found, OutOfReach, Problem
from nas.search.solver import solve
from nas.space import Architecture, Space
from nas.space.sizes import size_text

Poser = Callable[[Space, float | None], Problem]
"""Poses the search of a space at one size, within a latency target (None for the default)."""


@dataclass(frozen=True)
class Posed:
    """The problems of several input sizes.

    Attributes:
        problems: one per size that some member keeps the limits at, smallest size first.
        refused: the other sizes, each with the reason.
    """

    problems: tuple[Problem, ...]
    refused: tuple[tuple[tuple[int, int], str], ...] = ()


@dataclass(frozen=True)
class AtSize:
    """The answer at one input size.

    Attributes:
        problem: the search at this size.
        found: its result.
        accuracy: cautious expected accuracy in percent, by which sizes are compared.
    """

    problem: Problem
    found: Found
    accuracy: float


def pose_sizes(
    pose: Poser, spaces: Sequence[Space], own: tuple[int, int], target_ms: float | None
) -> Posed:
    """Return the problems of a space at several input sizes, with one latency target for all.

    Args:
        pose: poses one of them.
        spaces: the space at each size.
        own: the size of the space as it is loaded.
        target_ms: maximum latency. Where it is None, it is the default of the space's own size, or
            of the largest one where that is not among the sizes.

    Raises:
        OutOfReach: no size has a member that keeps the limits; the reason is that of the smallest.
        InputError: the scores do not know how accuracy depends on the input size.
    """
    spaces = sorted(spaces, key=_pixels)
    first = next((space for space in spaces if space.resolution == own), spaces[-1])
    reason = None
    posed: dict[tuple[int, int], Problem] = {}
    refused: dict[tuple[int, int], str] = {}
    for space in [first, *(space for space in spaces if space is not first)]:
        try:
            problem = pose(space, target_ms)
        except OutOfReach as error:
            refused[space.resolution] = str(error)
            continue
        if not problem.scores.knows_sizes or not problem.scores.absolute:
            raise InputError(
                f"--resolution {','.join(size_text(each.resolution) for each in spaces)}: these"
                f" scores do not know accuracies at {size_text(space.resolution)}. Fix: one size, or"
                " the accuracy law (without --scores, --supernet and --evidence)"
            )
        if reason is None:
            target_ms = problem.target_ms if isfinite(problem.target_ms) else None
            reason = problem.target_reason
        posed[space.resolution] = replace(problem, target_reason=reason)
    sizes = [space.resolution for space in spaces]
    if not posed:
        raise OutOfReach(f"--resolution: {refused[sizes[0]]} at {size_text(sizes[0])}")
    return Posed(
        tuple(posed[size] for size in sizes if size in posed),
        tuple((size, refused[size]) for size in sizes if size in refused),
    )


def _pixels(space: Space) -> int:
    return space.resolution[0] * space.resolution[1]


def solve_sizes(posed: Posed) -> tuple[tuple[AtSize, ...], Posed]:
    """Return the answer at each size, and the problems that have one.

    Raises:
        OutOfReach: no size has a member that keeps all limits together.
    """
    answers: list[AtSize] = []
    refused = list(posed.refused)
    for problem in posed.problems:
        try:
            found = solve(problem)
        except OutOfReach as error:
            refused.append((problem.space.resolution, str(error)))
            # The only size, or the last one that was left: its reason is the answer.
            if not answers and problem is posed.problems[-1]:
                raise
        else:
            answers.append(AtSize(problem, found, _cautious_accuracy(problem, found.architecture)))
    return tuple(answers), Posed(tuple(each.problem for each in answers), tuple(refused))


def size_rows(answers: Sequence[AtSize], posed: Posed) -> list[dict[str, Any]]:
    """Return one row per input size as plain data: its answer, or why it has none."""
    best = best_size(answers)
    rows = [
        {
            "resolution": list(each.problem.space.resolution),
            "latency_ms": each.found.ms,
            "chosen": each is best,
            **expected(each.problem.scores, each.found.architecture),
        }
        for each in answers
    ]
    return rows + [{"resolution": list(size), "reason": why} for size, why in posed.refused]


def best_size(answers: Sequence[AtSize]) -> AtSize:
    """Return the answer of the most accurate size, or of the fastest for an accuracy asked for.

    As within a space, accuracies that differ by at most `TIE` points tie, and the faster one wins.
    """
    if answers[0].problem.max_drop is not None:
        return min(answers, key=lambda each: each.found.ms)
    most = max(each.accuracy for each in answers)
    tied = [each for each in answers if each.accuracy >= most - TIE]
    return min(tied, key=lambda each: each.found.ms)


def front_of_sizes(problems: Sequence[Problem]) -> tuple[FrontPoint, ...]:
    """Return the Pareto front of latency against cautious accuracy over all sizes, fastest first.

    The cost of its points counts from the most accurate largest member of the sizes.
    """
    highest = max(
        problem.scores.accuracy(problem.scores.scored.largest()).value for problem in problems
    )
    points = [(problem, point) for problem in problems for point in front(problem)]
    compared = sorted(
        (
            (point.ms, -_cautious_accuracy(problem, point.architecture), point)
            for problem, point in points
        ),
        key=lambda each: each[:2],
    )
    kept: list[FrontPoint] = []
    least = inf
    for _, lost, point in compared:
        if lost < least and point.accuracy is not None:
            least = lost
            name = f"{problems[0].space.name}-front{len(kept) + 1}"
            named = replace(point.architecture, name=name)
            cost = highest - point.accuracy.value
            kept.append(replace(point, architecture=named, cost=cost))
    return tuple(kept)


def _cautious_accuracy(problem: Problem, arch: Architecture) -> float:
    """Return the lower bound of accuracy that searches maximise; 0 where only costs are known."""
    # A single size is compared with no other one.
    scores = problem.cautious_scores
    return scores.accuracy(arch).value if scores.absolute else 0.0
