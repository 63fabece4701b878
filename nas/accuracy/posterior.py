"""Prior and evidence: the accuracy law corrected by measurements of supernets and members.

`nas.accuracy.evidence` and the engine `learned` call it. The model of how far a member lies below
the largest one, in points of the user's metric, is s f(member), with

    f(member) = L(member) + g(member) . dtheta + sum over rows r of phi_r(member) beta_r

- L is the law's cost in points of ImageNet top-1, and g its derivatives by the law's coefficients.
- phi_r is how often the single move of row r of `scores.csv` counts in the member.
- s is the number of points of the metric per point of the law.
- dtheta is the correction of the law's coefficients. Its prior is normal with the law's covariance.
- beta_r is the correction of a move's cost. Its prior is normal; the standard deviation is a share
  of the move's cost by the law.

A measured drop is

    y_i = s f(member_i) - s f(base_i) + offset + sum over r of phi_r(member_i) gamma_r + error_i

- The offset is the error of the largest member's own accuracy, which all drops share.
- The error has two variances: that of the held-out images, and one, the same for all drops, of the
  deviation from a sum.
- gamma is the bias of inherited weights: slices that were trained too seldom lose more than the
  networks do when trained alone. Members with weights of their own have no gamma.

gamma has the same features as beta, so that only its size distinguishes them. Where a supernet
departs from the law by more than the law's uncertainty, the rest is gamma.

The model is linear except in s, so that the posterior is that of Bayesian linear regression
(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, Sec. 2.1). s and the
variances of gamma and of the error maximise the marginal likelihood. So a supernet whose measurements
distinguish moves replaces the law's costs, and one whose measurements do not leaves them unchanged.

Costs stay sums over stages and places, so that the exact engine proves optima of the posterior too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from nas.accuracy.law import Floats
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior_scores import PosteriorScores
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.single_moves import Key, Score, Variant, variants, wanted_keys
from nas.space import Architecture, Space

OFFSET_ERROR = 1.0
"""Standard deviation of the offset where the largest member was measured, in points."""
LEVEL_ERROR = 30.0
"""Standard deviation of the offset where the largest member was not measured, in points.

It is so large that only differences between members count."""
SCALE, SCALE_SPREAD = 1.0, 1.0
"""Prior of s, log-normal: its median, and the standard deviation of its logarithm."""
SCALES = np.geomspace(0.05, 8.0, 25)
"""Candidates for s."""
MOVE_ERROR = 0.4
"""Standard deviation of beta, as a share of the cost of the move by the law."""
SPREADS = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
"""Candidates for the standard deviations of gamma and of the error, as shares of the root mean
square of the drops."""
MEMBERS = 24
"""Number of random members over which the share of the evidence is computed."""


@dataclass(frozen=True)
class Observation:
    """The measured accuracy drop of a member.

    Attributes:
        arch: the member.
        drop: points that it was measured below `base`, or below the largest member where `base` is
            None.
        standard_error: of `drop`, in points.
        inherited: whether its weights are a supernet's, not trained for it alone.
        leveled: whether `drop` is against the measured largest member. Otherwise all drops have one
            unknown offset.
        base: another member that it was compared with.
    """

    arch: Architecture
    drop: float
    standard_error: float
    inherited: bool = True
    leveled: bool = True
    base: Architecture | None = None


class Posterior:
    """The model of the module's docstring, given the observations so far.

    Args:
        law: the prior, at the input size of the measurements.
        evidence: the observations.
        level: accuracy of the largest member in percent, where it was measured.
        source: source of the measurements, in words.
    """

    def __init__(
        self,
        law: LawScores,
        evidence: Sequence[Observation] = (),
        level: float | None = None,
        source: str = "",
    ) -> None:
        self._law = replace(law, scale=1.0, caution=0.0)
        self._level = level
        self._source = source
        self._unit = _units(law.scored)
        self._largest_gradient = self._law.gradient(law.scored.largest())
        self._prior = self._prior_covariance()
        self._costs = np.empty(0)
        self._features = np.empty((0, len(self._prior)))
        self._drops = np.empty(0)
        self._errors = np.empty(0)
        self._inherited = np.empty(0)
        # 1 for drops against the measured largest member, and 1 for drops against a level that
        # nobody measured. A drop against another member is neither and has no offset.
        self._leveled = np.empty(0)
        self._unleveled = np.empty(0)
        self._fit: _Fit | None = None
        for each in evidence:
            self._take(each)

    def extended(self, level: float, source: str) -> Posterior:
        """Return a copy of the model with its observations, for members of another source.

        Args:
            level: accuracy of the largest member by that source, in percent. It replaces the
                present one, unless that is of members with weights of their own.
            source: in words.
        """
        more = copy.copy(self)
        if not more._unleveled.any():
            more._level = level
        more._source = f"{self._source} and {source}" if self._source else source
        return more

    def learn(
        self, arch: Architecture, drop: float, standard_error: float = 0.5, inherited: bool = True
    ) -> None:
        """Take in that `arch` was evaluated `drop` points below the largest member."""
        self._take(Observation(arch, drop, standard_error, inherited))

    def expected(self) -> PosteriorScores:
        """Return the scores with the posterior mean of the costs."""
        return self._scores(self.fit.mean)

    def drawn(self, generator: np.random.Generator) -> PosteriorScores:
        """Return scores with costs drawn from the posterior (Thompson, Biometrika 25, 1933)."""
        # The root of the covariance by eigenvalues: rounding may leave some slightly negative,
        # which a Cholesky factorisation refuses.
        values, vectors = np.linalg.eigh(self.fit.covariance)
        normals = generator.standard_normal(len(values))
        return self._scores(self.fit.mean + vectors @ (np.sqrt(np.maximum(values, 0.0)) * normals))

    def variance(self, arch: Architecture, other: Architecture | None = None) -> float:
        """Return the variance of s f(arch), in squared points of the metric.

        With `other` it is that of the difference s f(arch) - s f(other).
        """
        features = self._of(arch)[1]
        if other is not None:
            features = features - self._of(other)[1]
        return (
            self.fit.scale**2 * max(float(features @ self.fit.covariance @ features), 0.0)
            + self.fit.noise**2
        )

    @property
    def fit(self) -> _Fit:
        """Return the posterior given all observations."""
        if self._fit is None:
            self._fit = self._solve(*self._choose())
        return self._fit

    def _take(self, seen: Observation) -> None:
        cost, features = self._of(seen.arch)
        if seen.base is not None:
            base_cost, base_features = self._of(seen.base)
            cost -= base_cost
            features = features - base_features
        if cost == 0 and not features.any():
            # The largest member against itself: its drop is 0 whatever its accuracy, and so says
            # nothing about the offset.
            return
        self._costs = np.append(self._costs, cost)
        self._features = np.vstack([self._features, features])
        self._drops = np.append(self._drops, seen.drop)
        self._errors = np.append(self._errors, seen.standard_error)
        self._inherited = np.append(self._inherited, float(seen.inherited))
        self._leveled = np.append(self._leveled, float(seen.leveled and seen.base is None))
        self._unleveled = np.append(self._unleveled, float(not seen.leveled))
        self._fit = None

    def _of(self, arch: Architecture) -> tuple[float, Floats]:
        """Return L(arch), and the features of the member: the factors of (dtheta, beta) in f."""
        arch = arch.at(self._law.scored.resolution)
        gradient = self._largest_gradient - self._law.gradient(arch)
        rows: Any = self._unit.cost(arch)  # a vector, since the units' costs are vectors
        return self._law.parts_cost(arch), np.concatenate(
            [gradient, rows * np.ones(len(self._unit.rows))]
        )

    def _prior_covariance(self) -> Floats:
        """Return the covariance of (dtheta, beta)."""
        costs = {each.key: each for each in variants(self._law.scored)}
        moves = np.array([self._move_cost(costs, row.key) for row in self._unit.rows])
        # The law gives some moves no cost, such as one position rather than another. They count as
        # half of a typical move, so that evidence can correct them too.
        usual = np.median(moves[moves > 0]) if (moves > 0).any() else 1.0
        spreads = MOVE_ERROR * np.maximum(moves, usual / 2)
        count = len(self._law.law.values)
        prior = np.zeros((count + len(spreads),) * 2)
        prior[:count, :count] = self._law.law.covariance
        prior[count:, count:] = np.diag(spreads**2)
        return prior

    def _move_cost(self, members: Mapping[Key, Variant], key: Key) -> float:
        """Return the absolute cost of the single move of a row by the law, in points."""
        if key not in members:
            return 0.0
        variant = members[key]
        return abs(
            self._law.parts_cost(variant.arch) - self._law.parts_cost(members[variant.base].arch)
        )

    def _choose(self) -> tuple[float, float, float]:
        """Return s and the spreads of gamma and of the error with the highest marginal likelihood."""
        typical = float(np.sqrt(np.mean(self._drops**2))) if len(self._drops) else 0.0
        if typical == 0.0:
            return SCALE, 0.0, 0.0
        # Coordinate ascent: one value after the other, the two others fixed. Three rounds converge
        # in practice.
        best = (SCALE, 0.2 * typical, 0.2 * typical)
        known = self._features @ self._prior @ self._features.T
        rows = self._features[:, len(self._law.law.values) :] * self._inherited[:, None]
        biased = rows @ rows.T
        for _ in range(3):
            for position, values in enumerate((SCALES, SPREADS * typical, SPREADS[1:] * typical)):
                tried = [_with(best, position, float(value)) for value in values]
                best = max(
                    [best, *tried], key=lambda each: self._log_posterior(known, biased, *each)
                )
        return best

    def _log_posterior(
        self, known: Floats, biased: Floats, scale: float, bias: float, noise: float
    ) -> float:
        """Return the logarithm of the marginal likelihood times the prior of s, up to a constant.

        Args:
            known: covariance of the drops by (dtheta, beta) at s = 1, (observations, observations).
            biased: covariance of the drops by gamma at a spread of 1, in the same shape.
            scale: s.
            bias: standard deviation of gamma.
            noise: standard deviation of the error beside that of the images, in points.
        """
        covariance = self._marginal(known, biased, scale, bias, noise)
        residuals = self._drops - scale * self._costs
        # One factorisation gives both terms of the normal density: the determinant and the weighted
        # squares.
        root = np.linalg.cholesky(covariance)
        whitened = solve_triangular(root, residuals, lower=True)
        prior = -0.5 * (np.log(scale / SCALE) / SCALE_SPREAD) ** 2
        return float(prior - 0.5 * whitened @ whitened - np.log(np.diag(root)).sum())

    def _marginal(
        self, known: Floats, biased: Floats, scale: float, bias: float, noise: float
    ) -> Floats:
        """Return the covariance of the drops, (observations, observations)."""
        alone = np.diag(self._errors**2 + noise**2)
        leveled = np.outer(self._leveled, self._leveled)
        unleveled = np.outer(self._unleveled, self._unleveled)
        offsets = OFFSET_ERROR**2 * leveled + LEVEL_ERROR**2 * unleveled
        return scale**2 * known + bias**2 * biased + alone + offsets

    def _solve(self, scale: float, bias: float, noise: float) -> _Fit:
        if not len(self._drops):
            return _Fit(np.zeros(len(self._prior)), self._prior, scale, bias, noise)
        known = self._features @ self._prior @ self._features.T
        rows = self._features[:, len(self._law.law.values) :] * self._inherited[:, None]
        covariance = self._marginal(known, rows @ rows.T, scale, bias, noise)
        # The gain P X^T s K^-1, with the prior covariance P, the features X, and the covariance K
        # of the drops. Mean and covariance of the posterior follow from it.
        gain = scale * np.linalg.solve(covariance, self._features @ self._prior).T
        posterior = self._prior - scale * gain @ self._features @ self._prior
        mean = gain @ (self._drops - scale * self._costs)
        return _Fit(mean, (posterior + posterior.T) / 2, scale, bias, noise)

    def _scores(self, unknown: Floats) -> PosteriorScores:
        count = len(self._law.law.values)
        law = self._law.shifted(unknown[:count])
        # The files of law and rows keep the uncertainties too, except the correlations between
        # coefficients and rows, and those among rows.
        law = replace(law, law=replace(law.law, covariance=self.fit.covariance[:count, :count]))
        costs = self.fit.scale * unknown[count:]
        errors = self.fit.scale * np.sqrt(np.maximum(np.diag(self.fit.covariance)[count:], 0.0))
        rows = tuple(
            replace(row, cost=float(cost), standard_error=float(error))
            for row, cost, error in zip(self._unit.rows, costs, errors, strict=True)
        )
        return PosteriorScores(
            law=replace(law, scale=self.fit.scale),
            rows=replace(self._unit, rows=rows),
            level=self._expected_level(unknown),
            evidence_share=self._share,
            observed=len(self._drops),
            source=self._source,
            noise=self.fit.noise,
            uncertainty=self,
        )

    def _expected_level(self, unknown: Floats) -> float | None:
        """Return the accuracy of the largest member in percent; None where it is not known.

        It is the measured one, or the mean that follows from members with weights of their own.
        """
        trained = self._unleveled == 1
        if self._level is None or not trained.any():
            return self._level
        expected = self.fit.scale * (self._costs + self._features @ unknown)
        return self._level - float(np.mean((self._drops - expected)[trained]))

    @property
    def _share(self) -> float:
        """Return the share of the prior variance of random members that the evidence removed."""
        features = np.array([self._of(self._law.scored.sample(seed))[1] for seed in range(MEMBERS)])
        before = np.einsum("ni,ij,nj->n", features, self._prior, features).sum()
        after = np.einsum("ni,ij,nj->n", features, self.fit.covariance, features).sum()
        return float(1 - after / before)


@dataclass(frozen=True)
class _Fit:
    """The posterior of (dtheta, beta).

    Attributes:
        mean: posterior mean.
        covariance: posterior covariance.
        scale: the chosen s.
        bias: standard deviation of gamma.
        noise: standard deviation of the error beside that of the images, in points.
    """

    mean: Floats
    covariance: Floats
    scale: float
    bias: float
    noise: float


def _with(
    values: tuple[float, float, float], position: int, value: float
) -> tuple[float, float, float]:
    changed = list(values)
    changed[position] = value
    return changed[0], changed[1], changed[2]


def _units(space: Space) -> RecordedScores:
    """Return scores with one row per move, whose cost is a unit vector: 1 at the row's own index.

    Costs are linear in their rows. So the cost of a member is the vector of how often each row
    counts, (rows,).
    """
    keys = list(dict.fromkeys(wanted_keys(space)))
    vectors = np.eye(len(keys))
    rows = tuple(
        Score(move, place, vector, choice)  # type: ignore[arg-type]
        for (move, place, choice), vector in zip(keys, vectors, strict=True)
    )
    return RecordedScores(space, rows, ("corrections",))
