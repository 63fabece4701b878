"""`nas train`: a supernet from a space and images, and what each move costs in accuracy."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import sizes
from nas.cli.common import Json, emit, next_step, say
from nas.cli.progress import bars

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.accuracy.gate import Verdict
    from nas.data import Splits
    from nas.space import Space
    from nas.supernet.recipe import Recipe
    from nas.supernet.warm_start import Start


def train(
    space: Annotated[str, typer.Option(help="A space by name (see `nas spaces`), or its YAML file.")],
    data: Annotated[str, typer.Option(help="digits, an image folder, parquet files, or a hub name.")] = "digits",
    resolution: sizes.Resolution = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the weights, at its peak.")] = 1e-3,
    alpha_rate: Annotated[float, typer.Option(help="Of the architecture parameters, at its peak.")] = 1e-3,
    noise: Annotated[str, typer.Option(help="uniform (the paper's formula), gumbel, or none.")] = "uniform",
    sampling: Annotated[str, typer.Option(help="straight_through or soft.")] = "straight_through",
    temperature: Annotated[float, typer.Option(help="Of the Gumbel-softmax, at the start.")] = 5.0,
    final_temperature: Annotated[float, typer.Option(help="And at the end.")] = 0.5,
    narrow: Annotated[float, typer.Option(help="Share of steps at random widths; 0 is the paper's training.")] = 0.5,
    sandwich: Annotated[int, typer.Option(help="Largest, smallest and so many random members a step; 0: off.")] = 0,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or fp16 with a gradient scaler.")] = "fp32",
    accumulate: Annotated[int, typer.Option(help="Cut a step's batch into so many, to save memory.")] = 1,
    channels_last: Annotated[bool, typer.Option(help="Memory format of weights and images.")] = True,
    compile: Annotated[bool, typer.Option(help="Compile each block; narrowed ones are not.")] = False,
    ema: Annotated[float, typer.Option(help="Decay of averaged weights, such as 0.999; 0: off.")] = 0.0,
    flip: Annotated[bool | None, typer.Option(help="Mirror images; by default all but digits.")] = None,
    init: Annotated[Path | None, typer.Option(help="Begin with a published member's weights: its file.")] = None,
    init_member: Annotated[str | None, typer.Option(help="The member that it is, if that is unclear.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, batches, augmentation and choices.")
    ] = 0,
    held_out: Annotated[
        float, typer.Option(help="Share (below 1) or number of images to hold out of training, for scoring.")
    ] = 0.1,
    limit: Annotated[int | None, typer.Option(help="At most so many images of each split.")] = None,
    score_images: Annotated[
        int, typer.Option(min=2, help="Maximum number of held-out images that each move is scored on.")
    ] = 2000,
    score_widths: Annotated[
        int, typer.Option(min=1, help="Maximum number of widths per stage to score; others are interpolated.")
    ] = 8,
    out: Annotated[str | None, typer.Option(help="The training's folder; the same command goes on in it.")] = None,
    as_json: Json = False,
) -> None:
    """Train a supernet and measure what each move costs; the same command resumes a stopped training.

    Images come at the space's own resolution by default, digits at 32x32. For several processes or GPUs start it with
    `torchrun --nproc-per-node N -m nas train ...` or `accelerate launch -m nas train ...`; they share each batch.
    """
    from nas.data import load_data
    from nas.space import load_space
    from nas.supernet.recipe import make_recipe

    recipe = make_recipe({
        "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "alpha_rate": alpha_rate, "noise": noise,
        "sampling": sampling, "temperature": temperature, "final_temperature": final_temperature, "narrow": narrow,
        "sandwich": sandwich, "precision": precision, "accumulate": accumulate, "channels_last": channels_last,
        "compile": compile, "ema": ema, "flip": data != "digits" if flip is None else flip, "seed": seed,
    })  # fmt: skip
    sized = sizes.read(resolution or (32 if data == "digits" else None)).apply(load_space(space))
    splits = load_data(data, sized.resolution, held_out, limit, seed)
    chosen = sized.at(classes=len(splits.train.classes))
    folder = out or f"runs/supernet-{chosen.name}-{Path(data).name}-{sizes.size_text(chosen.resolution)}"
    say(f"data     {splits.train.source}")
    say(f"         {splits.held_out.source}")
    for line in _untrained_classes(splits):
        say(f"warning: {line}")
    say(f"out      {folder} (the same command resumes it)")
    start = _start(init, chosen, init_member) if init else None
    scores = _run(chosen, splits, recipe, folder, score_images, score_widths, start)
    if scores is not None:
        _finish(space, folder, scores, splits, epochs, as_json)


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
    space: Space, data: Splits, recipe: Recipe, folder: str, images: int, widths: int, start: Start | None
) -> RecordedScores | None:
    """Train and score, or resume either. Of several processes only the main one scores."""
    from nas.supernet.score import score
    from nas.supernet.train import train as run
    from nas.training.processes import leave, processes

    with bars() as tell:
        command = shlex.join(["nas", *sys.argv[1:]])
        trained = run(space, data.train, recipe, folder, start=start, command=command, report=lambda row: tell(
            "training", row.step, row.steps,
            f"epoch {row.epoch:.1f}  loss {row.loss:.3f}  {row.images_per_second:.0f} images/s",
        ))  # fmt: skip
        main = processes().main
        leave()
        if not main:
            return None
        return score(trained, data, images=images, widths=widths, bf16=recipe.precision == "bf16",
                     report=lambda done, total, row: tell("scoring moves", done, total),
                     note=lambda line: say(f"scores   {line}"))  # fmt: skip


def _finish(space: str, folder: str, scores: RecordedScores, data: Splits, epochs: int, as_json: bool) -> None:
    from nas.accuracy.gate import gate

    verdict = gate(scores)
    resolution, classes = scores.scored.resolution, scores.scored.classes
    search = shlex.join(["nas", "search", "--space", space, "--device", "host", "--supernet", folder])
    table = ["nas", "profile", "--space", space, "--device", "host", *sizes.Sizes(resolution, classes).options()]
    following = _remedy(verdict, folder, data, epochs) or search
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
    emit(document, as_json, f"scores   {folder}/scores.csv: {moves}, {accuracy}")
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


def _remedy(verdict: Verdict, folder: str, data: Splits, epochs: int) -> str | None:
    """Return the command that makes the evidence usable; None where it is, or where no option would do it."""
    from nas.accuracy.gate import Reason, rounded_up

    if verdict.reason is None:
        return None
    if verdict.reason is Reason.UNTRAINED:
        longer = {"--epochs": str(3 * epochs), "--out": f"{folder}-{3 * epochs}-epochs"}
        return _this_command_with(longer)
    if verdict.images_needed is None:
        return None
    images = str(rounded_up(verdict.images_needed))
    if verdict.images_needed <= len(data.held_out):
        return _this_command_with({"--score-images": images})
    if int(images) <= (len(data.held_out) + len(data.train)) / 2:
        held_out = {"--held-out": images, "--score-images": images, "--out": f"{folder}-{images}-held-out"}
        return _this_command_with(held_out)
    return None


def _this_command_with(options: dict[str, str]) -> str:
    """Return this command line with the options set to these values."""
    words: list[str] = []
    given = iter(sys.argv[1:])
    for word in given:
        if word in options:
            next(given, None)  # its value
        elif word.split("=", 1)[0] not in options:
            words.append(word)
    changed = [word for option in options.items() for word in option]
    return shlex.join(["nas", *words, *changed])
