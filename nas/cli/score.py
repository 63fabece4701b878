"""`nas score`: measure what each move costs on a trained supernet."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.output import bars, emit, next_step, say
from nas.space.sizes import Sizes
from nas.supernet.options import ScoreOptions
from nas.tasks import metric_words

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.accuracy.gate import Verdict
    from nas.data import Splits
    from nas.space import Space


def score(options: ScoreOptions) -> None:
    """Run `nas score`: score the moves of a trained supernet; the same command resumes it."""
    from nas.extras import need

    need("nas score", "train")
    from nas.accuracy.gate import gate
    from nas.supernet.command import run_score

    with bars() as tell:
        scored = run_score(
            options,
            note=say,
            on_score=lambda done, total: tell("scoring moves", done, total),
        )
    # With several processes the main one alone prints the result.
    if scored is not None:
        verdict = gate(scored.scores)
        folder = str(scored.folder)
        remedy = _remedy(options, verdict, scored.data)
        show(_space_name(scored.scores, folder), folder, scored.scores, verdict, remedy)


def show(
    space: str, folder: str, scores: RecordedScores, verdict: Verdict, remedy: str | None
) -> None:
    """Print the scores and whether they are usable as evidence, and name the next step.

    Args:
        space: the name or file of the supernet's space.
        folder: the supernet's folder.
        scores: of its moves.
        verdict: of the gate on the scores.
        remedy: the command that makes them usable; None where they are, or where no option would.
    """
    resolution = scores.scored.resolution
    classes = scores.scored.classes
    has_table = _has_table(scores.scored)
    # Where this computer has no table, a phone's: it ships, and prices operations of any space.
    device = "host" if has_table else "iphone12"
    search = shlex.join(
        ["nas", "search", "--space", space, "--device", device, "--supernet", folder]
    )
    table = [
        "nas",
        "profile",
        "--space",
        space,
        "--device",
        "host",
        *_sizes(scores.scored, space).options(),
    ]
    following = remedy or search
    document = {
        "space": scores.space,
        "resolution": list(resolution),
        "classes": classes,
        "folder": folder,
        "scores": f"{folder}/scores.csv",
        "provenance": scores.provenance,
        "moves": len(scores.rows),
        "baseline_accuracy": scores.baseline_accuracy,
        "metric": scores.metric,
        "held_out_images": scores.images,
        "evidence": {
            "usable": verdict.usable,
            "reason": verdict.reason.value if verdict.reason else None,
            "images_needed": verdict.images_needed,
            "at_least": verdict.at_least,
            "difference": verdict.difference,
            "standard_error": verdict.standard_error,
            "text": verdict.text,
        },
        "next": following,
    }
    metric = "" if scores.metric == "top1" else f" {metric_words(scores.metric)}"
    accuracy = f"where the largest member has {scores.baseline_accuracy:.1f} %{metric}"
    moves = f"{len(scores.rows)} moves on {scores.images} held-out images"
    emit(document, f"scores   {folder}/scores.csv: {moves}, {accuracy}")
    say(f"evidence {verdict.text}")
    if following == search and not has_table:
        say(f"device   this computer has no latency table for this size: {shlex.join(table)}")
    next_step(following)


def _sizes(scored: Space, space: str) -> Sizes:
    """Return the sizes of a scored space, and its head where that is not the space's own."""
    from nas.space import load_space
    from nas.space.sizes import between

    other = between(load_space(space), scored)
    if other.segment is None:
        return Sizes(scored.resolution, scored.classes)
    return replace(other, resolution=scored.resolution)


def _has_table(scored: Space) -> bool:
    """Return whether this machine's table has all rows for a search of the scored space."""
    from nas.errors import InputError
    from nas.latency import load_table
    from nas.search.fastest import fastest

    # The fastest member needs the rows of every choice, so a missing one raises.
    try:
        fastest(scored, load_table("host"))
    except InputError:
        return False
    return True


def _space_name(scores: RecordedScores, folder: str) -> str:
    """Return how a command names the supernet's space: by its name, or else by its file."""
    from nas.space import space_names

    return scores.space if scores.space in space_names() else str(Path(folder) / "space.yaml")


def _remedy(options: ScoreOptions, verdict: Verdict, data: Splits) -> str | None:
    """Return the command that scores on as many of the held-out images as the verdict asks for.

    Return None where the scores are usable, or where there are not so many.
    """
    from nas.accuracy.gate import Reason, rounded_up
    from nas.option_values import words

    if verdict.reason in (None, Reason.UNTRAINED) or verdict.images_needed is None:
        return None
    if verdict.images_needed > len(data.held_out):
        return None
    return words("score", options, {"images": rounded_up(verdict.images_needed)})
