"""Describe a search as plain data: members, limits, accuracies, inputs, versions and checksums.

Run folders (`nas.search.record`), the command line and reports are made of it.
"""

from __future__ import annotations

from datetime import datetime, timezone
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from nas.accuracy import Accuracy, RecordedScores, Scores
from nas.accuracy.law_scores import LawScores
from nas.accuracy.posterior_scores import PosteriorScores
from nas.files import file_sha256, text_sha256
from nas.latency.table import TABLE_FILE
from nas.passwords import masked
from nas.search.engines import STUDIES
from nas.search.problem import Found, Problem
from nas.space import Architecture, Space
from nas.versions import versions

SCORES_PRECISION = "float32"
"""Precision of the networks whose accuracies scores predict: those that were published."""


def summary(space: Space, arch: Architecture) -> dict[str, Any]:
    """Return a member's widths, depths, global blocks per stage, parameters and MACs as data."""
    attention = [
        sum(choice.kind(block) == "global" for block in stage.blocks)
        for choice, stage in zip(space.stages, arch.stages, strict=True)
    ]
    return {
        "widths": list(arch.widths),
        "depths": list(arch.depths),
        "attention": attention,
        "params": arch.params,
        "macs": arch.macs,
    }


def published(problem: Problem, found: Architecture | None = None) -> dict[str, dict[str, Any]]:
    """Return the published members that the device can run, by name.

    The key `difference` has by how many points `found` is expected to be more accurate than the
    member, and the standard error of that.
    """
    rows = {}
    for name, arch in problem.space.published.items():
        ms = problem.latency.measure.total(arch)
        if not isfinite(ms):
            continue
        rows[name] = {
            "latency_ms": ms,
            "latency_error": latency_error(problem, arch),
            "cost": problem.scores.cost(arch),
            "keeps_limits": keeps_limits(problem, arch),
            **summary(problem.space, arch),
            **expected(problem.scores, arch),
            **({} if found is None else difference(problem.scores, found, arch)),
        }
    return rows


def keeps_limits(problem: Problem, arch: Architecture) -> bool:
    """Return whether a member keeps all limits of a search, also the one on its accuracy."""
    # The tolerance in points is for rounding: the exact engine compares with the same one.
    enough = (
        problem.max_drop is None or problem.cautious_scores.cost(arch) <= problem.max_drop + 1e-9
    )
    return enough and all(limit.holds(arch) for limit in problem.every_limit)


def latency_error(problem: Problem, arch: Architecture) -> float | None:
    """Return the standard error of a predicted latency in ms; None for a table without a check."""
    return problem.table.predict(arch).standard_error


def expected(scores: Scores, arch: Architecture) -> dict[str, Any]:
    """Return the key `accuracy` of a member; nothing where the scores know costs only."""
    return {"accuracy": accuracy_row(scores.accuracy(arch))} if scores.absolute else {}


def difference(scores: Scores, arch: Architecture, other: Architecture) -> dict[str, Any]:
    """Return the key `difference`: by how many points `arch` is expected to be above `other`.

    The standard error includes that of published numbers, because `Scores.difference_error`
    compares predictions only.
    """
    points = scores.cost(other) - scores.cost(arch)
    errors = [scores.difference_error(arch, other)]
    if scores.absolute:
        known = [scores.accuracy(member) for member in (arch, other)]
        errors += [accuracy.standard_error for accuracy in known if accuracy.published]
    # Independent errors: their squares add up.
    return {"difference": {"points": points, "standard_error": hypot(*errors)}}


def accuracy_row(accuracy: Accuracy) -> dict[str, Any]:
    """Return an expected accuracy as plain data, its value in percent by the name of its metric.

    For a published member at its published size the value is the published one. There `predicted`
    and `predicted_error` are of the prediction that was made without it.
    """
    row = {
        accuracy.metric: accuracy.value,
        "standard_error": accuracy.standard_error,
        "metric": accuracy.metric,
        "source": accuracy.source,
        "extrapolated": accuracy.extrapolated,
        "reasons": list(accuracy.reasons),
    }
    if accuracy.published:
        row |= {"predicted": accuracy.predicted, "predicted_error": accuracy.predicted_error}
    return row


def heads(problem: Problem, arch: Architecture) -> list[dict[str, Any]]:
    """Return one row per head that a search chose from: its cost and whether `arch` has it.

    Costs are points below the largest member's head. There are no rows where the space has one head.
    """
    space = problem.space
    scores = problem.scores
    if len(space.heads) < 2:
        return []
    largest = scores.head_cost(space.largest().head)
    return [
        {
            **head.to_dict(),
            "cost": scores.head_cost(head) - largest,
            "chosen": head == arch.head,
        }
        for head in space.heads
    ]


def kind_of(scores: Scores) -> str:
    """Return the kind of scores: law, recorded, posterior, or the name of their class."""
    kinds = {LawScores: "law", RecordedScores: "recorded", PosteriorScores: "posterior"}
    return next(
        (kind for known, kind in kinds.items() if isinstance(scores, known)), type(scores).__name__
    )


def scores_digest(scores: Scores) -> str:
    """Return a short checksum that identifies these scores on every machine."""
    return text_sha256(scores.fingerprint)[:16]


def _described_scores(scores: Scores, kept: Path | None) -> dict[str, Any]:
    about = {
        "provenance": scores.provenance,
        "kind": kind_of(scores),
        "metric": scores.metric,
        "absolute": scores.absolute,
        "fingerprint": scores_digest(scores),
        "precision": SCORES_PRECISION,
    }
    if isinstance(scores, PosteriorScores):
        about |= {"evidence_share": scores.evidence_share, "observed": scores.observed}
    measured_with = scores.measured_with if isinstance(scores, RecordedScores) else None
    if measured_with is not None:
        about["data"] = measured_with.data
    return about | _file(kept or scores.path)


def describe(problem: Problem, kept_scores: Path | None = None) -> dict[str, Any]:
    """Return all inputs of a search, with versions and checksums.

    Args:
        problem: the search.
        kept_scores: file of the run with its scores, where these were not read from a file.
    """
    space = problem.space
    table = problem.table
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "space": {
            "name": space.name,
            "resolution": list(space.resolution),
            "classes": space.classes,
            **_frozen(problem),
            **_file(space.path),
        },
        "table": {
            "device": table.device.name,
            "kind": table.device.kind,
            "soc": table.device.soc,
            "os": table.device.os,
            "runtime": f"{table.device.runtime} {table.device.runtime_version}",
            "precision": table.device.precision,
            "provenance": table.provenance,
            "expected_error": table.expected_error,
            "expected_error_source": table.expected_error_source,
            **(_file(table.path / TABLE_FILE) if table.path else {}),
        },
        "scores": _described_scores(problem.scores, kept_scores),
        "score_by": score_by(problem),
        "target": {
            "latency_ms": finite(problem.target_ms),
            "reason": problem.target_reason,
            **limits(problem),
            **_asked_accuracy(problem),
        },
        "engine": {
            "name": problem.engine,
            "candidates": problem.candidates,
            "objective": problem.objective,
            **_study(problem),
        },
    }


def _frozen(problem: Problem) -> dict[str, Any]:
    """Return the parts that were not searched, and the name of the member that they are of."""
    if problem.start is None:
        return {}
    return {"frozen": list(problem.frozen), "start": problem.start.name}


def _asked_accuracy(problem: Problem) -> dict[str, float]:
    """Return the accuracy limit of a search for the fastest member, as it was given."""
    asked = {"min_accuracy": problem.min_accuracy, "max_drop": problem.asked_drop}
    return {name: value for name, value in asked.items() if value is not None}


def evaluated(found: Found) -> dict[str, float]:
    """Return the evaluated accuracy and drop, and the number of trials, where there are any."""
    trials = {} if found.trials is None else {"trials": found.trials}
    if found.evaluated is None or found.drop is None:
        return {**trials}
    return {"evaluated": found.evaluated, "drop": found.drop, **trials}


def limits(problem: Problem) -> dict[str, float]:
    """Return the limits other than latency, by name."""
    return {limit.measure.key: limit.most for limit in problem.limits}


def finite(ms: float) -> float | None:
    """Return `ms`, or None for the infinite target of a search without one, which JSON lacks."""
    return ms if isfinite(ms) else None


def score_by(problem: Problem) -> dict[str, Any]:
    """Return what the moves of slimming are scored by."""
    evaluations = problem.evaluations
    if evaluations is None:
        return {"name": "alpha" if problem.candidates == "paper" else "table"}
    return {
        "name": "evaluate",
        "best": problem.evaluate_best,
        "judge": evaluations.source.words,
        **evaluations.source.of,
    }


def _study(problem: Problem) -> dict[str, Any]:
    """Return the settings of an engine that samples members; the others have no seed."""
    if problem.engine not in STUDIES:
        return {"seed": None}
    study = problem.study
    return {
        "seed": study.seed,
        "trials": study.trials,
        "workers": study.workers,
        "study": study.study,
        "storage": study.storage and masked(study.storage),
    }


def _file(path: str | Path) -> dict[str, str]:
    """Return an input file and its SHA-256; empty for what was made in memory."""
    if not str(path):
        return {}
    return {"file": str(path), "sha256": file_sha256(path)}
