"""`nas train`: a supernet from a space and images, and what each move costs in accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.common import Json, emit, next_step, say

if TYPE_CHECKING:
    from nas.search import Scores
    from nas.supernet.recipe import Recipe


def train(
    space: Annotated[str, typer.Option(help="A space by name (see `nas spaces`), or its YAML file.")],
    data: Annotated[str, typer.Option(help="digits, an image folder, parquet files, or a hub name.")] = "digits",
    resolution: Annotated[int | None, typer.Option(help="Input side; the space's by default, 32 for digits.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the weights, at its peak.")] = 1e-3,
    alpha_rate: Annotated[float, typer.Option(help="Of the architecture parameters, at its peak.")] = 1e-3,
    noise: Annotated[str, typer.Option(help="uniform (the paper's formula), gumbel, or none.")] = "uniform",
    sampling: Annotated[str, typer.Option(help="straight_through or soft.")] = "straight_through",
    temperature: Annotated[float, typer.Option(help="Of the Gumbel-softmax, at the start.")] = 5.0,
    final_temperature: Annotated[float, typer.Option(help="And at the end.")] = 0.5,
    narrow: Annotated[float, typer.Option(help="Share of steps at random widths; 0 is the paper's training.")] = 0.5,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    flip: Annotated[bool | None, typer.Option(help="Mirror images; by default all but digits.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches, augmentation and choices.")] = 0,
    held_out: Annotated[float, typer.Option(help="Share (below 1) or number of images to judge moves by.")] = 0.1,
    limit: Annotated[int | None, typer.Option(help="At most so many images of each split.")] = None,
    score_images: Annotated[int, typer.Option(help="Held-out images that each move is judged by, at most.")] = 2000,
    score_widths: Annotated[int, typer.Option(help="Widths of each stage to judge; others are interpolated.")] = 8,
    out: Annotated[str | None, typer.Option(help="The training's folder; the same command goes on in it.")] = None,
    as_json: Json = False,
) -> None:
    """Train a supernet and measure what each move costs; the same command resumes a stopped training."""
    from nas.data import load_data
    from nas.space import load_space
    from nas.supernet.recipe import make_recipe

    recipe = make_recipe({
        "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "alpha_rate": alpha_rate, "noise": noise,
        "sampling": sampling, "temperature": temperature, "final_temperature": final_temperature, "narrow": narrow,
        "precision": precision, "flip": data != "digits" if flip is None else flip, "seed": seed,
    })  # fmt: skip
    whole = load_space(space)
    sized = whole.at(resolution or (32 if data == "digits" else None))
    splits = load_data(data, sized.resolution, held_out, limit, seed)
    chosen = sized.at(classes=len(splits.train.classes))
    folder = out or f"runs/supernet-{chosen.name}-{Path(data).name}-{chosen.resolution[0]}"
    say(f"data     {splits.train.source}")
    say(f"         {splits.held_out.source}")
    from nas.supernet.checkpoint import Folder
    from nas.supernet.score import score

    say(f"out      {folder} (the same command resumes it)")
    _train(chosen, splits.train, recipe, folder)
    with _bar("scoring moves") as (bar, task):
        scores = score(Folder(Path(folder)), splits, images=score_images, widths=score_widths, bf16=precision == "bf16",
                       report=lambda done, total, row: bar.update(task, completed=done, total=total))  # fmt: skip
    _finish(space, folder, chosen.resolution[0], scores, as_json)


def _bar(what: str) -> Any:
    """A progress bar on stderr with the time left, as a context of (bar, task)."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield progress, progress.add_task(what, total=None)

    return bar()


def _train(space: Any, images: Any, recipe: Recipe, folder: str) -> None:
    from nas.supernet.train import train as run

    with _bar("training") as (bar, task):
        run(space, images, recipe, folder, report=lambda row: bar.update(
            task, completed=row.step, total=row.steps,
            description=f"epoch {row.epoch:.1f}  loss {row.loss:.3f}  {row.images_per_second:.0f} images/s",
        ))  # fmt: skip


def _finish(space: str, folder: str, resolution: int, scores: Scores, as_json: bool) -> None:
    following = f"nas search --space {space} --device host --supernet {folder}"
    document = {
        "space": scores.space, "resolution": resolution, "classes": scores.classes, "folder": folder,
        "scores": f"{folder}/scores.csv", "provenance": scores.provenance, "moves": len(scores.rows),
        "baseline_accuracy": scores.baseline_accuracy, "held_out_images": scores.images, "next": following,
    }  # fmt: skip
    emit(document, as_json, f"the largest member has {scores.baseline_accuracy:.1f} % on {scores.images} held-out images; "
                            f"{len(scores.rows)} moves scored\nscores   {folder}/scores.csv")  # fmt: skip
    say(f"no table for this size yet? nas profile --space {space} --device host --resolution {resolution} "
        f"--classes {scores.classes}")  # fmt: skip
    next_step(following)
