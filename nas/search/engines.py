"""The engines that solve a search, by the name that --engine takes."""

from __future__ import annotations

from collections.abc import Callable

from nas.search.exact import exact
from nas.search.optuna_engines import nsga2, tpe
from nas.search.problem import Found, Problem
from nas.search.slimming import slim

Engine = Callable[[Problem], Found]

ENGINES: dict[str, Engine] = {"slimming": slim, "exact": exact, "nsga2": nsga2, "tpe": tpe}
"""A further engine is one function in a file of its own, named here; a library that it needs is imported within it."""

STUDIES = ("nsga2", "tpe")
"""Those that try members out, as `Problem.study` says."""
