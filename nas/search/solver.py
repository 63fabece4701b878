"""Check the input of a search and call its engine: `search`, `pose` and `solve`.

The public API and the command line call it. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from nas.accuracy import Scores
from nas.accuracy.evaluations import Evaluations
from nas.blocks import HeadSpec
from nas.errors import InputError, check_count, check_number, check_type, nearest
from nas.latency import LatencyTable, MissingRows
from nas.search.engines import AUTO, ENGINES, EVALUATING
from nas.search.engines.optuna.storage import StudySettings
from nas.search.fastest import fastest, least, priced_part
from nas.search.graph import Graph, same_head
from nas.search.limits import Limit, further_limits, rounded
from nas.search.problem import Candidates, Found, Objective, OutOfReach, Problem, Step
from nas.space import Architecture, Space
from nas.space.freezing import freeze as freeze_parts


def search(
    space: Space,
    table: LatencyTable,
    scores: Scores,
    latency_ms: float | None = None,
    engine: str = AUTO,
    candidates: Candidates = "all",
    on_step: Callable[[Step], None] | None = None,
    limits: Mapping[str, float] | None = None,
    objective: Objective = "limits",
    study: StudySettings | None = None,
    evaluations: Evaluations | None = None,
    evaluate_best: int = 8,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    freeze: Sequence[str] = (),
    start: Architecture | None = None,
) -> Found:
    """Return the most accurate member of `space` within `latency_ms` on the table's device.

    With `min_accuracy` or `max_drop` it returns the fastest member of that accuracy instead.

    Args:
        space: to search.
        table: predicts latencies on a device.
        scores: predict accuracies.
        latency_ms: maximum latency. Without any limit it is the predicted latency of the smallest
            published member, or half of the largest member's where none is published.
        engine: "auto", "exact" (proven best by the scores), "slimming" (greedy, one move at a time,
            then trades), "learned" (corrects the scores by members that it evaluates), "nsga2" or
            "tpe" (try members out). "auto" takes "learned" where members are evaluated, "slimming"
            for its own options, and "exact" otherwise.
        candidates: moves that slimming weighs, "all" legal ones or those of the "paper".
        on_step: called with every step as it is taken.
        limits: further limits: maximum "macs", "params" and "memory_mb" (peak activation memory).
        objective: what a move of slimming gains for its cost: "limits", a limited amount, or "mes",
            EfficientFormerV2's score of size and speed.
        study: trials and seed of "learned", "nsga2" and "tpe", storage and workers of the last two.
        evaluations: evaluates members for "slimming" and "learned" in place of additive scores, for
            example by the accuracy of the sliced supernet:
            `Evaluations(nas.supernet.evaluate.SlicedSupernet(folder, data))`.
        evaluate_best: how many moves of a step slimming evaluates, those best by the scores.
        min_accuracy: minimum expected accuracy in percent, less what might be lost outside of the
            data. Requires scores that know a level, and the engine "exact".
        max_drop: maximum points below the largest member, counted in the same way. Requires the
            engine "exact".
        freeze: parts that stay as they are in `start`: "stem", "stage1" and so on, or "head".
        start: the member that `freeze` takes its parts of (default: the published one with the
            fewest parameters, or else the largest). Without any limit its latency is the maximum.

    Raises:
        InputError: as `pose`, and where no member keeps all limits together.
        NasError: the engine cannot reach a target that some member meets.
    """
    return solve(
        pose(
            space,
            table,
            scores,
            latency_ms,
            engine=engine,
            candidates=candidates,
            on_step=on_step,
            limits=limits,
            objective=objective,
            study=study,
            evaluations=evaluations,
            evaluate_best=evaluate_best,
            min_accuracy=min_accuracy,
            max_drop=max_drop,
            freeze=freeze,
            start=start,
        )
    )


def solve(problem: Problem) -> Found:
    """Return what the problem's engine finds, named after space, device and latency."""
    found = ENGINES[problem.engine](problem)
    name = f"{problem.space.name}-{problem.table.device.name}-{found.ms:.3g}ms"
    return replace(found, architecture=replace(found.architecture, name=name))


def pose(
    space: Space,
    table: LatencyTable,
    scores: Scores,
    latency_ms: float | None = None,
    engine: str = AUTO,
    candidates: Candidates = "all",
    on_step: Callable[[Step], None] | None = None,
    limits: Mapping[str, float] | None = None,
    objective: Objective = "limits",
    study: StudySettings | None = None,
    evaluations: Evaluations | None = None,
    evaluate_best: int = 8,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    freeze: Sequence[str] = (),
    start: Architecture | None = None,
) -> Problem:
    """Return the checked input of a search, with an engine that is not "auto".

    The arguments are those of `search`.

    Raises:
        OutOfReach: no member keeps a limit; the message names the smallest possible amount.
        InputError: an engine is unknown, the scores are of another space, the table lacks a row, or
            the space does not have a part to freeze.
    """
    check_type("space", space, Space, "nas.load_space")
    check_type("table", table, LatencyTable, "nas.load_table")
    check_type("scores", scores, Scores, "nas.load_scores")
    latency_ms = _number("latency target", latency_ms)
    min_accuracy = _number("min_accuracy", min_accuracy)
    max_drop = _number("max_drop", max_drop)
    limits = _numbers(limits)
    evaluate_best = check_count("evaluate_best", evaluate_best, least=1)
    _check_objects(on_step, study, evaluations)
    engine = _checked_engine(engine, candidates, objective, evaluations)
    # Once for the whole search: a table that was not `calibrated` looks its space up at every
    # prediction.
    table = table.calibrated(space.name, space.resolution)
    scores.check(space)
    scored = scores.covered(space)
    unscored = _left_out(space, scored)
    known_heads = scores.scored.heads
    scores = scores.at(scored)
    drop = _most_drop(scores, engine, min_accuracy, max_drop)
    # The scores are those of the whole space: costs count from its largest member, frozen or not.
    searched, start = _frozen(scored, freeze, start)
    _check_heads(searched, known_heads)
    graph, least_ms, quickest = _laid_out(searched, table, scores)
    further = further_limits(limits, table)
    target_ms, reason = _target(
        latency_ms, graph.space, table, start, limited=bool(further) or drop is not None
    )
    # Each limit is checked alone. Whether all can be kept together is for the engine to find out.
    if target_ms < least_ms:
        raise OutOfReach(
            f"latency target {target_ms:g} ms cannot be reached: the fastest member of space "
            f"'{space.name}' ({_shape(quickest)}) takes {rounded(least_ms, up=True)} ms on "
            f"{table.device.name}"
        )
    _check_reach(graph, further)
    return Problem(
        graph.space,
        table,
        scores,
        target_ms,
        reason,
        engine,
        candidates,
        on_step,
        further,
        objective,
        study or StudySettings(),
        evaluations,
        evaluate_best,
        drop,
        max_drop,
        min_accuracy,
        tuple(dict.fromkeys(freeze)),
        start,
        unscored=unscored,
        unpriced=_left_out(searched, graph.space),
        graph=graph,
    )


def _checked_engine(
    engine: str,
    candidates: Candidates,
    objective: Objective,
    evaluations: Evaluations | None,
) -> str:
    """Return the engine, or that which "auto" stands for.

    Raises:
        InputError: for unknown names, and options that the engine does not have.
    """
    known: tuple[tuple[str, str, Collection[str]], ...] = (
        ("engine", engine, (AUTO, *ENGINES)),
        ("candidates", candidates, get_args(Candidates)),
        ("objective", objective, get_args(Objective)),
    )
    for what, given, names in known:
        if not isinstance(given, str):
            raise InputError(f"{what} {given!r}: expected one of {', '.join(names)}")
        if given not in names:
            raise InputError(f"unknown {what} '{given}'{nearest(given, names)}")
    engine = _chosen(engine, candidates, objective, evaluations)
    if objective == "mes" and engine != "slimming":
        raise InputError(
            f"objective 'mes' is one of slimming; engine '{engine}' minimises the cost within the"
            " limits"
        )
    if evaluations is not None and engine not in EVALUATING:
        raise InputError(
            f"members are evaluated by the engines {' and '.join(EVALUATING)}, not by '{engine}'"
        )
    return engine


def _laid_out(
    space: Space, table: LatencyTable, scores: Scores
) -> tuple[Graph, float, Architecture]:
    """Return the graph of what the table prices of a space, and its fastest member with its ms.

    The graph serves the checks and the engine: a large space takes a while to be laid out.

    Raises:
        MissingRows: a place has no choice with all its rows.
    """
    exceptions = tuple(scores.cautious().exceptions())
    graph = Graph(space, exceptions)
    try:
        return graph, *fastest(space, table, graph)
    except MissingRows:
        part = priced_part(space, table)
        if part is space:
            raise
    graph = Graph(part, exceptions)
    return graph, *fastest(part, table, graph)


def _target(
    latency_ms: float | None,
    space: Space,
    table: LatencyTable,
    start: Architecture | None,
    limited: bool,
) -> tuple[float, str]:
    """Return the maximum latency in ms, and its reason in words.

    Args:
        latency_ms: as given, or None.
        space: to search.
        table: predicts the latency that is the default.
        start: the member whose parts are frozen, if any.
        limited: whether something else is limited; then nothing limits the latency by default.

    Raises:
        InputError: `latency_ms` is not a positive number.
    """
    if latency_ms is None and limited:
        return math.inf, "none, where something else is limited"
    ms, reason = (
        _default_target(space, table, start) if latency_ms is None else (latency_ms, "as given")
    )
    if ms <= 0 or (latency_ms is not None and not math.isfinite(ms)):
        raise InputError(f"latency target {ms} ms: expected a positive number")
    return ms, reason


def _left_out(whole: Space, space: Space) -> tuple[str, ...]:
    """Return the choices of a space that a part of it lacks, as "stage 1: local, global".

    Args:
        whole: the space.
        space: the part of it.
    """
    if whole is space:
        return ()
    pairs = enumerate(zip(whole.stages, space.stages, strict=True), start=1)
    lacking = [(index, every.beyond(known)) for index, (every, known) in pairs]
    return tuple(
        f"stage {index}: {', '.join(name.rstrip('_') for name in names)}"
        for index, names in lacking
        if names
    )


def _frozen(
    space: Space, parts: Sequence[str], start: Architecture | None
) -> tuple[Space, Architecture | None]:
    """Return the space with frozen parts, and the start at its size; the space where none is.

    Without a start, parts are those of the smallest published member, or else of the largest one.

    Raises:
        InputError: `start` is given without parts, or as `freeze`.
    """
    if isinstance(parts, str):
        raise InputError(f"freeze: expected a list of parts (got '{parts}'). Fix: ['{parts}']")
    if not isinstance(parts, Collection) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"freeze: expected a list of parts (got {str(parts)[:40]!r})")
    if not parts and start is None:
        return space, None
    if not parts:
        raise InputError("--start: has no effect without frozen parts. Fix: --freeze stem,stage1")
    if start is None:
        start = _smallest_published(space) or space.largest()
    check_type("start", start, Architecture, "nas.load_architecture")
    return freeze_parts(space, parts, start)


def _check_heads(space: Space, known: Sequence[HeadSpec]) -> None:
    """Raise InputError where a space has several heads whose accuracies the scores do not know.

    Such scores give every head the same cost, so that a search would take the fastest head whatever
    it loses. Scores of another task know none of them.

    Args:
        space: with its frozen parts.
        known: the heads of the scored space.
    """
    if len(space.heads) > 1 and not all(
        any(same_head(head, each) for each in known) for head in space.heads
    ):
        raise InputError(
            f"{len(space.heads)} heads to choose from: these scores do not know how accuracy depends"
            " on the head. Fix: one --head-width and one --head-depth, or --supernet with a training"
            " of `nas train --segment` with these heads"
        )


def _number(what: str, number: object) -> float | None:
    return None if number is None else check_number(what, number)


def _numbers(limits: object) -> dict[str, float]:
    """Return the further limits by name; raise InputError where they are not numbers by name."""
    if limits is None:
        return {}
    if not isinstance(limits, Mapping) or not all(isinstance(name, str) for name in limits):
        raise InputError(
            f"limits: expected numbers by name (got {str(limits)[:40]!r}). Fix: {{'macs': 6e8}}"
        )
    return {name: check_number(name, most) for name, most in limits.items()}


def _check_objects(on_step: object, study: object, evaluations: object) -> None:
    """Raise InputError for objects of another type, which would fail in the middle of a search."""
    if on_step is not None and not callable(on_step):
        raise InputError(f"on_step: expected a function of a step (got {str(on_step)[:40]!r})")
    for what, value, kind in (
        ("study", study, StudySettings),
        ("evaluations", evaluations, Evaluations),
    ):
        if value is not None:
            check_type(what, value, kind)


def _chosen(
    engine: str, candidates: Candidates, objective: Objective, evaluations: Evaluations | None
) -> str:
    """Return the engine that "auto" stands for; any other name is returned as it is."""
    if engine != AUTO:
        return engine
    if objective == "mes" or candidates == "paper":
        return "slimming"
    # Costs of evaluated members do not add up over the parts of a network. All other costs and
    # the latencies of all tables do, so that the exact engine can solve for them.
    return "exact" if evaluations is None else "learned"


def _most_drop(
    scores: Scores, engine: str, min_accuracy: float | None, max_drop: float | None
) -> float | None:
    """Return the maximum cautious cost that follows from `min_accuracy` or `max_drop`, in points.

    None where neither is given.

    Raises:
        InputError: the engine is not "exact", both are given, a value is out of range, or the
            scores know no level.
    """
    if min_accuracy is None and max_drop is None:
        return None
    if engine != "exact":
        raise InputError(f"min_accuracy and max_drop require the engine 'exact' (got '{engine}')")
    if max_drop is not None and not 0 <= max_drop < math.inf:
        raise InputError(f"max_drop {max_drop:g}: expected 0 or a positive number of points")
    # A cautious cost counts from the cautious accuracy of the largest member. `max_drop` counts
    # from its expected accuracy, which is higher by `lowered`.
    cautious = scores.cautious()
    largest = scores.scored.largest()
    lowered = (
        scores.accuracy(largest).value - cautious.accuracy(largest).value
        if scores.absolute
        else 0.0
    )
    if min_accuracy is None:
        return None if max_drop is None else max_drop - lowered
    if max_drop is not None:
        raise InputError("min_accuracy and max_drop exclude each other. Fix: leave out one of them")
    if not 0 < min_accuracy < 100:
        raise InputError(f"min_accuracy {min_accuracy:g}: expected a percentage between 0 and 100")
    if not scores.absolute:
        raise InputError(
            f"min_accuracy {min_accuracy:g}: these scores know costs only, no accuracies. Fix:"
            " max_drop"
        )
    return cautious.accuracy(largest).value - min_accuracy


def _check_reach(graph: Graph, limits: Sequence[Limit]) -> None:
    """Raise OutOfReach for a limit that no member keeps, with the smallest possible amount."""
    for limit in limits:
        amount, smallest = least(graph, limit.measure)
        if amount > limit.most:
            most, has = limit.measure.texts(limit.most, amount)
            raise OutOfReach(
                f"{most} cannot be reached: the member of space '{graph.space.name}' with the"
                f" least ({_shape(smallest)}) has {has}"
            )


def _shape(arch: Architecture) -> str:
    return f"widths {'-'.join(map(str, arch.widths))}, depths {'-'.join(map(str, arch.depths))}"


def _smallest_published(space: Space) -> Architecture | None:
    """Return the published member with the fewest parameters; None where none is published."""
    return min(space.published.values(), key=lambda arch: arch.params, default=None)


def _default_target(
    space: Space, table: LatencyTable, start: Architecture | None
) -> tuple[float, str]:
    """Return the default maximum latency in ms, and its reason in words.

    With frozen parts it is the predicted latency of the member that they are of: the space around
    them may be too slow for any other. Else it is that of the published member with the fewest
    parameters. Without published members it is half of the largest member's, or that of the
    fastest member if higher.
    """
    if start is not None:
        return table.total_ms(start), f"the predicted latency of the start, {start.name}"
    smallest = _smallest_published(space)
    if smallest is None:
        half = max(table.total_ms(space.largest()) / 2, fastest(space, table)[0])
        return (
            half,
            (
                f"half of what the largest member of {space.name} takes, which has no published"
                " members"
            ),
        )
    return (
        table.total_ms(smallest),
        f"the predicted latency of the smallest published member, {smallest.name}",
    )
