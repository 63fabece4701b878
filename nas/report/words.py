"""What a run found and how far it can be trusted, in sentences: what a report begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from nas.report.plane import Point
from nas.report.run import RunReport
from nas.search.limits import MACS, PARAMS

SAME = 0.005
"""Points of top-1 that are shown as equal."""
LIMITS: Mapping[str, Callable[[float], str]] = {
    "macs": MACS.text,
    "params": PARAMS.text,
    "memory_mb": lambda most: f"{most:.4g} MB peak memory",
}
"""How much of something, for limits beside latency."""


@dataclass(frozen=True)
class Tile:
    """One figure that a reader should see first."""

    label: str
    value: str
    about: str


def tiles(run: RunReport) -> tuple[Tile, ...]:
    """The figures of a run: latency, accuracy, size."""
    result, target = run.about.result, run.about.target.latency_ms
    aim = f"target {target:.4g} ms" if target is not None else "no target"
    found = [Tile("Latency", f"{result.latency_ms:.4g} ms", f"predicted on {run.device}; {aim}")]
    check = run.breakdown
    if check and check.measured_ms is not None:
        error = "" if check.error_percent is None else f"; the prediction is {check.error_percent:+.1f} % off"
        found.append(Tile("Measured", f"{check.measured_ms:.4g} ms", f"on {check.device}{error}"))
    gain = "; below zero is a gain" if result.cost < 0 else ""
    found.append(Tile("Expected accuracy drop", f"{signed(result.cost)} points",
                      f"of top-1, against the space's largest member{gain}"))  # fmt: skip
    if result.accuracy is not None and result.drop is not None:
        found.append(Tile("Accuracy in the supernet", f"{result.accuracy:.2f} %",
                          f"top-1 of its slice; {_below(result.drop)} the largest member's"))  # fmt: skip
    for fit in run.fits:
        if fit.best:
            found.append(Tile(f"Accuracy, {fit.name}", f"{fit.best.accuracy:.2f} %",
                              f"top-1 on {fit.best.images} {fit.best.part}"))  # fmt: skip
    found.append(Tile("Parameters", f"{result.params / 1e6:.2f} M", f"{result.macs / 1e9:.3f} G multiply-accumulates"))
    return tuple(found)


def meaning(run: RunReport) -> tuple[str, ...]:
    """What was found, and what that means beside the published members and the proven optimum."""
    about, result = run.about, run.about.result
    target = about.target
    limits = [f"at most {target.latency_ms:.4g} ms ({target.reason})"] if target.latency_ms is not None else []
    limits += [f"at most {LIMITS[name](most)}" for name, most in target.limits.items()]
    sentences = [
        f"Asked for {' and '.join(limits) or 'no limit'} on {run.device}, the engine '{about.engine.name}' found a "
        f"member of space '{about.space.name}' that is predicted to take {result.latency_ms:.4g} ms: widths "
        f"{_dashed(result.widths)}, depths {_dashed(result.depths)}, attention blocks {_dashed(result.attention)} in "
        "its four stages."
    ]
    near = min(run.front.published, key=lambda point: abs(point.ms - result.latency_ms), default=None)
    if near and near.ms:
        sentences.append(_beside(near, run))
    if run.front.points:
        sentences.append(_optimum(run))
    return tuple(sentences)


def _beside(near: Point, run: RunReport) -> str:
    result = run.about.result
    ms, points = 100 * (result.latency_ms / near.ms - 1), near.cost - result.cost
    pace = "as fast" if abs(ms) < 0.5 else f"{abs(ms):.0f} % {'slower' if ms > 0 else 'faster'}"
    worth = (
        "as accurate" if abs(points) < SAME else f"{abs(points):.2f} points {'more' if points > 0 else 'less'} accurate"
    )
    return (
        f"Of the published members {near.label} is nearest in latency ({near.ms:.4g} ms, drop {signed(near.cost)} "
        f"points): the found network is predicted to be {pace} and, by these scores, expected to be {worth}."
    )


def _optimum(run: RunReport) -> str:
    target = run.front.target_ms
    within = [point for point in run.front.points if point.ms <= target * (1 + 1e-9)]
    if not isfinite(target) or not within:
        others = " within the other limits" if run.about.target.limits else ""
        return f"The Pareto front of the space{others} has {len(run.front.points)} members."
    best = min(within, key=lambda point: point.cost)
    missed, limits = run.about.result.cost - best.cost, "limits" if run.about.target.limits else "target"
    if missed < SAME:
        return f"By these latencies and scores that is the proven optimum: no member within the {limits} costs less."
    if run.about.result.accuracy is not None:
        return (
            f"By the sums of scores the best within the {limits} has a drop of {signed(best.cost)} points at "
            f"{best.ms:.4g} ms, {missed:.2f} points from this network, which its accuracy in the supernet chose."
        )
    return (
        f"The proven optimum within the {limits} has a drop of {signed(best.cost)} points at {best.ms:.4g} ms: "
        f"this search missed it by {missed:.2f} points (nas search --engine exact finds it)."
    )


def trust(run: RunReport) -> tuple[tuple[str, str], ...]:
    """Why to believe the figures, and how far: a heading and sentences each."""
    return (("Latency", _latency(run)), ("Accuracy", _accuracy(run)))


def _latency(run: RunReport) -> str:
    table = run.about.table
    error = (
        "its error on whole networks is not known" if table.expected_error is None
        else f"its expected error on whole networks is {table.expected_error:.1f} %"
    )  # fmt: skip
    text = f"The table of {table.device} is {table.provenance}; {error} ({table.expected_error_source})."
    if table.provenance == "estimated":
        text += " Nobody measured its rows on the device: they follow from published latencies."
    check = run.breakdown
    if check and check.measured_ms is not None and check.predicted_ms is not None:
        error = "" if check.error_percent is None else f", {check.error_percent:+.1f} % off"
        text += (f" This network was measured: {check.measured_ms:.4g} ms, predicted were {check.predicted_ms:.4g} ms"
                 f"{error} ({check.measured}).")  # fmt: skip
    else:
        text += " This network itself was not measured yet."
    return text


def _accuracy(run: RunReport) -> str:
    text = f"The expected drop adds up what single moves cost: {run.about.scores.provenance}."
    scores = run.scores
    if scores and scores.baseline_accuracy is not None and scores.images:
        share = scores.baseline_accuracy / 100
        error = 100 * sqrt(share * (1 - share) / scores.images)
        text += (f" The largest member has {scores.baseline_accuracy:.1f} % there, over {scores.images} images: one "
                 f"such accuracy has a standard error of {error:.1f} points.")  # fmt: skip
    if scores and scores.scored.resolution != run.architecture.resolution:
        text += (f" The moves were judged at {_size(scores.scored.resolution)} pixels with {scores.scored.classes} "
                 f"classes, this network is for {_size(run.architecture.resolution)} with "
                 f"{run.architecture.classes}.")  # fmt: skip
    if run.about.result.cost < 0:
        text += (
            " A drop below zero means that the largest member was too large for that training, not a gain to expect."
        )
    result, judge = run.about.result, run.about.score_by.judge
    if result.accuracy is not None and result.drop is not None:
        text += (f" The search judged each of its steps by {judge}: the found network's slice has "
                 f"{result.accuracy:.2f} % there, {_below(result.drop)} that of the largest member.")  # fmt: skip
    done = [(fit, fit.best) for fit in run.fits if fit.best]
    for fit, best in done:
        text += (f" Measured after {fit.name}: {best.accuracy:.2f} ± {best.standard_error:.2f} % on {best.images} "
                 f"{best.part} ({fit.provenance}).")  # fmt: skip
    if not done and result.accuracy is None:
        text += " The found network's own accuracy was not measured yet."
    return text


def comparing(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """What to mind when several runs stand side by side."""
    notes = []
    if len({run.device for run in runs}) > 1:
        notes.append("The runs are for different devices: their latencies say nothing about one another.")
    if len({(run.about.space.name, run.about.scores.sha256) for run in runs}) > 1:
        notes.append("The drops are against different largest members, or from different scores: they cannot be "
                     "compared between the runs, only within one. Accuracies after fine-tuning can.")  # fmt: skip
    return tuple(notes)


def _below(drop: float) -> str:
    return f"{abs(drop):.2f} points {'above' if drop < 0 else 'below'}"


def signed(points: float) -> str:
    """A drop with its sign, by a real minus."""
    return f"{points:+.2f}".replace("-", "\N{MINUS SIGN}")


def _dashed(values: Sequence[int]) -> str:
    return "-".join(map(str, values))


def _size(resolution: Sequence[int]) -> str:
    return "x".join(map(str, resolution))
