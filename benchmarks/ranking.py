"""Compare the ranking of members by inherited accuracy with that by training alone. Prints JSON.

    python benchmarks/ranking.py SUPERNET --data DATA --keep FOLDER [--members 20] [--epochs 10]

SUPERNET is a folder of `nas train`, and DATA what it was trained on. Members are drawn at random from
its space, evenly over the range of MACs. Each is evaluated with the weights that it inherits (batch
norms recalibrated), then trained alone from random weights by one recipe. Both accuracies are on the
same held-out images, and Kendall's tau compares their orders. FOLDER keeps the trainings: the same
command resumes there, and several supernets of one space share them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

import nas
from nas.data import Splits
from nas.finetune.options import Recipe
from nas.space import Architecture, Space
from nas.supernet.evaluate import SlicedSupernet, training_splits
from nas.versions import versions

CANDIDATES = 400
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("supernet", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--images", type=int, default=5000, help="held-out images, at most")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    recipe = Recipe(
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        ema=0.0,
        mix=0.0,
    )
    judges = {
        root: SlicedSupernet(root, arguments.data, arguments.images) for root in arguments.supernet
    }
    space = next(iter(judges.values())).space
    members = drawn(space, arguments.members)
    splits = training_splits(arguments.supernet[0], arguments.data)
    alone = [trained_alone(member, splits, recipe, arguments.keep) for member in members]
    found = {root: compared(judge, members, alone) for root, judge in judges.items()}
    print(
        json.dumps(
            {
                "space": space.name,
                "members": len(members),
                "recipe": recipe.to_dict(),
                "supernets": found,
                "rows": [
                    {"member": member.name, "macs": member.macs, "alone": accuracy}
                    for member, accuracy in zip(members, alone, strict=True)
                ],
                "versions": versions("torch"),
            },
            indent=2,
        )
    )


def drawn(space: Space, count: int) -> list[Architecture]:
    """Return distinct random members, evenly spread over the ranks of MACs."""
    # Members of the same operations are the same network.
    known = {member.operations(): member for member in map(space.sample, range(CANDIDATES))}
    ranked = sorted(known.values(), key=lambda member: member.macs)
    # Evenly spaced by rank in MACs, with both ends.
    return [ranked[(len(ranked) - 1) * number // (count - 1)] for number in range(count)]


def trained_alone(member: Architecture, splits: Splits, recipe: Recipe, keep: Path) -> float:
    """Return the held-out accuracy in percent after training from random weights, kept on disk."""
    folder = keep / member.name
    folder.mkdir(parents=True, exist_ok=True)
    member.save(folder / "architecture.yaml")
    done = nas.finetune(
        folder / "architecture.yaml", splits, recipe, out=folder / "alone", from_scratch=True
    )
    accuracy = float(done.description["accuracy"]["held_out"]["raw"]["accuracy"])
    print(
        f"{member.name}: {member.macs / 1e6:.1f} M MACs, {accuracy:.2f} %",
        file=sys.stderr,
        flush=True,
    )
    return accuracy


def compared(
    judge: SlicedSupernet, members: list[Architecture], alone: list[float]
) -> dict[str, Any]:
    """Return Kendall's tau with the 5th and 95th percentile over members drawn with replacement."""
    evaluated = dict(judge.evaluate(judge.space.largest(), members))
    inherited = [evaluated[member].accuracy for member in members]
    generator = np.random.default_rng(0)
    draws = (generator.integers(len(members), size=len(members)) for _ in range(RESAMPLES))
    taus = [kendalltau(np.take(inherited, draw), np.take(alone, draw)).statistic for draw in draws]
    macs = [member.macs for member in members]
    return {
        "kendall_tau": round(float(kendalltau(inherited, alone).statistic), 3),
        "kendall_tau_5_95": [round(float(value), 3) for value in np.nanpercentile(taus, [5, 95])],
        "spearman": round(float(spearmanr(inherited, alone).statistic), 3),
        "kendall_tau_of_macs": round(float(kendalltau(macs, alone).statistic), 3),
        "inherited": [round(accuracy, 2) for accuracy in inherited],
        "judged_by": judge.words,
    }


if __name__ == "__main__":
    main()
