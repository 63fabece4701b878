"""Measure three commands as whole processes, and list unneeded imports. Prints JSON.

Times are medians over fresh processes in seconds, beside their bounds on an idle machine. The
processor time tells a busy machine from a slow program. Bytecode is cached, as it is for a user
from the second command on: without it most of the time goes into compiling.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

BOUNDS_S = {
    "--help": 0.25,
    "spaces": 0.4,
    "search --space efficientformer --device iphone12": 2.0,
}
RUNS = 15
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
HEAVY = ("torch", "pandas", "sklearn", "datasets", "PIL")


def seconds(arguments: list[str], folder: str) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "nas", *arguments],
        check=True,
        capture_output=True,
        cwd=folder,
        env=ENVIRONMENT,
    )
    taken = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imported(arguments: list[str], folder: str) -> list[str]:
    """Return which of HEAVY a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "nas", *arguments]
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    return [name for name in HEAVY if name in modules]


def main() -> None:
    results = {}
    with TemporaryDirectory() as folder:
        for command, bound in BOUNDS_S.items():
            arguments = command.split()
            heavy = imported(arguments, folder)  # also warms bytecode and the file cache
            taken, processor = zip(*(seconds(arguments, folder) for _ in range(RUNS)), strict=True)
            results[f"nas {command}"] = {
                "median_s": round(statistics.median(taken), 4),
                "slowest_s": round(max(taken), 4),
                "median_processor_s": round(statistics.median(processor), 4),
                "bound_s": bound,
                "runs": RUNS,
                "imports": heavy,
            }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
