"""Search a space for the most accurate member within a device's latency. Imports no torch.

`nas.search` (the public API) and the command line call it. Importing this package imports nothing
else: its names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.extras import lazy_names

if TYPE_CHECKING:
    from nas.accuracy import Score, Scores, default_scores, load_scores
    from nas.accuracy.evaluations import Evaluated, Evaluations
    from nas.search.engines import ENGINES
    from nas.search.engines.optuna.storage import StudySettings
    from nas.search.problem import Candidates, Found, Objective, Problem, Step
    from nas.search.solver import pose, search, solve
    from nas.space.moves import Drop, Exchange, Localise, Move, Narrow, moves

__all__ = [
    "ENGINES",
    "Candidates",
    "Drop",
    "Evaluated",
    "Evaluations",
    "Exchange",
    "Found",
    "Localise",
    "Move",
    "Narrow",
    "Objective",
    "Problem",
    "Score",
    "Scores",
    "Step",
    "StudySettings",
    "default_scores",
    "load_scores",
    "moves",
    "pose",
    "search",
    "solve",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "nas.accuracy": ("Score", "Scores", "default_scores", "load_scores"),
        "nas.accuracy.evaluations": ("Evaluated", "Evaluations"),
        "nas.search.engines": ("ENGINES",),
        "nas.search.problem": ("Candidates", "Found", "Objective", "Problem", "Step"),
        "nas.search.solver": ("pose", "search", "solve"),
        "nas.search.engines.optuna.storage": ("StudySettings",),
        "nas.space.moves": ("Drop", "Exchange", "Localise", "Move", "Narrow", "moves"),
    },
)
