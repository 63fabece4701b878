"""Compare forms of the cost model on published latencies. Prints JSON.

    python benchmarks/cost_forms.py [DEVICE ...]

A form says what a layer that multiplies takes: how its arithmetic, its weights and the activations
that it writes and reads make up one time. Each form is fitted to the same networks, with the same
prior and trust. Errors are mean absolute ones in percent: of networks left out of the fit with their
model, of those left out with their family, and of families that no fit of the device has seen. The
devices are those with twelve costs; the forms add none, but for `read on top`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from nas import resources
from nas.blocks import Layer
from nas.devices.info import Costs
from nas.latency.cost_model import BEHAVIOUR, Demand, demand
from nas.latency.estimate import published_latencies
from nas.latency.estimate.fit import Observation
from nas.latency.estimate.published_latencies import Network
from nas.latency.estimate.run import Phone, read_phone

Floats = NDArray[np.float64]
DEVICES = ("iphone12", "iphone13", "iphone14", "snapdragon-8gen1")
COMPUTE, WEIGHTS, MEMORY = 1, 2, 3
"""Places of these costs in `Costs`; the further one of a form stands behind them all."""
FORMS: dict[str, Callable[[Floats, Floats, Floats, Floats, float], Floats]] = {
    "written and read on top": lambda a, w, out, into, _: np.maximum(a, w) + out + into,
    "overlapping: written and read": lambda a, w, out, into, _: np.maximum(
        np.maximum(a, w), out + into
    ),
    "overlapping: the longer of written and read": lambda a, w, out, into, _: np.maximum(
        np.maximum(a, w), np.maximum(out, into)
    ),
    "overlapping: written and half of read": lambda a, w, out, into, _: np.maximum(
        np.maximum(a, w), out + into / 2
    ),
    "overlapping: written": lambda a, w, out, into, _: np.maximum(np.maximum(a, w), out),
    "overlapping: written; read on top": lambda a, w, out, into, read: (
        np.maximum(np.maximum(a, w), out) + into * read
    ),
}
"""Time of each layer from what its arithmetic, weights, written and read activations take alone, and
from the cost of reading relative to that of writing. The first was the form until December 2026."""
ONE_MORE = ("overlapping: written; read on top",)


def detailed(layers: Iterable[Layer], calls: int = 0) -> Demand:
    """Return the demand of layers with what they read as a fourth column of `kernels`."""
    listed = list(layers)
    rows = [(0.0, 0.0, 0.0, 0.0)]
    rows += [
        (layer.macs / 1e9, layer.params / 1e6, layer.written / 1e6, layer.read / 1e6)
        for layer in listed
        if BEHAVIOUR.get(layer.kind) == "kernel"
        and not (layer.kind == "matmul" and layer.name == "linear")
    ]
    return Demand(np.array(rows), demand(listed, calls).counts)


def predicted_ms(form: str, work: Demand, costs: Floats) -> float:
    """Return the latency of a network or a part of one under these costs, the form's own last."""
    arithmetic, weights, written, read = work.kernels.T
    taken = FORMS[form](
        arithmetic * costs[COMPUTE],
        weights * costs[WEIGHTS],
        written * costs[MEMORY],
        read * costs[MEMORY],
        float(costs[-1]),
    )
    # What the shipped form counts apart would be counted twice.
    shipped = np.array(astuple(Costs(*costs[:-1])))
    return float(taken.sum() + work.counts @ shipped)


def fitted(form: str, observations: Sequence[Observation], prior: Floats, trust: float) -> Floats:
    """Return the costs of least squared relative errors, as `nas.latency.estimate.fit` does."""
    chosen = np.flatnonzero(prior)
    start = np.log(prior[chosen])

    def errors(logarithms: Floats) -> Floats:
        costs = np.zeros_like(prior)
        costs[chosen] = np.exp(logarithms)
        off = [
            (predicted_ms(form, seen.demand, costs) - seen.ms) / seen.whole_ms
            for seen in observations
        ]
        return np.concatenate([off, trust * (logarithms - start)])

    costs = np.zeros_like(prior)
    costs[chosen] = np.exp(least_squares(errors, start).x)
    return costs


def compared(phone: Phone, form: str) -> dict[str, Any]:
    """Return the errors of a form on a phone's networks."""

    @cache
    def costs(model: str = "", family: str = "") -> Floats:
        return costs_of(phone, model, family)

    def costs_of(one: Phone, model: str, family: str) -> Floats:
        if isinstance(one.prior, Phone):
            prior = costs_of(one.prior, model, family)
        else:
            prior = np.append(astuple(one.prior), 1.0 if form in ONE_MORE else 0.0)
        seen = [
            each
            for network in one.networks
            for each in network.seen
            if each.model != model and each.family != family
        ]
        return fitted(form, seen, prior, float(one.recipe.data["trust"]))

    def error(networks: Sequence[Network], known: Callable[[Network], Floats]) -> float:
        off = [
            abs(predicted_ms(form, each.seen[0].demand, known(each)) / each.ms - 1)
            for each in networks
        ]
        return round(100 * float(np.mean(off)), 2)

    families = dict.fromkeys(network.family for network in phone.held_out)
    return {
        "fit": error(phone.networks, lambda _: costs()),
        "model_left_out": error(phone.networks, lambda each: costs(model=each.model)),
        "family_left_out": error(phone.networks, lambda each: costs(family=each.family)),
        "held_out": {
            family: error(
                [each for each in phone.held_out if each.family == family], lambda _: costs()
            )
            for family in families
        },
    }


def main(names: Sequence[str]) -> None:
    folders = resources.names(resources.TABLES, "*/estimate.yaml")
    with mock.patch.object(published_latencies, "demand", detailed):
        phones = {name: read_phone(folders[name].parent) for name in names or DEVICES}
    result = {
        name: {form: compared(phone, form) for form in FORMS} for name, phone in phones.items()
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
