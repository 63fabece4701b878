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

from nas.blocks import ConvStem, Shape
from nas.convert.chain import Chain, Interrupted, OperationFailed
from nas.convert.converter import Converter, cache_folder
from nas.devices.android import KIND
from nas.devices.android.adb import (
    MODERATE,
    TEMPORARY,
    Adb,
    NoAnswer,
    cannot_link,
    reason_in,
    thermal_name,
    thermal_status,
)
from nas.devices.android.benchmark_tool import (
    ACCELERATOR_VARIABLE,
    ACCELERATORS,
    Delegated,
    Statistics,
    Tool,
    accelerator_name,
    delegated,
    gpu_accelerator,
    no_gpu,
    read_log,
    read_result,
    read_start,
)
from nas.devices.base import Device, StartUp, Timing
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

PATIENCE_S = 120.0
"""Minimum time limit in seconds of one run of the tool: compiling for a GPU takes a minute and more."""
SLOWEST_MACS_S = 1e8
"""Multiply-accumulates per second of the slowest phone, for the time limit of a large file."""
PROBE = Chain((ConvStem(16),), Shape(3, 32, 32))
"""Chain that every GPU takes: a device on the GPU runs it before its first file."""
_KILLED = 128 + 9
"""Exit code of a program that the phone ended, as it does for want of memory."""

PRECISIONS = {"cpu": ("float32", "int8"), "gpu": ("float16", "float32")}
"""Precisions of each unit, the default one first."""
GPU_FLAGS = {"float32": "fp32", "float16": "fp16"}
"""Values of the tool's flag for the precision of a GPU."""

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
    serial: str = ""


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
        # Content of the last result file of each model, by the name of its file.
        self._results: dict[str, bytes | None] = {}
        self._lock = FileLock(_lock_file(adb.serial), thread_local=False)
        self._thermal = _Thermal(adb, warn)
        self._macs: dict[str, float] = {}
        self._probe = Path()

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
            placement="cpu" if settings.unit == "cpu" else "in each row",
            precision=settings.precision,
            threads=settings.threads,
            affinity=f"mask {settings.affinity}" if settings.affinity else "",
            serial=settings.serial,
            tools=versions("litert-torch", "torch", "adbutils")
            | {"benchmark_model": self._tool.sha256},
            date=date.today().isoformat(),
            provenance="measured",
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        prepared = self._converter.prepare(chain)
        macs = sum(link.spec.macs(link.input) for link in chain.links())
        prepared.add_done_callback(lambda done: self._note_macs(done, macs))
        return prepared

    def measure(self, artifact: Path) -> Timing:
        if not self._folder:
            self._move_in()
        hot = self._thermal.wait()
        loads, log = self._run(artifact, LOADS, MOST_LOADS)
        placement, *remarks = self._placement(log)
        if placement == "cpu" and self.settings.unit == "gpu":
            self._check_gpu()
        # Pairs with an empty value are left out of the row.
        heat = {True: ["thermal"], False: [], None: ["thermal state unknown"]}[hot]
        notes = (
            ("unit", self.adb.serial),
            ("placement", placement),
            ("note", ", ".join([*heat, *remarks])),
        )
        return timing(loads, tuple(note for note in notes if note[1]))

    def start_up(self, artifact: Path) -> StartUp | None:
        # Every load of `measure` was a process of its own, whose result file tells its start. An
        # old tool writes no result file, and logs nothing of the start.
        data = self._results.get(artifact.name)
        try:
            return read_start(data) if data else None
        except ValueError:
            return None

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
                reason = reason_in(pinned.output)
                remedy = (
                    "--affinity '' for threads that are not pinned"
                    if pinned.code == 127
                    else "--affinity with a mask of cores that are online (those of a hot phone come back"
                    " after a while), or --affinity '' for all cores"
                )
                raise InputError(
                    f"phone {self.adb.serial}: threads cannot be pinned to the cores of mask "
                    f"{self.settings.affinity} ({reason}). Fix: {remedy}"
                )
        if self.settings.unit == "gpu":
            library = gpu_accelerator(self._tool)
            if library is not None:
                # The tool finds it by its name alone.
                self.adb.push(library.path, f"{folder}/{accelerator_name(library)}")
            self._check_gpu()

    def _note_macs(self, prepared: Future[Path], macs: float) -> None:
        """Keep the MACs of a file for its time limit."""
        if not prepared.cancelled() and prepared.exception() is None:
            self._macs[prepared.result().name] = macs

    def _run(self, artifact: Path, least: int, most: int) -> tuple[list[Statistics], str]:
        """Load and run a file `least` times, up to `most` while the times disagree.

        Returns:
            The statistics of each load, and the log of the last one.
        """
        model = f"{self._folder}/{artifact.name}"
        results = [f"{self._folder}/result-{load}.pb" for load in range(most)]
        limit_s = PATIENCE_S + self._macs.get(artifact.name, 0.0) / SLOWEST_MACS_S
        loads = list[Statistics]()
        log = ""
        try:
            self.adb.push(artifact, model)
            while len(loads) < least or (len(loads) < most and not _agree(loads)):
                statistics, log = self._load(model, results[len(loads)], limit_s)
                loads.append(statistics)
        finally:
            self.adb.remove(model, *results)
        return loads, log

    def _check_gpu(self) -> None:
        """Run the probe; raise unless the log says that a GPU's delegate took nodes of it.

        Raises:
            InputError: when the phone has no GPU that the tool can use.
        """
        if not self._probe.name:
            self._probe = self._converter.prepare(PROBE).result()
        try:
            _, log = self._run(self._probe, 1, 1)
        except OperationFailed as error:
            log = f"ERROR: {error}"
        if delegated(log).taken:
            return
        reason = no_gpu(log) or "the log names no GPU delegate that took nodes"
        raise InputError(
            f"phone {self.adb.serial}: the GPU accelerator does not run here ({reason}); the tool"
            f" would measure the CPU. Fix: set {ACCELERATOR_VARIABLE}=FILE to {ACCELERATORS[0]} for"
            " arm64 of the tool's LiteRT release, or measure the CPU with --unit cpu"
        )

    def _load(self, model: str, result: str, limit_s: float) -> tuple[Statistics, str]:
        """Run the tool once; return the statistics and its log.

        Raises:
            OperationFailed: when the tool ends with an error or takes too long, which is the
                model's fault if another one still runs.
            Interrupted: when the phone ended the tool twice.
            DeviceLost: when the tool does not run or its output is invalid.
        """
        command = self._command(model, result)
        try:
            answer = self.adb.run(*command, timeout_s=limit_s)
            if answer.code == _KILLED:
                answer = self.adb.run(*command, timeout_s=limit_s)
        except NoAnswer:
            # Raises where the phone is silent for any command.
            self.adb.run("pkill", "-f", self._remote_tool)
            raise OperationFailed(f"no answer in {limit_s:.0f} s") from None
        reason = reason_in(answer.output)
        # The shell's codes for a program that cannot be executed or was not found.
        if answer.code == 126:
            raise self.adb.lost(
                f"benchmark_model may not be executed ({reason})",
                f"allow the shell to run programs in {ROOT}, which is mounted noexec or forbidden"
                " by SELinux here",
            )
        if answer.code == 127:
            raise self.adb.lost(
                f"benchmark_model is gone ({reason})",
                f"check whether another program deletes {ROOT}",
            )
        if cannot_link(answer.output):
            raise self.adb.lost(
                f"benchmark_model does not start on this version of Android ({reason})",
                "set NAS_BENCHMARK_MODEL=FILE to a build of the tool for it, or update the phone",
            )
        if answer.code == _KILLED:
            raise Interrupted(
                f"phone {self.adb.serial}: benchmark_model was ended by signal 9 twice, as when the"
                " phone is out of memory. Fix: close apps on it, then run the same command again"
            )
        if answer.code:
            # The shell adds 128 to the number of the signal that ended a program.
            how = (
                f"by signal {answer.code - 128}"
                if answer.code > 128
                else f"with exit code {answer.code}"
            )
            raise OperationFailed(f"benchmark_model ended {how}: {reason or 'no message'}")
        data = self.adb.pull(result)
        self._results[model.rpartition("/")[2]] = data
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
            ["--use_gpu=true", f"--gpu-precision={GPU_FLAGS[self.settings.precision]}"]
            if gpu
            else []
        )
        # The tool looks for the accelerator's library on the linker's path alone.
        library = ["env", f"LD_LIBRARY_PATH={self._folder}"] if gpu else []
        return [
            *pinned,
            *library,
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

    def _placement(self, log: str) -> tuple[str, ...]:
        """Return the unit that ran the graph by the log, and remarks for the row."""
        found = delegated(log)
        if self.settings.unit == "cpu" and not found.taken:
            return ("cpu",)
        return gpu_placement(found)


def gpu_placement(found: Delegated) -> tuple[str, ...]:
    """Return where a graph ran that was meant for the GPU, and remarks for the row."""
    if not found.taken:
        return "cpu", "the GPU takes none of its nodes"
    if found.taken >= found.nodes:
        return ("gpu",)
    return f"gpu {found.taken}/{found.nodes} nodes", "partly on the cpu"


class _Thermal:
    """Watch of a phone's temperature, which waits once for a hot phone to cool down.

    A phone that stays hot is not waited for again until it was cool, as each wait takes
    COOL_DOWN_S.
    """

    def __init__(self, adb: Adb, warn: Warn) -> None:
        self._adb = adb
        self._warn = warn
        self._next_look = 0.0
        self._hot: bool | None = False

    def wait(self) -> bool | None:
        """Return whether the phone is hot now, even after COOL_DOWN_S of waiting.

        None where the phone does not say, as before Android 10.
        """
        if time.monotonic() < self._next_look:
            return self._hot
        status = self._status()
        if status is None:
            self._hot = None
            self._next_look = time.monotonic() + LOOK_S
            return None
        if status >= MODERATE and not self._hot:
            self._warn(
                f"phone {self._adb.serial}: its thermal state is {thermal_name(status)}; waiting up"
                f" to {COOL_DOWN_S / 60:.0f} min, put it somewhere cool"
            )
            end = time.monotonic() + COOL_DOWN_S
            while status >= MODERATE and time.monotonic() < end:
                time.sleep(LOOK_S)
                status = self._status() or 0
            self._warn(
                f"phone {self._adb.serial}: it is"
                f" {'still hot, its rows are flagged' if status >= MODERATE else 'cool'}"
            )
        self._hot = status >= MODERATE
        self._next_look = time.monotonic() + LOOK_S
        return self._hot

    def _status(self) -> int | None:
        """Return the thermal state; None where the phone does not say."""
        return thermal_status(self._adb.run("dumpsys", "thermalservice").stdout)


def _agree(loads: list[Statistics]) -> bool:
    """Return whether the medians of the loads lie within SPREAD of each other."""
    medians = [load.median_us for load in loads]
    # One microsecond is added: medians are whole microseconds, so short operations would never
    # agree.
    return max(medians) <= SPREAD * min(medians) + 1


def timing(loads: list[Statistics], notes: tuple[tuple[str, str], ...]) -> Timing:
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
