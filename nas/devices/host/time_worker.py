"""Worker that times .tflite and .onnx files on the CPU, for `Host.measure` and `Host.start_up`.

It needs numpy and ai-edge-litert, or onnxruntime for .onnx files.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.convert.worker import go_first, serve
from nas.devices.board.runner.timer import (
    find_runtime,
    load,
    quietest,
    random_input,
    summary,
    time_file,
)

if TYPE_CHECKING:
    from nas.devices.board.runner.timer import Run

ONNX = ".onnx"
MOST_S, ROUND_S = 0.1, 0.05
"""Limit of one measurement, and minimum of one round, in seconds.

They are short, as `Host.repeats` measures the file again later, loaded anew. Slow spells of a
shared machine last for tens of seconds, so a longer measurement would lie in one as a whole.
"""


def main() -> None:
    go_first()
    serve(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    path = request["path"]
    threads = request["threads"]
    if request.get("start_up"):
        return start_up(path, threads)
    if Path(path).suffix.lower() == ONNX:
        return summary([quietest(load_onnx(path, threads), MOST_S, ROUND_S)])
    return time_file(path, threads, loads=1, most_s=MOST_S, round_s=ROUND_S)


def start_up(path: str, threads: int) -> dict[str, Any]:
    """Return `load_ms`, `first_ms` and `memory_mb` of a file; see `nas.devices.base.StartUp`.

    The process must be new: memory that an earlier file freed would be used again unnoticed.
    """
    onnx = Path(path).suffix.lower() == ONNX
    # The runtime's own import does not count: an app has it in its binary.
    importlib.import_module("onnxruntime" if onnx else find_runtime()[0])
    before = _peak_mb()
    begin = time.perf_counter()
    run = load_onnx(path, threads) if onnx else load(path, threads, find_runtime()[0])
    loaded = time.perf_counter()
    run()
    end = time.perf_counter()
    after = _peak_mb()
    return {
        "load_ms": 1e3 * (loaded - begin),
        "first_ms": 1e3 * (end - loaded),
        "memory_mb": None if before is None or after is None else after - before,
    }


def load_onnx(path: str, threads: int) -> Run:
    """Return a function that runs an .onnx file once with onnxruntime, on random inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {each.name: random_input(_details(each)) for each in session.get_inputs()}
    return lambda: session.run(None, inputs)


def _details(given: Any) -> dict[str, Any]:
    """Return shape and NumPy type of an input that onnxruntime describes.

    Raises:
        ValueError: for a size that the file leaves open, other than the first, which is the number
            of images. One image is taken.
    """
    shape = list(given.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = 1
    if not all(isinstance(side, int) for side in shape):
        raise ValueError(
            f"input '{given.name}' has no fixed size (got {given.shape}). Fix: export the network"
            " for one size of images"
        )
    # As "tensor(float)".
    name = given.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64", "float16": "float16"}.get(name, name)
    return {"shape": shape, "dtype": np.dtype(dtype)}


def _peak_mb() -> float | None:
    """Return the peak of this process's memory so far in MB of 2^20 bytes; None where unknown."""
    # Linux starts `ru_maxrss` of a new program at the peak of the one that started it. VmHWM is of
    # this program alone.
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, other systems kilobytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
