"""`nas train`: train a supernet and measure the accuracy cost of each move."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from nas.cli.output import bars, emit, next_step, say, training_note
from nas.space.sizes import Sizes
from nas.supernet.options import TrainOptions

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.accuracy.gate import Verdict
    from nas.data import Splits


def train(options: TrainOptions) -> None:
    """Run `nas train`: train a supernet and score its moves; the same command resumes it."""
    from nas.extras import need

    need("nas train", "train")
    from nas.supernet.command import run

    with bars() as tell:
        trained = run(
            options,
            note=say,
            on_step=lambda row: tell("training", row.step, row.steps, training_note(row)),
            on_score=lambda done, total: tell("scoring moves", done, total),
        )
    if trained is not None:
        _finish(options, str(trained.folder), trained.scores, trained.data)


def _finish(options: TrainOptions, folder: str, scores: RecordedScores, data: Splits) -> None:
    """Print the scores, whether they are usable as evidence, and the next step."""
    from nas.accuracy.gate import gate

    verdict = gate(scores)
    space = options.space
    resolution = scores.scored.resolution
    classes = scores.scored.classes
    search = shlex.join(
        ["nas", "search", "--space", space, "--device", "host", "--supernet", folder]
    )
    table = [
        "nas",
        "profile",
        "--space",
        space,
        "--device",
        "host",
        *Sizes(resolution, classes).options(),
    ]
    following = _remedy(options, verdict, folder, data) or search
    document = {
        "space": scores.space,
        "resolution": list(resolution),
        "classes": classes,
        "folder": folder,
        "scores": f"{folder}/scores.csv",
        "provenance": scores.provenance,
        "moves": len(scores.rows),
        "baseline_accuracy": scores.baseline_accuracy,
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
    accuracy = f"where the largest member has {scores.baseline_accuracy:.1f} %"
    moves = f"{len(scores.rows)} moves on {scores.images} held-out images"
    emit(document, f"scores   {folder}/scores.csv: {moves}, {accuracy}")
    say(f"evidence {verdict.text}")
    if following == search and not _has_table(space, resolution, classes):
        say(f"no latency table for this size yet? {shlex.join(table)}")
    next_step(following)


def _has_table(space: str, resolution: tuple[int, int], classes: int) -> bool:
    """Return whether this machine's table has all rows for a search of the space at this size."""
    from nas.errors import InputError
    from nas.latency import load_table
    from nas.search.fastest import fastest
    from nas.space import load_space

    # The fastest member needs the rows of every choice, so a missing row raises.
    try:
        fastest(load_space(space).at(resolution, classes), load_table("host"))
    except InputError:
        return False
    return True


def _remedy(options: TrainOptions, verdict: Verdict, folder: str, data: Splits) -> str | None:
    """Return the command that makes the evidence usable.

    Return None where it is usable, or where no option would make it so.
    """
    from nas.accuracy.gate import Reason, rounded_up
    from nas.option_values import words

    if verdict.reason is None:
        return None
    # An untrained supernet needs more epochs, in a new folder: a training cannot change its recipe
    # when it resumes.
    if verdict.reason is Reason.UNTRAINED:
        epochs = 3 * options.recipe.epochs
        return words("train", options, {"epochs": epochs, "out": f"{folder}-{epochs}-epochs"})
    if verdict.images_needed is None:
        return None
    images = rounded_up(verdict.images_needed)
    # Otherwise more images reduce the standard error: first all held-out images, then a larger
    # holdout split, up to half of the data.
    if verdict.images_needed <= len(data.held_out):
        return words("train", options, {"score_images": images})
    if images <= (len(data.held_out) + len(data.train)) / 2:
        held_out = {
            "held_out": images,
            "score_images": images,
            "out": f"{folder}-{images}-held-out",
        }
        return words("train", options, held_out)
    return None
