"""Compare a found network with scaled and random ones of the same latency. Prints JSON.

    python benchmarks/worth.py SUPERNET --data DATA --table TABLE --keep FOLDER [--share 0.6]
        [--epochs 8]

The target is `--share` of the latency that the table predicts for the published member. `found` is
what the learned engine finds for it by evaluating members of SUPERNET. `scaled` is the published
member with its widths, its depths or both times one factor. `random` are members drawn at random. Of
many scaled and random ones near the target, those are taken whose *measured* latency on this computer
is nearest to the found one's.

Each is trained alone by the same recipe, from random weights, with every seed, and evaluated on the
data's test images. FOLDER keeps the choices, measurements and trainings, and the same command resumes
there. Nothing else should run until "measured" is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from whole_run import by_turns

import nas
from nas.blocks import BlockSpec, Shape
from nas.files import replacing
from nas.finetune.options import Recipe
from nas.latency import LatencyTable
from nas.search import Evaluations, Scores, StudySettings
from nas.space import Architecture, Space
from nas.space.place import Place
from nas.supernet.checkpoint import open_folder
from nas.supernet.evaluate import SlicedSupernet, training_splits
from nas.versions import versions

SEEDS = (0, 1, 2)
RANDOM = 3
DRAWN = 200
BAND, MEASURED = 0.2, 24
"""Share of the target within which scaled and random members are measured, and how many at most."""
EVALUATIONS = 100
MEASUREMENTS = "measured.json"
NEAR = 0.05
"""Share of the found network's latency within which measured latencies count as equal."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("supernet")
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument(
        "--share", type=float, default=0.6, help="of the published member's latency"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, a process each")
    arguments = parser.parse_args()
    space = open_folder(arguments.supernet)[2]
    table = nas.load_table(arguments.table).calibrated(space.name, space.resolution)
    if not (arguments.keep / MEASUREMENTS).exists():
        judge = Evaluations(SlicedSupernet(arguments.supernet, arguments.data), arguments.keep)
        choose(space, table, nas.load_scores(arguments.supernet), judge, arguments)
    measured: dict[str, float] = json.loads((arguments.keep / MEASUREMENTS).read_text())
    members = {
        name: nas.load_architecture(arguments.keep / name / "architecture.yaml")
        for name in measured
    }
    recipe = {
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "learning_rate": arguments.learning_rate,
        "ema": 0.0,
        "mix": 0.0,
    }
    todo = [(name, seed) for seed in SEEDS for name in members]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as processes:
        test = dict(
            zip(todo, processes.map(trained, repeat(arguments), repeat(recipe), todo), strict=True)
        )
    rows = {
        name: {
            "predicted_ms": round(table.total_ms(member), 5),
            "measured_ms": round(measured[name], 5),
            "equal": abs(measured[name] / measured["found"] - 1) <= NEAR,
            "widths": member.widths,
            "depths": member.depths,
            "macs": member.macs,
            "params": member.params,
            **summary([test[name, seed] for seed in SEEDS]),
        }
        for name, member in members.items()
    }
    print(
        json.dumps(
            {
                "space": space.name,
                "supernet": arguments.supernet,
                "share": arguments.share,
                "seeds": SEEDS,
                "recipe": recipe,
                "networks": rows,
                "found_over": {
                    name: round(rows["found"]["mean"] - rows[name]["mean"], 2)
                    for name in rows
                    if name != "found"
                },
                "table": f"{table.provenance}, {table.device.soc}",
                "versions": versions("torch", "ai-edge-litert"),
            },
            indent=2,
        )
    )


def choose(
    space: Space,
    table: LatencyTable,
    scores: Scores,
    judge: Evaluations,
    arguments: argparse.Namespace,
) -> None:
    """Save the networks to compare, and their measured latencies in ms by name."""
    published = min(space.published.values(), key=lambda member: member.params)
    target = arguments.share * table.total_ms(published)
    study = StudySettings(EVALUATIONS)
    found = nas.search(
        space, table, scores, target, engine="learned", study=study, evaluations=judge
    ).architecture
    scaled = near(scalings(space, published), table, target)
    drawn = near(map(space.sample, range(DRAWN)), table, target)
    members = {"found": found} | {f"scaled{number}": member for number, member in enumerate(scaled)}
    members |= {f"random{number}": member for number, member in enumerate(drawn)}
    measured = by_turns(members)
    for name, ms in measured.items():
        print(
            f"{name}: {ms:.4f} ms, predicted {table.total_ms(members[name]):.4f} ms",
            file=sys.stderr,
        )
    ranked = sorted(members, key=lambda name: abs(measured[name] / measured["found"] - 1))
    randoms = [name for name in ranked if name.startswith("random")][:RANDOM]
    chosen = {
        "found": "found",
        "scaled": next(name for name in ranked if name.startswith("scaled")),
    }
    chosen |= {f"random{number}": name for number, name in enumerate(randoms)}
    for name, source in chosen.items():
        (arguments.keep / name).mkdir(parents=True, exist_ok=True)
        members[source].save(arguments.keep / name / "architecture.yaml")
    with replacing(arguments.keep / MEASUREMENTS) as path:
        path.write_text(json.dumps({name: measured[source] for name, source in chosen.items()}))
    print("measured", file=sys.stderr, flush=True)


def near(
    members: Iterable[Architecture], table: LatencyTable, target_ms: float
) -> list[Architecture]:
    """Return the first distinct members whose predicted latency is near the target."""
    different = {member.operations(): member for member in members}.values()
    return [member for member in different if abs(table.total_ms(member) / target_ms - 1) <= BAND][
        :MEASURED
    ]


def scalings(space: Space, published: Architecture) -> Iterator[Architecture]:
    """Yield the published member with widths, depths or both times every factor up to 1."""
    attention = [
        sum(stages.kind(block) == "global" for block in stage.blocks)
        for stages, stage in zip(space.stages, published.stages, strict=True)
    ]
    # An exponent of 0 leaves widths or depths as they are.
    for factor, (wide, deep) in product(np.arange(1.0, 0.0, -0.01), ((1, 1), (1, 0), (0, 1))):
        widths = [
            nearest(stage.widths, factor**wide * width)
            for stage, width in zip(space.stages, published.widths, strict=True)
        ]
        depths = [
            max(stage.depths[0], round(factor**deep * depth))
            for stage, depth in zip(space.stages, published.depths, strict=True)
        ]
        kept = [min(count, depth) for count, depth in zip(attention, depths, strict=True)]
        name = f"{published.name}-widths{factor**wide:.2f}-depths{factor**deep:.2f}"
        yield space.member(widths, depths, kept, name, as_in(published))


def as_in(published: Architecture) -> Callable[..., BlockSpec]:
    """Return a function that picks the published member's candidates, such as its expansions."""

    def pick(place: Place, candidates: tuple[BlockSpec, ...], shape: Shape) -> BlockSpec:
        own: tuple[BlockSpec | None, ...] = (published.head, published.stem)
        if place.part == "block":
            own = published.stages[place.stage or 0].blocks
        return next((block for block in candidates if block in own), candidates[0])

    return pick


def nearest(widths: tuple[int, ...], wanted: float) -> int:
    return min(widths, key=lambda width: abs(width - wanted))


def trained(arguments: argparse.Namespace, recipe: dict[str, Any], task: tuple[str, int]) -> float:
    """Return the test accuracy in percent after training from random weights with a seed."""
    name, seed = task
    folder = arguments.keep / name
    splits = training_splits(arguments.supernet, arguments.data)
    done = nas.finetune(
        folder / "architecture.yaml",
        splits,
        Recipe(**recipe, seed=seed),
        out=folder / f"seed{seed}",
        from_scratch=True,
    )
    accuracy: float = done.description["accuracy"]["test"]["raw"]["accuracy"]
    print(f"{name}, seed {seed}: {accuracy:.2f} %", file=sys.stderr, flush=True)
    return accuracy


def summary(test: list[float]) -> dict[str, Any]:
    return {
        "test": test,
        "mean": round(float(np.mean(test)), 3),
        "deviation": round(float(np.std(test, ddof=1)), 3),
    }


if __name__ == "__main__":
    main()
