"""A device whose latencies are a formula, with the failures of a real one; for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from nas.devices import Chain, Device, DeviceLost, OperationFailed, Timing
from nas.latency import DeviceInfo

CALL_MS = 0.002


def true_ms(chain: Chain) -> float:
    """Return the latency of a chain in ms, by the formula.

    It is a constant per call and, per block, a constant, its MACs at 40 GMACs/s and its moved
    elements at 20 billion per second.
    """
    total = CALL_MS
    for link in chain.links():
        moved = sum(layer.read + layer.written for layer in link.spec.layers(link.input))
        total += 1e-4 + link.spec.macs(link.input) / 4e7 + moved / 2e7
    return total


class FakeDevice(Device):
    """A device that takes `true_ms` times `factor(number of measurements so far)`.

    Chains for which `fails` returns True cannot run.

    Attributes:
        measured: the chains that were measured, in order.
        stop_after: the number of measurements after which it is interrupted, as by ctrl-C.
        lost_after: the number of measurements after which it is disconnected.
    """

    copies = 3
    slope = True
    repeats = 1
    profiled_by = "by a formula"

    def __init__(self, threads: int = 1, delay_s: float = 0.0, unit: str = "") -> None:
        self.threads = threads
        self.delay_s = delay_s
        self.unit = unit
        self.measured: list[Chain] = []
        self.stop_after: int | None = None
        self.lost_after: int | None = None
        self.fails: Callable[[Chain], bool] = lambda chain: False
        self.factor: Callable[[int], float] = lambda count: 1.0
        self.closed = False
        self._chains: dict[Path, Chain] = {}

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            name="host",
            kind="fake",
            soc="formula",
            os="none",
            runtime="fake",
            runtime_version="1",
            compute_unit="cpu",
            precision="float32",
            provenance="measured",
            date="2026-01-31",
            threads=self.threads,
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        future: Future[Path] = Future()
        # No file is written: the path alone identifies the chain.
        path = Path(f"/nowhere/{chain.digest()}")
        self._chains[path] = chain
        future.set_result(path)
        return future

    def measure(self, artifact: Path) -> Timing:
        """Return the latency of a prepared chain, or fail as the attributes say."""
        chain = self._chains[artifact]
        if self.stop_after is not None and len(self.measured) >= self.stop_after:
            raise KeyboardInterrupt
        if self.lost_after is not None and len(self.measured) >= self.lost_after:
            raise DeviceLost(f"{self.unit} was unplugged; connect it, the same command goes on")
        if self.delay_s:
            time.sleep(self.delay_s)
        self.measured.append(chain)
        if self.fails(chain):
            raise OperationFailed("RuntimeError: unsupported")
        ms = true_ms(chain) * self.factor(len(self.measured))
        return Timing(
            ms, ms * 0.99, ms * 1.02, runs=100, notes=(("unit", self.unit),) if self.unit else ()
        )

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        return (
            None
            if self.profiled_by == ""
            else [self.measure(self.prepare(chain).result()).median_ms for chain in chains]
        )

    def close(self) -> None:
        self.closed = True


def other_settings(device: FakeDevice) -> FakeDevice:
    """Return the same device with a newer runtime."""
    info = replace(device.info(), runtime_version="2")
    changed = FakeDevice()
    changed.info = lambda: info  # type: ignore[method-assign]
    return changed
