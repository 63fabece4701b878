"""How long `nas --help` and `nas spaces` take, as JSON: medians in seconds over fresh processes, bounds 0.3 and 0.5.

The processor time beside it tells a busy machine from a slow program.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

BOUNDS_S = {"--help": 0.3, "spaces": 0.5}
RUNS = 15


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of one fresh process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "nas", *arguments], check=True, capture_output=True)
    taken, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    results = {}
    for argument, bound in BOUNDS_S.items():
        seconds([argument])  # bytecode and the file cache
        taken, processor = zip(*(seconds([argument]) for _ in range(RUNS)), strict=True)
        results[f"nas {argument}"] = {
            "median_s": round(statistics.median(taken), 4),
            "slowest_s": round(max(taken), 4),
            "median_processor_s": round(statistics.median(processor), 4),
            "bound_s": bound,
            "runs": RUNS,
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
