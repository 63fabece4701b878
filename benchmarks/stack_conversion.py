"""Compare stacks of one repeated converted copy with stacks converted as a whole. Prints JSON.

    python benchmarks/stack_conversion.py [--copies 3] [--turns 10]

For every kind of block that stacks, it takes one operation of each shipped space. It prints the
seconds of either conversion (after one that does not count), whether the files have the same
operators in the same order, and the ratio of their lowest latencies. These are measured by turns, as
`nas profile --device host` measures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.tools.flatbuffer_utils import read_model

import nas
from nas.blocks import Operation
from nas.convert.litert import convert
from nas.devices import Chain
from nas.devices.host.device import Host
from nas.latency.profile.operation_timing import stacks
from nas.space import space_names
from nas.space.operations import space_operations
from nas.versions import versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        operations = list(chosen())
        with redirect_stdout(sys.stderr):
            convert(Chain.stack(operations[0]), Path(scratch) / "warm-up.tflite")
        rows = []
        files = []
        for number, operation in enumerate(operations):
            row, pair = converted(operation, options.copies, Path(scratch) / str(number))
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
            files.append(pair)
        for row, ratio in zip(rows, ratios(files, options.turns), strict=True):
            row["latency_ratio"] = round(ratio, 4)
    print(
        json.dumps(
            {
                "copies": options.copies,
                "turns": options.turns,
                "operations": rows,
                "median_conversion_ratio": round(
                    float(np.median([row["conversion_ratio"] for row in rows])), 3
                ),
                "median_latency_ratio": round(
                    float(np.median([row["latency_ratio"] for row in rows])), 4
                ),
                "same_operators": all(row["same_operators"] for row in rows),
                "versions": versions("torch", "litert-torch", "ai-edge-litert"),
            },
            indent=2,
        )
    )


def chosen() -> Iterable[Operation]:
    """Yield the middle one of each kind's operations in a space."""
    for space in space_names():
        kinds: dict[str, list[Operation]] = {}
        for operation in space_operations(nas.load_space(space)):
            if stacks(operation) and operation.macs:
                kinds.setdefault(operation.spec.kind, []).append(operation)
        yield from (each[len(each) // 2] for each in kinds.values())


def converted(
    operation: Operation, copies: int, stem: Path
) -> tuple[dict[str, Any], tuple[Path, Path]]:
    """Return a row of the answer and the two files, the repeated one first.

    Only tied stacks are repeated.
    """
    chain = Chain.stack(operation, copies)
    paths = stem.with_suffix(".repeated.tflite"), stem.with_suffix(".whole.tflite")
    seconds = []
    for each, path in zip((chain, replace(chain, tied=False)), paths, strict=True):
        begin = time.perf_counter()
        with redirect_stdout(sys.stderr):
            convert(each, path)
        seconds.append(time.perf_counter() - begin)
    repeated, whole = map(operators, paths)
    return {
        "operation": str(operation),
        "repeated_s": round(seconds[0], 2),
        "whole_s": round(seconds[1], 2),
        "conversion_ratio": round(seconds[0] / seconds[1], 3),
        "same_operators": repeated == whole,
    }, paths


def operators(path: Path) -> list[int]:
    model = read_model(path)
    return [
        model.operatorCodes[each.opcodeIndex].builtinCode for each in model.subgraphs[0].operators
    ]


def ratios(pairs: list[tuple[Path, Path]], turns: int) -> list[float]:
    """Return for each pair the lowest latency of the first file over that of the second."""
    host = Host()
    times: dict[Path, list[float]] = {path: [] for pair in pairs for path in pair}
    try:
        for _ in range(turns):
            for path, taken in times.items():
                taken.append(host.measure(path).median_ms)
    finally:
        host.close()
    return [min(times[repeated]) / min(times[whole]) for repeated, whole in pairs]


if __name__ == "__main__":
    main()
