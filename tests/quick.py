"""Which cases of a test `make quick` runs, by the CPU time that `make times` has recorded.

`tests/conftest.py` marks all others as slow.
"""

from __future__ import annotations

import csv
from pathlib import Path

UNIT_S = 0.1
"""Maximum CPU seconds that `make quick` spends on one test function."""


def recorded_times(file: Path) -> dict[str, float]:
    """Return the CPU seconds of one case by test function; empty where nothing is recorded."""
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        return {row["test"]: float(row["cpu_s"]) for row in csv.DictReader(lines)}


def quick_cases(cases: int, cpu_s: float) -> set[int]:
    """Return the numbers of the cases that fit into UNIT_S, at equal distances.

    Args:
        cases: number of the function's cases.
        cpu_s: CPU seconds of one case.

    Returns:
        All of them where there is time for all; none where there is not enough for one.
    """
    fitting = cases if cases * cpu_s <= UNIT_S else int(UNIT_S / cpu_s)
    return {cases * number // fitting for number in range(fitting)}
