"""Worker that times .tflite files with LiteRT's CompiledModel on the CPU. Needs numpy and ai-edge-litert alone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.devices.worker import serve

ROUND_S = 0.1
ROUND_RUNS = 5
LEAST_ROUNDS, MOST_ROUNDS = 2, 12
MOST_S = 4.0
"""A round is at least ROUND_S long and ROUND_RUNS runs; rounds end at MOST_S once LEAST_ROUNDS are done."""
LOADS = 3
"""A file is loaded this often and the middle one counts: where its weights come to lie in memory makes up to 10 %."""
QUIET = 1.01
"""A round is quiet when its median is within 1 % of the lowest; two quiet rounds are enough."""


def main() -> None:
    with contextlib.suppress(AttributeError, PermissionError):  # real-time priority, where the user may have it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    serve(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    loads: list[NDArray[np.float64]] = []
    end = time.perf_counter() + MOST_S
    while len(loads) < LOADS and (not loads or time.perf_counter() < end):
        loads.append(quietest(_load(request["path"], request["threads"])))
    middle = sorted(loads, key=np.median)[len(loads) // 2]
    p10, median, p90 = np.percentile(middle, [10, 50, 90]) * 1e3
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "runs": sum(map(len, loads))}


def quietest(run: Callable[[], None]) -> NDArray[np.float64]:
    """Seconds of single runs, from the quiet rounds alone.

    Another process that takes the core or the cache makes whole rounds slow, never fast, so the rounds with the lowest
    medians are the ones that nothing disturbed.
    """
    warm_up = _round(run)
    rounds: list[NDArray[np.float64]] = []
    end = time.perf_counter() + MOST_S - warm_up.sum()
    while len(rounds) < MOST_ROUNDS:
        rounds.append(_round(run))
        medians = np.array([np.median(samples) for samples in rounds])
        quiet = medians <= medians.min() * QUIET
        if len(rounds) >= LEAST_ROUNDS and (quiet.sum() >= 2 or time.perf_counter() > end):
            break
    return np.concatenate([samples for samples, is_quiet in zip(rounds, quiet, strict=True) if is_quiet])


def _round(run: Callable[[], None]) -> NDArray[np.float64]:
    clock = time.perf_counter
    samples: list[float] = []
    before = clock()
    end = before + ROUND_S
    while before < end or len(samples) < ROUND_RUNS:
        run()
        after = clock()
        samples.append(after - before)
        before = after
    return np.array(samples)


def _load(path: str, threads: int) -> Callable[[], None]:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    model = CompiledModel.from_file(path, options=Options(cpu_options=CpuOptions(num_threads=threads)))
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    signature = next(iter(model.get_signature_list()))
    rng = np.random.default_rng(0)
    for buffer, details in zip(inputs, model.get_input_tensor_details(signature).values(), strict=True):
        buffer.write(rng.standard_normal(int(np.prod(details["shape"])), dtype=np.float32))
    return lambda: model.run_by_index(0, inputs, outputs)


if __name__ == "__main__":
    main()
