"""Measure the share of the true Pareto front that engines find with few evaluations. Prints JSON.

    python benchmarks/true_front.py SUPERNET --data DATA --device TABLE --keep FOLDER [--budget 0.1]

Every member of SUPERNET's space (which must be small enough) is evaluated once with the weights that
it inherits, and the latency table predicts its latency: this gives the true front. Then each engine
may evaluate the budget's share of the members. Its result is the hypervolume below its own front over
that of the true one. The reference point is the slowest latency and the lowest accuracy of the space.
FOLDER keeps the evaluations, and the same command resumes there.

    learned    the exact front by scores that the evaluated members correct
    exact      the front by recorded scores alone
    slimming   evaluates the moves of every step
    nsga2      two objectives
    random     random members

All but exact and slimming are means over seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

import nas
from nas.latency import LatencyTable
from nas.search import Evaluated, Evaluations, Scores, StudySettings, pose
from nas.search.engines.exact import front
from nas.search.engines.learned import learned_front
from nas.space import Architecture, Space
from nas.space.moves import moves
from nas.supernet.evaluate import SlicedSupernet

Shape = tuple[tuple[str, str, str], ...]
"""The operations of a network, wherever its dropped positions were."""
Worth = Mapping[Shape, tuple[float, float]]
"""Latency in ms and accuracy in percent."""
SEEDS = range(10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("supernet")
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2000, help="held-out images, at most")
    parser.add_argument("--budget", type=float, default=0.1)
    arguments = parser.parse_args()
    judge = SlicedSupernet(arguments.supernet, arguments.data, arguments.images)
    space = judge.space
    table = nas.load_table(arguments.device)
    table = table.calibrated(space.name, space.resolution)
    scores = nas.load_scores(arguments.supernet)
    members = {shape(member): member for member in space.enumerate()}
    worth = evaluated(Evaluations(judge, arguments.keep), members, table)
    most = int(arguments.budget * len(worth))
    engines: dict[str, Callable[[int], Iterable[Shape]]] = {
        "learned": lambda seed: by_learning(space, table, scores, worth, most, seed),
        "exact": lambda seed: by_scores(space, table, scores),
        "slimming": lambda seed: by_slimming(space, members, worth, most),
        "nsga2": lambda seed: by_nsga2(space, worth, most, seed),
        "random": lambda seed: random.Random(seed).sample(sorted(worth), most),
    }
    whole = hypervolume(worth.values(), worth)
    found = {}
    for name, engine in engines.items():
        looked = [
            list(dict.fromkeys(engine(seed)))[:most]
            for seed in ([0] if name in ("exact", "slimming") else SEEDS)
        ]
        shares = [hypervolume([worth[one] for one in each], worth) / whole for each in looked]
        found[name] = {
            "hypervolume": round(float(np.mean(shares)), 4),
            "least": round(min(shares), 4),
            "evaluations": max(map(len, looked)),
        }
    print(
        json.dumps(
            {
                "space": space.name,
                "members": len(worth),
                "front": len(pareto(worth.values())),
                "budget": most,
                "accuracy": [min(a for _, a in worth.values()), max(a for _, a in worth.values())],
                "ms": [
                    round(min(t for t, _ in worth.values()), 5),
                    round(max(t for t, _ in worth.values()), 5),
                ],
                "judged_by": judge.words,
                "table": f"{table.provenance}, {table.device.soc}",
                "engines": found,
            },
            indent=2,
        )
    )


def shape(arch: Architecture) -> Shape:
    return tuple(operation.key for operation in arch.operations())


def evaluated(
    known: Evaluations, members: Mapping[Shape, Architecture], table: LatencyTable
) -> Worth:
    """Return latency and accuracy of every member; those that begin alike are evaluated together."""
    alike: dict[object, list[Shape]] = {}
    for one, member in members.items():
        alike.setdefault(member.stages[:3], []).append(one)
    worth = {}
    for number, group in enumerate(alike.values()):
        print(f"\r{number} of {len(alike)} groups", end="", file=sys.stderr, flush=True)
        asked = [members[one] for one in group]
        accuracies = known.of(asked[0], asked)
        worth |= {
            one: (table.total_ms(members[one]), accuracies[members[one]].accuracy) for one in group
        }
    return worth


class Known:
    """A `nas.accuracy.evaluations.Source` that looks members up."""

    of: ClassVar[dict[str, str]] = {"judge": "every member evaluated before"}
    words = "every member, evaluated before"

    def __init__(self, worth: Worth) -> None:
        self.worth = worth
        self.looked: list[Shape] = []

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        for member in members:
            self.looked.append(shape(member))
            yield member, Evaluated(self.worth[self.looked[-1]][1], 0.0)


def by_learning(
    space: Space, table: LatencyTable, scores: Scores, worth: Worth, most: int, seed: int
) -> list[Shape]:
    """Return the members that the engine `learned` evaluates on its way to the front."""
    known = Known(worth)
    learned_front(
        pose(
            space,
            table,
            scores,
            engine="learned",
            study=StudySettings(most, seed),
            evaluations=Evaluations(known),
        )
    )
    return known.looked


def by_scores(space: Space, table: LatencyTable, scores: Scores) -> list[Shape]:
    """Return the front that added-up recorded scores predict."""
    return [
        shape(point.architecture) for point in front(pose(space, table, scores, engine="exact"))
    ]


def by_slimming(
    space: Space, members: Mapping[Shape, Architecture], worth: Worth, most: int
) -> list[Shape]:
    """Return the members that slimming evaluates, each step by the best evaluated cost per ms."""
    at = shape(space.largest())
    looked = [at]
    while len(looked) < most:
        after = {
            shape(move.apply(members[at])) for move in moves(space, members[at])
        } & worth.keys()
        faster = [one for one in after if worth[one][0] < worth[at][0]]
        if not faster:
            break
        looked += [one for one in sorted(faster) if one not in looked]
        at = min(
            faster, key=lambda one: (worth[at][1] - worth[one][1]) / (worth[at][0] - worth[one][0])
        )
    return looked


def by_nsga2(space: Space, worth: Worth, most: int, seed: int) -> list[Shape]:
    """Return the members that Optuna's NSGA-II tries by latency and accuracy."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(population_size=16, seed=seed)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    looked: list[Shape] = []
    for _ in range(50 * most):
        if len(set(looked)) >= most:
            break
        trial = study.ask()
        one = suggested(space, trial)
        looked.append(one)
        study.tell(trial, worth[one])
    return looked


def suggested(space: Space, trial: object) -> Shape:
    """Return a member by its widths, depths and numbers of attention blocks."""
    ask = trial.suggest_int  # type: ignore[attr-defined]
    widths = tuple(
        s.widths[ask(f"width{i}", 0, len(s.widths) - 1)] for i, s in enumerate(space.stages)
    )
    depths = tuple(ask(f"depth{i}", *s.depths) for i, s in enumerate(space.stages))
    shares = [
        ask(f"attention{i}", 0, s.depths[1]) if s.global_ else 0 for i, s in enumerate(space.stages)
    ]
    attention = [min(share, depth) for share, depth in zip(shares, depths, strict=True)]
    return shape(space.member(widths, depths, attention))


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other one beats, fastest first."""
    kept: list[tuple[float, float]] = []
    for ms, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((ms, accuracy))
    return kept


def hypervolume(points: Iterable[tuple[float, float]], worth: Worth) -> float:
    """Return the area that the points dominate.

    The reference point is the slowest latency and the lowest accuracy of all members.
    """
    slowest = max(ms for ms, _ in worth.values())
    lowest = min(accuracy for _, accuracy in worth.values())
    # A staircase: each point's accuracy holds up to the latency of the next slower point.
    line: Sequence[tuple[float, float]] = pareto(points)
    ends = [ms for ms, _ in line[1:]] + [slowest]
    return sum(
        (end - ms) * (accuracy - lowest) for (ms, accuracy), end in zip(line, ends, strict=True)
    )


if __name__ == "__main__":
    main()
