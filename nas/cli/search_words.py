"""What `nas search` on one device says: the problem, the steps, and what was found, as text and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import search_evaluate
from nas.cli.common import say

if TYPE_CHECKING:
    from nas.search import Found, Problem, Step
    from nas.search.exact import FrontPoint
    from nas.space import Architecture


def tell_problem(problem: Problem) -> None:
    """Where scores and table come from, what is asked for, and the head of the steps."""
    tell_scores(problem)
    tell_table(problem)
    for limit in problem.limits:
        say(f"         {limit}")
    say(f"\n{'step':>4}  {'':2}  {'move':<42}{'ms':>9}{'saved ms':>10}{'points':>9}{'in all':>9}")


def tell_scores(problem: Problem) -> None:
    """Where the scores come from, and for what they were measured where that differs."""
    space, scores = problem.space, problem.scores
    say(f"scores   {scores.path}: {scores.provenance}")
    task = " under a segmentation head" if space.heads[0].layout == "pyramid" else ""
    if task or scores.scored.resolution != space.resolution:
        say(f"         measured at {_size(scores.scored.resolution)} with {scores.scored.classes} classes; this search "
            f"is for {_size(space.resolution)} with {space.classes}{task}")  # fmt: skip


def tell_table(problem: Problem) -> None:
    """Where the table comes from, how far it is off, and the target on it."""
    table, device = problem.table, problem.table.device
    error = "unknown" if table.expected_error is None else f"{table.expected_error:.1f} %"
    say(f"table    {table.path}: {table.provenance.upper()}, {len(table.rows)} operations")
    say(f"         {device.name}: {device.soc}, {device.os}, {device.runtime} {device.runtime_version}, "
        f"{device.compute_unit}, {device.precision}")  # fmt: skip
    say(f"         expected error {error} ({table.expected_error_source})")
    ms = f"{problem.target_ms:.4g} ms, " if isfinite(problem.target_ms) else ""
    say(f"target   {ms}{problem.target_reason} (--latency-ms sets it)")


def tell_step(step: Step) -> None:
    """One line of the trace."""
    say(f"{step.step:>4}  {step.action}  {step.move!s:<42}{step.ms:>9.4f}{step.saved_ms:>10.4f}{step.cost:>+9.3f}"
        f"{step.total_cost:>+9.3f}")  # fmt: skip


def _published(problem: Problem) -> dict[str, dict[str, Any]]:
    """The published members by the same table and scores."""
    return {
        name: _row(problem, arch, ms, problem.scores.cost(arch))
        for name, arch in problem.space.published.items()
        if isfinite(ms := problem.latency.measure.total(arch))
    }


def _row(problem: Problem, arch: Architecture, ms: float, cost: float) -> dict[str, Any]:
    from nas.search.mes import mes
    from nas.search.run import summary

    amounts = {limit.measure.key: limit.measure.total(arch) for limit in problem.limits}
    return {"latency_ms": ms, "cost": cost, **summary(problem.space, arch), **amounts, "mes": mes(arch.params, ms)}


def _front(problem: Problem, points: Sequence[FrontPoint]) -> list[dict[str, Any]]:
    """The front as plain data; what stands at every place is in front.csv."""
    from nas.search.run import summary

    return [{"latency_ms": p.ms, "cost": p.cost, **summary(problem.space, p.architecture)} for p in points]


def _optimum(others: Mapping[str, Found]) -> dict[str, Any]:
    """The proven optimum, and by how many points each engine misses it."""
    best = others["exact"]
    missed = {engine: found.cost - best.cost for engine, found in others.items() if engine != "exact"}
    return {"latency_ms": best.ms, "cost": best.cost, "missed_by": missed}


def document(
    problem: Problem, others: Mapping[str, Found], folder: Path, following: str,
    points: Sequence[FrontPoint] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What was found as plain data, with the front where there is one."""
    from nas.search.run import finite, limits, measured, score_by

    table, device, found = problem.table, problem.table.device, others[problem.engine]
    return {
        "space": problem.space.name, "device": device.name, "engine": problem.engine, "candidates": problem.candidates,
        "objective": problem.objective, "target_ms": finite(problem.target_ms), "target_reason": problem.target_reason,
        "limits": limits(problem), "steps": len(found.trace), "optimum": _optimum(others),
        "score_by": score_by(problem), **_row(problem, found.architecture, found.ms, found.cost), **measured(found),
        "published": _published(problem),
        "table": {"provenance": table.provenance, "expected_error": table.expected_error,
                  "expected_error_source": table.expected_error_source, "path": str(table.path),
                  "soc": device.soc, "os": device.os, "runtime": f"{device.runtime} {device.runtime_version}"},
        "scores": {"provenance": problem.scores.provenance, "path": problem.scores.path},
        "run": str(folder), "architecture": str(folder / "architecture.yaml"), "next": following,
        **({} if points is None else {"front": _front(problem, points)}),
    }  # fmt: skip


def text(problem: Problem, others: Mapping[str, Found], folder: Path, front: int) -> str:
    """What was found as a table beside the other engines' answers and the published members."""
    names = {engine: "found" if engine == problem.engine else f"{engine} would find" for engine in others}
    rows = {names[engine]: _row(problem, found.architecture, found.ms, found.cost) for engine, found in others.items()}
    rows |= _published(problem)
    lines = [f"{'':<22}{'ms':>8}{'points':>9}{'params':>10}{'MACs':>10}  {'widths':<18}{'depths':<12}attention"]
    for name, row in rows.items():
        shape = ("-".join(map(str, row[key])) for key in ("widths", "depths", "attention"))
        lines.append(f"{name:<22}{row['latency_ms']:>8.3f}{row['cost']:>+9.2f}{row['params'] / 1e6:>8.2f} M"
                     f"{row['macs'] / 1e9:>8.3f} G  {next(shape):<18}{next(shape):<12}{next(shape)}")  # fmt: skip
    for engine, missed in _optimum(others)["missed_by"].items():
        judged = problem.evaluations is not None and engine == problem.engine
        optimum = "optimum of the sums, judged by evaluations," if judged else "optimum"
        lines.append(f"{engine} misses the proven {optimum} by {missed:.3g} points")
    lines += search_evaluate.evaluated_text(others[problem.engine], problem)
    if front:
        lines.append(f"front    {front} members: {folder / 'front.csv'}, front.png")
    device = problem.table.device.name
    lines += [f"ms are predicted on {device} ({problem.table.provenance} table); points are the expected drop of top-1 "
              "against the space's largest member, a gain where negative", f"run      {folder}"]  # fmt: skip
    return "\n".join(lines)


def _size(resolution: tuple[int, int]) -> str:
    return "x".join(map(str, resolution))
