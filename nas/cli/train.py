"""`nas train`: train a supernet and measure the accuracy cost of each move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.cli.output import bars, say, training_note
from nas.cli.score import show
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
    show(options.space, folder, scores, verdict, _remedy(options, verdict, folder, data))


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
