"""Measure by how much engines miss the proven optimum at published members' latencies, as JSON.

    python benchmarks/optimality.py [SPACE ...] [--scores law|recorded] [--device iphone12]
        [--trials 0]

For each space it computes the whole front by the exact engine, then runs exact and slimming at the
predicted latency of every published member. With --trials it also tries so many random members, and
NSGA-II and TPE with so many trials each.

Costs are cautious ones, which engines minimise, in points below the largest member. A gap is the cost
minus that of exact. Exact gives up at most 0.05 points for a faster member that ties, so that small
gaps may be negative. `below_published` is by how many points exact's member is better than the
published one. Seconds are processor time.
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
from dataclasses import replace
from typing import Any

import nas
from nas import resources
from nas.accuracy import Scores
from nas.latency.table import TABLE_FILE
from nas.search import ENGINES, Found, Problem, StudySettings, pose, solve
from nas.search.engines.exact import front
from nas.space import Space, space_names

BOUND_S = 3.0
FRONT_BOUND_S = 10.0
SEED = 0
STUDIES = [engine for engine in ("nsga2", "tpe") if engine in ENGINES]


def random_members(problem: Problem, count: int, seed: int) -> tuple[float, int] | None:
    """Return the least cost of the random members within the target, and how many of them fit it."""
    rng = random.Random(seed)
    costs = list[float]()
    for _ in range(count):
        arch = problem.space.sample(rng)
        if problem.latency.holds(arch):
            costs.append(problem.cautious_scores.cost(arch))
    return (min(costs), len(costs)) if costs else None


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and its processor time in seconds; all engines here keep one core busy."""
    started = time.process_time()
    found = work()
    return found, round(time.process_time() - started, 3)


def engines_at(problem: Problem, spread: float, trials: int) -> dict[str, Any]:
    """Return what each engine finds at the problem's target."""
    best, seconds = timed(lambda: solve(replace(problem, engine="exact")))
    least = problem.cautious_scores.cost(best.architecture)

    def row(cost: float, took: float, **more: Any) -> dict[str, Any]:
        gap = cost - least
        return {
            "cost": round(cost, 4),
            "gap": round(gap, 4),
            "gap_percent": round(100 * gap / spread, 2),
            "seconds": took,
            **more,
        }

    rows = {"exact": row(least, seconds, ms=round(best.ms, 4))}
    try:
        found, took = timed(lambda: solve(replace(problem, engine="slimming")))
        cost = problem.cautious_scores.cost(found.architecture)
        rows["slimming"] = row(cost, took, ms=round(found.ms, 4), steps=len(found.trace))
    except nas.NasError as error:
        rows["slimming"] = {"failed": str(error)}
    if not trials:
        return rows
    drawn, took = timed(lambda: random_members(problem, trials, SEED))
    rows["random"] = {"failed": "no member within the target", "evaluations": trials}
    if drawn:
        rows["random"] = row(drawn[0], took, evaluations=trials, within=drawn[1])
    for engine in STUDIES:
        rows[engine] = study(engine, problem, trials, row)
    return rows


def study(
    engine: str, problem: Problem, trials: int, row: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """Return what an engine of Optuna finds with so many trials."""

    def search() -> Found:
        return solve(replace(problem, engine=engine, study=StudySettings(trials=trials, seed=SEED)))

    try:
        found, took = timed(search)
    except nas.NasError as error:
        return {"failed": str(error), "evaluations": trials}
    return row(
        problem.cautious_scores.cost(found.architecture),
        took,
        ms=round(found.ms, 4),
        evaluations=trials,
    )


def scores_of(space: Space, kind: str) -> Scores:
    """Return the scores of a space by the kind that --scores names."""
    if kind == "recorded":
        return nas.load_scores(
            str(resources.names(resources.EXPERIMENTS, "*/scores.csv")[f"{space.name}-cifar10"])
        )
    return nas.load_scores(space.name)


def of_space(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    space = nas.load_space(name)
    table = nas.load_table(arguments.device)
    scores = scores_of(space, arguments.scores)
    problem, posing = timed(lambda: pose(space, table, scores, engine="exact"))
    points, seconds = timed(lambda: front(problem))
    first = points[0]
    last = points[-1]
    print(f"{name}: front of {len(points)} in {seconds} s", flush=True, file=sys.stderr)
    rows = []
    for member, arch in space.published.items():
        target = problem.table.total_ms(arch)
        print(f"  {member}, {target:.4f} ms", flush=True, file=sys.stderr)
        aimed = pose(space, table, scores, target, engine="exact")
        engines = engines_at(aimed, first.cost - last.cost, arguments.trials)
        better = problem.cautious_scores.cost(arch) - engines["exact"]["cost"]
        rows.append(
            {
                "target": member,
                "target_ms": round(target, 4),
                "below_published": round(better, 4),
                "engines": engines,
            }
        )
    exact = [row["engines"]["exact"]["seconds"] for row in rows]
    return {
        "members": float(f"{space.count():.3g}"),
        "nodes": problem.graph.nodes,
        "arcs": sum(map(len, problem.graph.layers)),
        "scores": scores.provenance,
        "pose_seconds": posing,
        "exact_seconds": {"most": max(exact), "bound": BOUND_S},
        "front": {
            "members": len(points),
            "seconds": seconds,
            "bound": FRONT_BOUND_S,
            "ms": [round(first.ms, 4), round(last.ms, 4)],
            "cost": [round(first.cost, 4), round(last.cost, 4)],
        },
        "targets": rows,
    }


def left_out_or_not(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a space, or why there are none."""
    try:
        return of_space(name, arguments)
    except nas.InputError as error:
        return {"left_out": str(error)}


def summary(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how far every engine was from the optimum, over all spaces and targets."""
    rows = [row["engines"] for result in results.values() for row in result.get("targets", [])]
    missed = {
        engine: [row[engine]["gap"] for row in rows if "gap" in row.get(engine, {})]
        for engine in ("slimming", "random", *STUDIES)
    }
    exact = [row["exact"]["seconds"] for row in rows]
    fronts = [result["front"]["seconds"] for result in results.values() if "front" in result]
    slowest = {
        "exact": max(exact, default=0.0),
        "front": max(fronts, default=0.0),
        "slimming": max((row["slimming"].get("seconds", 0.0) for row in rows), default=0.0),
    }
    return {"slowest_seconds": slowest} | {
        engine: {
            "targets": len(rows),
            "found": len(gaps),
            "optimal": sum(gap < 1e-9 for gap in gaps),
            "mean_gap": round(sum(gaps) / len(gaps), 4),
            "largest_gap": max(gaps),
        }
        for engine, gaps in missed.items()
        if gaps
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spaces", nargs="*")
    parser.add_argument("--device", default="iphone12")
    parser.add_argument(
        "--scores",
        choices=("law", "recorded"),
        default="law",
        help="law: what ships as a space's default scores",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=0,
        help="members that random choice, NSGA-II and TPE try; 0 leaves these out",
    )
    parser.add_argument("--jobs", type=int, default=1, help="spaces at a time")
    arguments = parser.parse_args()
    names = arguments.spaces or sorted(
        name for name in space_names() if not name.endswith("_small")
    )
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = dict(
            zip(names, pool.map(left_out_or_not, names, [arguments] * len(names)), strict=True)
        )
    table = nas.load_table(arguments.device)
    print(
        json.dumps(
            {
                "device": arguments.device,
                "table": table.provenance,
                "table_sha256": (
                    hashlib.sha256((table.path / TABLE_FILE).read_bytes()).hexdigest()
                    if table.path
                    else None
                ),
                "scores": arguments.scores,
                "summary": summary(results),
                "spaces": results,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
