"""The engines that solve a search, by the name that --engine takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from nas import plugins

if TYPE_CHECKING:
    # A problem knows the settings of engines, so that at run time the arrow goes that way alone.
    from nas.search.problem import Found, Problem

Engine: TypeAlias = "Callable[[Problem], Found]"

ENGINES: plugins.Registry[Engine] = plugins.Registry(
    plugins.ENGINES,
    {
        "slimming": "nas.search.slimming:slim",
        "exact": "nas.search.exact:exact",
        "learned": "nas.search.learned:learned",
        "nsga2": "nas.search.optuna_engines:nsga2",
        "tpe": "nas.search.optuna_engines:tpe",
    },
)
"""A further engine is one function in a file of its own, named here or by an entry point of another package."""

AUTO = "auto"
"""Takes one of these: `nas.search.pose` chooses."""
STUDIES = ("learned", "nsga2", "tpe")
"""Those that try members out, as `Problem.study` says."""
EVALUATING = ("slimming", "learned")
"""Those that `Problem.evaluations` can tell what members are worth."""
