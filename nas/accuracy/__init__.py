"""What members of a space are worth: expected accuracy with its standard error. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from nas import resources
from nas.accuracy.evaluations import Evaluated, Evaluations
from nas.accuracy.recorded import REMEDY, MeasuredWith, RecordedScores, Score
from nas.accuracy.scores import Accuracy, Scores
from nas.errors import InputError, nearest
from nas.space import Space, load_space, space_names


def default_scores(space: Space) -> Scores:
    """Return the scores that ship with `space`. Raises InputError when there are none."""
    from nas.accuracy.recorded_file import read_scores

    known = resources.names(resources.EXPERIMENTS, "*/scores.csv")
    if space.default_scores not in known:
        there = f"names the scores '{space.default_scores}', which are not here" if space.default_scores else "has none"
        raise InputError(f"space '{space.name}' {there}; {REMEDY.format(space.name)}")
    return read_scores(known[space.default_scores])


def load_scores(name: str | Path, check_weights: bool = True) -> Scores:
    """Return the scores of a space by its name, or those at the path of `scores.csv` or of its folder.

    Scores in the folder of a supernet whose weights were replaced since are refused, unless `check_weights` is False.

    Raises:
        InputError: naming file, line, column and reason, or the nearest name that exists.
    """
    from nas.accuracy.recorded_file import read_scores

    path = Path(name)
    if path.is_dir():
        return read_scores(path / "scores.csv", check_weights)
    if path.suffix == ".csv" or len(path.parts) > 1:
        return read_scores(path, check_weights)
    if str(name) not in space_names():
        raise InputError(
            f"no scores at '{name}': it is no file, no folder and no space{nearest(str(name), space_names())}"
        )
    return default_scores(load_space(str(name)))


__all__ = [
    "Accuracy",
    "Evaluated",
    "Evaluations",
    "MeasuredWith",
    "RecordedScores",
    "Score",
    "Scores",
    "default_scores",
    "load_scores",
]
