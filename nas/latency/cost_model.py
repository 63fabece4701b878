"""A small physical model of what a network costs on a phone, which `nas.latency.estimate` fits to
published figures.

A network takes one call and the sum of its layers. A layer that multiplies (convolution, linear,
matrix product) takes the longer of its arithmetic and the reading of its weights, and moves its
activations besides; pooling and group norm only move activations. Each of these is started once.
Element-wise layers are fused in part and pay less for what they move, layer norm and softmax pay
more, and a change of layout takes a fixed time. The products of linear attention (many small ones,
without a softmax between) pay for their arithmetic alone, several hundred times as much on neural
engines as others do. GELU and SiLU move values at costs of their own, next to nothing on a neural
engine and much on a processor; other activations and batch norm are fused into their neighbours and
free.

Twelve costs in all, each positive, for neural engines and processors alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Layer
from nas.devices.info import Costs

Floats = NDArray[np.float64]

Behaviour = Literal[
    "kernel", "move", "elementwise", "norm", "softmax", "layout", "gelu", "silu", "linear", "fused"
]

BEHAVIOUR: dict[str, Behaviour] = {
    "conv": "kernel",
    "depthwise": "kernel",
    "linear": "kernel",
    "matmul": "kernel",
    "pool": "move",
    "group_norm": "move",
    "elementwise": "elementwise",
    "norm": "norm",
    "softmax": "softmax",
    "reshape": "layout",
    "gather": "layout",
    "folded_norm": "fused",
}
"""How each kind of layer (`Layer.kind`) is paid for, but for what `_behaviour` sets apart."""

ACTIVATION: dict[str, Behaviour] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu",
    "silu": "silu",
    "sigmoid": "silu",
    "relu": "fused",
    "hardswish": "fused",
}
"""How each activation is paid for; those without an exponential take next to nothing everywhere."""


@dataclass(frozen=True)
class Demand:
    """What a list of layers asks for.

    Attributes:
        kernels: (layers, 2): 10^9 multiply-accumulates and 10^6 weights of each layer that
            multiplies.
        counts: (12,): how often each cost of `Costs` is paid on top; compute and weights only by
            `kernels`.
    """

    kernels: Floats
    counts: Floats

    def ms(self, costs: Floats) -> float:
        """Under these costs, in the order of `Costs`."""
        longer = np.maximum(self.kernels[:, 0] * costs[1], self.kernels[:, 1] * costs[2])
        return float(longer.sum() + self.counts @ costs)


def demand(layers: Iterable[Layer], calls: int = 0) -> Demand:
    """Return what these layers ask for, and `calls` predictions around them."""
    kernels = [(0.0, 0.0)]
    moved = dict.fromkeys(get_args(Behaviour), 0.0)
    met = dict.fromkeys(get_args(Behaviour), 0)
    products = 0.0
    for layer in layers:
        behaviour = _behaviour(layer)
        moved[behaviour] += (layer.read + layer.written) / 1e6
        met[behaviour] += 1
        if behaviour == "kernel":
            kernels.append((layer.macs / 1e9, layer.params / 1e6))
        elif behaviour == "linear":
            products += layer.macs / 1e9
    paid = Costs(
        call=calls,
        compute=0,
        weights=0,
        memory=moved["kernel"] + moved["move"],
        layer=met["kernel"] + met["move"],
        elementwise=moved["elementwise"],
        norm=moved["norm"],
        softmax=moved["softmax"],
        layout=met["layout"],
        gelu=moved["gelu"],
        silu=moved["silu"],
        linear=products,
    )
    return Demand(np.array(kernels), np.array(astuple(paid), dtype=float))


def _behaviour(layer: Layer) -> Behaviour:
    if layer.kind == "matmul" and layer.name == "linear":
        return "linear"
    return ACTIVATION[layer.name] if layer.kind == "activation" else BEHAVIOUR[layer.kind]


def price(layers: Iterable[Layer], costs: Costs) -> float:
    """Return milliseconds that these layers take, without the call."""
    return demand(layers).ms(np.array(astuple(costs)))
