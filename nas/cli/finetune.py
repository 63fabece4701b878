"""`nas finetune`: trains a found network from the weights it inherits."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.common import Json, emit, next_step, say
from nas.cli.progress import bars
from nas.cli.table import Column, table_text

if TYPE_CHECKING:
    from nas.data import Splits
    from nas.finetune.recipe import Recipe
    from nas.finetune.run import Finetuned
    from nas.finetune.subject import Subject

_TEACHER = (
    "supernet (the largest member of the one that the run's weights are from), the folder of another supernet, an "
    "architecture's YAML file, or a published member."
)


def finetune(
    run: Annotated[str, typer.Argument(help="A run's folder, an architecture's YAML file, or a published member.")],
    data: Annotated[str, typer.Option(help="digits, an image folder, parquet files, or a hub name.")],
    init: Annotated[Path | None, typer.Option(help="Start with these weights instead of the inherited ones.")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start with random weights.")] = False,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Start with a new classifier, for the classes of the data.")
    ] = False,
    teacher: Annotated[str | None, typer.Option(help=_TEACHER)] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="The file of an architecture's trained weights.")] = None,
    distill: Annotated[
        str | None, typer.Option(help="hard (the teacher's answers) or soft (its probabilities).", show_default="hard")
    ] = None,
    distill_temperature: Annotated[float, typer.Option(help="Of soft distillation.")] = 1.0,
    distill_weight: Annotated[float, typer.Option(help="The teacher's share of the loss.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 20,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 5e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.05,
    label_smoothing: Annotated[float, typer.Option(help="Of the data's labels.")] = 0.1,
    mixup: Annotated[float, typer.Option(help="Alpha of its Beta distribution; 0 for none.")] = 0.8,
    cutmix: Annotated[float, typer.Option(help="Alpha of its Beta distribution; 0 for none.")] = 1.0,
    mix: Annotated[float, typer.Option(help="Share of the batches that are mixed.")] = 0.5,
    flip: Annotated[bool | None, typer.Option(help="Mirror images; by default all but digits.")] = None,
    ema: Annotated[
        float, typer.Option(help="Decay of the weights' moving average, which is kept; 0 for none.")
    ] = 0.999,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    accumulate: Annotated[int, typer.Option(help="Micro-batches a step.")] = 1,
    channels_last: Annotated[bool, typer.Option(help="The memory format of images and weights.")] = True,
    compile: Annotated[bool, typer.Option("--compile", help="Compile each block.")] = False,
    seed: Annotated[int, typer.Option(help="Of new weights, batches, augmentation and mixtures.")] = 0,
    held_out: Annotated[float, typer.Option(help="Share (below 1) or number of images to judge by.")] = 0.1,
    limit: Annotated[int | None, typer.Option(help="At most so many images of each split.")] = None,
    out: Annotated[str | None, typer.Option(help="The folder; by default RUN/finetune.")] = None,
    as_json: Json = False,
) -> None:
    """Train a found network from its inherited weights; the same command resumes a stopped training.

    The images that `nas train` held out with the same --data, --held-out, --limit and --seed are held out here too.
    """
    from nas.data import load_data
    from nas.finetune.recipe import Recipe
    from nas.finetune.subject import find_subject
    from nas.training.settings import make_settings

    recipe = make_settings(Recipe, {
        "precision": precision, "accumulate": accumulate, "channels_last": channels_last, "compile": compile,
        "ema": ema, "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "label_smoothing": label_smoothing, "mixup": mixup, "cutmix": cutmix, "mix": mix,
        "distill": distill or ("hard" if teacher else "none"), "distill_temperature": distill_temperature,
        "distill_weight": distill_weight, "flip": data != "digits" if flip is None else flip, "seed": seed,
    })  # fmt: skip
    subject = find_subject(run)
    splits = load_data(data, subject.architecture.resolution, held_out, limit, seed)
    folder = Path(out) if out else subject.folder(from_scratch)
    _tell(subject, splits, folder)
    options = {"out": folder, "init": init, "from_scratch": from_scratch, "new_head": new_head, "teacher": teacher,
               "teacher_weights": teacher_weights}  # fmt: skip
    finetuned = _run(run, splits, recipe, options)
    if finetuned is not None:
        _finish(run, subject, finetuned, as_json)


def _tell(subject: Subject, data: Splits, folder: Path) -> None:
    arch = subject.architecture
    say(f"network  {arch.name or 'without a name'}: {arch.params / 1e6:.2f} M parameters, {arch.macs / 1e9:.3f} G MACs")
    for images in (data.train, data.held_out, data.test):
        if images:
            say(f"{'data' if images is data.train else '':<9}{images.source}")
    say(f"out      {folder} (the same command resumes it)")


def _run(run: str, data: Splits, recipe: Recipe, options: dict[str, Any]) -> Finetuned | None:
    """Trains, or goes on with it. Of several processes the main one alone has something to tell."""
    from nas.finetune.run import finetune as train
    from nas.training.processes import leave, processes

    with bars() as tell:
        finetuned = train(
            run, data, recipe, **options, command=shlex.join(["nas", *sys.argv[1:]]),
            report=lambda row: tell(
                "training", row.step, row.steps,
                f"epoch {row.epoch:.1f}  loss {row.loss:.3f}  {row.images_per_second:.0f} images/s",
            ),
        )  # fmt: skip
    main = processes().main
    leave()
    return finetuned if main else None


def _finish(run: str, subject: Subject, finetuned: Finetuned, as_json: bool) -> None:
    description, accuracy = finetuned.description, finetuned.description["accuracy"]
    # What stands in RUN/finetune is exported with the run; any other fine-tuning by its own files.
    own = subject.run is not None and finetuned.folder == subject.folder(False)
    weights = str(finetuned.folder / "weights.safetensors")
    source = [run] if own else [str(finetuned.folder / "architecture.yaml"), "--weights", weights]
    following = shlex.join(["nas", "export", *source, "--to", "config,torch,litert"])
    document = {
        "run": run, "architecture": str(finetuned.folder / "architecture.yaml"), "name": finetuned.architecture.name,
        "folder": str(finetuned.folder), "weights": weights,
        **{key: description[key] for key in ("start", "init", "teacher", "accuracy")},
        **{key: description[key] for key in ("epochs", "seconds", "provenance")},
        "next": following,
    }  # fmt: skip
    rows = [(part.replace("_", " "), _accuracies(accuracy[part])) for part in ("held_out", "test") if accuracy[part]]
    rows += [("weights", f"{weights} ({accuracy['weights']})"), ("", description["provenance"])]
    emit(document, as_json, table_text((Column(), Column()), rows, header=False))
    next_step(following)


def _accuracies(found: dict[str, Any]) -> str:
    """The accuracy of each network, in the order in which they came about."""
    names = {"teacher": "teacher", "start": "before", "raw": "after", "ema": "averaged"}
    told = [f"{text} {found[name]['accuracy']:.2f} %" for name, text in names.items() if name in found]
    one = found["raw"]
    return f"{', '.join(told)} ({one['images']} images, standard error {one['standard_error']:.2f})"
