"""Time .tflite files on the CPU, for `litert`: answer each JSON line on stdin with one.

That module starts it as a process, so that a crash costs one file. It needs numpy and ai-edge-litert
or tflite-runtime. The host's `time_worker` calls its `time_file` too.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Run = Callable[[], None]
    Samples = NDArray[np.float64]

RUNTIMES = (
    ("ai_edge_litert.compiled_model", "ai-edge-litert", "LiteRT CompiledModel"),
    ("ai_edge_litert.interpreter", "ai-edge-litert", "LiteRT Interpreter"),
    ("tflite_runtime.interpreter", "tflite-runtime", "TensorFlow Lite Interpreter"),
)
"""Module, distribution and name of each runtime; the first one that is installed is used."""
ROUND_S = 0.1
ROUND_RUNS = 5
LEAST_ROUNDS = 2
MOST_ROUNDS = 12
MOST_S = 4.0
"""Limits of the rounds of one load.

A round lasts at least ROUND_S seconds and ROUND_RUNS runs. There are LEAST_ROUNDS to MOST_ROUNDS of
them, and no further one begins after MOST_S seconds.
"""
LOADS = 3
"""Number of loads of a file, of which the middle one counts.

Each load places the weights elsewhere in memory, which changes the latency by up to 10 %.
"""
QUIET = 1.01
"""Maximum ratio of a quiet round's median to the lowest one; two quiet rounds are enough."""


def main() -> None:
    """Answer requests until stdin closes."""
    # Runtimes print to file descriptors 1 and 2. Both lead to the file of `litert` for errors from
    # here on, and the answers go to a copy of descriptor 1.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = _answer(json.loads(line))
        except Exception as error:
            lines = [text.strip() for text in str(error).splitlines() if text.strip()]
            reply = {
                "error": f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}",
                # Memory that is out says nothing of the file.
                "machine": isinstance(error, MemoryError),
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if "path" not in request:
        return describe(request.get("runtime", ""))
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    return time_file(request["path"], request["threads"], runtime=request.get("runtime", ""))


def describe(runtime: str = "") -> dict[str, Any]:
    """Return the runtime that is used, its version, and the versions of NumPy and Python."""
    _, distribution, name = find_runtime(runtime)
    tools = {
        "numpy": np.__version__,
        distribution: version(distribution),
        "python": platform.python_version(),
    }
    return {"runtime": name, "runtime_version": tools[distribution], "tools": tools}


def find_runtime(wanted: str = "") -> tuple[str, str, str]:
    """Return the first of RUNTIMES that can be imported, or the one of a module.

    Raises ImportError with what to install.
    """
    reasons = []
    for runtime in RUNTIMES:
        if wanted not in ("", runtime[0]):
            continue
        try:
            importlib.import_module(runtime[0])
            return runtime
        except ImportError as error:
            reasons.append(str(error).splitlines()[0])
    raise ImportError(
        f"no runtime for .tflite files is installed ({'; '.join(reasons)}). Fix: pip install"
        " ai-edge-litert numpy, or where that has no wheel, pip install tflite-runtime==2.14.0"
        " 'numpy<2'"
    )


def time_file(
    path: str,
    threads: int,
    loads: int = LOADS,
    most_s: float = MOST_S,
    round_s: float = ROUND_S,
    runtime: str = "",
) -> dict[str, Any]:
    """Return `median_ms`, `p10_ms` and `p90_ms` of one run of a .tflite file, and its `runs`.

    Args:
        path: of the file.
        threads: CPU threads.
        loads: number of loads, of which the middle one counts.
        most_s: seconds after which no further round and no further load begins.
        round_s: minimum seconds of a round.
        runtime: module of the runtime (default: the first one that can be imported).
    """
    runtime = find_runtime(runtime)[0]
    by_load: list[Samples] = []
    end = time.perf_counter() + most_s
    while len(by_load) < loads and (not by_load or time.perf_counter() < end):
        by_load.append(quietest(load(path, threads, runtime), most_s, round_s))
    return summary(by_load)


def summary(by_load: list[Samples]) -> dict[str, Any]:
    """Return the percentiles of the middle one of several loads' seconds, in ms, and the runs."""
    middle = sorted(by_load, key=np.median)[len(by_load) // 2]
    p10, median, p90 = (float(value) for value in np.percentile(middle, [10, 50, 90]) * 1e3)
    return {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "runs": sum(map(len, by_load))}


def quietest(run: Run, most_s: float = MOST_S, round_s: float = ROUND_S) -> Samples:
    """Return seconds of single runs, (runs,), from the quiet rounds alone.

    Another process that takes the core or the cache makes whole rounds slow, never fast. So the
    rounds with the lowest medians are the undisturbed ones.
    """
    warm_up = _round(run, round_s)
    rounds: list[Samples] = []
    # The warm-up counts in the time limit, not in the result.
    end = time.perf_counter() + most_s - warm_up.sum()
    while True:
        rounds.append(_round(run, round_s))
        medians = np.array([np.median(samples) for samples in rounds])
        quiet = medians <= medians.min() * QUIET
        # A single fastest round may be luck; a second one within QUIET of it confirms it.
        enough = len(rounds) >= LEAST_ROUNDS and (quiet.sum() >= 2 or time.perf_counter() > end)
        if enough or len(rounds) == MOST_ROUNDS:
            return np.concatenate([rounds[index] for index in np.flatnonzero(quiet)])


def _round(run: Run, round_s: float) -> Samples:
    """Return seconds of the runs of one round, (runs,)."""
    # One run begins where the last one ended, so the clock is read once per run.
    clock = time.perf_counter
    samples: list[float] = []
    before = clock()
    end = before + round_s
    while before < end or len(samples) < ROUND_RUNS:
        run()
        after = clock()
        samples.append(after - before)
        before = after
    return np.array(samples)


def load(path: str, threads: int, runtime: str = RUNTIMES[0][0]) -> Run:
    """Return a function that runs a .tflite file once, on random inputs."""
    if runtime == RUNTIMES[0][0]:
        return _compiled(path, threads)
    interpreter = importlib.import_module(runtime).Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], random_input(details))
    invoke: Run = interpreter.invoke
    return invoke


def _compiled(path: str, threads: int) -> Run:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    model = CompiledModel.from_file(
        path, options=Options(cpu_options=CpuOptions(num_threads=threads))
    )
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    details = list(model.get_input_tensor_details(next(iter(model.get_signature_list()))).values())
    for index, buffer in enumerate(inputs):
        buffer.write(random_input(details[index]).ravel())
    return lambda: model.run_by_index(0, inputs, outputs)


def random_input(details: dict[str, Any]) -> NDArray[Any]:
    """Return random values of the shape and type of an input that a runtime describes."""
    shape = [int(side) for side in details["shape"]]
    # A name of LiteRT's CompiledModel, or a type of NumPy from an interpreter.
    dtype = np.dtype(details["dtype"])
    generator = np.random.default_rng(0)
    # Wide integers are indices, and random ones would be out of range.
    if dtype == np.bool_ or (np.issubdtype(dtype, np.integer) and dtype.itemsize > 1):
        return np.zeros(shape, dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return generator.standard_normal(shape, np.float32).astype(dtype)


if __name__ == "__main__":
    main()
