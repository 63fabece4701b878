"""Fine-tuning from a run to its result: the folder, the training, the accuracy before and after.

`nas.finetune.command` calls `finetune`.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.blocks import HeadSpec
from nas.data import ImageData, Splits
from nas.errors import InputError
from nas.files import YamlFile
from nas.finetune.folder import FinetuneFolder, asked, describe
from nas.finetune.options import Recipe
from nas.finetune.result import evaluate_and_write
from nas.finetune.start import Start, load_start
from nas.finetune.task import Finetuning
from nas.finetune.teacher import Teacher, load_teacher
from nas.runs.images import (
    Clean,
    UsedImages,
    clean_test,
    images_of_run,
    images_of_weights,
    merged,
    read_images,
    used_by,
)
from nas.runs.resolve import Subject, find_subject
from nas.runs.trained_on import ImageRange, images_of, seen_lines
from nas.space import Architecture
from nas.tasks import Task, task_of
from nas.training.distributed import Processes, processes
from nas.training.loop import SAVE_EVERY, Report, train
from nas.training.settings import check_task


@dataclass(frozen=True)
class Finetuned:
    """The result of a fine-tuning.

    Attributes:
        folder: folder with architecture.yaml and weights.safetensors, which belong together.
        architecture: of the network, with the head it was trained with.
        description: content of finetune.yaml.
    """

    folder: Path
    architecture: Architecture
    description: dict[str, Any]

    def __repr__(self) -> str:
        return f"Finetuned({self.architecture.name!r} in {str(self.folder)!r})"


def finetune(
    run: str | Path | Subject,
    data: Splits,
    recipe: Recipe | None = None,
    *,
    out: str | Path | None = None,
    init: str | Path | None = None,
    from_scratch: bool = False,
    new_head: bool = False,
    head: HeadSpec | None = None,
    teacher: str | None = None,
    teacher_weights: str | Path | None = None,
    command: str = "",
    report: Report = lambda progress: None,
    device: str | None = None,
    save_every: float = SAVE_EVERY,
    report_every: int = 10,
    workers: int | None = None,
) -> Finetuned:
    """Train the network of a run, or resume its fine-tuning in the folder.

    Args:
        run: a run folder, an architecture's YAML file, or a published member's name; or the network
            that one of these names.
        data: images at the network's resolution. The result is evaluated on the held-out and the
            test images.
        recipe: settings; by default those of the task, with hard distillation where there is a
            teacher.
        out: the folder; by default RUN/finetune, or RUN/finetune-scratch with `from_scratch`.
        init: weights to start with, in place of those that the run inherited: a checkpoint of the
            network or of another member of its space, a run, or an architecture's file with its
            weights beside it.
        from_scratch: start with random weights.
        new_head: start with a new classifier, for the classes of the data.
        head: another head that the network gets, such as that of another task, for these classes.
        teacher, teacher_weights: see `nas.finetune.teacher.load_teacher`.
        command: the command line, for the description.
        report: called every `report_every` steps.
        device: cpu or cuda; by default the GPU where there is one.
        save_every: seconds between two saved states.
        report_every: steps between two reports.
        workers: see `nas.training.loader.open_batches`.

    Raises:
        InputError: the arguments do not fit together, or the folder holds another fine-tuning.
        NasError: the loss is NaN or infinite (the last state stays), memory ran out, or another
            process trains in the folder.
        Stopped: a signal arrived; the state is saved.
    """
    together = processes(device)
    # Where one process refuses, all end: none waits for it in the training.
    with together.agreed():
        subject = run if isinstance(run, Subject) else find_subject(run)
        task = task_of(head or subject.architecture.head)
        recipe = recipe or Recipe(distill="hard" if teacher else "none", **task.defaults)
        _check_teacher(teacher, teacher_weights, recipe)
        check_task(recipe, task)
        check_images(subject.architecture, data.train, task)
        start = load_start(
            subject, data.train.classes, recipe.seed, init, from_scratch, new_head, head
        )
        loaded = load_teacher(teacher, teacher_weights, subject, data.train) if teacher else None
        folder = FinetuneFolder(Path(out) if out else subject.folder(from_scratch))
    with folder.locked(together.main):
        with together.agreed():
            if together.main:
                _tell_seen(start, loaded, data.train, recipe)
                describe(
                    folder,
                    start.network.architecture,
                    asked(start, data, recipe, loaded, new_head or head is not None),
                    command,
                )
        # Images in memory have their hashes, so that a test of used images is refused before the
        # training. To hash a stream is to read all of it, which may take as long as an epoch: its
        # training starts first.
        early = data.train.store == "memory"
        clean = _clean_test(folder, subject, start, loaded, data, together) if early else None
        # The training changes the network in place; this copy is evaluated as the start.
        first = deepcopy(start.network)
        averaged = train(
            Finetuning(start.network, loaded, recipe, data.held_out, data.train),
            data.train,
            recipe,
            folder,
            report=report,
            save_every=save_every,
            report_every=report_every,
            device=device,
            workers=workers,
        )
        clean = clean or _clean_test(folder, subject, start, loaded, data, together)
        evaluate_and_write(
            folder,
            first,
            start,
            averaged,
            replace(data, test=clean.images),
            recipe=recipe,
            teacher=loaded,
            clean=clean,
            together=together,
        )
    return Finetuned(folder.root, start.network.architecture, YamlFile(folder.description).data)


def _clean_test(
    folder: FinetuneFolder,
    subject: Subject,
    start: Start,
    teacher: Teacher | None,
    data: Splits,
    together: Processes,
) -> Clean:
    """List the used images, and return the test images without them; all processes must call this.

    Raises:
        InputError: when no test image is left.
    """
    with together.agreed():
        if together.main and not (folder.images.exists() and folder.state.exists()):
            _used_images(subject, start, teacher, data).save(folder.root)
    # The main process has written the list by now.
    with together.agreed():
        clean = clean_test(data.test, read_images(folder.images))
        if together.main:
            _tell_left_out(clean, data.test)
    return clean


def _used_images(
    subject: Subject, start: Start, teacher: Teacher | None, data: Splits
) -> UsedImages:
    """Return the images that made the network what it will be: this training's and earlier ones'.

    A search that was scored on images chose the architecture by them, also where the weights start
    random.
    """
    parts = [used_by(data)]
    if subject.run is not None:
        parts.append(images_of_run(subject.run))
    if start.init is not None:
        parts.append(images_of_weights(Path(start.init["file"])))
    if teacher is not None:
        parts.append(images_of_weights(Path(teacher.about["file"])))
    return merged(parts)


def _tell_left_out(clean: Clean, test: ImageData | None) -> None:
    """Warn where test images are left out because the network has seen them."""
    if test is None or not clean.left_out:
        return
    warnings.warn(
        f"{clean.left_out} of the {len(test)} test images are left out of the test: the network or"
        f" what it starts with was trained on {clean.trained} of them and chosen by"
        f" {clean.held_out}",
        stacklevel=3,
    )


def _check_teacher(teacher: str | None, weights: str | Path | None, recipe: Recipe) -> None:
    if teacher and recipe.distill == "none":
        raise InputError(
            f"--teacher {teacher} with --distill none: the teacher would have no effect. Fix: leave"
            " out one of them"
        )
    if not teacher and (weights or recipe.distill != "none"):
        option = f"--teacher-weights {weights}" if weights else f"--distill {recipe.distill}"
        raise InputError(f"{option}: requires a teacher. Fix: name one with --teacher")


def _tell_seen(start: Start, teacher: Teacher | None, data: ImageData, recipe: Recipe) -> None:
    """Warn where the held-out images were trained on before, or the reverse."""
    now = images_of(data, recipe.seed)
    earlier = [("the weights that it starts with", start.trained_on)]
    if teacher:
        earlier.append(("the teacher", teacher.trained_on))
    reported = set[ImageRange]()
    for who, trained_on in earlier:
        new = [each for each in trained_on.images if each not in reported]
        reported.update(new)
        for line in seen_lines(who, new, now):
            warnings.warn(line, stacklevel=3)


def check_images(arch: Architecture, data: ImageData, task: Task) -> None:
    """Raise InputError unless the images have the network's resolution and the targets of its task."""
    if task.has_maps is not (data.masks is not None):
        there = "have masks" if data.masks is not None else "have no masks"
        raise InputError(
            f"the images {there}, and the network is trained for {task.name}. Fix: "
            f"{'leave out --segment' if task.has_maps else 'add --segment'}, or give other images"
        )
    if data.images.shape[2:] != arch.resolution:
        there, here = (
            "x".join(map(str, size)) for size in (data.images.shape[2:], arch.resolution)
        )
        raise InputError(
            f"images of {there} for a network at {here}. Fix: load the data at the network's"
            " resolution"
        )
