"""A small physical model of what a network costs on a phone's neural engine, fitted to whole-network latencies.

A network takes one call and the sum of its layers. A layer that multiplies (convolution, linear, matrix product) takes
the longer of its arithmetic and the reading of its weights, and moves its activations besides; pooling and group norm
only move activations. Element-wise layers are fused in part and pay less for what they move, layer norm and softmax pay
more, and a change of layout takes a fixed time. Batch norm and activations are fused into their neighbours and free.
Seven costs in all, each positive. (On the iPhone 12's figures a cost for every layer comes out as zero.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nas.specs import Layer

Floats = NDArray[np.float64]

Behaviour = Literal["kernel", "move", "elementwise", "norm", "softmax", "layout", "fused"]

BEHAVIOUR: dict[str, Behaviour] = {
    "conv": "kernel", "depthwise": "kernel", "linear": "kernel", "matmul": "kernel",
    "pool": "move", "group_norm": "move", "elementwise": "elementwise", "norm": "norm", "softmax": "softmax",
    "reshape": "layout", "gather": "layout", "folded_norm": "fused", "activation": "fused",
}  # fmt: skip
"""How each kind of layer (`Layer.kind`) is paid for."""


@dataclass(frozen=True)
class Costs:
    """The seven costs, in ms.

    Attributes:
        call: of one prediction, before any layer.
        compute: of 10^9 multiply-accumulates.
        memory: of moving 10^6 values (16 bits each), weights or activations.
        elementwise: of 10^6 values read or written by an element-wise layer.
        norm: of 10^6 values read or written by a layer norm.
        softmax: of 10^6 values read or written by a softmax.
        layout: of one change of layout (transpose, reshape between maps and tokens).
    """

    call: float
    compute: float
    memory: float
    elementwise: float
    norm: float
    softmax: float
    layout: float


_START = Costs(call=0.3, compute=0.3, memory=0.03, elementwise=0.01, norm=0.1, softmax=0.3, layout=0.01)


@dataclass(frozen=True)
class Demand:
    """What a list of layers asks for.

    Attributes:
        kernels: (layers, 2): 10^9 multiply-accumulates and 10^6 weights of each layer that multiplies.
        counts: (7,): how often each cost of `Costs` is paid on top; compute only by `kernels`.
    """

    kernels: Floats
    counts: Floats

    def ms(self, costs: Floats) -> float:
        """Under these costs, in the order of `Costs`."""
        longer = np.maximum(self.kernels[:, 0] * costs[1], self.kernels[:, 1] * costs[2])
        return float(longer.sum() + self.counts @ costs)


def demand(layers: Iterable[Layer], calls: int = 0) -> Demand:
    """What these layers ask for, and `calls` predictions around them."""
    kernels = [(0.0, 0.0)]
    moved = dict.fromkeys(get_args(Behaviour), 0.0)
    changes = 0
    for layer in layers:
        behaviour = BEHAVIOUR[layer.kind]
        moved[behaviour] += (layer.read + layer.written) / 1e6
        changes += behaviour == "layout"
        if behaviour == "kernel":
            kernels.append((layer.macs / 1e9, layer.params / 1e6))
    memory = moved["kernel"] + moved["move"]
    paid = Costs(calls, 0, memory, moved["elementwise"], moved["norm"], moved["softmax"], changes)
    return Demand(np.array(kernels), np.array(astuple(paid)))


def price(layers: Iterable[Layer], costs: Costs) -> float:
    """Milliseconds that these layers take, without the call."""
    return demand(layers).ms(np.array(astuple(costs)))


@dataclass(frozen=True)
class Observation:
    """A published latency of a network, or of a part of one.

    Attributes:
        model, family: of the network.
        demand: of the network or the part.
        ms: the published figure.
        whole_ms: the latency of the whole network, which errors are taken relative to.
    """

    model: str
    family: str
    demand: Demand
    ms: float
    whole_ms: float


def fit(observations: Sequence[Observation]) -> Costs:
    """The costs with the least squared error, each error taken relative to the whole network's latency."""
    from scipy.optimize import least_squares

    weights = np.array([1 / seen.whole_ms for seen in observations])
    figures = np.array([seen.ms for seen in observations])

    def errors(logarithms: Floats) -> Floats:
        costs = np.exp(logarithms)
        predicted = np.array([seen.demand.ms(costs) for seen in observations])
        relative: Floats = weights * (predicted - figures)
        return relative

    # In logarithms no cost can be negative; the bound keeps one that nothing pays for finite.
    found = least_squares(errors, np.log(astuple(_START)), bounds=(np.log(1e-6), np.log(1e3)), xtol=1e-12, ftol=1e-12)
    return Costs(*(float(cost) for cost in np.exp(found.x)))
