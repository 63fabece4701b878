"""Compare augmentations by held-out accuracy after a training of equal length. Prints JSON.

    python benchmarks/augmentation.py --data DATA --keep FOLDER [--space efficientformer_small]
        [--augment light standard] [--epochs 8] [--seeds 0 1 2] [--limit 10000] [--resolution 32]

Each augmentation trains a supernet with each seed by `nas train`. The seed decides the weights, the
order and the choices of a training, and which images are held out. So trainings of one seed are
compared in pairs, on the same held-out images. FOLDER keeps the trainings, and the same command
resumes there.

    difference      mean over the seeds of top-1 above that of the first augmentation, in points
    standard_error  of that mean, by the spread over the seeds; null for one seed
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from nas.versions import versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--space", default="efficientformer_small")
    parser.add_argument("--augment", nargs="+", default=["light", "standard"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    accuracies = {
        augment: [trained(chosen, augment, seed) for seed in chosen.seeds]
        for augment in chosen.augment
    }
    first = accuracies[chosen.augment[0]]
    print(
        json.dumps(
            {
                "space": chosen.space,
                "epochs": chosen.epochs,
                "seeds": chosen.seeds,
                "limit": chosen.limit,
                "resolution": chosen.resolution,
                "batch": chosen.batch,
                "top1": accuracies,
                "against": chosen.augment[0],
                **{augment: paired(first, accuracies[augment]) for augment in chosen.augment[1:]},
                "versions": versions("torch", "torchvision"),
            },
            indent=2,
        )
    )


def trained(chosen: argparse.Namespace, augment: str, seed: int) -> float:
    """Return held-out top-1 in percent of a supernet's largest member after its last epoch."""
    out = chosen.keep / f"{augment}-{chosen.epochs}-{seed}"
    command = [
        *(sys.executable, "-m", "nas", "train", "--space", chosen.space, "--data", chosen.data),
        *("--augment", augment, "--epochs", str(chosen.epochs), "--seed", str(seed)),
        *("--resolution", str(chosen.resolution), "--batch", str(chosen.batch)),
        *("--score-images", "2", "--score-widths", "1", "--out", str(out), "--quiet"),
    ]
    if chosen.limit:
        command += ["--limit", str(chosen.limit)]
    # What is printed there must not get into the JSON.
    subprocess.run(command, check=True, stdout=sys.stderr)
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        evaluated = [row["held_out"] for row in csv.DictReader(file) if row["held_out"]]
    print(f"{out.name}: {evaluated[-1]} %", file=sys.stderr, flush=True)
    return float(evaluated[-1])


def paired(first: list[float], other: list[float]) -> dict[str, Any]:
    """Return the mean difference of trainings with equal seeds, and its standard error."""
    differences = [b - a for a, b in zip(first, other, strict=True)]
    error = None
    if len(differences) > 1:
        error = round(statistics.stdev(differences) / math.sqrt(len(differences)), 3)
    return {"difference": round(statistics.mean(differences), 3), "standard_error": error}


if __name__ == "__main__":
    main()
