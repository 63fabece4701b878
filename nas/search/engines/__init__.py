"""The engines that solve a search."""

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
"""A further engine is one function in a file of its own, named here or by an entry point of another
package."""

AUTO = "auto"
"""Takes one of these: `nas.search.pose` chooses."""
STUDIES = ("learned", "nsga2", "tpe")
"""Those that try members out, as `Problem.study` says."""
EVALUATING = ("slimming", "learned")
"""Those that `Problem.evaluations` can tell what members are worth."""
