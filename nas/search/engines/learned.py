"""The engine `learned`: it corrects the scores by evaluated members, and searches by the result.

`nas.search.solve` calls `learned`; `benchmarks/true_front.py` calls `learned_front`.

Recorded scores are the costs of single moves from the largest member, and moves do not simply add
up. So the cost of each row of the scores is uncertain: a Bayesian linear model whose prior mean is
the recorded cost, and which every evaluated member corrects (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, Sec. 2.1):

    drop = X cost + s 1 + e
    cost ~ N(recorded, spread^2 I),   s ~ N(0, shift^2),   e ~ N(0, noise^2 I)

X (members, rows) counts how often each row is part of a member's sum. The corrected costs are still
additive, so the exact engine solves for them, and its solution is the member to evaluate next. It
solves for the expected costs until these give no new member. Then it solves for costs drawn from
the posterior (Thompson, Biometrika 25, 1933), which explores where costs are uncertain.
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
"""Candidates for the standard deviation of an evaluated drop about the sum of costs, in points."""
SPREADS = np.geomspace(0.05, 3.2, 7)
"""Candidates for the standard deviation of a cost about the recorded one, in points."""
_SHIFT = 1.0
"""Standard deviation of the largest member's own accuracy, which all drops share, in points."""
_ERROR = 0.5
"""Standard error of an evaluated accuracy whose source gives none, in points."""
BATCH = 8
"""Maximum number of new members of one solution that are evaluated before the next solution."""
PATIENCE = 20
"""Number of solutions in a row without a new member after which the search ends."""


class Posterior(Protocol):
    """The accuracy of members given prior scores and evaluated members, as `learned` needs it."""

    def learn(self, arch: Architecture, drop: float, standard_error: float) -> None:
        """Take in that `arch` was evaluated `drop` points below the largest member.

        Args:
            arch: the member.
            drop: in points.
            standard_error: of the evaluated accuracy, in points.
        """

    def expected(self) -> Scores:
        """Return the scores with the posterior mean of the costs."""

    def drawn(self, generator: np.random.Generator) -> Scores:
        """Return scores with costs drawn from the posterior."""


def posterior(scores: Scores, level: float, source: str) -> Posterior:
    """Return the posterior that begins with these scores.

    Args:
        level: accuracy of the largest member in percent, as evaluated.
        source: what evaluates, in words.

    Raises:
        InputError: scores of this kind have no posterior.
    """
    if isinstance(scores, RecordedScores):
        return LearnedCosts(replace(scores, baseline_accuracy=level))
    if isinstance(scores, LawScores):
        return LawPosterior(scores, level=level, source=source)
    if isinstance(scores, PosteriorScores) and scores.uncertainty is not None:
        return scores.uncertainty.extended(level, source)
    raise InputError(
        f"engine 'learned': cannot correct scores of this kind ({scores.provenance}). Fix: give"
        " recorded scores as --scores, or another engine"
    )


class LearnedCosts:
    """The posterior of the costs of recorded scores, given evaluated members.

    Args:
        scores: the recorded ones; their costs are the prior mean.
    """

    def __init__(self, scores: RecordedScores) -> None:
        self._scores = scores
        self._before = np.array([row.cost for row in scores.rows])
        self._features = np.empty((0, len(scores.rows)))
        self._drops = np.empty(0)
        self._likeliest: tuple[float, float] | None = None

    def learn(self, arch: Architecture, drop: float, standard_error: float = 0.0) -> None:
        """Take in that `arch` was evaluated `drop` points below the largest member.

        The standard error is not used: the noise, which is fitted to the drops, contains it.
        """
        self._features = np.vstack([self._features, [unit.cost(arch) for unit in self._units]])
        self._drops = np.append(self._drops, drop)
        self._likeliest = None

    def expected(self) -> RecordedScores:
        """Return the scores with the posterior mean of the costs."""
        return self._with(self._corrected(self._before, self._drops))

    def drawn(self, generator: np.random.Generator) -> RecordedScores:
        """Return the scores with costs drawn from the posterior.

        Matheron's rule: a draw of costs from the prior is corrected as the mean is, but by the drops
        less a draw of their errors. No covariance over all rows is needed.
        """
        spread, noise = self._hyperparameters()
        costs = self._before + spread * generator.standard_normal(len(self._before))
        # One shift for all drops, since all are against the same largest member.
        errors = (
            noise * generator.standard_normal(len(self._drops))
            + _SHIFT * generator.standard_normal()
        )
        return self._with(self._corrected(costs, self._drops - errors))

    @cached_property
    def _units(self) -> list[RecordedScores]:
        """Return for each row scores in which it alone costs 1.

        The cost of a member by these is how often the row is part of the member's sum.
        """
        return [self._with(row) for row in np.eye(len(self._before))]

    def _with(self, costs: Floats) -> RecordedScores:
        rows = zip(self._scores.rows, costs.tolist(), strict=True)
        return replace(self._scores, rows=tuple(replace(row, cost=cost) for row, cost in rows))

    def _corrected(self, costs: Floats, drops: Floats) -> Floats:
        """Return `costs` corrected by `drops`: costs + spread^2 X^T K^-1 (drops - X costs).

        K is the covariance of the drops. With the prior mean as `costs` it is the posterior mean.
        """
        spread, noise = self._hyperparameters()
        # The system has one equation per evaluated member, however many rows there are.
        weights = np.linalg.solve(self._covariance(spread, noise), drops - self._features @ costs)
        corrected: Floats = costs + spread**2 * self._features.T @ weights
        return corrected

    def _covariance(self, spread: float, noise: float) -> Floats:
        """Return K = spread^2 X X^T + noise^2 I + shift^2, (members, members)."""
        covariance: Floats = spread**2 * self._features @ self._features.T + noise**2 * np.eye(
            len(self._drops)
        )
        # One shift for all drops: it adds the same to every pair of them, not only to the diagonal.
        return covariance + _SHIFT**2

    def _hyperparameters(self) -> tuple[float, float]:
        """Return the spread and noise of the grid with the highest marginal likelihood."""
        if self._likeliest is None:
            pairs = [(float(spread), float(noise)) for spread in SPREADS for noise in NOISES]
            self._likeliest = max(pairs, key=self._likelihood)
        return self._likeliest

    def _likelihood(self, pair: tuple[float, float]) -> float:
        """Return twice the log marginal likelihood of (spread, noise), up to a constant."""
        covariance = self._covariance(*pair)
        residuals = self._drops - self._features @ self._before
        return float(
            -residuals @ np.linalg.solve(covariance, residuals) - np.linalg.slogdet(covariance)[1]
        )


def learned(problem: Problem) -> Found:
    """Return the most accurate member within the limits among those that it evaluates.

    It evaluates `problem.study.trials` members, the largest included, and fewer where it finds no
    new ones. Costs are by the corrected scores, which are returned as `Found.scores`.

    Raises:
        InputError: there are fewer than two trials, nothing evaluates members, or no member keeps
            all limits together.
    """

    def solve(scores: Scores) -> list[Architecture]:
        return [exact(replace(problem, scores=scores, on_step=None)).architecture]

    accuracies, scores = _evaluated(problem, solve)
    # The largest member is always evaluated, but seldom keeps the limits.
    within = [
        arch for arch in accuracies if all(limit.holds(arch) for limit in problem.every_limit)
    ]
    # By evaluated accuracy, not by the corrected costs: what was seen of these members needs no
    # model.
    best = min(within, key=lambda arch: (-accuracies[arch].accuracy, problem.table.total_ms(arch)))
    steps = steps_to(replace(problem, scores=scores), best)
    if problem.on_step:
        for step in steps:
            problem.on_step(step)
    drop = _drop(problem, accuracies, best)
    found = replace(problem, scores=scores).found(best, steps, accuracies[best].accuracy, drop)
    return replace(found, scores=scores)


def learned_front(problem: Problem) -> tuple[FrontPoint, ...]:
    """Return the Pareto front of latency against accuracy among evaluated members, fastest first.

    A cost is the evaluated difference from the largest member. As many members are evaluated as by
    `learned`. All keep the limits other than that on latency.
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
    """Return how far `arch` was evaluated below the largest member, in points."""
    return accuracies[_bare(problem.space.largest())].accuracy - accuracies[arch].accuracy


def _evaluated(problem: Problem, solve: Solve) -> tuple[dict[Architecture, Evaluated], Scores]:
    """Return the evaluated members, the largest first, and the scores that they corrected.

    Args:
        problem: with evaluations and trials.
        solve: returns the members to evaluate next for given scores.
    """
    if problem.evaluations is None:
        raise InputError(
            "engine 'learned': requires evaluated members. Fix: give --score-by evaluate (in"
            " Python: evaluations)"
        )
    if problem.study.trials < 2:
        raise InputError(
            "trials 1: engine 'learned' evaluates the largest member and at least one more. Fix: 2"
            " or more trials"
        )
    largest = _bare(problem.space.largest())
    known = problem.evaluations.of(largest, [largest])
    costs = posterior(problem.scores, known[largest].accuracy, problem.evaluations.source.words)
    # All drops are against the largest member, so its own drop is 0, up to the error that the others
    # share with it.
    costs.learn(largest, 0.0, known[largest].standard_error or _ERROR)
    generator = np.random.default_rng(problem.study.seed)
    study = problem.study
    # The posterior mean is exploited as long as it leads to new members. A draw follows every
    # solution that did not, until a new member is found or `PATIENCE` runs out.
    idle = 0
    study.progress("members", len(known), study.trials)
    while len(known) < study.trials and idle < PATIENCE:
        solutions = solve(costs.drawn(generator) if idle else costs.expected())
        # A front may have many new members. A few, spread over it, are evaluated before the costs
        # are corrected and the front is solved again.
        new = [arch for arch in map(_bare, solutions) if arch not in known]
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
    """Return the member without its name, so that a member of two fronts is one key."""
    return replace(arch, name="")


def _spread(members: Sequence[Architecture], count: int) -> list[Architecture]:
    """Return `count` of the members, evenly spaced from the first to the last."""
    places = np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)
    return [members[place] for place in dict.fromkeys(places.tolist())]
