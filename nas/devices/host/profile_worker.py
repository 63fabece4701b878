"""Worker that times .tflite files in turn on the CPU, for `Host.profile`.

LiteRT's Python packages give no profile of a network's operations: its profiler has no binding, and
the XNNPACK kernels that a profile would list carry no names to know the operations by. This worker
comes close to one. Every operation is a file of its own, and all are loaded side by side. They run
and are timed in the order of the network, each on the output of the one before it. So each finds
its input and its weights where the network would have left them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.convert.worker import go_first, serve
from nas.devices.board.runner.timer import (
    LEAST_ROUNDS,
    MOST_ROUNDS,
    QUIET,
    ROUND_RUNS,
    ROUND_S,
    random_input,
)

MOST_S = 20.0
"""Seconds after which no further round begins.

It is longer than `timer.MOST_S`: a pass over a network takes longer than a run of one file.
"""


@dataclass(frozen=True)
class Loaded:
    """A loaded file with its input buffers and its output buffers."""

    model: Any
    inputs: list[Any]
    outputs: list[Any]

    def run(self) -> None:
        self.model.run_by_index(0, self.inputs, self.outputs)


def main() -> None:
    go_first()
    serve(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    return {"median_ms": time_in_turn(request["paths"], request["threads"])}


def time_in_turn(paths: Sequence[str], threads: int) -> list[float]:
    """Return the median ms of each file's run, over the quiet rounds of passes over all files."""
    files = load(paths, threads)
    _round(files)  # warm-up
    rounds: list[NDArray[np.float64]] = []
    end = time.perf_counter() + MOST_S
    while True:
        rounds.append(_round(files))
        # The same rule as in `timer.quietest`, for whole passes. A disturbance hits operations in
        # a row, so a round is kept or dropped for all of them together.
        totals = np.array([np.median(passes.sum(axis=1)) for passes in rounds])
        quiet = totals <= totals.min() * QUIET
        enough = len(rounds) >= LEAST_ROUNDS and (quiet.sum() >= 2 or time.perf_counter() > end)
        if enough or len(rounds) == MOST_ROUNDS:
            # (passes, files)
            chosen = np.concatenate([rounds[index] for index in np.flatnonzero(quiet)])
            return [float(ms) for ms in np.median(chosen, axis=0) * 1e3]


def load(paths: Sequence[str], threads: int) -> list[Loaded]:
    """Return the loaded files.

    Each reads the output buffers of the one before it where shapes and types fit, else random
    inputs.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    loaded: list[Loaded] = []
    written: list[Any] = []
    for path in paths:
        model = CompiledModel.from_file(
            path, options=Options(cpu_options=CpuOptions(num_threads=threads))
        )
        signature = next(iter(model.get_signature_list()))
        details = model.get_input_tensor_details(signature)
        if loaded and _formats(details) == written:
            inputs = loaded[-1].outputs
        else:
            inputs = model.create_input_buffers(0)
            for buffer, each in zip(inputs, details.values(), strict=True):
                buffer.write(random_input(each).ravel())
        loaded.append(Loaded(model, inputs, model.create_output_buffers(0)))
        written = _formats(model.get_output_tensor_details(signature))
    return loaded


def _formats(details: dict[str, Any]) -> list[Any]:
    """Return shape and type of each input or output."""
    return [
        (tuple(int(side) for side in each["shape"]), str(np.dtype(each["dtype"])))
        for each in details.values()
    ]


def _round(files: Sequence[Loaded]) -> NDArray[np.float64]:
    """Return seconds of the passes of one round, (passes, files)."""
    clock = time.perf_counter
    passes: list[list[float]] = []
    end = clock() + ROUND_S
    while clock() < end or len(passes) < ROUND_RUNS:
        row = []
        before = clock()
        for file in files:
            file.run()
            after = clock()
            row.append(after - before)
            before = after
        passes.append(row)
    return np.array(passes)


if __name__ == "__main__":
    main()
