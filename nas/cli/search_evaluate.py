"""What `nas search` scores members by: the law, what was recorded, evidence that corrects it, evaluated members."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.common import say

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.search import Found, Problem, Scores
    from nas.search.options import SearchOptions
    from nas.space import Space
    from nas.supernet.evaluate import SlicedSupernet

ALPHA = "alpha"
EVALUATE = "evaluate"


def engine_for(score_by: str, engine: str) -> str:
    """Return the engine that "auto" means for a way to score; another name stands for itself."""
    if engine != "auto":
        return engine
    return {EVALUATE: "learned", ALPHA: "slimming"}.get(score_by, "auto")


def recorded_by(folder: str, space: Space) -> RecordedScores:
    """Return what a supernet measured.

    Raises:
        InputError: for scores of another space, of other weights than those in the folder, or of another kind.
    """
    from nas.accuracy import RecordedScores, load_scores
    from nas.errors import InputError

    found = load_scores(folder)
    if not isinstance(found, RecordedScores):
        raise InputError(f"--supernet {folder}: its scores are not a supernet's. Fix: give the folder to --scores")
    found.check(space)
    return found


def scores_for(
    space: Space, named: str | None, recorded: RecordedScores | None, runs: Sequence[str], paper: bool
) -> Scores:
    """Return the scores of a search: those that were named, or the law, corrected by what was measured.

    What a supernet measured is left out, and that is said, where it cannot tell moves apart. It stands by itself for
    the `paper`'s choice of candidates.

    Raises:
        InputError: where scores are named and corrected at once, or runs and supernet are of other images.
    """
    from nas.accuracy import default_scores, load_scores
    from nas.accuracy.gate import gate
    from nas.accuracy.law_scores import LawScores
    from nas.errors import InputError

    prior = load_scores(named) if named else default_scores(space)
    if recorded is None and not runs:
        return prior
    if not isinstance(prior, LawScores) or (paper and not runs):
        if runs:
            raise InputError(f"--evidence {runs[0]}: corrects the accuracy law, not the scores of --scores. "
                             "Fix: leave out --scores")  # fmt: skip
        return recorded or prior
    usable = recorded
    if recorded is not None:
        verdict = gate(recorded)
        say(f"evidence  {verdict.text}" + ("" if verdict.usable else " The accuracy law is used without it."))
        usable = recorded if verdict.usable else None
    from nas.accuracy.posterior import corrected
    from nas.accuracy.trained import trained_members

    trained = trained_members(space, runs)
    if recorded is not None and trained:
        recorded.check_evidence(data=trained[0].data, named=f"those of --evidence {runs[0]}")
    return corrected(prior, usable, trained) if usable or trained else prior


def check_score_by(options: SearchOptions, engine: str) -> None:
    """Raise InputError for options that do not go together."""
    from nas.errors import InputError
    from nas.search.engines import EVALUATING

    if options.score_by != EVALUATE:
        if engine == "learned":
            raise InputError("--engine learned: learns from members that are evaluated; also give --score-by evaluate")
        if options.score_by == ALPHA and engine != "slimming":
            raise InputError(f"--score-by alpha: is for slimming, not for --engine {engine}")
        return
    if options.supernet is None or options.data is None:
        missing = (
            "--supernet, the training run to slice"
            if options.supernet is None
            else "--data, the images it was trained on"
        )
        raise InputError(f"--score-by evaluate: also give {missing}")
    if len(options.device) > 1 or engine not in EVALUATING:
        raise InputError(f"--score-by evaluate: is for one device, and the engines {' and '.join(EVALUATING)}")


def sliced_supernet(options: SearchOptions) -> SlicedSupernet | None:
    """Return what evaluates, told to the user; None for a search without."""
    if options.supernet is None or options.data is None:
        return None
    from nas.extras import need

    need("--score-by evaluate", "train")
    from nas.supernet.evaluate import SlicedSupernet

    path = Path(options.supernet)
    source = SlicedSupernet(path.parent if path.is_file() else path, options.data, options.evaluate_images)
    say(f"judge    {source.words}")
    return source


def judged_by(problem: Problem, source: SlicedSupernet, best: int, folder: Path) -> Problem:
    """The problem with members evaluated, and that kept in the run's folder."""
    from nas.search import Evaluations

    evaluations = Evaluations(source, folder)
    say(f"         {len(evaluations)} members are in {folder / 'evaluations.csv'}; after a stop the same command goes "
        f"on with --out {shlex.quote(str(folder))}")  # fmt: skip
    return replace(problem, evaluations=evaluations, evaluate_best=best)


def learned_by(problem: Problem, scores: Scores, folder: Path) -> Problem:
    """The problem with the scores that the search learned, which are kept in the run's folder."""
    from nas.accuracy import RecordedScores

    scores.save(folder)
    name = "scores.csv" if isinstance(scores, RecordedScores) else "scores.yaml"
    return replace(problem, scores=replace(scores, path=str(folder / name)))  # type: ignore[type-var]


def evaluated_text(found: Found, problem: Problem) -> list[str]:
    """The line that tells what the sliced supernet makes of the member that was found."""
    if found.evaluated is None or found.drop is None or problem.evaluations is None:
        return []
    images, count = problem.evaluations.source.of["images"], len(problem.evaluations)
    return [f"the sliced supernet has {found.evaluated:.2f} % top-1 there on {images} held-out images, "
            f"{0.0 - found.drop:+.2f} points against its largest member; {count} members were evaluated"]  # fmt: skip
