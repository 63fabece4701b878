"""Measure blocks on this host with each activation function. Prints JSON, times in ms.

    python benchmarks/activation_cost.py [--rounds 3] [--threads 1]

Every activation of the vocabulary is measured in the same blocks, as `nas profile` measures an
operation (LiteRT, fp32, the slope over copies). The activations take turns, so that a slow moment of
the machine affects all of them. A block's figure is the median over the rounds, and `over_relu` its
ratio to the block with ReLU.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from typing import Any

from nas.blocks import ACTIVATIONS, MB4D, BlockSpec, ConvFFN, MBConv, Operation, Shape
from nas.devices import Device, Settings
from nas.latency.known_devices import opened
from nas.latency.profile.operation_timing import EMPTY, measure, prepare
from nas.versions import versions

BLOCKS: dict[str, tuple[BlockSpec, Shape]] = {
    "mb4d, stage 1": (MB4D(), Shape(48, 56, 56)),
    "mb4d, stage 3": (MB4D(), Shape(224, 14, 14)),
    "conv_ffn, stage 2": (ConvFFN(), Shape(48, 28, 28)),
    "mbconv, stage 2": (MBConv(), Shape(64, 28, 28)),
}


def compare(
    device: Device, spec: BlockSpec, shape: Shape, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the median time of a block with each activation, and its ratio to the block with ReLU."""
    call_ms = device.measure(device.prepare(EMPTY).result()).median_ms
    times: dict[str, list[float]] = {name: [] for name in ACTIVATIONS}
    operations = {n: Operation(spec.kind, replace(spec, activation=n), shape) for n in ACTIVATIONS}  # type: ignore[call-arg]
    jobs = {name: prepare(device, operation) for name, operation in operations.items()}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(measure(device, job, call_ms).median_ms)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {"ms": round(ms, 4), "over_relu": round(ms / medians["relu"], 3)}
        for name, ms in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with opened("host", Settings(threads=options.threads)) as [device]:
        blocks: dict[str, Any] = {
            name: {"input": str(shape), **compare(device, spec, shape, options.rounds)}
            for name, (spec, shape) in BLOCKS.items()
        }
        soc = device.info().soc
    result = {
        "device": soc,
        "threads": options.threads,
        "rounds": options.rounds,
        "blocks": blocks,
        "versions": versions("torch", "litert-torch", "ai-edge-litert"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
