"""Python processes beside this one: how the drawing engine, converters and timers start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

_WITHOUT_DIRECTORY = "import sys\nsys.path.pop(0)\n"
"""A file of the user's in the working directory, such as json.py, is data and must never run.

(`python -P` needs 3.11.)"""


def start_python(
    program: str,
    *arguments: str,
    text: bool = False,
    errors: IO[Any] | int | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[Any]:
    """Start a program in a Python process with pipes to its stdin and stdout.

    It has this process's module path, including changes at run time, but not the working directory.
    It runs in a session of its own, so it does not get the terminal's ctrl-C. A program that reads
    stdin to its end ends with this process, however that ends.

    Args:
        program: Python source, for which `sys` is imported already.
        arguments: of the program, in `sys.argv`.
        text: whether the pipes take text.
        errors: where its stderr goes (default: where this process's goes).
        environment: variables beside those of this process.
    """
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", _WITHOUT_DIRECTORY + program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=text,
        start_new_session=True,
        env={**os.environ, **path, **(environment or {})},
    )
