"""Price layers by twelve physical costs, and by further ones of neural units.

Tables that lack a row and `nas.latency.estimate` call it.

`estimate` fits the costs to published latencies; `LatencyTable` prices operations with them.

A network takes one call and the sum of its layers:

- A layer that multiplies (convolution, linear, matrix product) does its arithmetic, reads its
  weights and writes its activations at the same time, and takes the longest of the three. What it
  reads is what another layer has written, so it is not paid again. Pooling and group norm pay for
  all that they move. Each of these is started once.
- Element-wise layers are fused in part and pay less for what they move. Layer norm and softmax pay
  more. A change of layout takes a fixed time.
- The products of linear attention (many small ones, without a softmax between) pay for their
  arithmetic alone, several hundred times as much on neural engines as other products do.
- GELU and SiLU move values at costs of their own: next to nothing on a neural engine, much on a
  processor. Other activations and batch norm are fused into their neighbours and are free.

The twelve costs are positive, and are the same set for neural engines and processors. A neural unit
with many published networks has further costs on top (`Costs`): it has a unit of matrix products
that runs neither depthwise convolutions nor the small products of attention well, a memory of its
own that large activations do not fit, and reading that takes time beside the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Layer
from nas.devices.info import Costs, optional_costs

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
"""Behaviour of each kind of layer (`Layer.kind`), but for those that `_behaviour` sets apart."""

ACTIVATION: dict[str, Behaviour] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu",
    "silu": "silu",
    # EMO's gate: SiLU has the same exponential.
    "sigmoid": "silu",
    "relu": "fused",
    "hardswish": "fused",
}
"""Behaviour of each activation; those without an exponential take next to nothing everywhere."""


ON_CHIP = 1.0
"""Millions of activations that one layer may move before some of them spill from the memory on the
unit (2 MB in float16; Hexagon units of 2023 to 2025 have 8 MB, which several layers share)."""


@dataclass(frozen=True)
class Demand:
    """The work in a list of layers, in the units of `Costs`.

    Attributes:
        kernels: (layers, 3), 10^9 MACs, 10^6 weights and 10^6 written activations of each layer that
            multiplies.
        counts: (costs,), the amount of each cost of `Costs` that is paid on top. It is 0 for compute
            and weights, and has no writing of kernels in memory: `kernels` pays these.
    """

    kernels: Floats
    counts: Floats

    def ms(self, costs: Floats) -> float:
        """Return the latency in ms under these costs, (costs,), in the order of `Costs`."""
        # The roofline of each layer: arithmetic, the reading of weights and the writing of
        # activations (costs[1] to costs[3]) overlap, so the longest one counts.
        return float((self.kernels * costs[1:4]).max(axis=1).sum() + self.counts @ costs)


def demand(layers: Iterable[Layer], calls: int = 0) -> Demand:
    """Return the work in these layers and in `calls` predictions around them."""
    # A row of zeros keeps the shape (layers, 3) where no layer multiplies.
    kernels = [(0.0, 0.0, 0.0)]
    moved = dict.fromkeys(get_args(Behaviour), 0.0)
    met = dict.fromkeys(get_args(Behaviour), 0)
    products = 0.0
    further = dict.fromkeys(optional_costs(), 0.0)
    for layer in layers:
        behaviour = _behaviour(layer)
        moved[behaviour] += (layer.read + layer.written) / 1e6
        met[behaviour] += 1
        _add_further(further, layer, behaviour)
        if behaviour == "kernel":
            kernels.append((layer.macs / 1e9, layer.params / 1e6, layer.written / 1e6))
        elif behaviour == "linear":
            products += layer.macs / 1e9
    paid = Costs(
        call=calls,
        compute=0,
        weights=0,
        memory=moved["move"],
        layer=met["kernel"] + met["move"],
        elementwise=moved["elementwise"],
        norm=moved["norm"],
        softmax=moved["softmax"],
        layout=met["layout"],
        gelu=moved["gelu"],
        silu=moved["silu"],
        linear=products,
        **further,
    )
    return Demand(np.array(kernels), np.array(astuple(paid), dtype=float))


def _add_further(further: dict[str, float], layer: Layer, behaviour: Behaviour) -> None:
    """Add what a layer takes of the further costs."""
    moved = (layer.read + layer.written) / 1e6
    if behaviour == "kernel":
        further["read"] += layer.read / 1e6
        for kind, cost in (("depthwise", "depthwise"), ("matmul", "product")):
            if layer.kind == kind:
                further[cost] += layer.macs / 1e9
                further[f"{cost}_memory"] += moved
        # The products of attention and depthwise layers have a cost of their own for what they move.
        if layer.kind not in ("depthwise", "matmul"):
            further["spill"] += max(0.0, moved - ON_CHIP)
            # One multiply-accumulate or less per parameter: the layer has one position.
            further["vector"] += layer.macs <= layer.params
    elif behaviour == "layout":
        further["gather" if layer.kind == "gather" else "transpose"] += moved


def _behaviour(layer: Layer) -> Behaviour:
    """Return how a layer is paid for."""
    # `linear` is also the name of the products of linear attention, whose kind is `matmul`.
    if layer.kind == "matmul" and layer.name == "linear":
        return "linear"
    return ACTIVATION[layer.name] if layer.kind == "activation" else BEHAVIOUR[layer.kind]


def price(layers: Iterable[Layer], costs: Costs) -> float:
    """Return the latency of these layers in ms, without the call."""
    return demand(layers).ms(np.array(astuple(costs)))
