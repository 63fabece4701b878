"""Compare fits of latency with and without a term for a network's weights. Prints JSON.

    python benchmarks/weights_term.py TABLE [TABLE ...]

For every space of a table there are three fits to whole networks. The first has a scale and an
intercept. The second adds a term in the weights, as `nas profile` does (`weights_ms` per million
parameters, additive). The third instead adds the weights beyond a cache of fitted size, `max(0,
parameters - cache)`, which is not additive over operations.

`check` is fitted to the calibration's networks and evaluated on those of the check. `left_out`
predicts each network by a fit to all others. TABLE has the `networks.csv` that `nas profile` and `nas
check` write. Run it from the repository's root.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from nas.latency.calibration import (
    INTERCEPT_SHARE,
    NETWORK_ERROR,
    SCALE_ERROR,
    WEIGHTS_SHARE,
    calibrate,
)
from nas.latency.network_times import NetworkTime, read_networks
from nas.space import load_space
from nas.versions import versions

CACHES = (1.0, 2.0, 3.0, 6.0)
SLOPES = (1e-3, 4e-2)
"""Initial values of the cache's fit: millions of parameters, and ms per million."""
Floats = NDArray[np.float64]
Predict = Callable[[NetworkTime], float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="+", type=Path)
    found = {str(table): of_table(read_networks(table)) for table in parser.parse_args().table}
    print(json.dumps({"tables": found, "versions": versions("scipy")}, indent=2))


def of_table(networks: list[NetworkTime]) -> dict[str, object]:
    spaces = dict.fromkeys(network.space for network in networks)
    return {
        space: of_space([network for network in networks if network.space == space])
        for space in spaces
    }


def of_space(networks: list[NetworkTime]) -> dict[str, object]:
    networks = sorted(with_params(networks), key=lambda network: network.params)
    calibration = [network for network in networks if network.role == "calibration"]
    check = [network for network in networks if network.role == "check"]
    others = [
        (networks[:place] + networks[place + 1 :], network)
        for place, network in enumerate(networks)
    ]
    return {
        "million_params": [round(network.params / 1e6, 2) for network in networks],
        "measured_over_sum": [
            round(network.measured_ms / network.sum_ms, 2) for network in networks
        ],
        "check": {
            name: judged([fit(calibration)(network) for network in check], check)
            for name, fit in FITS.items()
        },
        "left_out": {
            name: judged([fit(rest)(network) for rest, network in others], networks)
            for name, fit in FITS.items()
        },
        "line": calibrate(calibration)._asdict(),
    }


def without(networks: list[NetworkTime]) -> Predict:
    return with_weights([replace(network, params=0) for network in networks])


def with_weights(networks: list[NetworkTime]) -> Predict:
    line = calibrate(networks)
    return lambda network: line.ms(network.sum_ms, network.params)


def with_params(networks: list[NetworkTime]) -> list[NetworkTime]:
    """Return the networks with their parameters, which older files lack.

    The names of the networks end with the seed that draws them.
    """
    space = load_space(networks[0].space)
    seeds = [int(re.split(r"\D+", network.network)[-1]) for network in networks]
    return [
        replace(network, params=space.sample(seed).params)
        for network, seed in zip(networks, seeds, strict=True)
    ]


def with_cache(networks: list[NetworkTime]) -> Predict:
    """Return a fit of scale, intercept, ms per million parameters, and a cache in millions.

    It minimises the losses of `calibrate`.
    """
    measured, summed, params = (
        np.array([getattr(network, name) for network in networks])
        for name in ("measured_ms", "sum_ms", "params")
    )
    fastest = float(measured.min())
    median = float(np.median(params)) / 1e6
    # What counts as one standard deviation of scale, intercept and weights term in the prior below,
    # and the solver's scale of all four values.
    one = np.array([SCALE_ERROR, INTERCEPT_SHARE * fastest, WEIGHTS_SHARE * fastest / median, 0.25])

    def predicted(fit: Floats, summed: Floats | float, params: Floats | float) -> Floats:
        return np.asarray(fit[1] + fit[0] * summed + fit[2] * np.maximum(0, params / 1e6 - fit[3]))

    def errors(fit: Floats) -> Floats:
        # Robust losses, so that single networks far off do not decide: sqrt(1 + x^2) - 1 for the
        # networks, and log(1 + x^2) for the prior at scale 1 without further terms.
        off = np.log(predicted(fit, summed, params) / measured) / NETWORK_ERROR
        held = ((fit - [1, 0, 0, 0]) / one)[:3]
        return np.concatenate(
            [np.sign(off) * np.sqrt(2 * (np.hypot(1, off) - 1)), np.sqrt(np.log1p(held**2))]
        )

    # The loss is not convex in the cache's size, so the fit starts from several.
    starts = [[1.0, one[1] / 10, slope, cache] for slope, cache in product(SLOPES, CACHES)]
    fits = [least_squares(errors, start, bounds=(0, np.inf), x_scale=one) for start in starts]
    best = min(fits, key=lambda fit: fit.cost).x
    return lambda network: float(predicted(best, network.sum_ms, network.params))


FITS = {"without": without, "weights": with_weights, "cache": with_cache}


def judged(predicted_ms: list[float], networks: list[NetworkTime]) -> dict[str, float]:
    """Return mean absolute error and bias, in percent."""
    errors = np.array(
        [ms / network.measured_ms - 1 for ms, network in zip(predicted_ms, networks, strict=True)]
    )
    return {
        "mape": round(100 * float(np.abs(errors).mean()), 2),
        "bias": round(100 * float(errors.mean()), 2),
    }


if __name__ == "__main__":
    main()
