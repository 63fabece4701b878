"""An Android phone that measures with LiteRT's `benchmark_model`; `discovery` opens it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from nas.convert.chain import Chain, OperationFailed
from nas.convert.converter import Converter, cache_folder
from nas.devices.android import KIND
from nas.devices.android.adb import MODERATE, TEMPORARY, Adb, thermal_name, thermal_status
from nas.devices.android.benchmark_tool import (
    Statistics,
    Tool,
    delegated,
    first_error,
    read_log,
    read_result,
)
from nas.devices.base import Device, Timing
from nas.devices.info import DeviceInfo
from nas.errors import InputError, NasError
from nas.files import text_sha256
from nas.versions import versions

ROOT = f"{TEMPORARY}/nas"
"""The phone's folder for the tool, which stays, and for one folder per run, which is deleted."""

LOADS, MOST_LOADS = 3, 5
"""Number of loads of a file, and its maximum where the times of these disagree.

Each load places the weights elsewhere in memory, which changes the latency.
"""
SPREAD = 1.03
"""Maximum ratio of the slowest to the fastest median of loads that agree."""
WARM_UP_S = 0.1
RUN_S = 0.3
MOST_S = 5.0
LEAST_RUNS = 20
"""Limits of one load: it runs for WARM_UP_S, then for RUN_S and LEAST_RUNS runs, up to MOST_S."""
LEAST_US = 0.5
"""Latency in microseconds for one that the tool, which counts whole ones, gives as 0.

It is the upper bound of what rounds to 0.
"""
P10_OF_P5 = 1.2816 / 1.6449
"""Distance of p10 from the median over that of p5, in a normal distribution.

The tool gives the 5th and 95th percentile, a row has the 10th and 90th.
"""

LOOK_S = 10.0
"""Seconds between two readings of the phone's thermal state."""
COOL_DOWN_S = 300.0
"""Maximum wait in seconds for a hot phone; after it, rows are flagged."""

_PRECISIONS = {"float32": "fp32", "float16": "fp16"}

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Name of a phone and how it runs operations, in the words of `phone.yaml`."""

    name: str
    soc: str
    os: str
    unit: str
    precision: str
    threads: int
    affinity: str
    description: str = ""


class Android(Device):
    """A connected phone, which gets each file, runs it, and deletes it again.

    The phone is not touched before the first measurement. The converter belongs to the caller.

    Args:
        adb: the connection.
        settings: how it runs operations.
        tool: what is run there.
        converter: makes the files.
        warn: is called with what the user should know while the phone cools down.
    """

    profiled_by = "each alone, as a file of its own"

    def __init__(
        self,
        adb: Adb,
        settings: Settings,
        tool: Tool,
        converter: Converter,
        warn: Warn = lambda _: None,
    ) -> None:
        self.adb = adb
        self.settings = settings
        self._tool = tool
        self._converter = converter
        self._warn = warn
        self._remote_tool = f"{ROOT}/benchmark_model-{tool.sha256[:16]}"
        self._folder = ""
        self._lock = FileLock(_lock_file(adb.serial), thread_local=False)
        self._thermal = _Thermal(adb, warn)

    def info(self) -> DeviceInfo:
        settings = self.settings
        return DeviceInfo(
            name=settings.name,
            description=settings.description,
            kind=KIND.name,
            soc=settings.soc,
            os=settings.os,
            runtime="LiteRT CompiledModel (benchmark_model)",
            runtime_version=self._tool.version,
            compute_unit=settings.unit,
            placement=settings.unit,
            precision=settings.precision,
            threads=settings.threads,
            affinity=f"mask {settings.affinity}" if settings.affinity else "",
            tools=versions("litert-torch", "torch", "adbutils")
            | {"benchmark_model": self._tool.sha256},
            date=date.today().isoformat(),
            provenance="measured",
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        return self._converter.prepare(chain)

    def measure(self, artifact: Path) -> Timing:
        if not self._folder:
            self._move_in()
        hot = self._thermal.wait()
        model = f"{self._folder}/{artifact.name}"
        results = [f"{self._folder}/result-{load}.pb" for load in range(MOST_LOADS)]
        loads = list[Statistics]()
        log = ""
        try:
            self.adb.push(artifact, model)
            while len(loads) < LOADS or (len(loads) < MOST_LOADS and not _agree(loads)):
                statistics, log = self._load(model, results[len(loads)])
                loads.append(statistics)
        finally:
            self.adb.remove(model, *results)
        # Pairs with an empty value are left out of the row.
        placement = self._placement(log)
        remarks = ["thermal"] * hot + ["partly on the cpu"] * ("/" in placement)
        notes = (("unit", self.adb.serial), ("placement", placement), ("note", ", ".join(remarks)))
        return _timing(loads, tuple(note for note in notes if note[1]))

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        artifacts = [self.prepare(chain) for chain in chains]
        # Equal operations share one file and are measured once.
        times = {
            path: self.measure(path).median_ms
            for path in dict.fromkeys(each.result() for each in artifacts)
        }
        return [times[each.result()] for each in artifacts]

    def close(self) -> None:
        if self._folder:
            self.adb.remove(self._folder)
            self._folder = ""
        self._lock.release()

    def _move_in(self) -> None:
        """Lock the phone, make this run's folder, and copy the tool unless it is there.

        Raises:
            NasError: when another process of this computer measures on the phone.
            InputError: when threads cannot be pinned to the cores of the affinity mask.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise NasError(
                f"phone {self.adb.serial}: another nas process is measuring on it. Fix: wait for it"
                " to end, then run the same command again"
            ) from None
        # The lock is held: any other folder was left by a run that was killed.
        self.adb.check("mkdir", "-p", ROOT)
        left = [
            f"{ROOT}/{name}"
            for name in self.adb.check("ls", ROOT).splitlines()
            if name.startswith("run-")
        ]
        if left:
            self.adb.remove(*left)
        # `close` deletes the folder once `_folder` has a name, so the name comes before the folder.
        folder = self._folder = f"{ROOT}/run-{uuid.uuid4().hex[:8]}"
        self.adb.check("mkdir", "-p", folder)
        # The name holds the checksum, and the content is verified too. `mv` is atomic: a push that
        # is interrupted leaves no torn tool under its name.
        there = self.adb.run("sha256sum", self._remote_tool).stdout.split()
        if there[:1] != [self._tool.sha256]:
            self.adb.push(self._tool.path, f"{folder}/benchmark_model", 0o755)
            self.adb.check("chmod", "755", f"{folder}/benchmark_model")
            self.adb.check("mv", f"{folder}/benchmark_model", self._remote_tool)
        # The mask is tried once here. One that the phone refuses would fail every operation.
        if self.settings.affinity:
            pinned = self.adb.run("taskset", self.settings.affinity, "true")
            if pinned.code:
                reason = pinned.output.strip()
                raise InputError(
                    f"phone {self.adb.serial}: threads cannot be pinned to the cores of mask "
                    f"{self.settings.affinity} ({reason}). Fix: --affinity with a mask of cores"
                    " that are online, or --affinity '' for all cores"
                )

    def _load(self, model: str, result: str) -> tuple[Statistics, str]:
        """Run the tool once; return the statistics and its log.

        Raises:
            OperationFailed: when the tool ends with an error, which is the model's.
            DeviceLost: when the tool does not run or its output is invalid.
        """
        answer = self.adb.run(*self._command(model, result))
        # The shell's codes for a program that cannot be executed or was not found.
        if answer.code in (126, 127):
            raise self.adb.lost(
                f"benchmark_model is gone or does not run ({first_error(answer.output)})",
                f"check whether another program deletes {ROOT}",
            )
        if answer.code:
            # The shell adds 128 to the number of the signal that ended a program.
            how = (
                f"by signal {answer.code - 128}"
                if answer.code > 128
                else f"with exit code {answer.code}"
            )
            raise OperationFailed(
                f"benchmark_model ended {how}: {first_error(answer.output) or 'no message'}"
            )
        data = self.adb.pull(result)
        try:
            return (read_result(data) if data else read_log(answer.output)), answer.output
        except ValueError as error:
            raise self.adb.lost(
                f"the output of benchmark_model is invalid ({error})", "restart the phone"
            ) from None

    def _command(self, model: str, result: str) -> list[str]:
        """Return the command that times a model into a result file."""
        gpu = self.settings.unit == "gpu"
        pinned = ["taskset", self.settings.affinity] if self.settings.affinity else []
        accelerator = (
            ["--use_gpu=true", f"--gpu-precision={_PRECISIONS[self.settings.precision]}"]
            if gpu
            else []
        )
        return [
            *pinned,
            self._remote_tool,
            f"--graph={model}",
            *accelerator,
            f"--num_threads={self.settings.threads}",
            "--warmup_runs=1",
            f"--warmup_min_secs={WARM_UP_S}",
            f"--num_runs={LEAST_RUNS}",
            f"--min_secs={RUN_S}",
            f"--max_secs={MOST_S}",
            f"--result_file_path={result}",
        ]

    def _placement(self, log: str) -> str:
        """Return the unit that ran the graph, with its share of the nodes where not all of them."""
        nodes = delegated(log)
        if self.settings.unit == "cpu" or nodes is None:
            return "cpu" if self.settings.unit == "cpu" else "not said"
        return "gpu" if nodes[0] >= nodes[1] else f"gpu {nodes[0]}/{nodes[1]} nodes"


class _Thermal:
    """Watch of a phone's temperature, which waits once for a hot phone to cool down.

    A phone that stays hot is not waited for again until it was cool, as each wait takes
    COOL_DOWN_S.
    """

    def __init__(self, adb: Adb, warn: Warn) -> None:
        self._adb = adb
        self._warn = warn
        self._next_look = 0.0
        self._hot = False

    def wait(self) -> bool:
        """Return whether the phone is hot now, even after COOL_DOWN_S of waiting."""
        if time.monotonic() < self._next_look:
            return self._hot
        status = self._status()
        if status >= MODERATE and not self._hot:
            self._warn(
                f"phone {self._adb.serial}: its thermal state is {thermal_name(status)}; waiting up"
                f" to {COOL_DOWN_S / 60:.0f} min, put it somewhere cool"
            )
            end = time.monotonic() + COOL_DOWN_S
            while status >= MODERATE and time.monotonic() < end:
                time.sleep(LOOK_S)
                status = self._status()
            self._warn(
                f"phone {self._adb.serial}: it is"
                f" {'still hot, its rows are flagged' if status >= MODERATE else 'cool'}"
            )
        self._hot = status >= MODERATE
        self._next_look = time.monotonic() + LOOK_S
        return self._hot

    def _status(self) -> int:
        """Return the thermal state; 0 (none) where the phone does not say, as before Android 10."""
        return thermal_status(self._adb.run("dumpsys", "thermalservice").stdout) or 0


def _agree(loads: list[Statistics]) -> bool:
    """Return whether the medians of the loads lie within SPREAD of each other."""
    medians = [load.median_us for load in loads]
    # One microsecond is added: medians are whole microseconds, so short operations would never
    # agree.
    return max(medians) <= SPREAD * min(medians) + 1


def _timing(loads: list[Statistics], notes: tuple[tuple[str, str], ...]) -> Timing:
    """Return the timing of the load with the middle median, and the runs of all of them."""
    middle = sorted(loads, key=lambda load: load.median_us)[len(loads) // 2]
    median = max(middle.median_us, LEAST_US)
    return Timing(
        median_ms=median / 1e3,
        p10_ms=(median - P10_OF_P5 * max(median - middle.p5_us, 0.0)) / 1e3,
        p90_ms=(median + P10_OF_P5 * max(middle.p95_us - median, 0.0)) / 1e3,
        runs=sum(load.runs for load in loads),
        notes=notes,
    )


def _lock_file(serial: str) -> Path:
    """Return the lock file of a phone, the same for all processes of this user."""
    folder = cache_folder().parent / "phones"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{text_sha256(serial)[:16]}.lock"
