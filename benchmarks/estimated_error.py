"""Measure errors of estimated latency tables on networks left out of the fit. Prints JSON.

    python benchmarks/estimated_error.py [DEVICE ...]

Errors are in percent. The cost model is compared with two baselines, which are fitted to the same
figures and left out in the same way: latency as a linear function of MACs, and of parameters and MACs
(nonnegative weights, least squares on relative errors).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from nas import resources
from nas.latency.estimate.published_latencies import layers_of
from nas.latency.estimate.run import LeftOut, leave_out, read_phone
from nas.space import published_member


def errors(
    published: NDArray[np.float64], predicted: NDArray[np.float64]
) -> dict[str, float | int | None]:
    """Return networks, mean absolute error in percent, and rank correlation."""
    if not len(published):
        return {"n": 0, "mape": None, "spearman": None}
    return {
        "n": len(published),
        "mape": round(float(np.abs(predicted / published - 1).mean()) * 100, 2),
        "spearman": (
            round(float(spearmanr(published, predicted)[0]), 4) if len(published) > 2 else None
        ),
    }


def baseline(
    features: NDArray[np.float64], ms: NDArray[np.float64], groups: Sequence[str]
) -> NDArray[np.float64]:
    """Return each network's latency in ms, predicted from the networks of the other groups."""
    predicted = np.zeros(len(ms))
    for group in set(groups):
        out = np.array([name == group for name in groups])
        # Divided by the latencies, least squares minimises relative errors.
        weights = nnls(features[~out] / ms[~out, None], np.ones((~out).sum()))[0]
        predicted[out] = features[out] @ weights
    return predicted


def compared(entries: Sequence[LeftOut]) -> dict[str, Any]:
    """Return the errors of the cost model and both baselines, by what is left out.

    Left out are a network's model, or its family.
    """
    networks = [entry.network for entry in entries]
    ms = np.array([network.ms for network in networks])
    layers = [layers_of(network.model, network.resolution) for network in networks]
    macs, params = (
        np.array([sum(getattr(one, name) for one in each) / 1e9 for each in layers])
        for name in ("macs", "params")
    )
    ours = np.array([published_member(network.model) is not None for network in networks])
    columns = {
        "macs": np.column_stack([np.ones(len(ms)), macs]),
        "params_and_macs": np.column_stack([np.ones(len(ms)), params, macs]),
    }
    result: dict[str, Any] = {}
    for without, known in (("model", "model_unknown"), ("family", "family_unknown")):
        groups = [getattr(network, without) for network in networks]
        predictions = {"cost_model": np.array([getattr(entry, known) for entry in entries])}
        predictions |= {name: baseline(features, ms, groups) for name, features in columns.items()}
        result[f"leave_one_{without}_out"] = {
            name: {"all": errors(ms, predicted), "members": errors(ms[ours], predicted[ours])}
            for name, predicted in predictions.items()
        }
    return result


def main(names: Sequence[str]) -> None:
    folders = resources.names(resources.TABLES, "*/estimate.yaml")
    result = {}
    for name in names or folders:
        phone = read_phone(folders[name].parent)
        result[name] = compared(leave_out(phone, phone.costs()))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
