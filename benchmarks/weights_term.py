"""Would a term for weights that outgrow the cache predict whole networks better? Prints JSON.

    python benchmarks/weights_term.py TABLE [TABLE ...]

For every space of a table: its calibration networks fit `intercept + scale * sum of rows`, as `nas profile` does, and
the same plus `slope * max(0, megabytes of float32 weights - cache)` with slope and cache fitted too. Both are judged by
the space's check networks. TABLE has the `networks.csv` that `nas profile` and `nas check` write; run it from the
repository's root.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from nas.latency.calibration import INTERCEPT_SHARE, NETWORK_ERROR, SCALE_ERROR, calibrate
from nas.latency.networks import NetworkTime, read_networks
from nas.space import load_space
from nas.versions import versions

CACHES = (4.0, 8.0, 12.0, 24.0)
SLOPES = (3e-4, 1e-2)
"""Where the fit begins: megabytes, and ms a megabyte."""
WEIGHTS_ERROR = 0.02
"""A network's weights that cost this share of the fastest network weigh as much as `NETWORK_ERROR`."""
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="+", type=Path)
    found = {str(table): of_table(read_networks(table)) for table in parser.parse_args().table}
    print(json.dumps({"tables": found, "versions": versions("scipy")}, indent=2))


def of_table(networks: list[NetworkTime]) -> dict[str, object]:
    spaces = dict.fromkeys(network.space for network in networks)
    return {space: of_space([network for network in networks if network.space == space]) for space in spaces}


def of_space(networks: list[NetworkTime]) -> dict[str, object]:
    calibration = [network for network in networks if network.role == "calibration"]
    check = [network for network in networks if network.role == "check"]
    scale, intercept = calibrate(calibration)
    line = np.array([scale, intercept, 0.0, 0.0])
    bent = with_weights(calibration)
    return {
        "weights_mb": [round(float(mb), 1) for mb in sorted(megabytes(check))],
        "measured_over_sum": [round(float(ratio), 2) for ratio in ratios(check)],
        "mape": round(error(line, check), 2), "mape_with_weights": round(error(bent, check), 2),
        "ms_a_mb": round(float(bent[2]), 4), "cache_mb": round(float(bent[3]), 1),
    }  # fmt: skip


def with_weights(networks: list[NetworkTime]) -> Floats:
    """Scale, intercept (ms), slope (ms a megabyte) and cache (megabytes), by the losses of `calibrate`."""
    measured, mb = np.array([network.measured_ms for network in networks]), megabytes(networks)
    fastest = float(measured.min())

    def errors(fit: Floats) -> Floats:
        off = np.log(predicted(fit, networks) / measured) / NETWORK_ERROR
        held = np.array([(fit[0] - 1) / SCALE_ERROR, fit[1] / (INTERCEPT_SHARE * fastest),
                         fit[2] * np.median(mb) / (WEIGHTS_ERROR * fastest)])  # fmt: skip
        return np.concatenate([np.sign(off) * np.sqrt(2 * (np.hypot(1, off) - 1)), np.sqrt(np.log1p(held**2))])

    steps = [SCALE_ERROR, INTERCEPT_SHARE * fastest, 0.01, 1.0]
    starts = [[1.0, 0.1 * steps[1], slope, cache] for slope, cache in product(SLOPES, CACHES)]
    fits = [least_squares(errors, start, bounds=(0, np.inf), x_scale=steps) for start in starts]
    return np.asarray(min(fits, key=lambda fit: fit.cost).x)


def predicted(fit: Floats, networks: list[NetworkTime]) -> Floats:
    summed = np.array([network.sum_ms for network in networks])
    return np.asarray(fit[1] + fit[0] * summed + fit[2] * np.maximum(0, megabytes(networks) - fit[3]))


def error(fit: Floats, networks: list[NetworkTime]) -> float:
    """Mean absolute, in percent."""
    measured = np.array([network.measured_ms for network in networks])
    return 100 * float(np.mean(np.abs(predicted(fit, networks) / measured - 1)))


def ratios(networks: list[NetworkTime]) -> Floats:
    """Measured over sum, from the network with the least weights to that with the most."""
    each = np.array([network.measured_ms / network.sum_ms for network in networks])
    return np.asarray(each[np.argsort(megabytes(networks))])


def megabytes(networks: list[NetworkTime]) -> Floats:
    """Of float32 weights; the networks' names end with the seed that draws them."""
    space = load_space(networks[0].space)
    seeds = [int(re.split(r"\D+", network.network)[-1]) for network in networks]
    return np.array([4 * space.sample(seed).params / 2**20 for seed in seeds])


if __name__ == "__main__":
    main()
