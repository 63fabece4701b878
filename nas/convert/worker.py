"""A Python process that answers each JSON line with one, for the converters and the host's timers.

Why conversion and timing each have a process of their own:

- What the converter prints is silenced where it is written (file descriptors 1 and 2).
- Nothing else runs in the process that times.
- A crash of native code costs one operation and not the run.
- A process that the kernel ends for want of memory costs nothing: it is asked again.
- The process ends with its parent, however that ends, because its stdin closes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from nas.convert.chain import Interrupted, OperationFailed
from nas.errors import NasError
from nas.processes import start_python

Answer = Callable[[dict[str, Any]], dict[str, Any]]
_PROGRAM = """\
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does."""
_FROM_OUTSIDE = {
    -int(getattr(signal, name))
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGXCPU")
    if hasattr(signal, name)
}
"""Exit codes of a process that was ended by a signal which no fault of its own sends."""


END_S = 5.0
"""Time in seconds for a process whose output has ended to end itself."""


class Worker:
    """The parent's end of a process, which starts at the first request and again after a crash.

    Args:
        module: runs as by `python -m module` and calls `serve`.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self._process: subprocess.Popen[str] | None = None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            OperationFailed: with the error that the request raised there, or when the process
                crashed.
            Interrupted: when the process was ended from outside.
            NasError: when the disk or the memory of this machine is full, or the process cannot
                start.
        """
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        # The end of its output is the end of the process, which may have left half a line.
        if not line.endswith("\n"):
            self._end()
            raise died(self.module, process.returncode)
        answer: dict[str, Any] = json.loads(line)
        if answer.get("start"):
            raise NasError(
                f"{self.module}: cannot start ({answer['error']}). Fix: install its packages again,"
                " then run the same command again"
            )
        if answer.get("machine"):
            raise NasError(
                f"{answer['error']}. Fix: make room on this machine, then run the same command"
                " again"
            )
        if "error" in answer:
            raise OperationFailed(answer["error"])
        return answer

    def ask_again(self, **request: Any) -> dict[str, Any]:
        """Send a request as `ask` does, and once more to a new process where one was ended.

        Raises:
            Interrupted: when the second process was ended too.
        """
        try:
            return self.ask(**request)
        except Interrupted:
            return self.ask(**request)

    def close(self) -> None:
        """End the process, if it runs; the next request starts another one."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> None:
        """Wait for a process that ends, and forget it."""
        process = self._process
        self._process = None
        if process is not None:
            # Closing flushes a request that the process never read, which fails.
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            # A process that has closed its output ends, and one that does not is ended: the exit
            # code that is read here must be its own.
            try:
                process.wait(timeout=END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[str]:
        self._process = start_python(
            _PROGRAM, self.module, text=True, environment={"TF_CPP_MIN_LOG_LEVEL": "3"}
        )
        return self._process


def died(name: str, code: int) -> NasError:
    """Return the error for a process that ended without an answer, by its exit code.

    `Interrupted` where it was ended from outside, else `OperationFailed`.
    """
    if code == -int(getattr(signal, "SIGKILL", 9)):
        return Interrupted(
            f"{name}: was ended by signal 9, as the kernel does when the machine is out of memory."
            " Fix: close other programs, then run the same command again"
        )
    if code in _FROM_OUTSIDE:
        return Interrupted(
            f"{name}: was ended from outside by signal {-code}. Fix: run the same command again"
        )
    return OperationFailed(f"{name} died (exit code {code})")


def go_first() -> None:
    """Give this process real-time priority, for timing, where the user may have it."""
    with contextlib.suppress(AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def serve(answer: Answer, start: Callable[[], None] = lambda: None) -> None:
    """Answer requests on stdin until it closes; the child's end of a `Worker`.

    Args:
        answer: returns the reply to a request; an exception becomes the reply `error`.
        start: is called once, before the first request.
    """
    # Descriptors 1 and 2 lead to /dev/null from here on. Printed text, native code's too, must not
    # mix with the replies, which go to a copy of descriptor 1.
    replies = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    failure = _failure(start)
    for line in sys.stdin:
        try:
            reply = failure or answer(json.loads(line))
        except Exception as error:
            reply = {
                "error": f"{type(error).__name__}: {_first_line(error)}",
                "machine": _out_of_room(error),
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _failure(start: Callable[[], None]) -> dict[str, Any]:
    """Return the reply to all requests of a process that cannot start; empty where it can."""
    try:
        start()
    except Exception as error:
        return {
            "error": f"{type(error).__name__}: {_first_line(error)}",
            "machine": _out_of_room(error),
            "start": True,
        }
    return {}


def _out_of_room(error: Exception) -> bool:
    """Return whether the machine caused the error: no disk space, quota or memory is left."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in numbers)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
