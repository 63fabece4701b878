"""A Python process that answers each JSON line with one, for the converters and the host's timers.

Why conversion and timing each have a process of their own:

- What the converter prints is silenced where it is written (file descriptors 1 and 2).
- Nothing else runs in the process that times.
- A crash of native code costs one operation and not the run.
- The process ends with its parent, however that ends, because its stdin closes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from nas.convert.chain import OperationFailed
from nas.errors import NasError

Answer = Callable[[dict[str, Any]], dict[str, Any]]
_PROGRAM = """\
import sys
sys.path.pop(0)
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does, but without the working directory on the path of modules.

A file of the user's there, such as json.py, is data and must never run. (`python -P` needs 3.11.)
"""


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
            OperationFailed: with the error that the request raised there, or when the process died.
            NasError: when the disk or the memory of this machine is full.
        """
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        # The end of its output is the end of the process.
        if not line:
            self.close()
            raise OperationFailed(f"{self.module} died (exit code {process.returncode})")
        answer: dict[str, Any] = json.loads(line)
        if answer.get("machine"):
            raise NasError(
                f"{answer['error']}. Fix: make room on this machine, then run the same command"
                " again"
            )
        if "error" in answer:
            raise OperationFailed(answer["error"])
        return answer

    def close(self) -> None:
        """End the process, if it runs; the next request starts another one."""
        process = self._process
        self._process = None
        if process is not None:
            process.kill()
            process.wait()
            # Closing flushes a request that the process never read, which fails.
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[str]:
        """Start the process.

        It has the parent's module path, including changes at run time. It runs in a session of its
        own, so it does not get the terminal's ctrl-C.
        """
        command = [sys.executable, "-c", _PROGRAM, self.module]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        )
        return self._process


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
    start()
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {
                "error": f"{type(error).__name__}: {_first_line(error)}",
                "machine": _out_of_room(error),
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _out_of_room(error: Exception) -> bool:
    """Return whether the machine caused the error: no disk space, quota or memory is left."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in numbers)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
