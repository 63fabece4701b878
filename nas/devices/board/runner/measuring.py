"""Measure the files of a bundle, watch for drift, and tell whose fault a failure is."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError, CannotRun, Ended
from .litert import Timer
from .plan import check_file, read_plan
from .results import Results

if TYPE_CHECKING:
    from collections.abc import Callable

    Entry = dict[str, Any]
    Measure = Callable[[Path], Entry]
    Progress = Callable[[str, int, int], None]

EVERY = 10
"""Number of files between two measurements of the reference."""
BOUND = 0.05
"""Maximum relative deviation of the reference from its first time; above it the device drifts."""
PAUSES_S = (5.0, 15.0, 30.0)
"""Pauses in seconds for a drifting device, each followed by a measurement of the reference."""


def run_litert(folder: Path, progress: Progress, threads: int | None = None) -> dict[str, int]:
    """Run a bundle of .tflite files on this machine's CPU; arguments and counts as of `run`."""
    plan = read_plan(folder)
    if plan["device"]["kind"] == "coreml":
        raise BundleError(
            f"{folder}: is a bundle for Core ML. Fix: on a Mac, nas profile --run"
            f" {shlex.quote(str(folder))}"
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
