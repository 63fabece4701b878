"""Compare published segmentation networks with a shipped table's predictions. Prints JSON.

    python benchmarks/dense_error.py [DEVICE]

No fit has used these networks (role `check` in the device's published.csv). Errors are in percent,
times in ms. `expected_error` is the table's own error at the sizes that it was fitted to. `interval`
is the share of networks whose figure is within two standard errors of the prediction.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from nas import LatencyTable, load_table
from nas.latency.estimate.published_latencies import Dense, dense_networks


def compared(network: Dense, table: LatencyTable) -> dict[str, Any]:
    """Return one network's published figure beside its prediction."""
    estimate = table.predict(network.arch)
    return {
        "name": network.name,
        "head": str(network.arch.head),
        "macs": network.arch.macs,
        "published_ms": network.ms,
        "predicted_ms": round(estimate.ms, 3),
        "standard_error": round(estimate.standard_error or 0.0, 3),
        "error": round(100 * (estimate.ms / network.ms - 1), 2),
        "priced": round(estimate.priced, 4),
    }


def main(device: str = "snapdragon-8gen1") -> None:
    table = load_table(device)
    assert table.path is not None
    networks = [compared(network, table) for network in dense_networks(table.path)]
    errors = np.array([network["error"] for network in networks])
    within = [
        abs(network["predicted_ms"] - network["published_ms"]) <= 2 * network["standard_error"]
        for network in networks
    ]
    result = {
        "device": device,
        "networks": networks,
        "n": len(networks),
        "mean_error": round(float(np.abs(errors).mean()), 2),
        "bias": round(float(errors.mean()), 2),
        "largest_error": round(float(np.abs(errors).max()), 2),
        "expected_error": table.expected_error,
        "interval": round(100 * sum(within) / len(within), 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
