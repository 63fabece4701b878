"""Stand-in for `benchmark_model`: runs the model on this computer, and writes what the tool writes.

The worker (`python -m fake_phone.tool`) loads and times; `Bench` makes the log lines and the result
file of it.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.convert.chain import OperationFailed
from nas.convert.worker import Worker, serve

WORKER = "fake_phone.tool"


@dataclass(frozen=True)
class Run:
    """What a run of the tool leaves: its streams, its exit code, and the content of the result
    file."""

    code: int
    stdout: str
    stderr: str
    result: bytes = b""


class Bench:
    """Runs the tool, each time in the same worker process: starting Python anew would take a
    second.

    Args:
        worker: one that several phones share and somebody else closes; one of its own by default.

    Attributes:
        all_same: makes all times of a run equal.
        gpu_nodes: how many nodes of a graph `--use_gpu` can take, and of how many.
    """

    def __init__(self, worker: Worker | None = None) -> None:
        self.all_same = False
        self.gpu_nodes = (12, 14)
        self._worker = worker or Worker(WORKER)
        self._shared = worker is not None

    def run(self, graph: Path, flags: dict[str, str]) -> Run:
        try:
            times = self._worker.ask(
                path=str(graph),
                threads=int(flags["num_threads"]),
                most_s=float(flags["max_secs"]),
                warm_up=[int(flags["warmup_runs"]), float(flags["warmup_min_secs"])],
                runs=[int(flags["num_runs"]), float(flags["min_secs"])],
            )
        except OperationFailed as error:
            return Run(
                1,
                "INFO: STARTING!\n",
                f"ERROR: [benchmark_litert_model.cc:309] Failed to load model. {error}\n"
                "ERROR: Benchmarking failed.\n",
            )
        warm_up = times["warm_up"]
        runs = times["runs"]
        if self.all_same:
            runs = [sorted(runs)[len(runs) // 2]] * len(runs)
        return Run(
            0,
            _log(graph, flags, times["init"], warm_up, runs),
            self._delegates(flags),
            result(warm_up, runs),
        )

    def close(self) -> None:
        if not self._shared:
            self._worker.close()

    def _delegates(self, flags: dict[str, str]) -> str:
        taken = [(2, 14, "TfLiteXNNPackDelegate")]
        if flags.get("use_gpu") == "true":
            taken.insert(0, (*self.gpu_nodes, "LITERT_CL"))
        return "".join(
            f"INFO: Replacing {part} out of {whole} node(s) with delegate ({name}) node, yielding 1"
            " partitions for subgraph 0 (main).\n"
            for part, whole, name in taken
        )


def _log(graph: Path, flags: dict[str, str], init: int, warm_up: list[int], runs: list[int]) -> str:
    least = (
        "INFO: Running benchmark for at least {} iterations and at least {} seconds but terminate"
        " if exceeding {} seconds."
    )
    mean = sum(runs) / len(runs)
    return (
        "\n".join(
            [
                "INFO: STARTING!",
                f"INFO: The input model file size (MB): {graph.stat().st_size / 1e6:.6g}",
                f"INFO: Initialized session in {init / 1e3:.6g}ms.",
                least.format(flags["warmup_runs"], flags["warmup_min_secs"], flags["max_secs"]),
                statistics(warm_up),
                "",
                least.format(flags["num_runs"], flags["min_secs"], flags["max_secs"]),
                statistics(runs),
                "",
                "INFO: [benchmark_litert_model.h:88] ",
                "========== BENCHMARK RESULTS ==========",
                (
                    f"INFO: [benchmark_litert_model.h:98] Inference (avg):      {mean / 1e3:.2f} ms"
                    f" ({len(runs)} runs)"
                ),
            ]
        )
        + "\n"
    )


def statistics(times: list[int]) -> str:
    """The line that the tool prints for microseconds of runs."""
    percentiles = " ".join(
        f"{name}={_percentile(times, part)}"
        for name, part in (("p5", 5), ("median", 50), ("p95", 95))
    )
    if min(times) == max(times):
        text = f"count={len(times)} curr={times[-1]}" + "(all same)" * (len(times) > 1)
    else:
        mean = sum(times) / len(times)
        deviation = (sum(time**2 for time in times) / len(times) - mean**2) ** 0.5
        text = (
            f"count={len(times)} first={times[0]} curr={times[-1]} min={min(times)}"
            f" max={max(times)} avg={mean:.6g} std={deviation:.0f}"
        )
    return f"INFO: {text} {percentiles}"


def result(warm_up: list[int], runs: list[int]) -> bytes:
    """A serialised `tflite.tools.benchmark.BenchmarkResult`."""
    milliseconds = {
        1: sum(runs) / len(runs),
        2: min(runs),
        3: max(runs),
        5: _percentile(runs, 50),
        6: _percentile(runs, 5),
        7: _percentile(runs, 95),
        9: warm_up[0],
    }
    latency = b"".join(
        _varint(number << 3 | 5) + struct.pack("<f", us / 1e3)
        for number, us in milliseconds.items()
    )
    misc = _varint(2 << 3) + _varint(len(runs)) + _varint(3 << 3) + _varint(len(warm_up))
    return b"".join(
        _varint(number << 3 | 2) + _varint(len(part)) + part
        for number, part in ((2, latency), (4, misc))
    )


def _percentile(times: list[int], percent: int) -> int:
    return sorted(times)[(len(times) - 1) * percent // 100]


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    begin = time.perf_counter()
    options = Options(cpu_options=CpuOptions(num_threads=request["threads"]))
    model = CompiledModel.from_file(request["path"], options=options)
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    init = time.perf_counter() - begin
    details = model.get_input_tensor_details(next(iter(model.get_signature_list()))).values()
    for buffer, detail in zip(inputs, details, strict=True):
        buffer.write(np.ones(int(np.prod(detail["shape"])), np.float32))

    def repeat(least: int, least_s: float) -> list[int]:
        times: list[int] = []
        begin = time.perf_counter()
        while len(times) < least or time.perf_counter() < begin + least_s:
            before = time.perf_counter()
            model.run_by_index(0, inputs, outputs)
            times.append(int((time.perf_counter() - before) * 1e6))
            if time.perf_counter() > begin + request["most_s"]:
                break
        return times

    return {
        "init": int(init * 1e6),
        "warm_up": repeat(*request["warm_up"]),
        "runs": repeat(*request["runs"]),
    }


if __name__ == "__main__":
    serve(_answer)
