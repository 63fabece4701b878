"""Is the found network better than the published shape scaled down, and than random ones? Prints JSON.

    python benchmarks/worth.py SUPERNET --data DATA --table TABLE --keep FOLDER [--share 0.4] [--epochs 10]

All at one latency, measured on this computer: the target is `--share` of the published member's. `learned` and `exact`
are what these engines find for it by SUPERNET's scores, the first one correcting them by members of SUPERNET that it
evaluates; `scaled` is the published member with widths and depths times one factor, `random` the random members nearest
to the target. Each is trained alone by the same recipe, from random
weights, with every seed, and judged on the data's test images. Trainings stand in FOLDER; the same command goes on
there.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from whole_run import by_turns

import nas
from nas.finetune.recipe import Recipe
from nas.latency import LatencyTable
from nas.search import Evaluations, Scores, StudySettings
from nas.space import Architecture, Space
from nas.supernet.checkpoint import open_folder
from nas.supernet.evaluate import SlicedSupernet, training_splits
from nas.versions import versions

SEEDS = (0, 1, 2)
RANDOM, CANDIDATES = 2, 2000
EVALUATIONS = 100
NEAR = 0.05
"""Measured latencies count as equal when they are within this of the scaled member's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernet")
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.4, help="of the published member's latency")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, a process each")
    arguments = parser.parse_args()
    space = open_folder(arguments.supernet)[2]
    table = nas.load_table(arguments.table).calibrated(space.name, space.resolution)
    judge = Evaluations(SlicedSupernet(arguments.supernet, arguments.data), arguments.keep)
    members = compared(space, table, nas.load_scores(arguments.supernet), judge, arguments.share)
    recipe = {"epochs": arguments.epochs, "batch": arguments.batch, "learning_rate": arguments.learning_rate,
              "ema": 0.0, "mix": 0.0}  # fmt: skip
    for name, member in members.items():
        (arguments.keep / name).mkdir(exist_ok=True)
        member.save(arguments.keep / name / "architecture.yaml")
    todo = [(name, seed) for seed in SEEDS for name in members]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as processes:
        test = dict(zip(todo, processes.map(trained, repeat(arguments), repeat(recipe), todo), strict=True))
    measured = by_turns(members)
    rows = {
        name: {
            "predicted_ms": round(table.total_ms(member), 5), "measured_ms": round(measured[name], 5),
            "equal": abs(measured[name] / measured["scaled"] - 1) <= NEAR,
            "widths": member.widths, "depths": member.depths, "macs": member.macs, "params": member.params,
            **summary([test[name, seed] for seed in SEEDS]),
        }
        for name, member in members.items()
    }  # fmt: skip
    print(json.dumps({
        "space": space.name, "supernet": arguments.supernet, "seeds": SEEDS, "recipe": recipe, "networks": rows,
        "found_over_scaled": {
            name: round(rows[name]["mean"] - rows["scaled"]["mean"], 2) for name in rows if name != "scaled"
        },
        "table": f"{table.provenance}, {table.device.soc}", "versions": versions("torch", "ai-edge-litert"),
    }, indent=2))  # fmt: skip


def compared(
    space: Space, table: LatencyTable, scores: Scores, judge: Evaluations, share: float
) -> dict[str, Architecture]:
    """The networks to compare, by name; all are predicted to take no longer than the scaled one."""
    published = min(space.published.values(), key=lambda member: member.params)
    scaled = scaled_to(space, published, table, share * table.total_ms(published))
    target = table.total_ms(scaled)
    found = {
        "learned": nas.search(space, table, scores, target, engine="learned", study=StudySettings(EVALUATIONS),
                              evaluations=judge).architecture,
        "exact": nas.search(space, table, scores, target, engine="exact").architecture,
    }  # fmt: skip
    drawn = {member.operations(): member for member in map(space.sample, range(CANDIDATES))}.values()
    near = sorted(drawn, key=lambda member: abs(table.total_ms(member) / target - 1))[:RANDOM]
    return {"scaled": scaled, **found, **{f"random{number}": member for number, member in enumerate(near)}}


def scaled_to(space: Space, published: Architecture, table: LatencyTable, target_ms: float) -> Architecture:
    """The published member with widths and depths times the largest factor that keeps the target."""
    attention = [
        sum(stages.kind(block) == "global" for block in stage.blocks)
        for stages, stage in zip(space.stages, published.stages, strict=True)
    ]
    for factor in np.arange(1.0, 0.0, -0.01):
        widths = [nearest(s.widths, factor * w) for s, w in zip(space.stages, published.widths, strict=True)]
        depths = [max(s.depths[0], round(factor * d)) for s, d in zip(space.stages, published.depths, strict=True)]
        kept = [min(count, depth) for count, depth in zip(attention, depths, strict=True)]
        member = space.member(widths, depths, kept, name=f"{published.name}-x{factor:.2f}")
        if table.total_ms(member) <= target_ms:
            return member
    raise SystemExit(f"no scaled {published.name} takes {target_ms:.4g} ms or less; give a larger --share")


def nearest(widths: tuple[int, ...], wanted: float) -> int:
    return min(widths, key=lambda width: abs(width - wanted))


def trained(arguments: argparse.Namespace, recipe: dict[str, Any], task: tuple[str, int]) -> float:
    """Test accuracy in percent of a network after training from random weights with a seed."""
    name, seed = task
    folder = arguments.keep / name
    splits = training_splits(arguments.supernet, arguments.data)
    done = nas.finetune(folder / "architecture.yaml", splits, Recipe(**recipe, seed=seed), out=folder / f"seed{seed}",
                        from_scratch=True)  # fmt: skip
    accuracy: float = done.description["accuracy"]["test"]["raw"]["accuracy"]
    print(f"{name}, seed {seed}: {accuracy:.2f} %", file=sys.stderr, flush=True)
    return accuracy


def summary(test: list[float]) -> dict[str, Any]:
    return {"test": test, "mean": round(float(np.mean(test)), 3), "deviation": round(float(np.std(test, ddof=1)), 3)}


if __name__ == "__main__":
    main()
