"""What a search's answer is compared with: the proven optimum, and the published member it takes
the place of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from nas.accuracy import Scores
from nas.errors import NasError
from nas.latency import LatencyTable, MissingRows
from nas.search.engines.exact import exact
from nas.search.engines.slimming import slim
from nas.search.limits import further_limits
from nas.search.problem import Found, Problem
from nas.space import Architecture, Space

if TYPE_CHECKING:
    from nas.latency.check.network import Rival

ROUNDING = 1 + 1e-9
"""Sums of floats that are equal differ by less than this factor."""


def answers(problem: Problem, found: Found) -> dict[str, Found]:
    """Return what the problem's engine found and, for comparison, what "exact" and "slimming" find
    by the scores, by engine.

    Slimming is left out where it is stuck above a limit, and where the fastest member of an
    accuracy was asked for.
    """
    every = {problem.engine: found}
    silent = replace(problem, on_step=None, evaluations=None)
    if "exact" not in every:
        every["exact"] = exact(silent)
    if "slimming" not in every and problem.max_drop is None:
        with suppress(NasError):
            every["slimming"] = slim(silent)
    return every


def published_rival(
    space: Space,
    table: LatencyTable,
    scores: Scores,
    found: Architecture,
    *,
    target_ms: float | None,
    limits: Mapping[str, float] | None = None,
) -> Rival | None:
    """Return the published member that one would ship without the search; None where the space has
    none.

    It is the most accurate published member whose predicted latency is within the target, and which
    keeps the limits. Where none does, it is the member with the fewest parameters, whose latency is
    the default target of a search. A search without any limit was for the fastest member of an
    accuracy: there it is the fastest published member that is expected to be as accurate as the
        found one.

    Args:
        space: at the input size and with the classes that were searched for.
        table: of the search.
        found: what the search found.
        target_ms: None where latency was not limited.
        limits: what else was limited, as `pose` takes it.
    """
    from nas.latency.check.network import Rival

    members = list(space.published.values())
    if not members:
        return None
    costs = scores.at(space).cost
    further = further_limits(limits or {}, table)
    if target_ms is None and not further:
        as_accurate = [member for member in members if costs(member) <= costs(found)]
        if as_accurate:
            fastest = min(as_accurate, key=lambda member: _predicted_ms(table, member))
            return Rival(fastest, "the fastest published member that is expected to be as accurate")
        return Rival(
            min(members, key=costs),
            "the most accurate published member: none is as accurate as the found one",
        )
    latency = [] if target_ms is None else [f"{target_ms:.4g} ms"]
    asked = " and ".join([*latency, *map(str, further)])
    within = [
        member
        for member in members
        if (target_ms is None or _predicted_ms(table, member) <= target_ms * ROUNDING)
        and all(limit.holds(member) for limit in further)
    ]
    if not within:
        smallest = min(members, key=lambda member: member.params)
        return Rival(smallest, f"the smallest published member: none is within {asked}")
    best = min(within, key=lambda member: (costs(member), member.params))
    return Rival(best, f"the most accurate published member within {asked}")


def _predicted_ms(table: LatencyTable, member: Architecture) -> float:
    """Return the predicted latency; infinite where the table has no row for one of the operations."""
    try:
        return table.total_ms(member)
    except MissingRows:
        return math.inf
