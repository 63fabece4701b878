"""`Device`, the abstract base of everything that measures, and `Timing`, what a measurement gives.

`nas.latency.profile` and `nas.latency.check` call devices; `nas.devices` opens them by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.convert.chain import Chain
from nas.devices.info import DeviceInfo

if TYPE_CHECKING:
    from concurrent.futures import Future


@dataclass(frozen=True)
class Timing:
    """Latency of one run of a chain in ms, over the quietest of several rounds of runs.

    Attributes:
        median_ms: median.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        runs: number of timed runs.
        notes: further columns of the row, as pairs of name and value: the phone that ran it
            (`unit`), where it was placed (`placement`), what was wrong (`note`).
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class StartUp:
    """Cost of the start of an app that uses a network, from one process that starts anew.

    Attributes:
        load_ms: from the file to a model that can run, in ms.
        first_ms: the first run, which may still prepare weights, in ms.
        memory_mb: memory that loading and running added to the process, at its peak where the
            runtime tells it, in MB of 2^20 bytes. None where it is not known.
    """

    load_ms: float
    first_ms: float
    memory_mb: float | None


class Device(ABC):
    """Base of everything that measures exported chains of blocks, in nas and in other packages.

    Life cycle, as `nas profile` and `nas check` call it:

    1. `info` is called before anything runs, and again when the table is written. It says what the
       device is. It must not need the device to be idle.
    2. `prepare` gets each chain ahead of its turn and returns at once. The file is made in the
       background, so that the next chain is ready when this one is measured. The same chain may be
       asked for again and gives the same file.
    3. `measure` gets the prepared file of one chain after the other, from one thread, never two at
       a time. It blocks until the timing is there. Every operation is measured `repeats` times: as
       a stack of `copies` and, where `slope` is true, as one copy. Whole networks follow for the
       calibration.
    4. `borrow_cores` surrounds stretches in which many files are converted and nothing is measured.
    5. `profile` is called for `nas check RUN` alone, with the operations of one network in their
       order.
    6. `start_up` is called for whole networks, after `measure`.
    7. `close` is called once, after an error or ctrl-C too, and frees what was started.

    A failure that is the chain's own is `OperationFailed`: profiling records it and continues with
    the next chain. A failure of the device is `DeviceLost`: what was measured is kept, and the same
    command resumes later. After an `OperationFailed` profiling measures the empty chain, which ran
    before; where that fails too, it takes the device for lost. A process that was ended from
    outside, twice in a row, is `Interrupted`: the chain is left out, and the next call tries it.

    What to copy: `nas.testing.devices.FakeDevice` is the smallest device,
    `nas.devices.host.device.Host` one that converts and runs in processes of its own, the Android
    device one behind a cable. `nas.testing.devices.check_device` runs this life cycle. A package
    names its device as an entry point of the group `nas.devices`.

    Attributes:
        copies: number of copies of an operation in the measured stack; more where a call costs
            much.
        slope: whether an operation's latency is what each further copy adds, which takes a second
            file with one copy. Otherwise it is the mean over the stack, which scatters less where a
            call costs next to nothing.
        repeats: number of measurements of an operation, with others in between. The lowest counts,
            once two agree.
        profiled_by: how `profile` times operations, in words; empty where it does not.
    """

    copies: int = 3
    slope: bool = True
    repeats: int = 1
    profiled_by: str = ""

    @abstractmethod
    def info(self) -> DeviceInfo:
        """Return the fields of `device.yaml` that do not depend on what is measured.

        Raises:
            NasError: when the device cannot measure.
        """

    @abstractmethod
    def prepare(self, chain: Chain) -> Future[Path]:
        """Return a future of the chain's file, which raises OperationFailed where that fails."""

    @abstractmethod
    def measure(self, artifact: Path) -> Timing:
        """Run a prepared file and return its timing in ms.

        Raises:
            OperationFailed: when the device cannot run it.
            DeviceLost: when the device is gone.
        """

    def borrow_cores(self) -> AbstractContextManager[None]:
        """Return a context manager inside which cores reserved for measuring may convert.

        No measurement runs inside it. By default it does nothing, for devices that do not share
        this computer's cores.
        """
        return nullcontext()

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        """Return the ms of each chain in a network where one follows the other, each with its call.

        By default None: the device cannot time single operations. Raises as `measure`.
        """
        return None

    def start_up(self, artifact: Path) -> StartUp | None:
        """Return load time, first run and memory of a prepared file, in a process of its own.

        By default None: the device cannot tell. Raises as `measure`.
        """
        return None

    def close(self) -> None:  # noqa: B027 (many devices start nothing)
        """Free what was started; by default nothing."""
