"""Compare inherited with random weights as the start of a short training. Prints JSON.

    python benchmarks/starts.py SUPERNET [SUPERNET ...] --data DATA --keep FOLDER [--members 4]
        [--epochs 2]

Members are drawn at random, evenly over the range of MACs, as in `ranking_members.py`. Each is trained for a
short while by one recipe: from random weights, and from the weights that it inherits from each
supernet. All are evaluated on the same held-out images. FOLDER keeps the trainings, and the same
command resumes there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ranking_members import drawn
from whole_run import accuracies

import nas
from nas.data import Splits
from nas.finetune.options import Recipe
from nas.space import Architecture
from nas.supernet.checkpoint import extract_to, open_folder
from nas.supernet.evaluate import training_splits
from nas.versions import versions

SCRATCH = "random weights"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("supernet", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    recipe = Recipe(
        epochs=arguments.epochs,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        ema=0.0,
        mix=0.0,
    )
    members = drawn(open_folder(arguments.supernet[0])[2], arguments.members)
    splits = training_splits(arguments.supernet[0], arguments.data)
    rows = [
        {
            "member": member.name,
            "macs": member.macs,
            "accuracy": {
                start: tuned(member, start, splits, recipe, arguments.keep / member.name)
                for start in [SCRATCH, *arguments.supernet]
            },
        }
        for member in members
    ]
    mean = {
        start: round(float(np.mean([row["accuracy"][start]["raw"] for row in rows])), 2)  # type: ignore[index]
        for start in [SCRATCH, *arguments.supernet]
    }
    print(
        json.dumps(
            {
                "supernets": arguments.supernet,
                "recipe": recipe.to_dict(),
                "held_out": len(splits.held_out),
                "rows": rows,
                "mean_after": mean,
                "versions": versions("torch"),
            },
            indent=2,
        )
    )


def tuned(
    member: Architecture, start: str, splits: Splits, recipe: Recipe, keep: Path
) -> dict[str, Any]:
    """Return the held-out accuracy in percent before and after training, kept on disk."""
    keep.mkdir(parents=True, exist_ok=True)
    member.save(keep / "architecture.yaml")
    scratch = start == SCRATCH
    name = "scratch" if scratch else Path(start).name
    weights = None if scratch else keep / f"{name}.safetensors"
    if weights and not weights.exists():
        extract_to(start, member, weights)
    done = nas.finetune(
        keep / "architecture.yaml",
        splits,
        recipe,
        out=keep / name,
        init=weights,
        from_scratch=scratch,
    )
    found = accuracies(done.description["accuracy"]["held_out"])
    print(f"{member.name} from {start}: {found}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
