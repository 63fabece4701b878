"""Measure the files of a bundle on the machine at hand: `python run.py`, or `nas profile --run`.

A copy of this file goes into every bundle, for boards that have nothing else. It stands alone on
Python 3.8 or newer, beside `timer.py`, which it starts. It resumes where an earlier call stopped.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows has no fcntl: two runs of one bundle are not detected there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    Entry = dict[str, Any]
    Measure = Callable[[Path], Entry]
    Progress = Callable[[str, int, int], None]

FORMAT = "nas-bundle-1"
RESULTS_FORMAT = "nas-bundle-results-1"
PLAN_FILE = "plan.json"
RESULTS_FILE = "results.jsonl"
TIMER_FILE = "timer.py"
EVERY = 10
"""Number of files between two measurements of the reference."""
BOUND = 0.05
"""Maximum relative deviation of the reference from its first time; above it the device drifts."""
PAUSES_S = (5.0, 15.0, 30.0)
"""Pauses in seconds for a drifting device, each followed by a measurement of the reference."""
PLAN_KEYS = {"id", "device", "space", "resolution", "copies", "check", "tools", "files"}
FILE_KEYS = {"digest", "role", "label", "file", "sha256"}
SETTINGS = (
    "soc",
    "os",
    "runtime",
    "runtime_version",
    "compute_unit",
    "precision",
    "threads",
    "affinity",
)
"""Fields of the device that must be equal for all results of one file; of `os` the major version."""
RUNTIMES = (
    ("ai_edge_litert.compiled_model", "LiteRT CompiledModel"),
    ("ai_edge_litert.interpreter", "LiteRT Interpreter"),
    ("tflite_runtime.interpreter", "TensorFlow Lite Interpreter"),
)
"""Module and name of each runtime for .tflite files; the first one that runs a file is used."""


class BundleError(Exception):
    """A damaged bundle, or a machine that lacks what it needs. The message is one line."""


class NotWritten(BundleError):
    """A full disk, or a folder that cannot be written to."""


class CannotRun(Exception):
    """A file that cannot run here; it is recorded, and the others are measured."""


class Ended(Exception):
    """A process that was ended from outside. Nothing is recorded of its file."""


def run(
    folder: Path,
    plan: Entry,
    device: Entry,
    measure: Measure,
    progress: Progress,
    bound: float = BOUND,
) -> dict[str, int]:
    """Measure the files of a bundle that have no result yet.

    The first stack that runs is the reference. It is measured again after every EVERY files, to
    detect drift. After a drift that went away, the files since the last measurement of the
    reference are measured again. After one that stayed, the results name them.

    After a failure the control is run, the empty file, and then the file once more. Where the control
    fails too the machine is at fault, and nothing is recorded.

    Args:
        folder: of the bundle.
        plan: of the bundle, as `read_plan` returns it.
        device: this machine, in the fields of a table's device file.
        measure: returns the timing of a file; raises CannotRun.
        progress: is called before each file.
        bound: maximum relative deviation of the reference from its first time.

    Returns:
        Counts of `files`, `measured`, `reused`, `failed`, `drifted` and `interrupted` ones; the same
        call measures the last.

    Raises:
        BundleError: for a damaged bundle, results of another bundle or machine, a machine that runs
            no file, or a full disk.
    """
    results = Results(folder, plan, device)
    # The last result of a file counts. One that failed in an earlier call is tried again.
    last = {entry["digest"]: entry for entry in results.entries if "digest" in entry}
    done = {digest for digest, entry in last.items() if "timing" in entry}
    files = [entry for entry in plan["files"] if "failed" not in entry]
    todo = [entry for entry in files if entry["digest"] not in done]
    counts = {
        "files": len(files),
        "measured": 0,
        "reused": len(files) - len(todo),
        "failed": 0,
        "drifted": 0,
        "interrupted": 0,
    }
    trial = _Trial(folder, files, measure)
    watch = _Watch(folder, trial, results, bound)
    since: list[Entry] = []
    reason = ""
    for number, entry in enumerate(todo, start=1):
        progress("files", number - 1, len(todo))
        try:
            timing = _measure(entry, trial, results)
        except Ended as error:
            counts["interrupted"] += 1
            reason = str(error)
            continue
        counts["failed" if timing is None else "measured"] += 1
        since.append(entry)
        # `begin` keeps an earlier reference: only the first stack of all calls counts.
        if timing is not None and entry["role"] == "stack":
            watch.begin(entry, timing["median_ms"])
        if len(since) == EVERY or number == len(todo):
            counts["drifted"] += _look(watch, since)
            since = []
    if since:
        counts["drifted"] += _look(watch, since)
    if todo:
        progress("files", len(todo), len(todo))
    if counts["interrupted"] and not counts["measured"] and not counts["reused"]:
        raise BundleError(f"{folder}: no file could be measured ({reason})")
    return counts


class _Trial:
    """Runs files on this machine, each a second time where it fails, and tells whose fault that is."""

    def __init__(self, folder: Path, files: list[Entry], measure: Measure) -> None:
        self.folder = folder
        self._measure = measure
        self._control = next((entry for entry in files if entry["role"] == "empty"), None)

    def measure(self, entry: Entry) -> Entry:
        """Return the timing of a file.

        Raises:
            CannotRun: when it fails twice, and the control runs.
            Ended: when its process was ended twice.
            BundleError: when it is damaged, or the control fails too.
        """
        # The checksum is compared before each measurement: a file that was damaged on the way must
        # not count as one that cannot run.
        path = check_file(self.folder, entry)
        try:
            return self._measure(path)
        except CannotRun as error:
            self._check_well(str(error))
        except Ended:
            pass
        # The control runs, perhaps again: what failed may have passed.
        try:
            return self._measure(path)
        except CannotRun as error:
            self._check_well(str(error))
            raise

    def _check_well(self, reason: str) -> None:
        if self._control is None:
            return
        try:
            self._measure(check_file(self.folder, self._control))
        except (CannotRun, Ended) as error:
            raise BundleError(
                f"{self.folder}: not even the empty file runs on this machine any more ({error};"
                f" before it: {reason}). Nothing is recorded of it. Fix: mend the cause, then run the"
                " same command again"
            ) from None


def _measure(entry: Entry, trial: _Trial, results: Results) -> Entry | None:
    """Measure a file into the results; return its timing, or None where it cannot run."""
    try:
        timing = trial.measure(entry)
    except CannotRun as error:
        results.append({"digest": entry["digest"], "failed": str(error)})
        return None
    results.append({"digest": entry["digest"], "timing": timing})
    return timing


def _look(watch: _Watch, since: list[Entry]) -> int:
    """Measure the reference, and repeat the files since its last time after a passing drift.

    Returns:
        Number of files that were measured during a drift that stayed.
    """
    drifted, settled = watch.look()
    if drifted and settled:
        for entry in since:
            try:
                timing = watch.trial.measure(entry)
            except (CannotRun, Ended):  # the result from before stays
                continue
            watch.results.append({"digest": entry["digest"], "timing": timing})
    elif drifted:
        watch.results.append({"drifted": [entry["digest"] for entry in since]})
        return len(since)
    return 0


class _Watch:
    """The reference and its first time, which may be from an earlier call."""

    def __init__(self, folder: Path, trial: _Trial, results: Results, bound: float) -> None:
        self.folder = folder
        self.trial = trial
        self.results = results
        self.bound = bound
        self._reference = next((entry for entry in results.entries if "reference" in entry), None)

    def begin(self, entry: Entry, ms: float) -> None:
        """Use this file as the reference, unless there is one already."""
        if self._reference is None:
            self._reference = {"reference": entry, "first_ms": ms}
            self.results.append(self._reference)

    def look(self) -> tuple[bool, bool]:
        """Return whether the reference had drifted, and whether it is within bounds now.

        A drifting device gets the pauses PAUSES_S, until the reference is within bounds again.
        """
        drift = self._drift()
        drifted = abs(drift) > self.bound
        for pause in PAUSES_S:
            if abs(drift) <= self.bound:
                break
            time.sleep(pause)
            drift = self._drift()
        return drifted, abs(drift) <= self.bound

    def _drift(self) -> float:
        """Return the relative drift of the reference; 0 without one."""
        if self._reference is None:
            return 0.0
        try:
            ms = self.trial.measure(self._reference["reference"])["median_ms"]
        except (CannotRun, Ended) as error:
            raise BundleError(
                f"{self.folder}: the file by which drift is seen does not run any more ({error})."
                " Fix: run the same command again"
            ) from None
        drift: float = ms / self._reference["first_ms"] - 1
        self.results.append({"reference_ms": ms, "drift": round(drift, 4)})
        return drift


def read_plan(folder: Path) -> Entry:
    """Return the plan of a complete bundle. Raises BundleError."""
    path = folder / PLAN_FILE
    # utf-8-sig: editors on Windows put a byte-order mark before the text.
    try:
        plan: Entry = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Fix: give the folder of a bundle"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is damaged ({error}). Fix: copy the bundle again") from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        raise BundleError(
            f"{path}: is not a plan of the format {FORMAT}. Fix: write the bundle again"
        )
    if not _is_whole(plan):
        raise BundleError(f"{path}: is damaged (a key is missing). Fix: copy the bundle again")
    check_names(path, plan)
    # The plan is on disk before the files. Each entry gets its checksum when its file is written.
    if any(entry["sha256"] is None and "failed" not in entry for entry in plan["files"]):
        raise BundleError(
            f"{path}: the bundle is not complete. Fix: run the command that writes it again"
        )
    return plan


def check_names(path: Path, plan: Entry) -> None:
    """Raise BundleError for a name in the plan that leads out of the bundle, or out of its table.

    A bundle may come from a stranger: its plan must not make this machine read, run or write
    anything elsewhere.
    """
    name = plan["device"].get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise BundleError(f"{path}: device: {name!r} is not a name. Fix: write the bundle again")
    for entry in plan["files"]:
        file = entry["file"]
        if not isinstance(file, str) or not (file == "" or is_inside(file)):
            raise BundleError(
                f"{path}: {file!r} is not a file of this bundle. Fix: write the bundle again"
            )


def is_inside(file: str) -> bool:
    """Return whether a relative path names something below its folder, on every system."""
    parts = file.split("/")
    return not any(part in ("", ".", "..") or re.search(r"[\\:\0]", part) for part in parts)


def _is_whole(plan: Entry) -> bool:
    """Return whether the plan and all its entries of files have the keys that are read here."""
    files = plan.get("files")
    device = plan.get("device")
    if not isinstance(files, list) or not isinstance(device, dict) or not set(plan) >= PLAN_KEYS:
        return False
    return "kind" in device and all(
        isinstance(entry, dict) and set(entry) >= FILE_KEYS for entry in files
    )


def sha256(path: Path) -> str:
    """Return the checksum of a file, or of a folder's files with their names (an .mlpackage).

    What Finder leaves in folders that it has looked at (.DS_Store, ._NAME) does not count.
    """
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    parts = sorted(part for part in path.rglob("*") if part.is_file() and not _is_finders(part))
    lines = [f"{part.relative_to(path).as_posix()} {sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_finders(path: Path) -> bool:
    """Return whether a file is one that macOS leaves in folders, and none of a package's own."""
    return path.name == ".DS_Store" or path.name.startswith("._")


def check_file(folder: Path, entry: Entry) -> Path:
    """Return the path of an undamaged file of the bundle. Raises BundleError."""
    path = Path(folder, entry["file"])
    # A link may lead out of the bundle, whatever its name.
    inside = Path(folder).resolve()
    if inside not in path.resolve().parents or not is_inside(entry["file"]):
        raise BundleError(f"{path}: is not a file of this bundle. Fix: copy the bundle again")
    if not path.exists():
        raise BundleError(f"{path}: is missing. Fix: copy the bundle again")
    if sha256(path) != entry["sha256"]:
        raise BundleError(
            f"{path}: is damaged (its checksum differs from the plan's). Fix: copy the bundle again"
        )
    return path


def read_results(folder: Path, plan: Entry) -> list[Entry]:
    """Return the lines of the results, the header first. Raises BundleError."""
    path = folder / RESULTS_FILE
    refuse_link(path)
    text = path.read_bytes() if path.exists() else b""
    # Text after the last newline is dropped: that line was being written when the power failed.
    entries: list[Entry] = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            entry = json.loads(line.decode("utf-8-sig"))
            if not isinstance(entry, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise BundleError(
                f"{path}:{number}: this line is not a result. Fix: remove the line and run again"
            ) from None
        entries.append(entry)
    if entries and entries[0].get("format") != RESULTS_FORMAT:
        raise BundleError(f"{path}:1: is not a file of results. Fix: remove it")
    if entries and entries[0].get("bundle") != plan["id"]:
        raise BundleError(
            f"{path}: holds the results of another bundle. Fix: replace it by this bundle's"
            " results, or remove it"
        )
    return entries


def refuse_link(path: Path) -> None:
    """Raise BundleError where a file that is written here is a link, perhaps to somebody's file."""
    if path.is_symlink():
        raise BundleError(f"{path}: is a link, expected a file of the bundle. Fix: remove it")


def os_major(text: str) -> str:
    """Return the part of an operating system that all results share; of Linux that is its name.

    A kernel is updated without a change of what the processor computes.
    """
    if text.startswith("Linux"):
        return "Linux"
    matched = re.match(r"([A-Za-z ]*[A-Za-z])[ -](\d+)", text)
    return f"{matched.group(1)} {matched.group(2)}" if matched else text


class Results:
    """The results of a bundle, one line each, on disk before the next measurement starts.

    Raises:
        BundleError: for results of another bundle or machine, and while another process measures.
        NotWritten: when the folder cannot be written to.
    """

    def __init__(self, folder: Path, plan: Entry, device: Entry) -> None:
        self.path = folder / RESULTS_FILE
        self._lock = self._locked()
        self.entries = read_results(folder, plan)
        if not self.entries:
            self._write({"format": RESULTS_FORMAT, "bundle": plan["id"], "device": device}, "wb")
            return
        for name in SETTINGS:
            first = self.entries[0]["device"].get(name)
            now = device.get(name)
            if name == "os":
                first = os_major(str(first))
                now = os_major(str(now))
            if first != now:
                raise BundleError(
                    f"{self.path}: was begun with another {name} (got {now!r},"
                    f" expected {first!r}). Fix: resume where it was begun, or remove it to start"
                    " again"
                )
        # An incomplete last line is cut off, or the next line would be appended to it.
        os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def _locked(self) -> IO[bytes]:
        """Return the locked file; the lock lasts until it is closed or the process ends."""
        lock = self.path.with_name(".lock")
        refuse_link(lock)
        try:
            file = lock.open("ab")
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(
                f"{self.path}: another process measures this bundle. Fix: wait for it to end"
            ) from None
        except OSError as error:
            raise NotWritten(f"{self.path}: could not be written ({error.strerror})") from None
        return file

    def close(self) -> None:
        """Let another process measure; otherwise the lock lasts as long as this object."""
        self._lock.close()

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        self._write(entry, "ab")

    def _write(self, entry: Entry, mode: str) -> None:
        try:
            with self.path.open(mode) as file:
                file.write((json.dumps(entry) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise NotWritten(
                f"{self.path}: could not be written ({error.strerror}). Earlier results are kept."
                " Fix: make room, then run the same command again"
            ) from None
        self.entries.append(entry)


class Timer:
    """The parent of a process that times .tflite files (`timer.py`).

    The process starts at the first file, and again after a crash. It is pinned to the fastest
    cores, of equal ones to the last.

    Raises:
        BundleError: when there are fewer cores than threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        affinity = hasattr(os, "sched_getaffinity")
        cores = sorted(os.sched_getaffinity(0)) if affinity else list(range(os.cpu_count() or 1))
        if not 1 <= threads <= len(cores):
            raise BundleError(
                f"--threads: this machine has not enough cores to pin threads to (got {threads},"
                f" expected 1 to {len(cores)})"
            )
        self._cores = fast_cores(cores, threads) if affinity else []
        self._runtime = ""
        self._process: subprocess.Popen[str] | None = None
        # What the runtime writes while it fails; a crash says nothing else.
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (closed by `close`)

    def measure(self, path: Path) -> Entry:
        """Return the timing of a file. Raises CannotRun and Ended."""
        return self._ask(
            {
                "path": str(path),
                "threads": self.threads,
                "cores": self._cores,
                "runtime": self._runtime,
            }
        )

    def choose(self, path: Path) -> None:
        """Use the first of RUNTIMES that runs this file, from now on.

        That it can be imported is not enough: on some boards a runtime ends its process.

        Raises:
            BundleError: when none does, with the reason of each.
        """
        reasons = []
        for self._runtime, name in RUNTIMES:
            try:
                try:
                    self.measure(path)
                except Ended:  # says nothing of the runtime
                    self.measure(path)
                return
            except (CannotRun, Ended) as error:
                reasons.append(f"{name}: {error}")
        raise BundleError(
            f"no runtime for .tflite files runs the empty file here ({'; '.join(reasons)}). Fix: pip"
            " install ai-edge-litert numpy, or where that has no wheel or ends by itself, pip install"
            " tflite-runtime==2.14.0 'numpy<2'"
        )

    def describe(self, plan: Entry) -> Entry:
        """Return this machine in the fields of a table's device file.

        Raises:
            BundleError: when no runtime for .tflite files is installed.
        """
        try:
            runtime = self._ask({"runtime": self._runtime})
        except (CannotRun, Ended) as error:
            raise BundleError(
                f"{TIMER_FILE}: cannot start without numpy and a runtime for .tflite files"
                f" ({error})"
            ) from None
        tools = {f"board {name}": value for name, value in runtime["tools"].items()}
        here = {
            "soc": processor(),
            "os": platform.platform(),
            "runtime": runtime["runtime"],
            "runtime_version": runtime["runtime_version"],
            "compute_unit": "cpu",
            "placement": "cpu",
            "precision": plan["device"].get("precision", "float32"),
            "threads": self.threads,
            "tools": {**plan["tools"], **tools},
            "affinity": "cores " + ",".join(map(str, self._cores)) if self._cores else "",
            "date": datetime.date.today().isoformat(),
            "provenance": "measured",
        }
        return {**plan["device"], **here}

    def close(self) -> None:
        """End the process, if it runs."""
        process = self._process
        self._process = None
        if process is not None:
            process.kill()
            process.communicate()
        self._log.close()

    def _ask(self, request: Entry) -> Entry:
        """Send one JSON line and return the answer.

        Raises:
            CannotRun: for an error or a crash, with the last line that the runtime wrote.
            Ended: when the process was ended from outside.
        """
        self._log.truncate(0)
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        # The output ends with the process, perhaps within a line: native code has crashed, or the
        # process was ended.
        if not line.endswith("\n"):
            self._process = None
            if _still(process):
                process.kill()
            process.communicate()
            code = process.returncode
            if -code in ENDING_SIGNALS:
                memory = ", as the kernel does when memory is out" if code == -9 else ""
                raise Ended(f"the process that ran it was ended by signal {-code}{memory}")
            last = self._last_line()
            raise CannotRun(
                f"the process that ran it died (exit code {code})" + (f": {last}" if last else "")
            )
        answer: Entry = json.loads(line)
        if answer.get("machine"):
            raise Ended(answer["error"])
        if "error" in answer:
            raise CannotRun(answer["error"])
        return answer

    def _last_line(self) -> str:
        """Return the last line that the runtime wrote, an error before any other."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r"error|fatal|failed|illegal", line, re.I)]
        found = errors or lines
        return found[-1][:300] if found else ""

    def _start(self) -> subprocess.Popen[str]:
        """Start the process, in a session of its own so that ctrl-C reaches only the parent."""
        command = [sys.executable, str(Path(__file__).resolve().with_name(TIMER_FILE))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            universal_newlines=True,
            start_new_session=True,
        )
        return self._process


ENDING_SIGNALS = (1, 2, 3, 9, 15)
"""Signals that end a process from outside, and that no fault of its own sends."""
END_S = 5.0
"""Time in seconds for a process whose output has ended to end itself."""


def _still(process: subprocess.Popen[str]) -> bool:
    """Return whether a process whose output has ended still runs after END_S."""
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        return True
    return False


PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
"""Arm's cores by the `CPU part` of /proc/cpuinfo, for implementer 0x41."""


def processor() -> str:
    """Return the name of the board, else of its processor."""
    # Boards have a device tree, whose text has no key and ends with a zero byte.
    model = _text("/proc/device-tree/model").replace("\0", "").strip()
    if model:
        return model
    values = {}  # type: dict[str, list[str]]
    for line in _text("/proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip() and value.strip() not in values.setdefault(key.strip(), []):
            values[key.strip()].append(value.strip())
    # x86 has `model name`. Arm's kernels write `Model` for the board and `Hardware` for the chip,
    # and always the number of each kind of core.
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if values.get(key):
            return values[key][0]
    parts = [PARTS.get(part, "CPU part " + part) for part in values.get("CPU part", [])]
    names = " + ".join(parts)
    return names or platform.processor() or platform.machine()


def fast_cores(cores: list[int], count: int) -> list[int]:
    """Return the `count` fastest of these cores; of equal ones the last."""
    return sorted(sorted(cores, key=lambda core: (_speed(core), core))[-count:])


def _speed(core: int) -> float:
    """Return a core's speed relative to others of its processor; 0 where the system does not say."""
    folder = f"/sys/devices/system/cpu/cpu{core}"
    # Arm's kernels know a capacity, which counts the kind of core; others a frequency alone.
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        text = _text(f"{folder}/{name}").strip()
        if text.isdigit():
            # The frequencies of equal cores differ by some per cent with their quality.
            return float(text) if name == "cpu_capacity" else round(float(text) / 5e5)
    return 0.0


def _text(name: str) -> str:
    """Return the text of a file of the system; empty where there is none."""
    try:
        return Path(name).read_text(errors="replace")
    except OSError:
        return ""


def run_litert(folder: Path, progress: Progress, threads: int | None = None) -> dict[str, int]:
    """Run a bundle of .tflite files on this machine's CPU; arguments and counts as of `run`."""
    plan = read_plan(folder)
    if plan["device"]["kind"] == "coreml":
        raise BundleError(
            f"{folder}: is a bundle for Core ML. Fix: on a Mac, nas profile --run {folder}"
        )
    timer = Timer(threads if threads is not None else plan["device"].get("threads") or 1)
    try:
        files = [entry for entry in plan["files"] if "failed" not in entry]
        empty = next((entry for entry in files if entry["role"] == "empty"), None)
        if empty is not None:
            timer.choose(check_file(folder, empty))
        return run(folder, plan, timer.describe(plan), timer.measure, progress)
    finally:
        timer.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure the files of this bundle. The same command resumes a stopped run."
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: as many as the bundle was written for)."
    )
    threads = parser.parse_args().threads
    begin = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        left = (time.monotonic() - begin) / max(done, 1) * (total - done)
        print(
            f"\r{what} {done}/{total}, {left / 60:.0f} min left   ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    folder = Path(__file__).resolve().parent
    try:
        counts = run_litert(folder, progress, threads)
    except BundleError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nrun.py: stopped. All results are on disk, and the same command resumes.")
    print(
        "\n{files} files: {measured} measured now, {reused} before, {failed} cannot run".format(
            **counts
        )
    )
    if counts["interrupted"]:
        sys.exit(
            "run.py: {interrupted} files were interrupted. The same command measures them.".format(
                **counts
            )
        )
    print("next: take this folder home, and run there: nas profile --merge FOLDER")


if __name__ == "__main__":
    main()
