"""Compare rankings by the accuracy law and by supernets with training alone. Prints JSON.

    python benchmarks/evidence.py

It reads the recorded ranking experiment (`experiments/ranking`): twenty members of a space of 768
for 32x32 images, each trained alone, and the accuracies that they inherit from four supernets. It
prints Kendall's tau with the accuracies alone, for the law, the logarithms of MACs and parameters,
each supernet, and the law corrected by it (`nas.accuracy.posterior`). Nothing was fitted to the
accuracies. Percentiles are over members drawn with replacement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas.accuracy import default_scores
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior import Observation, Posterior
from nas.space import load_space
from nas.tasks.classify import accuracy_error
from nas.versions import versions

ROOT = Path(__file__).parents[1]
HELD_OUT = 5000
"""Number of images of the recorded accuracies."""
RESAMPLES = 2000


def main() -> None:
    recorded = json.loads((ROOT / "experiments" / "ranking" / "result.json").read_text())
    space = load_space(str(ROOT / "benchmarks" / "spaces" / f"{recorded['space']}.yaml"))
    law = default_scores(space)
    assert isinstance(law, LawScores)
    members = [space.sample(int(row["member"].rpartition("sample")[2])) for row in recorded["rows"]]
    alone = np.array([row["alone"] for row in recorded["rows"]])
    supernets = {}
    for name, measured in recorded["supernets"].items():
        inherited = measured["inherited"]
        level = max(inherited)
        errors = [accuracy_error(each, HELD_OUT) for each in inherited]
        seen = [
            Observation(arch, level - each, error)
            for arch, each, error in zip(members, inherited, errors, strict=True)
        ]
        posterior = Posterior(law, seen, level, name)
        scores = posterior.expected()
        supernets[name] = {
            "supernet_alone": tau(inherited, alone),
            "prior_and_evidence": tau([-scores.cost(arch) for arch in members], alone),
            "evidence_share": round(scores.evidence_share, 3),
            "scale": round(posterior.fit.scale, 3),
        }
    together = [each["prior_and_evidence"]["tau"] for each in supernets.values()]
    print(
        json.dumps(
            {
                "members": len(members),
                "law": tau([-law.cost(arch) for arch in members], alone),
                "macs": tau([arch.macs for arch in members], alone),
                "parameters": tau([arch.params for arch in members], alone),
                "supernets": supernets,
                "prior_and_evidence_mean": round(float(np.mean(together)), 3),
                "prior_and_evidence_least": min(together),
                "versions": versions("scipy"),
            },
            indent=2,
        )
    )


def tau(values: Any, alone: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return Kendall's tau, and its 5th and 95th percentile over members drawn with replacement."""
    values = np.asarray(values, dtype=float)
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    taus = [float(kendalltau(values[draw], alone[draw])[0]) for draw in draws]
    return {
        "tau": round(float(kendalltau(values, alone)[0]), 3),
        "percentile_5": round(float(np.nanpercentile(taus, 5)), 3),
        "percentile_95": round(float(np.nanpercentile(taus, 95)), 3),
    }


if __name__ == "__main__":
    main()
