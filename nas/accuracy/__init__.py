"""Scores: the expected accuracy of a space's members with its standard error. Imports no torch.

The search, the public API and the command line load scores here.
"""

from __future__ import annotations

from pathlib import Path

from nas import resources
from nas.accuracy.evaluations import Evaluated, Evaluations
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.recorded_file import read_scores
from nas.accuracy.scores import Accuracy, Scores
from nas.accuracy.single_moves import MeasuredWith, Score
from nas.errors import InputError, check_name, nearest
from nas.files import YamlFile
from nas.space import Space, load_space, space_names


def default_scores(space: Space) -> Scores:
    """Return the scores of `space` without a training: the accuracy law, or those its file names.

    Raises:
        InputError: the file of the space names scores that do not exist.
    """
    from nas.accuracy.law import shipped_law
    from nas.accuracy.law_scores import LawScores

    if not space.default_scores:
        return LawScores(space, shipped_law())
    known = recorded_names()
    if space.default_scores not in known:
        raise InputError(
            f"{space.path or space.name}: scores: unknown scores '{space.default_scores}'"
            f"{nearest(space.default_scores, known)}"
        )
    return read_scores(known[space.default_scores])


def recorded_names() -> dict[str, Path]:
    """Return the recorded scores that ship or are in ./experiments, by name."""
    return resources.names(resources.EXPERIMENTS, "*/scores.csv")


def load_scores(name: str | Path, check_weights: bool = True) -> Scores:
    """Return scores by name or path.

    Args:
        name: a space (its accuracy law), recorded scores (`efficientformer-cifar10`), or the path of
            a trained supernet's folder or of a `scores.csv`.
        check_weights: whether to refuse scores of a supernet whose weights were replaced since.

    Raises:
        InputError: with file, line, column and reason, or the most similar name that exists.
    """
    check_name("scores", name, "a name or a path")
    path = Path(name)
    known = recorded_names()
    if str(name) in known:
        return read_scores(known[str(name)])
    if str(name) in space_names():
        return default_scores(load_space(str(name)))
    if path.is_dir() or path.suffix or len(path.parts) > 1:
        return _read(path, check_weights)
    raise InputError(
        f"no scores at '{name}': it is not a file, a folder, a space or recorded scores"
        f"{nearest(str(name), [*space_names(), *known])}"
    )


def _read(path: Path, check_weights: bool) -> Scores:
    """Return the scores in a folder, or beside a `scores.csv` or `scores.yaml`."""
    from nas.accuracy.posterior_file import FORMAT, read_law_scores

    if not path.exists():
        raise InputError(
            f"{path}: there are no scores here. Fix: make them with nas train, or leave out"
            " --scores to use the accuracy law"
        )
    folder = path if path.is_dir() else path.parent
    about = folder / "scores.yaml"
    if about.is_file() and YamlFile(about).data.get("format") == FORMAT:
        return read_law_scores(about)
    return read_scores(folder / "scores.csv" if path.is_dir() else path, check_weights)


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
