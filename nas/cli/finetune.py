"""`nas finetune`: train a found network from its inherited weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, bars, emit, next_step, say, table_text, training_note
from nas.finetune.options import FinetuneOptions
from nas.tasks import metric_words

if TYPE_CHECKING:
    from nas.data import Splits
    from nas.finetune.run import Finetuned
    from nas.runs.resolve import Subject
    from nas.space import Architecture


def finetune(options: FinetuneOptions) -> None:
    """Run `nas finetune`: train a found network; the same command resumes a stopped training."""
    from nas.extras import need

    need("nas finetune", "train")
    from nas.finetune.command import perform

    with bars() as tell:
        subject, finetuned, main = perform(
            options,
            on_start=_tell,
            on_step=lambda row: tell("training", row.step, row.steps, training_note(row)),
        )
    # With several processes all of them train, and only the main one prints the result.
    if main:
        _finish(options.run, subject, finetuned)


def _tell(arch: Architecture, data: Splits, folder: Path) -> None:
    """Print the network, the data and the output folder before the training starts."""
    say(
        f"network  {arch.name or 'without a name'}: {arch.params / 1e6:.2f} M parameters,"
        f" {arch.macs / 1e9:.3f} G MACs"
    )
    for images in (data.train, data.held_out, data.test):
        if images:
            say(f"{'data' if images is data.train else '':<9}{images.source}")
    say(f"out      {folder} (the same command resumes it)")


def _finish(run: str, subject: Subject, finetuned: Finetuned) -> None:
    """Print the accuracies, and name `nas export` as the next step."""
    description = finetuned.description
    accuracy = finetuned.description["accuracy"]
    # `nas export RUN` exports RUN/finetune. For any other folder it needs the files themselves.
    own = subject.run is not None and finetuned.folder == subject.folder(False)
    weights = str(finetuned.folder / "weights.safetensors")
    source = [run] if own else [str(finetuned.folder / "architecture.yaml"), "--weights", weights]
    following = shlex.join(["nas", "export", *source, "--to", "config,torch,litert"])
    document = {
        "run": run,
        "architecture": str(finetuned.folder / "architecture.yaml"),
        "name": finetuned.architecture.name,
        "folder": str(finetuned.folder),
        "weights": weights,
        **{key: description[key] for key in ("start", "init", "teacher", "accuracy")},
        **{key: description[key] for key in ("epochs", "seconds", "provenance")},
        "epoch": description.get("epoch", description["epochs"]),
        "next": following,
    }
    rows = [
        (part.replace("_", " "), _accuracies(accuracy[part], accuracy["metric"]))
        for part in ("held_out", "test")
        if accuracy[part]
    ]
    rows += _by_class(accuracy)
    rows += [("weights", f"{weights} ({accuracy['weights']})"), ("", description["provenance"])]
    emit(document, table_text((Column(), Column()), rows, header=False))
    next_step(following)


def _by_class(accuracy: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row with the metric of each class for the weights that were kept, where there is one."""
    found = (accuracy["test"] or accuracy["held_out"])[accuracy["weights"]].get("by_class", {})
    values = [f"{name} {value:.1f}" for name, value in found.items() if value is not None]
    return [("by class", ", ".join(values))] if values else []


def _accuracies(found: dict[str, Any], metric: str) -> str:
    """Return the accuracies of teacher, start, raw, averaged and best weights as text, in this order."""
    names = {
        "teacher": "teacher",
        "start": "before",
        "raw": "after",
        "ema": "averaged",
        "best": "best epoch",
    }
    accuracies = [
        f"{text} {found[name]['accuracy']:.2f} %" for name, text in names.items() if name in found
    ]
    raw = found["raw"]
    # An accuracy without a name is top-1.
    what = "" if metric == "top1" else f"{metric_words(metric)}, "
    return (
        f"{', '.join(accuracies)} ({what}{raw['images']} images, standard error"
        f" {raw['standard_error']:.2f})"
    )
