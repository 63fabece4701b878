"""Fit the costs of `nas.latency.cost_model` to published latencies, for `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from nas.devices.info import Costs
from nas.latency.cost_model import Demand, Floats


@dataclass(frozen=True)
class Observation:
    """A published latency of a network, or of a part of one.

    Attributes:
        model: name of the network.
        family: of the network.
        demand: of the network or the part.
        ms: published latency.
        whole_ms: latency of the whole network, by which errors are divided.
    """

    model: str
    family: str
    demand: Demand
    ms: float
    whole_ms: float


def fit(observations: Sequence[Observation], prior: Costs, trust: float) -> Costs:
    """Return the costs with the least squared relative errors.

    Each error is relative to the whole network's latency. Most phones have too few figures for
    so many costs. So the fit starts at the prior (the costs of an older or newer phone, or rough
    numbers), and departures from the prior count as errors. Where figures say nothing, the prior
    stays.

    Args:
        observations: of whole networks and of parts.
        prior: presumed costs, each positive, or 0 for one that is not fitted.
        trust: weight of the prior. With 0.1 a cost e times its prior weighs as much as an error of
            10 % in one network.
    """
    from scipy.optimize import least_squares

    weights = np.array([1 / seen.whole_ms for seen in observations])
    figures = np.array([seen.ms for seen in observations])
    known = np.array(astuple(prior))
    # A cost of 0 in the prior is one that the phone's figures cannot tell apart: it stays 0.
    fitted = np.flatnonzero(known)
    start = np.log(known[fitted])
    # The layers of all observations in one array, (layers, 3), for speed. `firsts` are the indices
    # at which observations begin; `reduceat` sums from one to the next. `demand` gives each at
    # least one row, without which `reduceat` would take the next observation's.
    kernels = np.concatenate([seen.demand.kernels for seen in observations])
    firsts = np.cumsum([0, *(len(seen.demand.kernels) for seen in observations[:-1])])
    counts = np.array([seen.demand.counts for seen in observations])

    def spread(logarithms: Floats) -> Floats:
        costs = np.zeros_like(known)
        costs[fitted] = np.exp(logarithms)
        return costs

    def errors(logarithms: Floats) -> Floats:
        costs = spread(logarithms)
        # As `Demand.ms`.
        longest = (kernels * costs[1:4]).max(axis=1)
        predicted = np.add.reduceat(longest, firsts) + counts @ costs
        return np.concatenate([weights * (predicted - figures), trust * (logarithms - start)])

    def slopes(logarithms: Floats) -> Floats:
        """Return the derivatives of `errors`, (errors, fitted costs)."""
        costs = spread(logarithms)
        by_cost = counts * costs
        overlapping = kernels * costs[1:4]
        longest = overlapping.argmax(axis=1)[:, None] == np.arange(3)
        by_cost[:, 1:4] += np.add.reduceat(overlapping * longest, firsts)
        own = weights[:, None] * by_cost[:, fitted]
        return np.concatenate([own, trust * np.eye(len(fitted))])

    # In logarithms no cost can be negative. The prior's weight bounds costs without figures.
    solution = least_squares(errors, start, jac=slopes, xtol=1e-12, ftol=1e-12)
    known[fitted] = np.exp(solution.x)
    return Costs(*(float(cost) for cost in known))
