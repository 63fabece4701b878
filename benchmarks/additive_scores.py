"""Compare summed costs of a supernet's members with their measured drops. Prints JSON.

    python benchmarks/additive_scores.py SUPERNET --data DATA [--held-out 5000]
        [--architectures A.yaml ...]

SUPERNET is a folder of `nas train`, and DATA what it was trained on. The members are the published
ones, the given ones, and random ones. All are evaluated as `nas train` evaluates moves, with
recalibrated batch norms on held-out images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from scipy.stats import kendalltau, spearmanr

import nas
from nas.data import load_data
from nas.supernet.checkpoint import load_supernet
from nas.supernet.sensitivity import LARGEST, Evaluator, Variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("supernet")
    parser.add_argument("--architectures", nargs="*", default=[])
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()

    supernet, description = load_supernet(arguments.supernet)
    space = supernet.space
    scores = nas.load_scores(arguments.supernet)
    splits = load_data(arguments.data, space.resolution, arguments.held_out)
    calibration, held_out = (
        replace(data, images=data.images[:count], labels=data.labels[:count])
        for data, count in ((splits.train, 512), (splits.held_out, arguments.images))
    )
    files = [
        nas.load_architecture(path).at(space.resolution, space.largest().classes)
        for path in arguments.architectures
    ]
    random = [space.sample(seed) for seed in range(arguments.members)]
    members = [space.largest(), *space.published.values(), *files, *random]
    # The walk branches off where a member first differs; what a key says is free but for the
    # largest member's.
    rows = [
        Variant(("member", str(i), "") if i else LARGEST, member)
        for i, member in enumerate(members)
    ]
    bf16 = description["recipe"]["precision"] == "bf16"
    measured = {
        row.key: row for row in Evaluator(supernet, calibration, held_out, bf16=bf16).evaluate(rows)
    }
    accuracies = [measured[row.key].accuracy for row in rows]
    found = [
        {
            "member": member.name,
            "summed_cost": round(scores.cost(member), 2),
            "measured_drop": round(accuracies[0] - accuracy, 2),
            "accuracy": round(accuracy, 2),
        }
        for member, accuracy in zip(members, accuracies, strict=True)
    ]
    summed, drops = ([row[key] for row in found[1:]] for key in ("summed_cost", "measured_drop"))
    print(
        json.dumps(
            {
                "supernet": arguments.supernet,
                "images": len(held_out),
                "members": found,
                "kendall_tau": round(float(kendalltau(summed, drops).statistic), 3),
                "spearman": round(float(spearmanr(summed, drops).statistic), 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
