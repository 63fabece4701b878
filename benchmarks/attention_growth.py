"""Measure how additive, ReLU linear and softmax attention grow with the input. Prints JSON.

    python benchmarks/attention_growth.py [--width 192] [--runs 9] [--threads 1]

Each attention gets the map of stage 3 (stride 16) at inputs of 224x224 to 1024x1024, one width, batch
1, fp32, in eval mode. It is measured with its projections, without the norm and the MLP of its block.
An exponent is the slope of a line through log(tokens) and log(time or MACs): 1 is linear growth, 2
quadratic. Softmax attention has projections too, which are linear, so that its exponent approaches 2
only with size. It is given over all inputs and over the three largest.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas.blocks import MB3D, AdditiveEncoder, BlockSpec, EfficientViTModule, Shape
from nas.blocks.build import build_block
from nas.blocks.efficientformer.module import MB3DBlock
from nas.blocks.module import Block

RESOLUTIONS = (224, 320, 448, 640, 768, 1024)
STRIDE = 16
SOFTMAX = "softmax (EfficientFormer)"
ATTENTIONS: dict[str, BlockSpec] = {
    "additive (SwiftFormer)": AdditiveEncoder(),
    "linear (EfficientViT)": EfficientViTModule(),
    SOFTMAX: MB3D(),
}
"""Blocks whose attention is measured."""


def attention_of(block: Block) -> Callable[[Tensor], Tensor]:
    return block._attention if isinstance(block, MB3DBlock) else block.get_submodule("attention")


@torch.inference_mode()
def measure(resolution: int, width: int, runs: int) -> dict[str, dict[str, float]]:
    """Return MACs and the median time in ms of each attention at this input size; they take turns."""
    side = resolution // STRIDE
    calls: dict[str, Callable[[], Tensor]] = {}
    macs: dict[str, int] = {}
    for name, spec in ATTENTIONS.items():
        shape = Shape(width, side, side, spec.layout)
        block = build_block(spec, shape).eval()
        block.deploy()
        calls[name] = partial(attention_of(block), torch.randn(shape.tensor()))
        with FlopCounterMode(display=False) as flops:  # this first call warms up as well
            calls[name]()
        macs[name] = flops.get_total_flops() // 2
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {
        name: {"macs": macs[name], "median_ms": round(statistics.median(times[name]), 3)}
        for name in calls
    }


def exponent(tokens: list[int], values: list[float]) -> float:
    """Return the slope of log(value) over log(tokens), by least squares."""
    slope = statistics.linear_regression(
        [math.log(n) for n in tokens], [math.log(value) for value in values]
    ).slope
    return round(slope, 3)


def growth(tokens: list[int], rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return each quantity's values over all inputs, and its exponents."""
    return {
        key: {
            "values": [row[key] for row in rows],
            "exponent": exponent(tokens, [row[key] for row in rows]),
            "exponent_of_largest": exponent(tokens[-3:], [row[key] for row in rows[-3:]]),
        }
        for key in ("macs", "median_ms")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokens = [(resolution // STRIDE) ** 2 for resolution in RESOLUTIONS]
    measured = [measure(resolution, arguments.width, arguments.runs) for resolution in RESOLUTIONS]
    print(
        json.dumps(
            {
                "resolutions": RESOLUTIONS,
                "tokens": tokens,
                "width": arguments.width,
                "runs": arguments.runs,
                "threads": arguments.threads,
                "torch": torch.__version__,
                "attentions": {
                    name: {
                        "block": f"{spec.kind}({spec})",
                        **growth(tokens, [row[name] for row in measured]),
                    }
                    for name, spec in ATTENTIONS.items()
                },
                "softmax_time_over": {
                    name: [
                        round(row[SOFTMAX]["median_ms"] / row[name]["median_ms"], 2)
                        for row in measured
                    ]
                    for name in ATTENTIONS
                    if name != SOFTMAX
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
