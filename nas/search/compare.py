"""The results that a search's answer is compared with: other engines' and a published member's.

`nas search` and `nas check` call it.
"""

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
"""Factor within which equal sums of floats may differ by rounding."""


def answers(problem: Problem, found: Found) -> dict[str, Found]:
    """Return by engine what a search found, and what "exact" and "slimming" find by the scores.

    Slimming is left out where it is stuck above a limit, and where the fastest member of an
    accuracy was asked for.
    """
    every = {problem.engine: found}
    # The other engines answer by the scores alone: evaluating their members would take as long as a
    # second search.
    silent = replace(problem, on_step=None, evaluations=None)
    if "exact" not in every:
        every["exact"] = exact(silent)
    if "slimming" not in every and problem.max_drop is None:
        # Slimming that has reached the optimum need not look further.
        least = problem.cautious_scores.cost(every["exact"].architecture)
        with suppress(NasError):
            every["slimming"] = slim(silent, least)
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
    """Return the published member that one would ship without the search.

    It is the most accurate published member within the latency target and the limits. If there is
    none, it is the one with the fewest parameters, whose latency is the default target of a search.
    A search without any limit was for the fastest member of an accuracy. There it is the fastest
    published member that is expected to be as accurate as the found one.

    Args:
        space: at the input size and with the classes that were searched for.
        table: of the search.
        scores: of the search.
        found: the member that the search found.
        target_ms: maximum latency; None where it was not limited.
        limits: further limits, as `pose` takes them.

    Returns:
        The member and why it was chosen; None where the space has no published members.
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
    # The default target is a published member's own latency. Rounding must not shut it out.
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
    """Return the predicted latency in ms; infinite where the table lacks a row for it."""
    try:
        return table.total_ms(member)
    except MissingRows:
        return math.inf
