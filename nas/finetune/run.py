"""Fine-tuning a found network on images, from the weights it inherits or from none, with or without a teacher."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nas.data import ImageData, Splits
from nas.errors import InputError
from nas.files import YamlFile
from nas.finetune.folder import FinetuneFolder, describe, finish
from nas.finetune.outcome import judged, provenance, seconds
from nas.finetune.recipe import Recipe
from nas.finetune.start import Start, load_start
from nas.finetune.task import Finetuning
from nas.finetune.teacher import Teacher, load_teacher
from nas.network import Network
from nas.runs.resolve import find_subject
from nas.space import Architecture
from nas.training.loop import Report, train
from nas.training.processes import processes


@dataclass(frozen=True)
class Finetuned:
    """What came out of a fine-tuning.

    Attributes:
        folder: with architecture.yaml and weights.safetensors, which belong together.
        architecture: of the network, with the head it was trained with.
        description: what finetune.yaml says.
    """

    folder: Path
    architecture: Architecture
    description: dict[str, Any]

    def __repr__(self) -> str:
        return f"Finetuned({self.architecture.name!r} in {str(self.folder)!r})"


def finetune(
    run: str | Path, data: Splits, recipe: Recipe | None = None, *, out: str | Path | None = None,
    init: str | Path | None = None, from_scratch: bool = False, new_head: bool = False, teacher: str | None = None,
    teacher_weights: str | Path | None = None, command: str = "", report: Report = lambda progress: None,
    device: str | None = None, save_every: float = 300.0, report_every: int = 10,
) -> Finetuned:  # fmt: skip
    """Trains the network of a run, from where the folder stands if that holds this fine-tuning already.

    Args:
        run: a run folder, an architecture's YAML file, or a published member's name.
        data: images at the network's resolution. The held-out and the test images judge what comes out.
        recipe: how; by default `Recipe()`, with hard distillation where there is a teacher.
        out: the folder; by default RUN/finetune, or RUN/finetune-scratch with `from_scratch`.
        init: weights to start with, in place of those that the run inherited.
        from_scratch: start with random weights.
        new_head: start with a new classifier, for the classes of the data.
        teacher, teacher_weights: see `nas.finetune.teacher.load_teacher`.
        command: the command line, for the description.
        report: called every `report_every` steps.
        device: cpu or cuda; by default the GPU where there is one.
        save_every: seconds between two saved states.

    Raises:
        InputError: what was given does not fit together, or the folder holds another fine-tuning.
        NasError: the loss is no longer a number (the last state stays), or memory ran out.
    """
    recipe = recipe or Recipe(distill="hard" if teacher else "none")
    _check_teacher(teacher, teacher_weights, recipe)
    subject = find_subject(run)
    check_images(subject.architecture, data.train)
    start = load_start(subject, data.train.classes, recipe.seed, init, from_scratch, new_head)
    taught = load_teacher(teacher, teacher_weights, subject, data.train) if teacher else None
    together, folder = processes(device), FinetuneFolder(Path(out) if out else subject.folder(from_scratch))
    if together.main:
        describe(folder, start.network.architecture, asked(start, data, recipe, taught, new_head), command)
    together.wait()
    first = deepcopy(start.network)
    averaged = train(
        Finetuning(start.network, taught, recipe), data.train, recipe, folder, report=report,
        save_every=save_every, report_every=report_every, device=device,
    )  # fmt: skip
    if together.main:
        _finish(folder, first.to(together.device), start, averaged, data, recipe, taught)
    together.wait()
    return Finetuned(folder.root, start.network.architecture, YamlFile(folder.description).data)


def _check_teacher(teacher: str | None, weights: str | Path | None, recipe: Recipe) -> None:
    if teacher and recipe.distill == "none":
        raise InputError(f"--teacher {teacher} with --distill none: leave one of them out")
    if not teacher and (weights or recipe.distill != "none"):
        option = f"--teacher-weights {weights}" if weights else f"--distill {recipe.distill}"
        raise InputError(f"{option}: there is no teacher; name one with --teacher")


def check_images(arch: Architecture, data: ImageData) -> None:
    """Raises InputError unless the images have the network's resolution."""
    if data.images.shape[2:] != arch.resolution:
        there, here = ("x".join(map(str, size)) for size in (data.images.shape[2:], arch.resolution))
        raise InputError(f"images of {there} for a network at {here}: load the data at the network's resolution")


def asked(start: Start, data: Splits, recipe: Recipe, teacher: Teacher | None, new_head: bool) -> dict[str, Any]:
    """What decides the result, as the description keeps it."""
    arch = start.network.architecture
    return {
        "architecture": {"name": arch.name, "space": arch.space, "resolution": list(arch.resolution),
                         "params": arch.params, "macs": arch.macs},
        "start": start.kind, "init": start.init, "new_head": new_head,
        "data": {"source": data.train.source, "images": len(data.train), "fingerprint": data.train.fingerprint,
                 "held_out": len(data.held_out), "test": len(data.test) if data.test else 0,
                 "classes": list(data.train.classes)},
        "recipe": recipe.to_dict(),
        "teacher": teacher.about if teacher else None,
    }  # fmt: skip


def _finish(
    folder: FinetuneFolder, first: Network, start: Start, averaged: nn.Module | None, data: Splits, recipe: Recipe,
    teacher: Teacher | None,
) -> None:  # fmt: skip
    """Judges the network as it was, as it is, and its average, and writes what came out."""
    trained = {"raw": deepcopy(start.network)}  # a copy is not compiled, where the original is
    if averaged is not None:
        assert isinstance(averaged, Network)
        trained["ema"] = averaged
    accuracy = judged(first, trained, teacher.network if teacher else None, data)
    took = seconds(folder, len(data.train), recipe.batch)
    told = provenance(start, recipe, data, teacher, took)
    header = {"provenance": told, "teacher": teacher.about["name"] if teacher else ""}
    if start.init and "supernet" in start.init:
        header["supernet"] = start.init["supernet"]
    finish(folder, trained[accuracy["weights"]], {"accuracy": accuracy, "epochs": recipe.epochs, "seconds": took,
                                                  "provenance": told}, header)  # fmt: skip
