"""Fine-tuning from a run to its result: the folder, the training, the accuracy before and after.

`nas.finetune.command` calls `finetune`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file
from torch import nn

from nas.blocks import HeadSpec
from nas.data import ImageData, Splits
from nas.errors import InputError, NasError
from nas.files import YamlFile, replacing, write_yaml
from nas.finetune.options import Recipe
from nas.finetune.start import Start, load_start
from nas.finetune.task import Finetuning
from nas.finetune.teacher import Teacher, load_teacher
from nas.network import Network
from nas.runs.resolve import Subject, find_subject
from nas.runs.schema import (
    ARCHITECTURE_FILE,
    FINETUNE_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FORMAT,
    read_trained,
)
from nas.runs.trained_on import ImageRange, images_of, seen_lines
from nas.space import Architecture, load_architecture
from nas.tasks import Task, task_of
from nas.training.batches import steps_an_epoch
from nas.training.distributed import ALONE, Processes, processes
from nas.training.evaluate import Accuracy, calibrate, judge, memory_ran_out
from nas.training.loop import SAVE_EVERY, Report, train
from nas.training.settings import check_task
from nas.training.state import TrainingFolder, load_best
from nas.versions import versions

FORMAT = "nas-finetune-1"


@dataclass(frozen=True)
class FinetuneFolder(TrainingFolder):
    """The paths of a fine-tuning's folder."""

    @property
    def description(self) -> Path:
        return self.root / FINETUNE_FILE

    @property
    def architecture(self) -> Path:
        return self.root / ARCHITECTURE_FILE

    @property
    def weights(self) -> Path:
        return self.root / WEIGHTS_FILE


def describe(
    folder: FinetuneFolder, arch: Architecture, asked: Mapping[str, Any], command: str
) -> None:
    """Start a fine-tuning's folder, or check that an existing one is of the same fine-tuning.

    A folder without a saved state is started again: a batch that did not fit into memory may be
    tried again with other options. Files of weights are compared by checksum and not by path, so
    that a run can be resumed in another place.

    Args:
        folder: of the fine-tuning.
        arch: the network.
        asked: everything that decides the result (`asked` below).
        command: the command line.

    Raises:
        InputError: naming the file and the first key that differs.
    """
    wanted = {"format": FORMAT, **asked}
    if not (folder.description.exists() and folder.state.exists()):
        arch.save(folder.architecture)
        write_yaml(
            folder.description,
            {**wanted, "versions": versions("torch", "safetensors"), "command": command},
        )
        return
    found = read_trained(folder.description)
    remedy = ". Fix: another --out, or the options that it was started with"
    there = dict(found.data)
    # Settings that an older version did not have get their defaults.
    if isinstance(there.get("recipe"), dict):
        there["recipe"] = Recipe().to_dict() | there["recipe"]
    # The first entry that differs is named. Versions and command are not compared.
    for key, value in wanted.items():
        if _unplaced(there.get(key)) != _unplaced(value):
            difference = _difference(there.get(key), value)
            raise found.error(
                [key], f"this folder holds another fine-tuning ({difference}){remedy}"
            )
    if load_architecture(folder.architecture) != arch:
        raise found.error(
            ["architecture"], f"this folder holds the fine-tuning of another network{remedy}"
        )


def finish(
    folder: FinetuneFolder, network: Network, outcome: Mapping[str, Any], header: Mapping[str, str]
) -> None:
    """Add the outcome to the description, then write the weights."""
    # The weights come last: where they exist the description is complete.
    write_yaml(folder.description, {**YamlFile(folder.description).data, **outcome})
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder.weights) as temporary:
        save_file(
            tensors,
            temporary,
            {"format": WEIGHTS_FORMAT, "architecture": network.architecture.name, **header},
        )


def _unplaced(value: Any) -> Any:
    """Return an entry of a description without the paths of files.

    Older descriptions lack the background and the store; the fingerprint of the pixels says whether it differs.
    """
    places = ("file", "supernet", "background", "store")
    return {k: v for k, v in value.items() if k not in places} if isinstance(value, dict) else value


def _difference(found: Any, wanted: Any) -> str:
    """Return the first difference as text; of two mappings the first entry that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        there = _unplaced(found)
        here = _unplaced(wanted)
        key = next(k for k in (*here, *there) if there.get(k) != here.get(k))
        return f"{key} {there.get(key)!r} there, {here.get(key)!r} here"
    return f"{found!r} there, {wanted!r} here"


def judged(
    first: Network,
    trained: Mapping[str, Network],
    teacher: Network | None,
    data: Splits,
    together: Processes = ALONE,
) -> dict[str, Any]:
    """Return accuracies in percent, as a description keeps them.

    All networks are evaluated on the held-out images, the trained ones also on the test images.
    Batch norms are calibrated here first; see `nas.training.evaluate.calibrate`.

    Args:
        first: the network before training.
        trained: the `raw` network after training; where there is one, its moving average, `ema`;
            and the `best` epoch's network, where that was an earlier one. The weights of the last
            one are kept.
        teacher: the teacher, if there was one.
        data: the images.
        together: processes that share the images; all must call this.
    """
    # `load_teacher` has calibrated a teacher that was sliced out of a supernet.
    with together.agreed():
        for network in (first, *trained.values()):
            calibrate(network, data.train)
    others = {"start": first, **({"teacher": teacher} if teacher else {})}
    return {
        "weights": list(trained)[-1],
        "metric": task_of(first.architecture.head).metric,
        "held_out": _accuracies({**trained, **others}, data.held_out, together),
        "test": _accuracies(trained, data.test, together) if data.test else None,
    }


def _accuracies(
    networks: Mapping[str, Network], data: ImageData, together: Processes
) -> dict[str, Any]:
    return {
        "source": data.source,
        **{
            name: _figures(judge(network, data, together=together), data.classes)
            for name, network in networks.items()
        },
    }


def _figures(accuracy: Accuracy, classes: Sequence[str]) -> dict[str, Any]:
    """Return an accuracy as a description keeps it, with that of each class where there is one."""
    figures = asdict(accuracy)
    by_class = figures.pop("by_class")
    return (
        {**figures, "by_class": dict(zip(classes, by_class, strict=True))} if by_class else figures
    )


def seconds(folder: FinetuneFolder, images: int, batch: int) -> float:
    """Return the seconds that all steps took, from metrics.csv.

    For a training that was stopped and resumed, this is the sum over all its parts.
    """
    rows = pd.read_csv(folder.metrics)
    # Steps since the row before; the first row counts from step 0.
    steps = rows["step"].diff().fillna(rows["step"])
    # Steps * images per step / images per second, summed over the rows.
    return round(
        float((steps * images / steps_an_epoch(images, batch) / rows["images_per_second"]).sum()), 1
    )


def provenance(
    start: Start, recipe: Recipe, data: Splits, teacher: Teacher | None, took: float, epoch: int
) -> str:
    """Return a sentence on what the network was trained on, how long, and which epoch was kept."""
    distilled = (
        f", with {recipe.distill} distillation from {teacher.about['name']}" if teacher else ""
    )
    chosen = (
        f"; the weights are those of epoch {epoch}, the best on the held-out images"
        if epoch < recipe.epochs
        else ""
    )
    return (
        f"trained from {start.words} for {recipe.epochs} epochs ({took:.0f} s) on"
        f" {data.train.source}{distilled}{chosen}"
    )


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
        _finish(folder, first, start, averaged, data, recipe, loaded, together)
    return Finetuned(folder.root, start.network.architecture, YamlFile(folder.description).data)


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


def asked(
    start: Start, data: Splits, recipe: Recipe, teacher: Teacher | None, new_head: bool
) -> dict[str, Any]:
    """Return everything that decides the result, as the description keeps it."""
    arch = start.network.architecture
    return {
        "architecture": {
            "name": arch.name,
            "space": arch.space,
            "resolution": list(arch.resolution),
            "params": arch.params,
            "macs": arch.macs,
        },
        "start": start.kind,
        "init": start.init,
        "new_head": new_head,
        "data": {
            "source": data.train.source,
            "images": len(data.train),
            "store": data.train.store,
            "fingerprint": data.train.fingerprint,
            "background": data.train.background,
            "held_out": len(data.held_out),
            "test": len(data.test) if data.test else 0,
            "classes": list(data.train.classes),
        },
        "recipe": recipe.to_dict(task_of(arch.head).has_maps),
        "teacher": teacher.about if teacher else None,
    }


def _finish(
    folder: FinetuneFolder,
    first: Network,
    start: Start,
    averaged: nn.Module | None,
    data: Splits,
    recipe: Recipe,
    teacher: Teacher | None,
    together: Processes,
) -> None:
    """Evaluate the network before and after training and its average; write the result.

    All processes evaluate, the main one writes.
    """
    trained = {"raw": deepcopy(start.network)}  # a copy is not compiled, where the original is
    if averaged is not None:
        assert isinstance(averaged, Network)
        trained["ema"] = averaged
    best = deepcopy(list(trained.values())[-1])
    # After the last epoch the best weights are those that the training ended with, unless an
    # earlier epoch was better on the held-out images.
    epoch = load_best(folder.best, best).epoch if folder.best.exists() else recipe.epochs
    if epoch < recipe.epochs:
        trained["best"] = best
    first.to(together.device)
    teaching = teacher.network.to(together.device) if teacher else None
    with _memory(folder):
        accuracy = judged(first, trained, teaching, data, together)
    with together.agreed():
        if together.main:
            kept = trained[accuracy["weights"]]
            _write(folder, start, kept, accuracy, epoch, data, recipe, teacher)


@contextmanager
def _memory(folder: FinetuneFolder) -> Iterator[None]:
    """Context manager: where memory runs out in the evaluation, one line says so."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_ran_out(error):
            raise
        raise NasError(
            f"{folder.root}: out of memory while the result is evaluated. The training is kept."
            " Fix: free memory and run the same command again"
        ) from error


def _write(
    folder: FinetuneFolder,
    start: Start,
    network: Network,
    accuracy: Mapping[str, Any],
    epoch: int,
    data: Splits,
    recipe: Recipe,
    teacher: Teacher | None,
) -> None:
    """Write the result of a fine-tuning: its description and the weights of `network`."""
    took = seconds(folder, len(data.train), recipe.batch)
    sentence = provenance(start, recipe, data, teacher, took, epoch)
    # The header keeps naming the supernet that the weights were first cut from.
    header = {"provenance": sentence, "teacher": teacher.about["name"] if teacher else ""}
    header |= start.trained_on.then(data.train.classes, images_of(data.train, recipe.seed)).header()
    if start.init and "supernet" in start.init:
        header["supernet"] = start.init["supernet"]
    finish(
        folder,
        network,
        {
            "accuracy": accuracy,
            "epoch": epoch,
            "epochs": recipe.epochs,
            "seconds": took,
            "provenance": sentence,
        },
        header,
    )
