"""Kendall's tau of scores with accuracies, and what their noise allows. `benchmarks/ranking.py`
calls it.

Accuracies are means over seeds. Two figures say how far they can be trusted: the standard deviation
between seeds, and the tau that a perfect score would reach with such accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Floats = NDArray[np.float64]
RESAMPLES = 2000
SEED = 0


def kendall(first: Floats, second: Floats) -> Floats:
    """Return Kendall's tau-b of the last axes; NaN where all of one are equal.

    Kendall, Biometrika 33, 1945: concordant less discordant pairs, over the geometric mean of the
    pairs that are not tied in either. `scipy.stats.kendalltau` takes one pair of lists at a time,
    which is a hundred times slower for resamples of a few dozen members.
    """
    left, right = np.triu_indices(first.shape[-1], k=1)
    # (..., members) to (..., pairs)
    one = np.sign(first[..., left] - first[..., right])
    other = np.sign(second[..., left] - second[..., right])
    untied = np.abs(one).sum(axis=-1) * np.abs(other).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        taus: Floats = (one * other).sum(axis=-1) / np.sqrt(untied)
    return taus


def tau(scores: Sequence[float] | Floats, accuracies: Sequence[float] | Floats) -> dict[str, float]:
    """Return Kendall's tau-b with its 5th and 95th percentile, and Spearman's rank correlation.

    The percentiles are over members drawn with replacement (Efron, Annals of Statistics 7, 1979). A
    member that is drawn twice ties with itself in both orders, which tau-b leaves out.
    """
    values = np.asarray(scores, dtype=float)
    truth = np.asarray(accuracies, dtype=float)
    draws = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.nanpercentile(kendall(values[draws], truth[draws]), [5, 95])
    return {
        "tau": _rounded(kendall(values, truth)),
        "percentile_5": _rounded(low),
        "percentile_95": _rounded(high),
        "spearman": _rounded(spearmanr(values, truth).statistic),
    }


def noise(by_seed: Sequence[Mapping[int, float]]) -> dict[str, Any]:
    """Return the standard deviation between seeds, pooled over the members with several.

    Args:
        by_seed: accuracies of each member by seed.

    Returns:
        `deviation` in points, None where no member has two seeds; `members` and `trainings` that it
        was computed from.
    """
    several = [list(each.values()) for each in by_seed if len(each) > 1]
    free = sum(len(each) - 1 for each in several)
    squares = sum((len(each) - 1) * float(np.var(each, ddof=1)) for each in several)
    return {
        "deviation": round(float(np.sqrt(squares / free)), 3) if free else None,
        "members": len(several),
        "trainings": sum(map(len, several)),
    }


def ceiling(
    accuracies: Sequence[float] | Floats, seeds: Sequence[int], deviation: float
) -> dict[str, float]:
    """Return the tau of a perfect score with accuracies of this noise: mean, 5th, 95th percentile.

    The measured accuracies scatter more than the true ones, by the noise. So the true ones are taken
    to be the measured ones, drawn towards their mean until their variance is the measured one less
    the noise's. Noise is added to them again, and tau is computed between both.

    Args:
        accuracies: of the members, means over seeds.
        seeds: number of seeds of each.
        deviation: standard deviation between seeds.
    """
    measured = np.asarray(accuracies, dtype=float)
    errors = deviation / np.sqrt(np.asarray(seeds, dtype=float))
    variance = float(np.var(measured, ddof=1))
    share = max(variance - float(np.mean(errors**2)), 0.0) / variance
    true = measured.mean() + np.sqrt(share) * (measured - measured.mean())
    generator = np.random.default_rng(SEED)
    normals = generator.standard_normal((RESAMPLES, len(true)))
    taus = kendall(np.broadcast_to(true, normals.shape), true + errors * normals)
    low, high = np.percentile(taus, [5, 95])
    return {
        "tau": _rounded(float(np.mean(taus))),
        "percentile_5": _rounded(low),
        "percentile_95": _rounded(high),
    }


def _rounded(value: float | Floats) -> float:
    return round(float(value), 3)
