"""Measure the seconds of slimming on recorded scores, with a bound of 1 s. Prints JSON.

    python benchmarks/slimming_speed.py [--space efficientformer] [--device iphone12]
        [--scores PATH]

It is the median of `nas.search` over the whole space. No run uses what an earlier one cached. Any
scores can be given with --scores: the time depends on their values only through the number of steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import nas
from nas.search.fastest import fastest

BOUND_S = 1.0
RUNS = 9


def seconds(
    arguments: argparse.Namespace, candidates: str, target_ms: float | None
) -> tuple[float, int]:
    """Return seconds and steps of one search with a newly read table and scores."""
    space = nas.load_space(arguments.space)
    table = nas.load_table(arguments.device)
    scores = nas.load_scores(arguments.scores or arguments.space)
    started = time.perf_counter()
    found = nas.search(space, table, scores, target_ms, "slimming", candidates=candidates)  # type: ignore[arg-type]
    return time.perf_counter() - started, len(found.trace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="efficientformer")
    parser.add_argument("--device", default="iphone12")
    parser.add_argument("--scores")
    arguments = parser.parse_args()
    least, _ = fastest(nas.load_space(arguments.space), nas.load_table(arguments.device))
    results = {}
    for what, target_ms in (
        ("to the smallest published member", None),
        ("to the fastest member", least),
    ):
        for candidates in ("all", "paper"):
            runs = [seconds(arguments, candidates, target_ms) for _ in range(RUNS)]
            results[f"{what}, candidates {candidates}"] = {
                "median_s": round(statistics.median(taken for taken, _ in runs), 4),
                "slowest_s": round(max(taken for taken, _ in runs), 4),
                "steps": runs[0][1],
                "bound_s": BOUND_S,
                "runs": RUNS,
            }
    print(
        json.dumps(
            {"space": arguments.space, "device": arguments.device, "searches": results}, indent=2
        )
    )


if __name__ == "__main__":
    main()
