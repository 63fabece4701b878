"""`nas finetune`: trains a found network from the weights it inherits."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.common import emit, next_step, say
from nas.cli.progress import bars, training_note
from nas.cli.table import Column, table_text
from nas.finetune.options import FinetuneOptions

if TYPE_CHECKING:
    from nas.data import Splits
    from nas.finetune.recipe import Recipe
    from nas.finetune.run import Finetuned
    from nas.finetune.subject import Subject


def finetune(options: FinetuneOptions) -> None:
    """Train a found network from its inherited weights; the same command resumes a stopped training."""
    from nas.data import load_data
    from nas.extras import need
    from nas.finetune.subject import find_subject
    from nas.options import applies
    from nas.training.settings import settle

    need("nas finetune", "train")
    recipe = settle(options.recipe, options, options.data)
    if "distill" not in options.given:
        recipe = replace(recipe, distill="hard" if options.teacher else "none")
    applies(options, distill=recipe.distill)
    subject = find_subject(options.run)
    split = options.split
    splits = load_data(options.data, subject.architecture.resolution, split.held_out, split.limit, recipe.seed)
    folder = Path(options.out) if options.out else subject.folder(options.from_scratch)
    _tell(subject, splits, folder)
    finetuned = _run(options, splits, recipe, folder)
    if finetuned is not None:
        _finish(options.run, subject, finetuned)


def _tell(subject: Subject, data: Splits, folder: Path) -> None:
    arch = subject.architecture
    say(f"network  {arch.name or 'without a name'}: {arch.params / 1e6:.2f} M parameters, {arch.macs / 1e9:.3f} G MACs")
    for images in (data.train, data.held_out, data.test):
        if images:
            say(f"{'data' if images is data.train else '':<9}{images.source}")
    say(f"out      {folder} (the same command resumes it)")


def _run(options: FinetuneOptions, data: Splits, recipe: Recipe, folder: Path) -> Finetuned | None:
    """Train, or resume it. Of several processes the main one alone has something to tell."""
    from nas.finetune.run import finetune as train
    from nas.options import words
    from nas.training.processes import leave, processes

    with bars() as tell:
        finetuned = train(
            options.run,
            data,
            recipe,
            out=folder,
            init=options.init,
            from_scratch=options.from_scratch,
            new_head=options.new_head,
            teacher=options.teacher,
            teacher_weights=options.teacher_weights,
            command=words("finetune", options),
            report=lambda row: tell("training", row.step, row.steps, training_note(row)),
        )
    main = processes().main
    leave()
    return finetuned if main else None


def _finish(run: str, subject: Subject, finetuned: Finetuned) -> None:
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
    emit(document, table_text((Column(), Column()), rows, header=False))
    next_step(following)


def _accuracies(found: dict[str, Any]) -> str:
    """The accuracy of each network, in the order in which they came about."""
    names = {"teacher": "teacher", "start": "before", "raw": "after", "ema": "averaged"}
    told = [f"{text} {found[name]['accuracy']:.2f} %" for name, text in names.items() if name in found]
    one = found["raw"]
    return f"{', '.join(told)} ({one['images']} images, standard error {one['standard_error']:.2f})"
