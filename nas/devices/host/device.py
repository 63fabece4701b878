"""The computer that nas runs on, which measures with LiteRT on its CPU (`--device host`)."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import date
from importlib.metadata import version
from pathlib import Path

from nas.convert.chain import Chain
from nas.convert.converter import MOST_WORKERS, Converter
from nas.convert.worker import Worker
from nas.devices.base import Device, StartUp, Timing
from nas.devices.board.runner.machine import fast_cores, processor
from nas.devices.host import HOST, KIND
from nas.devices.info import DeviceInfo
from nas.devices.precision import DEFAULT, litert_target, table_name
from nas.errors import InputError
from nas.versions import versions

_TOOLS = ("ai-edge-litert", "litert-torch", "torch", "numpy")


class Host(Device):
    """This computer: some processes convert and another one times, on cores of its own if possible.

    Args:
        threads: CPU threads of a run, pinned to the last cores.
        cache: folder of converted files (default: the user's cache).
        precision: of weights and activations: float32 or int8.

    Raises:
        InputError: when there are fewer cores than threads.
    """

    # A call costs next to nothing here: the mean over a stack scatters less than the slope.
    slope = False
    # Measurements are short and repeated later: slow spells of a shared machine last for tens of
    # seconds.
    repeats = 6
    profiled_by = (
        "one after the other, each as a file of its own on the output of the one before it"
    )

    def __init__(
        self, threads: int = 1, cache: Path | None = None, precision: str = DEFAULT
    ) -> None:
        cores = _cores()
        if not 1 <= threads <= len(cores):
            raise InputError(
                f"--threads: this machine has not enough cores to pin threads to (got {threads},"
                f" expected 1 to {len(cores)})"
            )
        self.threads = threads
        self.precision = precision
        # The fastest cores time, of equal ones the last; the others convert. With as many threads
        # as cores, both share them.
        pins = hasattr(os, "sched_setaffinity")
        self._run_on = fast_cores(list(cores), threads) if pins else []
        convert_on = [core for core in cores if core not in self._run_on] or self._run_on
        spare = [core for core in self._run_on if core not in convert_on]
        self._converter = Converter(
            min(len(convert_on) or 1, MOST_WORKERS),
            convert_on,
            cache,
            target=litert_target(precision),
            spare=spare,
        )
        self._runner = Worker("nas.devices.host.time_worker")

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            name=table_name(HOST, self.precision),
            description="the computer that runs nas",
            kind=KIND.name,
            soc=processor(),
            os=platform.platform(),
            runtime="LiteRT CompiledModel",
            runtime_version=version("ai-edge-litert"),
            compute_unit="cpu",
            placement="cpu",
            precision=self.precision,
            threads=self.threads,
            affinity="cores " + ",".join(map(str, self._run_on)) if self._run_on else "",
            tools=versions(*_TOOLS, *(["ai-edge-quantizer"] if self.precision == "int8" else [])),
            date=date.today().isoformat(),
            provenance="measured",
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        return self._converter.prepare(chain)

    def borrow_cores(self) -> AbstractContextManager[None]:
        return self._converter.borrow_cores()

    def measure(self, artifact: Path) -> Timing:
        return Timing(
            **self._runner.ask_again(path=str(artifact), threads=self.threads, cores=self._run_on)
        )

    def start_up(self, artifact: Path) -> StartUp | None:
        worker = Worker("nas.devices.host.time_worker")
        try:
            return StartUp(
                **worker.ask(
                    path=str(artifact), threads=self.threads, cores=self._run_on, start_up=True
                )
            )
        finally:
            worker.close()

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        # A process of its own, which holds all files of the network at once and ends with them.
        artifacts = [self.prepare(chain) for chain in chains]
        paths = [str(artifact.result()) for artifact in artifacts]
        worker = Worker("nas.devices.host.profile_worker")
        try:
            times: list[float] = worker.ask_again(
                paths=paths, threads=self.threads, cores=self._run_on
            )["median_ms"]
        finally:
            worker.close()
        return times

    def close(self) -> None:
        self._converter.close()
        self._runner.close()


def _cores() -> Sequence[int]:
    """Return the cores that this process may use; all where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)
