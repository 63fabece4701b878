"""The result of a fine-tuning: the accuracy before and after, and the weights that are kept.

`nas.finetune.run` calls `evaluate_and_write` after the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import pandas as pd
from torch import nn

from nas.data import ImageData, Splits
from nas.errors import NasError
from nas.files import YamlFile, replacing, write_yaml
from nas.finetune.examples import write_examples
from nas.finetune.folder import FinetuneFolder
from nas.finetune.options import Recipe
from nas.finetune.start import Start
from nas.finetune.teacher import Teacher
from nas.network import Network
from nas.runs.images import Clean, read_images
from nas.runs.schema import WEIGHTS_FORMAT
from nas.runs.trained_on import images_of
from nas.tasks import task_of
from nas.training.batches import steps_an_epoch
from nas.training.distributed import ALONE, Processes
from nas.training.evaluate import Accuracy, accuracy_of, calibrate, memory_ran_out
from nas.training.state import load_best
from nas.weights.files import save_tensors


def evaluate_and_write(
    folder: FinetuneFolder,
    first: Network,
    start: Start,
    averaged: nn.Module | None,
    data: Splits,
    *,
    recipe: Recipe,
    teacher: Teacher | None,
    clean: Clean,
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
        accuracy = accuracies(first, trained, teaching, data, together)
    with together.agreed():
        if together.main:
            kept = trained[accuracy["weights"]]
            images = read_images(folder.images).record() | {
                "left_out_of_test": {"trained": clean.trained, "held_out": clean.held_out}
            }
            outcome = {"accuracy": accuracy, "images": images, "epoch": epoch}
            if task_of(kept.architecture.head).has_maps:
                outcome["examples"] = write_examples(folder.root, kept, data)
            _write(folder, start, kept, outcome, data, recipe, teacher)


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
    outcome: Mapping[str, Any],
    data: Splits,
    recipe: Recipe,
    teacher: Teacher | None,
) -> None:
    """Write the result of a fine-tuning: its description and the weights of `network`.

    Args:
        outcome: the accuracies, the used images, and the `epoch` that the weights are of.
    """
    took = seconds(folder, len(data.train), recipe.batch)
    sentence = provenance(start, recipe, data, teacher, took, outcome["epoch"])
    # The header keeps naming the supernet that the weights were first cut from.
    header = {"provenance": sentence, "teacher": teacher.about["name"] if teacher else ""}
    header |= start.trained_on.then(data.train.classes, images_of(data.train, recipe.seed)).header()
    if start.init and "supernet" in start.init:
        header["supernet"] = start.init["supernet"]
    finish(
        folder,
        network,
        {**outcome, "epochs": recipe.epochs, "seconds": took, "provenance": sentence},
        header,
    )


def accuracies(
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
            name: _figures(accuracy_of(network, data, together=together), data.classes)
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


def finish(
    folder: FinetuneFolder, network: Network, outcome: Mapping[str, Any], header: Mapping[str, str]
) -> None:
    """Add the outcome to the description, then write the weights."""
    # The weights come last: where they exist the description is complete.
    write_yaml(folder.description, {**YamlFile(folder.description).data, **outcome})
    whole = {"format": WEIGHTS_FORMAT, "architecture": network.architecture.name, **header}
    with replacing(folder.weights) as temporary:
        save_tensors(temporary, network.state_dict(), whole)
