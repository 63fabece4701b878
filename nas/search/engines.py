"""The engines that solve a search, by the name that --engine takes."""

from __future__ import annotations

from collections.abc import Callable

from nas.search.exact import exact
from nas.search.learned import learned
from nas.search.optuna_engines import nsga2, tpe
from nas.search.problem import Found, Problem
from nas.search.slimming import slim

Engine = Callable[[Problem], Found]

ENGINES: dict[str, Engine] = {
    "slimming": slim, "exact": exact, "learned": learned, "nsga2": nsga2, "tpe": tpe,
}  # fmt: skip
"""A further engine is one function in a file of its own, named here; a library that it needs is imported within it."""

AUTO = "auto"
"""Takes one of these: `nas.search.pose` chooses."""
STUDIES = ("learned", "nsga2", "tpe")
"""Those that try members out, as `Problem.study` says."""
EVALUATING = ("slimming", "learned")
"""Those that `Problem.evaluations` can tell what members are worth."""
