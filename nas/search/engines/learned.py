"""Costs that are learned from evaluated members, and searches that solve for what was learned so
far.

The recorded scores are costs of single moves from the largest member, and moves do not simply add
up. So what a row of scores costs is taken as uncertain: a Bayesian linear model with the recorded
costs as its prior, corrected by every member that is evaluated (Rasmussen and Williams, Gaussian
Processes for Machine Learning, Sec. 2.1). The costs stay additive, so that the exact engine solves
for them. Which member is evaluated next is what it finds: in turn by the expected costs, and by
costs drawn from what is still possible (Thompson, Biometrika 25, 1933), which looks where little is
known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.accuracy import RecordedScores, Scores
from nas.accuracy.evaluations import Evaluated
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior import Posterior as LawPosterior
from nas.accuracy.posterior_scores import PosteriorScores
from nas.errors import InputError
from nas.search.engines.exact import FrontPoint, exact, front
from nas.search.problem import Found, Problem
from nas.search.trace import steps_to
from nas.space import Architecture

Floats = NDArray[np.float64]
Solve = Callable[[Scores], list[Architecture]]
NOISES = np.geomspace(0.1, 6.4, 7)
"""What an evaluated member may be off the sum by, in points."""
DOUBTS = np.geomspace(0.05, 3.2, 7)
"""What a recorded cost may be off by, in points."""
_SHIFT = 1.0
"""What the largest member, against which all drops are, may be off by itself."""
_ERROR = 0.5
"""Standard error of an evaluated accuracy that nobody told, in points."""
BATCH = 8
"""Members of a front that are evaluated between two corrections of the costs."""
PATIENCE = 20
"""Solutions in a row that bring no new member, after which there is nothing more to look at."""


class Posterior(Protocol):
    """What members are worth, given prior scores and the members that were evaluated: what
    `learned` needs of it."""

    def learn(self, arch: Architecture, drop: float, standard_error: float) -> None:
        """Take in that `arch` was evaluated to be `drop` points below the largest member, give or
        take its error."""

    def expected(self) -> Scores:
        """Return the scores that are most likely now."""

    def drawn(self, generator: np.random.Generator) -> Scores:
        """Return scores that are possible, the likelier the sooner."""


def posterior(scores: Scores, level: float, source: str) -> Posterior:
    """Return the posterior that begins with these scores.

    Args:
        level: accuracy of the largest member in percent, as evaluated.
        source: what evaluates, in words.

    Raises:
        InputError: for a kind of scores that no posterior is known for.
    """
    if isinstance(scores, RecordedScores):
        return LearnedCosts(replace(scores, baseline_accuracy=level))
    if isinstance(scores, LawScores):
        return LawPosterior(scores, level=level, source=source)
    if isinstance(scores, PosteriorScores) and scores.uncertainty is not None:
        return scores.uncertainty.extended(level, source)
    raise InputError(
        f"engine 'learned': cannot correct scores of this kind yet ({scores.provenance}). "
        "Fix: --scores with recorded ones, or another engine"
    )


class LearnedCosts:
    """What the rows of scores cost, given members that were evaluated.

    Args:
        scores: the recorded ones; their costs are what is expected before anything is evaluated.
    """

    def __init__(self, scores: RecordedScores) -> None:
        self._scores = scores
        self._before = np.array([row.cost for row in scores.rows])
        self._features = np.empty((0, len(scores.rows)))
        self._drops = np.empty(0)
        self._likeliest: tuple[float, float] | None = None

    def learn(self, arch: Architecture, drop: float, standard_error: float = 0.0) -> None:
        """Take in that `arch` was evaluated to be `drop` points below the largest member.

        The standard error is left to the noise, which is where the drops are likeliest.
        """
        self._features = np.vstack([self._features, [unit.cost(arch) for unit in self._units]])
        self._drops = np.append(self._drops, drop)
        self._likeliest = None

    def expected(self) -> RecordedScores:
        """Return the scores with the costs that are most likely now."""
        return self._with(self._corrected(self._before, self._drops))

    def drawn(self, generator: np.random.Generator) -> RecordedScores:
        """Return the scores with costs that are possible, the likelier the sooner.

        A draw from the prior is corrected by what a noisy draw of the drops would have it learn
        (Matheron's rule), so that no covariance over all rows is needed.
        """
        doubt, noise = self._hyperparameters()
        costs = self._before + doubt * generator.standard_normal(len(self._before))
        errors = (
            noise * generator.standard_normal(len(self._drops))
            + _SHIFT * generator.standard_normal()
        )
        return self._with(self._corrected(costs, self._drops - errors))

    @cached_property
    def _units(self) -> list[RecordedScores]:
        """For each row, scores in which it alone costs something: how often it counts in a member's
        sum."""
        return [self._with(row) for row in np.eye(len(self._before))]

    def _with(self, costs: Floats) -> RecordedScores:
        rows = zip(self._scores.rows, costs.tolist(), strict=True)
        return replace(self._scores, rows=tuple(replace(row, cost=cost) for row, cost in rows))

    def _corrected(self, costs: Floats, drops: Floats) -> Floats:
        """Return the costs nearest to these that explain the drops, as far as they must be
        explained."""
        doubt, noise = self._hyperparameters()
        weights = np.linalg.solve(self._covariance(doubt, noise), drops - self._features @ costs)
        corrected: Floats = costs + doubt**2 * self._features.T @ weights
        return corrected

    def _covariance(self, doubt: float, noise: float) -> Floats:
        """Of the drops."""
        covariance: Floats = doubt**2 * self._features @ self._features.T + noise**2 * np.eye(
            len(self._drops)
        )
        return covariance + _SHIFT**2

    def _hyperparameters(self) -> tuple[float, float]:
        """Return doubt and noise under which the drops are likeliest."""
        if self._likeliest is None:
            pairs = [(float(doubt), float(noise)) for doubt in DOUBTS for noise in NOISES]
            self._likeliest = max(pairs, key=self._likelihood)
        return self._likeliest

    def _likelihood(self, pair: tuple[float, float]) -> float:
        """Its logarithm, doubled, but for a constant."""
        covariance = self._covariance(*pair)
        residuals = self._drops - self._features @ self._before
        return float(
            -residuals @ np.linalg.solve(covariance, residuals) - np.linalg.slogdet(covariance)[1]
        )


def learned(problem: Problem) -> Found:
    """Return the engine of that name: of the members within the limits that it evaluates, the one
    that loses least.

    It evaluates `problem.study.trials` members, the largest included; fewer where it comes to no
    new one. Costs are those by the scores that it learned, which come back too.

    Raises:
        InputError: for fewer than two trials, or when no member keeps all limits together, though
            some keep each.
    """

    def solve(scores: Scores) -> list[Architecture]:
        return [exact(replace(problem, scores=scores, on_step=None)).architecture]

    accuracies, scores = _evaluated(problem, solve)
    within = [
        arch for arch in accuracies if all(limit.holds(arch) for limit in problem.every_limit)
    ]
    best = min(within, key=lambda arch: (-accuracies[arch].accuracy, problem.table.total_ms(arch)))
    steps = steps_to(replace(problem, scores=scores), best)
    if problem.on_step:
        for step in steps:
            problem.on_step(step)
    drop = _drop(problem, accuracies, best)
    found = replace(problem, scores=scores).found(best, steps, accuracies[best].accuracy, drop)
    return replace(found, scores=scores)


def learned_front(problem: Problem) -> tuple[FrontPoint, ...]:
    """Return the members on the Pareto front of latency against accuracy among those that it
    evaluates, fastest first.

    Their costs are what they were evaluated to lose against the largest member. As many are
    evaluated as by `learned`. All keep the limits other than that on latency.
    """
    accuracies, _ = _evaluated(
        problem, lambda scores: [p.architecture for p in front(replace(problem, scores=scores))]
    )
    points = [
        FrontPoint(problem.table.total_ms(arch), _drop(problem, accuracies, arch), arch)
        for arch in accuracies
        if all(limit.holds(arch) for limit in problem.limits)
    ]
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda point: (point.ms, point.cost)):
        if not kept or point.cost < kept[-1].cost:
            name = f"{problem.space.name}-front{len(kept) + 1}"
            kept.append(replace(point, architecture=replace(point.architecture, name=name)))
    return tuple(kept)


def _drop(
    problem: Problem, accuracies: Mapping[Architecture, Evaluated], arch: Architecture
) -> float:
    """In points of top-1, against the largest member."""
    return accuracies[_bare(problem.space.largest())].accuracy - accuracies[arch].accuracy


def _evaluated(problem: Problem, solve: Solve) -> tuple[dict[Architecture, Evaluated], Scores]:
    """Return the members that were evaluated on the way, the largest first, and the scores as they
    correct them."""
    if problem.evaluations is None:
        raise InputError(
            "engine 'learned': learns from members that are evaluated; give --score-by evaluate (in"
            " Python: evaluations)"
        )
    if problem.study.trials < 2:
        raise InputError(
            "trials 1: engine 'learned' evaluates the largest member and at least one more"
        )
    largest = _bare(problem.space.largest())
    known = problem.evaluations.of(largest, [largest])
    costs = posterior(problem.scores, known[largest].accuracy, problem.evaluations.source.words)
    costs.learn(largest, 0.0, known[largest].standard_error or _ERROR)
    generator = np.random.default_rng(problem.study.seed)
    study = problem.study
    idle = 0
    study.progress("members", len(known), study.trials)
    while len(known) < study.trials and idle < PATIENCE:
        found = solve(costs.drawn(generator) if idle else costs.expected())
        new = [arch for arch in map(_bare, found) if arch not in known]
        new = _spread(new, min(BATCH, study.trials - len(known)))
        idle = 0 if new else idle + 1
        for arch in new:
            known |= problem.evaluations.of(arch, [arch])
            costs.learn(arch, _drop(problem, known, arch), known[arch].standard_error or _ERROR)
            study.progress("members", len(known), study.trials)
    note = (
        f"corrected by {len(known)} members that were evaluated: {problem.evaluations.source.words}"
    )
    expected = costs.expected()
    if isinstance(expected, RecordedScores):
        return known, replace(expected, notes=(*problem.scores.notes, note))
    return known, expected


def _bare(arch: Architecture) -> Architecture:
    """Without the name, which may tell a place on one front."""
    return replace(arch, name="")


def _spread(members: Sequence[Architecture], count: int) -> list[Architecture]:
    """So many of the members, evenly from the first to the last."""
    places = np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)
    return [members[place] for place in dict.fromkeys(places.tolist())]
