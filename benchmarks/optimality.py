"""By how much do engines miss the proven optimum? Predicted cost at equal latency, as JSON, for several targets.

    python benchmarks/optimality.py [SPACE ...] [--device iphone12] [--targets 3] [--most-trials 1000] [--jobs 1]

For every space with recorded scores: the whole front by the exact engine, then slimming, random members and NSGA-II at
targets spread evenly from the fastest member to where the front ends (both left out), and at the latency of the
smallest published member. Random looks at as many members as slimming priced different ones; NSGA-II at as many, but no
more than --most-trials. A gap is in points of top-1, and in percent of what lies between both ends of the front;
seconds are processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import nas
from nas.latency import LatencyTable
from nas.latency.table import TABLE_FILE
from nas.search import ENGINES, Found, Problem, StudySettings, pose, solve
from nas.search.exact import front
from nas.space import Architecture, space_names

BOUND_S = 10.0
SEED = 0


@dataclass(frozen=True)
class Counting(LatencyTable):
    """A table that counts how many members it is asked for."""

    def total_ms(self, arch: Architecture) -> float:
        self.__dict__["asked"] = self.asked + 1
        return super().total_ms(arch)

    @property
    def asked(self) -> int:
        return int(self.__dict__.get("asked", 0))


def random_members(problem: Problem, count: int, seed: int) -> tuple[float, int] | None:
    """The least cost of `count` random members among those within the target, and how many those are."""
    rng, costs = random.Random(seed), list[float]()
    for _ in range(count):
        arch = problem.space.sample(rng)
        if problem.latency.holds(arch):
            costs.append(problem.scores.cost(arch))
    return (min(costs), len(costs)) if costs else None


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the seconds of processor time that it took: all engines here keep one core busy."""
    started = time.process_time()
    found = work()
    return found, round(time.process_time() - started, 3)


def engines_at(problem: Problem, spread: float, most_trials: int) -> dict[str, Any]:
    """What each engine finds at the problem's target."""
    best, seconds = timed(lambda: solve(replace(problem, engine="exact")))

    def row(cost: float, took: float, **more: Any) -> dict[str, Any]:
        gap = cost - best.cost
        return {"cost": round(cost, 4), "gap": round(gap, 4), "gap_percent": round(100 * gap / spread, 2),
                "seconds": took, **more}  # fmt: skip

    rows = {"exact": row(best.cost, seconds, ms=round(best.ms, 4))}
    table = Counting(problem.table.device, problem.table.rows, problem.table.path)
    counted = replace(problem, table=table)
    evaluations = 1000
    try:
        found, took = timed(lambda: solve(replace(counted, engine="slimming")))
        evaluations = table.asked
        rows["slimming"] = row(found.cost, took, ms=round(found.ms, 4), evaluations=evaluations)
    except nas.NasError as error:
        rows["slimming"] = {"failed": str(error)}
    drawn, took = timed(lambda: random_members(problem, evaluations, SEED))
    rows["random"] = {"failed": "no member within the target", "evaluations": evaluations}
    if drawn:
        rows["random"] = row(drawn[0], took, evaluations=evaluations, within=drawn[1])
    if "nsga2" in ENGINES and most_trials:
        rows["nsga2"] = nsga2(problem, min(evaluations, most_trials), row)
    return rows


def nsga2(problem: Problem, trials: int, row: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    def search() -> Found:
        return solve(replace(problem, engine="nsga2", study=StudySettings(trials=trials, seed=SEED)))

    try:
        found, took = timed(search)
    except nas.NasError as error:
        return {"failed": str(error), "evaluations": trials}
    return row(found.cost, took, ms=round(found.ms, 4), evaluations=trials)


def of_space(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    space, table = nas.load_space(name), nas.load_table(arguments.device)
    scores = nas.load_scores(name)
    problem, posing = timed(lambda: pose(space, table, scores, engine="exact"))
    points, seconds = timed(lambda: front(problem))
    first, last = points[0], points[-1]
    print(f"{name}: front of {len(points)} in {seconds} s", flush=True, file=sys.stderr)
    shares = [(number + 1) / (arguments.targets + 1) for number in range(arguments.targets)]
    targets = [first.ms + share * (last.ms - first.ms) for share in shares]
    rows = []
    for target in sorted([*targets, problem.target_ms]):
        print(f"  {target:.4f} ms", flush=True, file=sys.stderr)
        aimed = pose(space, table, scores, target, engine="exact")
        rows.append({"target_ms": round(target, 4), "published": target == problem.target_ms,
                     "engines": engines_at(aimed, first.cost - last.cost, arguments.most_trials)})  # fmt: skip
    exact = [row["engines"]["exact"]["seconds"] for row in rows]
    return {
        "members": float(f"{space.count():.3g}"), "nodes": problem.graph.nodes,
        "arcs": sum(map(len, problem.graph.layers)), "scores": scores.path.rpartition("/experiments/")[2],
        "pose_seconds": posing, "exact_seconds": {"most": max(exact), "bound": BOUND_S},
        "front": {"members": len(points), "seconds": seconds, "ms": [round(first.ms, 4), round(last.ms, 4)],
                  "cost": [round(first.cost, 4), round(last.cost, 4)]},
        "targets": rows,
    }  # fmt: skip


def left_out_or_not(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The results of a space, or why there are none."""
    try:
        return of_space(name, arguments)
    except nas.InputError as error:
        return {"left_out": str(error)}


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How far every engine was from the optimum, over all spaces and targets."""
    rows = [row["engines"] for result in results.values() for row in result.get("targets", [])]
    missed = {engine: [row[engine]["gap"] for row in rows if "gap" in row.get(engine, {})]
              for engine in ("slimming", "random", "nsga2")}  # fmt: skip
    return {
        engine: {"targets": len(rows), "found": len(gaps), "optimal": sum(gap < 1e-9 for gap in gaps),
                 "mean_gap": round(sum(gaps) / len(gaps), 4), "largest_gap": max(gaps)}
        for engine, gaps in missed.items() if gaps
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spaces", nargs="*")
    parser.add_argument("--device", default="iphone12")
    parser.add_argument("--targets", type=int, default=3)
    parser.add_argument("--most-trials", type=int, default=1000, help="of NSGA-II; 0 leaves it out")
    parser.add_argument("--jobs", type=int, default=1, help="spaces at a time")
    arguments = parser.parse_args()
    names = arguments.spaces or sorted(space_names())
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(names, pool.map(left_out_or_not, names, [arguments] * len(names)), strict=True))
    table = nas.load_table(arguments.device)
    print(json.dumps({
        "device": arguments.device, "table": table.provenance,
        "table_sha256": hashlib.sha256((table.path / TABLE_FILE).read_bytes()).hexdigest() if table.path else None,
        "summary": summary(results), "spaces": results,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
