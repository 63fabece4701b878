"""`nas.finetune`: trains a found network from its inherited weights.

The command `nas finetune` calls `perform`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.data import Splits, load_data
from nas.errors import check_type
from nas.finetune.options import FinetuneOptions, Recipe
from nas.finetune.run import Finetuned
from nas.finetune.run import finetune as train_network
from nas.option_values import applies, make, words
from nas.runs.resolve import Subject, find_subject
from nas.runs.schema import FINETUNE_FILE
from nas.space import Architecture
from nas.space.sizes import Sizes
from nas.tasks import TASKS, task_of
from nas.training.distributed import leave, processes
from nas.training.metrics import Progress
from nas.training.settings import settle, settle_store


def finetune(
    run: str | Path, data: str | Path | Splits, recipe: Recipe | None = None, **options: Any
) -> Finetuned:
    """Train a found network from its inherited weights; the same call resumes a stopped training.

    Args:
        run: a run's folder, an architecture's YAML file, or a published member.
        data: digits, an image folder, parquet files, or a hub name; or images of
            `nas.data.load_data`.
        recipe: settings of the training; by default `Recipe()`, with hard distillation where there
            is a teacher. For data by name, settings at their default become those of the task.
        options: for data by name, the other options of `nas finetune` with `_` for `-`: `epochs=5,
            teacher="supernet"`; for images, those of `nas.finetune.run.finetune`.

    Returns:
        The folder and the result, in every process of a distributed training.

    Raises:
        InputError: for an option that is unknown, out of range or without effect, and for a bad
            run, bad weights or bad data.
        NasError: when the loss is NaN or infinite, or memory ran out. Finished work is kept.
    """
    if recipe is not None:
        check_type("recipe", recipe, Recipe)
    if isinstance(data, Splits):
        return train_network(run, data, recipe, **options)
    # What a recipe leaves at its default is not asked for: it may have no effect, as --switch without
    # mixing.
    usual = asdict(Recipe())
    settings = {
        name: value for name, value in asdict(recipe or Recipe()).items() if value != usual[name]
    }
    made = make(FinetuneOptions, {"run": run, "data": data, **settings, **options})
    return perform(made)[1]


def perform(
    options: FinetuneOptions,
    on_start: Callable[[Architecture, Splits, Path], None] = lambda arch, data, folder: None,
    on_step: Callable[[Progress], None] = lambda row: None,
) -> tuple[Subject, Finetuned, bool]:
    """Fine-tune as the options of `nas finetune` say.

    Args:
        options: of the command.
        on_start: called with the network that is trained, the images and the folder before the
            first step.
        on_step: called now and then while training.

    Returns:
        The network before training, the result, and whether this is the main process of a
        distributed training.
    """
    subject = find_subject(options.run)
    subject = replace(
        subject,
        architecture=Sizes(options.sizes.resolution).apply(subject.architecture),
    )
    own = task_of(subject.architecture.head)
    task = TASKS["segmentation"] if options.segment else own
    recipe = settle(options.recipe, options, options.data, task)
    # A teacher without --distill means hard distillation.
    if "distill" not in options.given:
        recipe = replace(recipe, distill="hard" if options.teacher else "none")
    applies(options, distill=recipe.distill)
    folder = Path(options.out) if options.out else subject.folder(options.from_scratch)
    split = options.split
    splits = load_data(
        options.data,
        subject.architecture.resolution,
        held_out=split.held_out,
        limit=split.limit,
        seed=recipe.seed,
        background=split.background,
        store=settle_store(split.store, folder / FINETUNE_FILE),
        masks=task.has_maps,
    )
    # Another task or another size of the head needs a new one; its classes are those of the data.
    head = None
    if task is not own or options.sizes.head:
        classes = len(splits.train.classes)
        head = task.head(subject.architecture.head, classes, **options.sizes.head)
    trained = subject.architecture
    if head is not None:
        trained = replace(trained, head=head)
    elif options.new_head:
        trained = trained.at(classes=len(splits.train.classes))
    on_start(trained, splits, folder)
    finetuned = train_network(
        subject,
        splits,
        recipe,
        out=folder,
        init=options.init,
        from_scratch=options.from_scratch,
        new_head=options.new_head,
        head=head,
        teacher=options.teacher,
        teacher_weights=options.teacher_weights,
        command=words("finetune", options),
        report=on_step,
        workers=options.workers,
    )
    main = processes().main
    leave()
    return subject, finetuned, main
