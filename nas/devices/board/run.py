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
import subprocess
import sys
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
SETTINGS = ("soc", "os", "runtime", "runtime_version", "compute_unit", "precision", "threads")
"""Fields of the device that must be equal for all results of one file."""


class BundleError(Exception):
    """A damaged bundle, or a machine that lacks what it needs. The message is one line."""


class NotWritten(BundleError):
    """A full disk, or a folder that cannot be written to."""


class CannotRun(Exception):
    """A file that cannot run here; it is recorded, and the others are measured."""


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

    Args:
        folder: of the bundle.
        plan: of the bundle, as `read_plan` returns it.
        device: this machine, in the fields of a table's device file.
        measure: returns the timing of a file; raises CannotRun.
        progress: is called before each file.
        bound: maximum relative deviation of the reference from its first time.

    Returns:
        Counts of `files`, `measured`, `reused`, `failed` and `drifted` ones.

    Raises:
        BundleError: for a damaged bundle, results of another bundle or machine, or a full disk.
    """
    results = Results(folder, plan, device)
    done = {entry["digest"] for entry in results.entries if "digest" in entry}
    files = [entry for entry in plan["files"] if "failed" not in entry]
    todo = [entry for entry in files if entry["digest"] not in done]
    counts = {
        "files": len(files),
        "measured": 0,
        "reused": len(files) - len(todo),
        "failed": 0,
        "drifted": 0,
    }
    watch = _Watch(folder, measure, results, bound)
    since: list[Entry] = []
    for number, entry in enumerate(todo, start=1):
        progress("files", number - 1, len(todo))
        timing = _measure(folder, entry, measure, results)
        counts["failed" if timing is None else "measured"] += 1
        since.append(entry)
        # `begin` keeps an earlier reference: only the first stack of all calls counts.
        if timing is not None and entry["role"] == "stack":
            watch.begin(entry, timing["median_ms"])
        if len(since) == EVERY or number == len(todo):
            counts["drifted"] += _look(watch, since)
            since = []
    if todo:
        progress("files", len(todo), len(todo))
    return counts


def _measure(folder: Path, entry: Entry, measure: Measure, results: Results) -> Entry | None:
    """Measure a file into the results; return its timing, or None where it cannot run."""
    # The checksum is compared before each measurement: a file that was damaged on the way must not
    # count as one that cannot run.
    path = check_file(folder, entry)
    try:
        timing = measure(path)
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
            _measure(watch.folder, entry, watch.measure, watch.results)
    elif drifted:
        watch.results.append({"drifted": [entry["digest"] for entry in since]})
        return len(since)
    return 0


class _Watch:
    """The reference and its first time, which may be from an earlier call."""

    def __init__(self, folder: Path, measure: Measure, results: Results, bound: float) -> None:
        self.folder = folder
        self.measure = measure
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
        ms = self.measure(check_file(self.folder, self._reference["reference"]))["median_ms"]
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
    # The plan is on disk before the files. Each entry gets its checksum when its file is written.
    if any(entry["sha256"] is None and "failed" not in entry for entry in plan["files"]):
        raise BundleError(
            f"{path}: the bundle is not complete. Fix: run the command that writes it again"
        )
    return plan


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
    """Return the checksum of a file, or of a folder's files with their names (an .mlpackage)."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    parts = sorted(part for part in path.rglob("*") if part.is_file())
    lines = [f"{part.relative_to(path).as_posix()} {sha256(part)}" for part in parts]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_file(folder: Path, entry: Entry) -> Path:
    """Return the path of an undamaged file of the bundle. Raises BundleError."""
    path = Path(folder, entry["file"])
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
            if first != device.get(name):
                raise BundleError(
                    f"{self.path}: was begun with another {name} (got {device.get(name)!r},"
                    f" expected {first!r}). Fix: resume where it was begun, or remove it to start"
                    " again"
                )
        # An incomplete last line is cut off, or the next line would be appended to it.
        os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def _locked(self) -> IO[bytes]:
        """Return the locked file; the lock lasts until it is closed or the process ends."""
        try:
            file = self.path.with_name(".lock").open("wb")
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

    The process starts at the first file, and again after a crash. It is pinned to the last cores.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._cores = (
            sorted(os.sched_getaffinity(0))[-threads:] if hasattr(os, "sched_getaffinity") else []
        )
        self._process: subprocess.Popen[str] | None = None

    def measure(self, path: Path) -> Entry:
        """Return the timing of a file. Raises CannotRun."""
        return self._ask({"path": str(path), "threads": self.threads, "cores": self._cores})

    def describe(self, plan: Entry) -> Entry:
        """Return this machine in the fields of a table's device file.

        Raises:
            BundleError: when no runtime for .tflite files is installed.
        """
        try:
            runtime = self._ask({})
        except CannotRun as error:
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
            "precision": "float32",
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

    def _ask(self, request: Entry) -> Entry:
        """Send one JSON line and return the answer. Raises CannotRun for an error or a crash."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        # The output ends with the process: native code has crashed.
        if not line:
            process.wait()
            self._process = None
            raise CannotRun(f"the process that ran it died (exit code {process.returncode})")
        answer: Entry = json.loads(line)
        if "error" in answer:
            raise CannotRun(answer["error"])
        return answer

    def _start(self) -> subprocess.Popen[str]:
        """Start the process, in a session of its own so that ctrl-C reaches only the parent."""
        command = [sys.executable, str(Path(__file__).resolve().with_name(TIMER_FILE))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            start_new_session=True,
        )
        return self._process


def processor() -> str:
    """Return the name of the board, else of its processor."""
    # Boards have a device tree, whose text has no key and ends with a zero byte.
    for name, keys in (
        ("/proc/device-tree/model", ("",)),
        ("/proc/cpuinfo", ("model name", "Hardware")),
    ):
        try:
            lines = Path(name).read_text(errors="replace").replace("\0", "").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(keys):
                return line.rpartition(":")[2].strip()
    return platform.processor() or platform.machine()


def run_litert(folder: Path, progress: Progress, threads: int | None = None) -> dict[str, int]:
    """Run a bundle of .tflite files on this machine's CPU; arguments and counts as of `run`."""
    plan = read_plan(folder)
    if plan["device"]["kind"] == "coreml":
        raise BundleError(
            f"{folder}: is a bundle for Core ML. Fix: on a Mac, nas profile --run {folder}"
        )
    timer = Timer(threads or plan["device"].get("threads") or 1)
    try:
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
    print("next: take this folder home, and run there: nas profile --merge FOLDER")


if __name__ == "__main__":
    main()
