"""An Android phone behind adb: LiteRT's `benchmark_model` on its CPU or GPU."""

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
from nas.devices.phones import ANDROID
from nas.errors import InputError, NasError
from nas.files import text_sha256
from nas.versions import versions

ROOT = f"{TEMPORARY}/nas"
"""Holds the tool, which stays, and one folder a run of nas, which goes."""

LOADS, MOST_LOADS = 3, 5
"""The file is loaded LOADS times, as where weights come to lie in memory matters, and more where
these disagree."""
SPREAD = 1.03
"""Loads agree when their slowest median is within 3 % of the fastest."""
WARM_UP_S = 0.1
RUN_S = 0.3
MOST_S = 5.0
LEAST_RUNS = 20
"""One load runs for WARM_UP_S, then for RUN_S and LEAST_RUNS times, but ends after MOST_S."""
LEAST_US = 0.5
"""The tool counts whole microseconds: what it calls 0 took less than this."""
P10_OF_P5 = 1.2816 / 1.6449
"""The tool gives the 5th and 95th percentile; the 10th and 90th of a normal distribution are this
far on the way."""

LOOK_S = 10.0
"""Seconds between two looks at the phone's temperature."""
COOL_DOWN_S = 300.0
"""How long a hot phone is waited for; then its rows are flagged."""

_PRECISIONS = {"float32": "fp32", "float16": "fp16"}

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a phone is called and how it runs the operations; `phone.yaml` has the words."""

    name: str
    soc: str
    os: str
    unit: str
    precision: str
    threads: int
    affinity: str
    description: str = ""


class Android(Device):
    """Pushes a file, runs it there, reads the figures, and deletes it again.

    The phone is not touched before the first measurement. The converter belongs to the caller.

    Args:
        warn: is told what the user should know while it waits.
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
            kind=ANDROID,
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
        placement = self._placement(log)
        remarks = ["thermal"] * hot + ["partly on the cpu"] * ("/" in placement)
        notes = (("unit", self.adb.serial), ("placement", placement), ("note", ", ".join(remarks)))
        return _timing(loads, tuple(note for note in notes if note[1]))

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        artifacts = [self.prepare(chain) for chain in chains]
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
        """Bring the tool to the phone, unless it is there, and makes this run's folder.

        Nobody else measures on this phone then, so that other folders were left by runs that were
        killed.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise NasError(
                f"phone {self.adb.serial}: another nas process is measuring on it; wait for it to"
                " end, then run the same command again"
            ) from None
        self.adb.check("mkdir", "-p", ROOT)
        left = [
            f"{ROOT}/{name}"
            for name in self.adb.check("ls", ROOT).splitlines()
            if name.startswith("run-")
        ]
        if left:
            self.adb.remove(*left)
        folder = self._folder = (
            f"{ROOT}/run-{uuid.uuid4().hex[:8]}"  # from here on there is something to delete
        )
        self.adb.check("mkdir", "-p", folder)
        there = self.adb.run("sha256sum", self._remote_tool).stdout.split()
        if there[:1] != [self._tool.sha256]:
            self.adb.push(self._tool.path, f"{folder}/benchmark_model", 0o755)
            self.adb.check("chmod", "755", f"{folder}/benchmark_model")
            self.adb.check("mv", f"{folder}/benchmark_model", self._remote_tool)
        if self.settings.affinity:
            pinned = self.adb.run("taskset", self.settings.affinity, "true")
            if pinned.code:
                reason = pinned.output.strip()
                raise InputError(
                    f"phone {self.adb.serial}: threads cannot be pinned to the cores of mask "
                    f"{self.settings.affinity} ({reason}); give another --affinity"
                )

    def _load(self, model: str, result: str) -> tuple[Statistics, str]:
        """Return one run of the tool: the figures, and what it logged."""
        answer = self.adb.run(*self._command(model, result))
        if answer.code in (126, 127):
            raise self.adb.lost(
                f"benchmark_model is gone or does not run ({first_error(answer.output)})",
                f"look whether something cleans {ROOT} up",
            )
        if answer.code:
            how = (
                f"by signal {answer.code - 128}"
                if answer.code > 128
                else f"with exit code {answer.code}"
            )
            raise OperationFailed(
                f"benchmark_model ended {how}: {first_error(answer.output) or 'it says nothing'}"
            )
        data = self.adb.pull(result)
        try:
            return (read_result(data) if data else read_log(answer.output)), answer.output
        except ValueError as error:
            raise self.adb.lost(
                f"benchmark_model answers garbage ({error})", "restart the phone"
            ) from None

    def _command(self, model: str, result: str) -> list[str]:
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
        """Return the unit that the operations got, with the share of the graph's nodes where it is
        not all of them."""
        nodes = delegated(log)
        if self.settings.unit == "cpu" or nodes is None:
            return "cpu" if self.settings.unit == "cpu" else "not said"
        return "gpu" if nodes[0] >= nodes[1] else f"gpu {nodes[0]}/{nodes[1]} nodes"


class _Thermal:
    """Waits for a hot phone, once; while it stays hot after that, it is only watched."""

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
        return thermal_status(self._adb.run("dumpsys", "thermalservice").stdout) or 0


def _agree(loads: list[Statistics]) -> bool:
    medians = [load.median_us for load in loads]
    return max(medians) <= SPREAD * min(medians) + 1  # they are whole microseconds


def _timing(loads: list[Statistics], notes: tuple[tuple[str, str], ...]) -> Timing:
    """Of the middle one of the loads."""
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
    """Return what two processes of one computer that would measure on this phone at once have in
    common."""
    folder = cache_folder().parent / "phones"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{text_sha256(serial)[:16]}.lock"
