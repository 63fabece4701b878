"""What `nas search` on one device says: the answer as a short table, and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import search_evaluate
from nas.cli.common import say
from nas.cli.table import Column, row_text, table_text

if TYPE_CHECKING:
    from nas.search import Found, Problem, Step
    from nas.search.exact import FrontPoint
    from nas.space import Architecture

_STEPS = (
    Column("step", right=True, width=4),
    Column(width=2),
    Column("move", width=42),
    Column("ms", right=True, width=9),
    Column("saved ms", right=True, width=9),
    Column("points", right=True, width=8),
    Column("in all", right=True, width=8),
)
"""Columns of the table of steps, whose rows are printed as the steps are taken."""
_REASONS = 2
"""How many reasons the answer names for lying outside of the data; run.yaml has all."""


def tell_problem(problem: Problem) -> None:
    """Say what is asked for and, for the engine whose steps are worth watching, begin the table of its steps."""
    say(f"target    {target(problem)}")
    if problem.engine == "slimming":
        say("\n" + row_text(_STEPS, [column.title for column in _STEPS]))


def target(problem: Problem) -> str:
    """Return what is asked for, in one line."""
    device = problem.table.device.name
    limits = [f"{limit}" for limit in problem.limits]
    if problem.max_drop is not None:
        asked = (
            f"at least {problem.min_accuracy:g} %" if problem.min_accuracy is not None
            else f"at most {problem.asked_drop:g} points below the largest member"
        )  # fmt: skip
        limits = [f"fastest with {asked}", *limits]
    if isfinite(problem.target_ms):
        reason = "" if problem.target_reason == "as given" else f": {problem.target_reason} (--latency-ms sets it)"
        limits = [f"{problem.target_ms:.4g} ms{reason}", *limits]
    return f"{', '.join(limits)}, on {device}"


def tell_step(step: Step) -> None:
    """Say one line of the trace."""
    figures = (f"{step.ms:.4f}", f"{step.saved_ms:.4f}", f"{step.cost:+.3f}", f"{step.total_cost:+.3f}")
    say(row_text(_STEPS, (str(step.step), step.action, str(step.move), *figures)))


def row(problem: Problem, arch: Architecture) -> dict[str, Any]:
    """Return the figures of a member: latency and accuracy with their errors, size and shape."""
    from nas.search.mes import mes
    from nas.search.run import expected, latency_error, summary

    ms = problem.latency.measure.total(arch)
    amounts = {limit.measure.key: limit.measure.total(arch) for limit in problem.limits}
    return {
        "latency_ms": ms,
        "latency_error": latency_error(problem, arch),
        "cost": problem.scores.cost(arch),
        "accuracy": None,
        **expected(problem.scores, arch),
        **summary(problem.space, arch),
        **amounts,
        "mes": mes(arch.params, ms),
    }


def published(problem: Problem) -> dict[str, dict[str, Any]]:
    """Return the rows of the published members that the device can run."""
    members = problem.space.published.items()
    return {name: row(problem, arch) for name, arch in members if isfinite(problem.latency.measure.total(arch))}


def document(
    problem: Problem, others: Mapping[str, Found], folder: Path, following: str,
    points: Sequence[FrontPoint] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what was found as plain data, with the front where there is one."""
    from nas.search.run import evaluated, finite, limits, score_by

    table, device, found = problem.table, problem.table.device, others[problem.engine]
    return {
        "space": problem.space.name, "device": device.name, "engine": problem.engine, "candidates": problem.candidates,
        "objective": problem.objective, "target_ms": finite(problem.target_ms), "target_reason": problem.target_reason,
        "limits": limits(problem), "max_drop": problem.asked_drop, "min_accuracy": problem.min_accuracy,
        "steps": len(found.trace), "optimum": _optimum(problem, others),
        "score_by": score_by(problem), **row(problem, found.architecture), **evaluated(found),
        "published": published(problem),
        "table": {"provenance": table.provenance, "expected_error": table.expected_error,
                  "expected_error_source": table.expected_error_source, "path": str(table.path),
                  "soc": device.soc, "os": device.os, "runtime": f"{device.runtime} {device.runtime_version}"},
        "scores": {"provenance": problem.scores.provenance, "path": problem.scores.path},
        "run": str(folder), "architecture": str(folder / "architecture.yaml"), "next": following,
        **({} if points is None else {"front": _front(problem, points)}),
    }  # fmt: skip


def text(problem: Problem, others: Mapping[str, Found], folder: Path, front: int) -> str:
    """Return the answer: the network found, the published members, and what the figures rest on, a line each."""
    found = others[problem.engine]
    rows = {"found": row(problem, found.architecture), **published(problem)}
    lines = [members(rows), ""]
    lines += [f"accuracy  {fact}" for fact in _accuracy_facts(problem, found)]
    lines.append(f"latency   {table_fact(problem)}")
    lines.append(f"engine    {_engine_fact(problem, others)}")
    lines += search_evaluate.evaluated_text(found, problem)
    if front:
        lines.append(f"front     {front} members: {folder / 'front.csv'}, front.png")
    return "\n".join([*lines, f"run       {folder}"])


def members(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the table of members."""
    known = any(each.get("accuracy") for each in rows.values())
    figures = [Column(title, right=True) for title in ("ms", "top-1 %" if known else "points")]
    columns = [Column(), *figures, Column(), Column(), Column("params", right=True), Column("MACs", right=True)]
    shapes = [Column(title) for title in ("widths", "depths", "attention")]
    return table_text([*columns, *shapes], [_cells(name, each) for name, each in rows.items()])


def _cells(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of one member."""
    error = each["latency_error"]
    ms = f"{each['latency_ms']:.2f}" + (f" ± {error:.2f}" if error is not None else "")
    macs = f"{each['macs'] / 1e9:.2f} G" if each["macs"] >= 1e8 else f"{each['macs'] / 1e6:.1f} M"
    shape = ("-".join(map(str, each[key])) for key in ("widths", "depths", "attention"))
    return (name, ms, *accuracy_text(each), f"{each['params'] / 1e6:.1f} M", macs, *shape)


def accuracy_text(each: dict[str, Any]) -> tuple[str, str, str]:
    """Return a member's accuracy, its error and a note on it; its points where only costs are known."""
    known = each.get("accuracy")
    if known is None:
        return f"{-each['cost']:+.2f}", "", ""
    value = known[known["metric"]]
    if known.get("predicted") is not None:
        without = f"{known['predicted']:.1f} ± {known['predicted_error']:.1f}"
        return f"{value:.1f}", "", f"published; without it {without}"
    return f"{value:.1f}", f"± {known['standard_error']:.1f}", ""


def _accuracy_facts(problem: Problem, found: Found) -> list[str]:
    """Return what the accuracies rest on, and what the one found lies outside of."""
    scores = problem.scores
    what = "" if scores.absolute else "points against the largest member, a gain where positive; "
    facts = [f"{what}{scores.provenance}"]
    accuracy = found.accuracy
    if accuracy is not None and accuracy.reasons:
        named = "; ".join(accuracy.reasons[:_REASONS])
        more = len(accuracy.reasons) - _REASONS
        facts.append(
            f"less sure, as it has no published neighbour: {named}" + (f"; and {more} more" if more > 0 else "")
        )
    return facts


def table_fact(problem: Problem) -> str:
    """Return what the latencies rest on."""
    table = problem.table
    error = "unknown error" if table.expected_error is None else f"expected error {table.expected_error:.1f} %"
    return f"{table.provenance} table of {table.device.name}, {error} ({table.expected_error_source})"


def _engine_fact(problem: Problem, others: Mapping[str, Found]) -> str:
    """Return how the answer was found, and how far engines are from the proven optimum."""
    missed = _optimum(problem, others)["missed_by"]
    gaps = [f"{engine} misses it by {points:.2g} points" for engine, points in missed.items()]
    if problem.engine == "exact":
        return "; ".join(["exact: the proven optimum of these figures", *gaps])
    judged = " of the sums, judged by evaluations," if problem.evaluations is not None else ""
    return f"{problem.engine}; of the proven optimum{judged} " + "; ".join(gaps)


def _front(problem: Problem, points: Sequence[FrontPoint]) -> list[dict[str, Any]]:
    """Return the front as plain data; front.csv has what stands at every place."""
    from nas.search.run import accuracy_row, summary

    return [
        {
            "latency_ms": point.ms,
            "cost": point.cost,
            "accuracy": accuracy_row(point.accuracy) if point.accuracy else None,
            **summary(problem.space, point.architecture),
        }
        for point in points
    ]


def _optimum(problem: Problem, others: Mapping[str, Found]) -> dict[str, Any]:
    """Return the proven optimum, and by how many points of the minimised cost each engine misses it."""
    judge = problem.cautious_scores
    best = others["exact"]
    least = judge.cost(best.architecture)
    missed = {
        engine: max(judge.cost(found.architecture) - least, 0.0)
        for engine, found in others.items()
        if engine != "exact"
    }
    return {"latency_ms": best.ms, "cost": best.cost, "missed_by": missed}
