"""Measure how long loading a latency table and one prediction take. Prints JSON, times in ms.

python benchmarks/table_lookup.py [DEVICE] [SPACE]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from nas import load_space, load_table


def median_ms(work: Callable[[int], object], runs: int) -> float:
    """Return the median time of `work(run)` over some runs."""
    times = []
    for run in range(runs):
        start = time.perf_counter()
        work(run)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


MEMBERS = 1000


def main(device: str = "iphone12", space_name: str = "efficientformer") -> None:
    start = time.perf_counter()
    table = load_table(device)
    first_load = (time.perf_counter() - start) * 1e3
    space = load_space(space_name)
    fresh, again = ([space.sample(seed) for seed in range(MEMBERS)] for _ in range(2))
    result = {
        "device": device,
        "space": space_name,
        "rows": len(table.rows),
        "first_load_ms": round(first_load, 3),
        "load_ms": round(median_ms(lambda _: load_table(device), 20), 3),
        "predict_ms": round(median_ms(lambda run: table.predict(fresh[run]), MEMBERS), 4),
        "total_ms_fresh_ms": round(median_ms(lambda run: table.total_ms(again[run]), MEMBERS), 4),
        "total_ms_again_ms": round(median_ms(lambda run: table.total_ms(again[run]), MEMBERS), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:3])
