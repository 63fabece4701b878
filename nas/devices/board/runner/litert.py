"""The parent of the process that times .tflite files on this machine's CPU."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError, CannotRun, Ended
from .machine import fast_cores, processor

if TYPE_CHECKING:
    Entry = dict[str, Any]

TIMER_FILE = "timer.py"
RUNTIMES = (
    ("ai_edge_litert.compiled_model", "LiteRT CompiledModel"),
    ("ai_edge_litert.interpreter", "LiteRT Interpreter"),
    ("tflite_runtime.interpreter", "TensorFlow Lite Interpreter"),
)
"""Module and name of each runtime for .tflite files; the first one that runs a file is used."""
ENDING_SIGNALS = (1, 2, 3, 9, 15)
"""Signals that end a process from outside, and that no fault of its own sends."""
END_S = 5.0
"""Time in seconds for a process whose output has ended to end itself."""


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


def _still(process: subprocess.Popen[str]) -> bool:
    """Return whether a process whose output has ended still runs after END_S."""
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        return True
    return False
