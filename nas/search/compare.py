"""How far an engine's answer is from the proven optimum."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from nas.errors import NasError
from nas.search.exact import exact
from nas.search.problem import Found, Problem
from nas.search.slimming import slim


def answers(problem: Problem, found: Found) -> dict[str, Found]:
    """What the problem's engine found and, for comparison, what "exact" and "slimming" find by the scores, by engine.

    Slimming is left out where it is stuck above a limit, and where the fastest member of an accuracy was asked for.
    """
    every = {problem.engine: found}
    silent = replace(problem, on_step=None, evaluations=None)
    if "exact" not in every:
        every["exact"] = exact(silent)
    if "slimming" not in every and problem.max_drop is None:
        with suppress(NasError):
            every["slimming"] = slim(silent)
    return every
