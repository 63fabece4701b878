"""`nas train`: a supernet from a space and images, and what each move costs in accuracy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.common import emit, next_step, say
from nas.cli.progress import bars, training_note
from nas.space.sizes import Sizes, size_text
from nas.supernet.options import TrainOptions

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.accuracy.gate import Verdict
    from nas.data import Splits
    from nas.space import Space
    from nas.supernet.recipe import Recipe
    from nas.supernet.warm_start import Start


def train(options: TrainOptions) -> None:
    """Train a supernet and measure what each move costs; the same command resumes a stopped training."""
    from nas.data import load_data
    from nas.extras import need
    from nas.space import load_space
    from nas.training.settings import settle

    need("nas train", "train")
    recipe = settle(options.recipe, options, options.data)
    sizes = options.sizes
    if sizes.resolution is None and options.data == "digits":
        sizes = Sizes((32, 32))
    sized = sizes.apply(load_space(options.space))
    split = options.split
    splits = load_data(options.data, sized.resolution, split.held_out, split.limit, recipe.seed)
    chosen = sized.at(classes=len(splits.train.classes))
    size = size_text(chosen.resolution)
    folder = options.out or f"runs/supernet-{chosen.name}-{Path(options.data).name}-{size}"
    say(f"data     {splits.train.source}")
    say(f"         {splits.held_out.source}")
    for line in _untrained_classes(splits):
        say(f"warning: {line}")
    say(f"out      {folder} (the same command resumes it)")
    start = _start(options.init, chosen, options.init_member) if options.init else None
    scores = _run(options, chosen, splits, recipe, folder, start)
    if scores is not None:
        _finish(options, folder, scores, splits)


def _untrained_classes(data: Splits) -> list[str]:
    """Return a line where classes have held-out images but none to train on."""
    trained, held_out = set(data.train.labels.tolist()), set(data.held_out.labels.tolist())
    names = [data.train.classes[label] for label in sorted(held_out - trained)]
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    what = "class" if len(names) == 1 else "classes"
    return [f"no image to train on for {what} {', '.join(names[:3])}{more}; lower --held-out or add images"]


def _start(path: Path, space: Space, member: str | None) -> Start:
    from nas.supernet.warm_start import load_start

    start = load_start(path, space, member)
    say(f"init     {path}: {start.network.architecture.name} ({start.layout})")
    return start


def _run(
    options: TrainOptions, space: Space, data: Splits, recipe: Recipe, folder: str, start: Start | None
) -> RecordedScores | None:
    """Train and score, or resume either. Of several processes only the main one scores."""
    from nas.options import words
    from nas.supernet.score import score
    from nas.supernet.train import train as run
    from nas.training.processes import leave, processes

    with bars() as tell:
        trained = run(
            space,
            data.train,
            recipe,
            folder,
            start=start,
            command=words("train", options),
            report=lambda row: tell("training", row.step, row.steps, training_note(row)),
        )
        main = processes().main
        leave()
        if not main:
            return None
        return score(
            trained,
            data,
            images=options.score_images,
            widths=options.score_widths,
            bf16=recipe.precision == "bf16",
            report=lambda done, total, row: tell("scoring moves", done, total),
            note=lambda line: say(f"scores   {line}"),
        )


def _finish(options: TrainOptions, folder: str, scores: RecordedScores, data: Splits) -> None:
    from nas.accuracy.gate import gate

    verdict, space = gate(scores), options.space
    resolution, classes = scores.scored.resolution, scores.scored.classes
    search = shlex.join(["nas", "search", "--space", space, "--device", "host", "--supernet", folder])
    table = ["nas", "profile", "--space", space, "--device", "host", *Sizes(resolution, classes).options()]
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
    """Return whether this machine's table has all rows that a search of the space at this size needs."""
    from nas.errors import InputError
    from nas.latency import load_table
    from nas.search.fastest import fastest
    from nas.space import load_space

    try:
        fastest(load_space(space).at(resolution, classes), load_table("host"))
    except InputError:
        return False
    return True


def _remedy(options: TrainOptions, verdict: Verdict, folder: str, data: Splits) -> str | None:
    """Return the command that makes the evidence usable; None where it is, or where no option would do it."""
    from nas.accuracy.gate import Reason, rounded_up
    from nas.options import words

    if verdict.reason is None:
        return None
    if verdict.reason is Reason.UNTRAINED:
        epochs = 3 * options.recipe.epochs
        return words("train", options, {"epochs": epochs, "out": f"{folder}-{epochs}-epochs"})
    if verdict.images_needed is None:
        return None
    images = rounded_up(verdict.images_needed)
    if verdict.images_needed <= len(data.held_out):
        return words("train", options, {"score_images": images})
    if images <= (len(data.held_out) + len(data.train)) / 2:
        held_out = {"held_out": images, "score_images": images, "out": f"{folder}-{images}-held-out"}
        return words("train", options, held_out)
    return None
