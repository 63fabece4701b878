"""Scores, evaluation and printed output of `nas search`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.members_table import members_table
from nas.cli.output import Column, row_text, say
from nas.errors import InputError
from nas.space.sizes import size_text
from nas.tasks import metric_words

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.search import Found, Problem, Scores, Step
    from nas.search.engines.exact import FrontPoint
    from nas.search.options import SearchOptions
    from nas.space import Architecture, Space
    from nas.supernet.evaluate import SlicedSupernet


ALPHA = "alpha"
EVALUATE = "evaluate"


def engine_for(score_by: str, engine: str) -> str:
    """Return the engine that "auto" selects for `score_by`, or `engine` itself if not "auto"."""
    if engine != "auto":
        return engine
    return {EVALUATE: "learned", ALPHA: "slimming"}.get(score_by, "auto")


def recorded_by(folder: str, space: Space) -> RecordedScores:
    """Return the recorded scores of a supernet's folder.

    Raises:
        InputError: for scores of another space, of other weights than those in the folder, or of
            another kind.
    """
    from nas.accuracy import RecordedScores, load_scores

    found = load_scores(folder)
    if not isinstance(found, RecordedScores):
        raise InputError(
            f"--supernet {folder}: its scores are not those of a supernet. Fix: give the folder to"
            " --scores"
        )
    # A supernet of another task has a head of its own, and scores in the metric of its task.
    same = found.scored.heads[0].task == space.heads[0].task
    found.check(space if same else space.with_head(*found.scored.heads))
    return found


def scores_for(
    space: Space,
    named: str | None,
    recorded: RecordedScores | None,
    runs: Sequence[str],
    paper: bool,
) -> Scores:
    """Return the scores of a search: the named ones, or the accuracy law corrected by evidence.

    Recorded scores that cannot distinguish moves are left out, and a note says so. With the paper's
    candidates they are used alone, without the law.

    Args:
        space: the space to search.
        named: --scores.
        recorded: the scores that the supernet measured.
        runs: --evidence, folders of trained members.
        paper: whether the search uses the paper's candidates.

    Raises:
        InputError: when scores are given with evidence or with a supernet's own, or when the runs
            and the supernet were measured on different images.
    """
    from nas.accuracy import default_scores, load_scores
    from nas.accuracy.gate import gate
    from nas.accuracy.law_scores import LawScores

    prior = load_scores(named) if named else default_scores(space)
    if recorded is None and not runs:
        return prior
    # Only the law has uncertainties that measurements can reduce. The paper's slimming evaluates
    # moves by the supernet's measurements alone.
    alone = not isinstance(prior, LawScores) or (paper and not runs)
    if named and recorded is not None and (alone or recorded.metric != prior.metric):
        reason = "the search takes the scores that --supernet measured"
        raise InputError(f"--scores {named}: has no effect here ({reason}). Fix: leave it out")
    if not isinstance(prior, LawScores) or alone:
        if runs:
            raise InputError(
                f"--evidence {runs[0]}: corrects the accuracy law, not other scores. Fix: leave out"
                " --scores"
            )
        return recorded or prior
    # Points of one metric say nothing of another one's.
    if recorded is not None and recorded.metric != prior.metric:
        if runs:
            recorded.check_evidence(metric=prior.metric)
        return recorded
    usable = recorded
    if recorded is not None:
        # The gate rejects measurements of an untrained supernet, and those too noisy to distinguish
        # moves. They would only add noise to the law.
        verdict = gate(recorded)
        say(
            f"evidence  {verdict.text}"
            + ("" if verdict.usable else " The accuracy law is used without it.")
        )
        usable = recorded if verdict.usable else None
    from nas.accuracy.evidence import corrected, trained_members

    trained = trained_members(space, runs)
    if recorded is not None and trained:
        recorded.check_evidence(data=trained[0].data, named=f"those of --evidence {runs[0]}")
    return corrected(prior, usable, trained) if usable or trained else prior


def check_score_by(options: SearchOptions, engine: str) -> None:
    """Raise InputError for options of --score-by and --engine that exclude each other."""
    from nas.search.engines import EVALUATING

    if options.score_by != EVALUATE:
        if engine == "learned":
            raise InputError(
                "--engine learned: learns from evaluated members (requires --score-by evaluate)."
                " Fix: add --score-by evaluate"
            )
        if options.score_by == ALPHA and engine != "slimming":
            raise InputError(
                "--score-by alpha: has no effect here (requires --engine slimming, not --engine"
                f" {engine}). Fix: --engine slimming"
            )
        return
    if options.supernet is None or options.data is None:
        missing = (
            "--supernet, the training run to slice"
            if options.supernet is None
            else "--data, the images that the supernet was trained on"
        )
        raise InputError(f"--score-by evaluate: requires {missing}. Fix: add it")
    if len(options.device) > 1 or engine not in EVALUATING:
        several = len(options.device) > 1
        got = f"{len(options.device)} devices" if several else f"--engine {engine}"
        raise InputError(
            f"--score-by evaluate: works on one device, with the engine {' or '.join(EVALUATING)}"
            f" (got {got})"
        )


def sliced_supernet(options: SearchOptions) -> SlicedSupernet | None:
    """Return the evaluator of members, and print its description; None for a search without one."""
    if options.supernet is None or options.data is None:
        return None
    from nas.extras import need

    need("--score-by evaluate", "train")
    from nas.supernet.evaluate import SlicedSupernet

    path = Path(options.supernet)
    source = SlicedSupernet(
        path.parent if path.is_file() else path, options.data, options.evaluate_images
    )
    say(f"evaluator {source.words}")
    return source


def evaluated_by(problem: Problem, source: SlicedSupernet, best: int, folder: Path) -> Problem:
    """Return the problem with an evaluator, which saves its results in the run's folder."""
    from nas.search import Evaluations

    evaluations = Evaluations(source, folder)
    say(
        f"          {len(evaluations)} members are in {folder / 'evaluations.csv'}; after a stop"
        f" the same command resumes with --out {shlex.quote(str(folder))}"
    )
    return replace(problem, evaluations=evaluations, evaluate_best=best)


def learned_by(problem: Problem, scores: Scores, folder: Path) -> Problem:
    """Return the problem with the scores that the search learned, saved in the run's folder."""
    from nas.accuracy import RecordedScores

    scores.save(folder)
    name = "scores.csv" if isinstance(scores, RecordedScores) else "scores.yaml"
    return replace(problem, scores=replace(scores, path=str(folder / name)))  # type: ignore[type-var]


def evaluated_text(found: Found, problem: Problem) -> list[str]:
    """Return the line on the found member's accuracy in the sliced supernet, if evaluated."""
    if found.evaluated is None or found.drop is None or problem.evaluations is None:
        return []
    images = problem.evaluations.source.of["images"]
    count = len(problem.evaluations)
    metric = metric_words(problem.scores.metric)
    return [
        f"evaluated {found.evaluated:.2f} % {metric} in the sliced supernet on {images} held-out"
        f" images, {0.0 - found.drop:+.2f} points against its largest member; {count} members were"
        " evaluated"
    ]


_STEPS = (
    Column("step", right=True, width=4),
    Column(width=2),
    Column("move", width=42),
    Column("ms", right=True, width=9),
    Column("saved ms", right=True, width=9),
    Column("points", right=True, width=8),
    Column("in all", right=True, width=8),
)
"""Columns of the table of steps, with fixed widths, as its rows are printed one by one."""
_REASONS = 2
"""Maximum number of printed reasons for extrapolation; run.yaml has all of them."""


def tell_problem(problem: Problem) -> None:
    """Print the target and, for slimming, the header of its table of steps."""
    say(f"target    {target(problem)}")
    if problem.unscored:
        say(
            "scores    know a part of the choices, and the search keeps to it; left out are choices of"
            f" {'; '.join(problem.unscored)}"
        )
    if problem.unpriced:
        say(
            "latency   the table lacks rows of some expansions, and the search does without them; left"
            f" out are choices of {'; '.join(problem.unpriced)}; nas profile measures them"
        )
    if problem.engine == "slimming":
        say("\n" + row_text(_STEPS, [column.title for column in _STEPS]))


def target(problem: Problem) -> str:
    """Return the limits and the objective of a search in one line."""
    device = problem.table.device.name
    limits = [f"{limit}" for limit in problem.limits]
    if problem.max_drop is not None:
        asked = (
            f"at least {problem.min_accuracy:g} %"
            if problem.min_accuracy is not None
            else f"at most {problem.asked_drop:g} points below the largest member"
        )
        limits = [f"fastest with {asked}", *limits]
    if isfinite(problem.target_ms):
        reason = (
            ""
            if problem.target_reason == "as given"
            else f": {problem.target_reason} (--latency-ms sets it)"
        )
        limits = [f"{problem.target_ms:.4g} ms{reason}", *limits]
    return f"{', '.join(limits)}, on {device}"


def tell_step(step: Step) -> None:
    """Print one line of the trace."""
    figures = (
        f"{step.ms:.4f}",
        f"{step.saved_ms:.4f}",
        f"{step.cost:+.3f}",
        f"{step.total_cost:+.3f}",
    )
    say(row_text(_STEPS, (str(step.step), step.action, str(step.move), *figures)))


def row(problem: Problem, arch: Architecture) -> dict[str, Any]:
    """Return the numbers of a member: latency and accuracy with their errors, size and shape."""
    from nas.search.description import expected, finite, latency_error, summary
    from nas.search.limits import mes

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
        "mes": finite(mes(arch.params, ms)),
    }


def published(problem: Problem) -> dict[str, dict[str, Any]]:
    """Return the rows of the published members that the device can run."""
    members = problem.space.published.items()
    return {
        name: row(problem, arch)
        for name, arch in members
        if isfinite(problem.latency.measure.total(arch))
    }


def document(
    problem: Problem,
    others: Mapping[str, Found],
    folder: Path,
    following: str,
    points: Sequence[FrontPoint] | None = None,
) -> dict[str, Any]:
    """Return the result as plain data, for --json, with the front where there is one."""
    from nas.search.description import (
        SCORES_PRECISION,
        evaluated,
        finite,
        heads,
        limits,
        score_by,
    )

    table = problem.table
    device = problem.table.device
    found = others[problem.engine]
    return {
        "space": problem.space.name,
        "resolution": list(found.architecture.resolution),
        "frozen": list(problem.frozen),
        "heads": heads(problem, found.architecture),
        "device": device.name,
        "engine": problem.engine,
        "candidates": problem.candidates,
        "objective": problem.objective,
        "target_ms": finite(problem.target_ms),
        "target_reason": problem.target_reason,
        "limits": limits(problem),
        "max_drop": problem.asked_drop,
        "min_accuracy": problem.min_accuracy,
        "steps": len(found.trace),
        "optimum": _optimum(problem, others),
        "score_by": score_by(problem),
        **row(problem, found.architecture),
        **evaluated(found),
        "published": published(problem),
        "table": {
            "provenance": table.provenance,
            "expected_error": table.expected_error,
            "expected_error_source": table.expected_error_source,
            "path": str(table.path),
            "soc": device.soc,
            "os": device.os,
            "runtime": f"{device.runtime} {device.runtime_version}",
            "precision": device.precision,
        },
        "scores": {
            "provenance": problem.scores.provenance,
            "path": problem.scores.path,
            "precision": SCORES_PRECISION,
        },
        "run": str(folder),
        "architecture": str(folder / "architecture.yaml"),
        "next": following,
        **({} if points is None else {"front": _front(problem, points)}),
    }


def text(
    problem: Problem,
    others: Mapping[str, Found],
    folder: Path,
    front: int,
    sizes: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the printed result: the table of the found and the published members, and its facts.

    Each fact is one line: accuracy, latency, engine, input sizes, frozen parts, front and folder.
    """
    found = others[problem.engine]
    rows = {"found": row(problem, found.architecture), **published(problem)}
    lines = [members_table(rows), ""]
    lines += [f"accuracy  {fact}" for fact in _accuracy_facts(problem, found)]
    lines.append(f"latency   {table_fact(problem)}")
    lines.append(f"engine    {_engine_fact(problem, others)}")
    lines += evaluated_text(found, problem)
    lines += _head_facts(problem, found)
    lines += [f"size      {_size_fact(each)}" for each in sizes]
    if problem.start is not None:
        lines.append(f"frozen    {', '.join(problem.frozen)}, as in {problem.start.name}")
    if front:
        lines.append(f"front     {front} members: {folder / 'front.csv'}, front.png")
    return "\n".join([*lines, f"run       {folder}"])


def _accuracy_facts(problem: Problem, found: Found) -> list[str]:
    """Return the lines on the source of the accuracies and on why the found one extrapolates."""
    scores = problem.scores
    what = "" if scores.absolute else "points against the largest member, a gain where positive; "
    facts = [f"{what}{scores.provenance}"]
    accuracy = found.accuracy
    if accuracy is not None and accuracy.reasons:
        named = "; ".join(accuracy.reasons[:_REASONS])
        more = len(accuracy.reasons) - _REASONS
        facts.append(
            f"extrapolated, so its error is larger: {named}"
            + (f"; and {more} more" if more > 0 else "")
        )
    estimate = problem.table.device.estimate
    if estimate is not None and estimate.accuracy_cost:
        facts.append(estimate.accuracy_cost)
    if problem.table.device.precision == "int8":
        facts.append(
            "of networks in float32, while the latencies are of int8. nas export RUN --to"
            " litert-int8 --data DATA measures the accuracy in int8"
        )
    return facts


def _size_fact(each: Mapping[str, Any]) -> str:
    """Return the line on the answer at one input size."""
    size = size_text(each["resolution"])
    if "latency_ms" not in each:
        return f"{size}: {each['reason']}"
    accuracy = each["accuracy"]
    value = f"{accuracy[accuracy['metric']]:.1f} ± {accuracy['standard_error']:.1f} %"
    chosen = ", chosen" if each["chosen"] else ""
    return f"{size}: {value} at {each['latency_ms']:.3f} ms{chosen}"


def _head_facts(problem: Problem, found: Found) -> list[str]:
    """Return a line per head that the search chose from, with what the scores know of it."""
    from nas.search.description import heads

    rows = heads(problem, found.architecture)
    varied = [
        name
        for name in (rows[0] if rows else {})
        if name not in ("cost", "chosen") and len({str(row[name]) for row in rows}) > 1
    ]
    return [
        f"head      {', '.join(f'{name} {each[name]}' for name in varied)}:"
        f" {0.0 - each['cost']:+.2f} points{', chosen' if each['chosen'] else ''}"
        for each in rows
    ]


def table_fact(problem: Problem) -> str:
    """Return the line on the table that the latencies come from."""
    table = problem.table
    error = (
        "unknown error"
        if table.expected_error is None
        else f"expected error {table.expected_error:.1f} %"
    )
    return (
        f"{table.provenance} table of {table.device.name} in {table.device.precision}, {error}"
        f" ({table.expected_error_source})"
    )


def _engine_fact(problem: Problem, others: Mapping[str, Found]) -> str:
    """Return the line on the engine, and how far engines are from the proven optimum."""
    missed = _optimum(problem, others)["missed_by"]
    if problem.engine == "exact":
        head = "exact: the proven optimum of these figures"
        optimum = "it"
    else:
        # Where members are evaluated, the engine chooses by evaluated accuracies. The optimum is
        # still that of the scores.
        head = problem.engine
        optimum = "the proven optimum" + (" of the scores" if problem.evaluations else "")
    gaps = [
        f"{engine} misses {optimum} by {points:.2g} points" for engine, points in missed.items()
    ]
    return "; ".join([head, *gaps])


def _front(problem: Problem, points: Sequence[FrontPoint]) -> list[dict[str, Any]]:
    """Return the front as plain data; front.csv also has the block at every place."""
    from nas.search.description import accuracy_row, summary

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
    """Return the latency and cost of the proven optimum, and how far each engine misses it."""
    # Compared by the cost that engines minimise, a bound that includes the uncertainty.
    scores = problem.cautious_scores
    best = others["exact"]
    least = scores.cost(best.architecture)
    missed = {
        engine: max(scores.cost(found.architecture) - least, 0.0)
        for engine, found in others.items()
        if engine != "exact"
    }
    return {"latency_ms": best.ms, "cost": best.cost, "missed_by": missed}
