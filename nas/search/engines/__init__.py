"""The registry of engines, by name; `nas.search.solve` and the command line read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from nas import plugins

if TYPE_CHECKING:
    from nas.search.problem import Found, Problem


Engine: TypeAlias = "Callable[[Problem], Found]"

ENGINES: plugins.Registry[Engine] = plugins.Registry(
    plugins.ENGINES,
    {
        "slimming": "nas.search.engines.slimming:slim",
        "exact": "nas.search.engines.exact:exact",
        "learned": "nas.search.engines.learned:learned",
        "nsga2": "nas.search.engines.optuna.engine:nsga2",
        "tpe": "nas.search.engines.optuna.engine:tpe",
    },
)
"""The engines by name, each a function in a file of its own.

Another package adds an engine by an entry point."""

AUTO = "auto"
"""The name for which `nas.search.pose` chooses an engine."""
STUDIES = ("learned", "nsga2", "tpe")
"""Engines that sample or evaluate members, with the settings in `Problem.study`."""
EVALUATING = ("slimming", "learned")
"""Engines that can evaluate members by `Problem.evaluations`."""
