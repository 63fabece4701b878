"""What came out of a fine-tuning: accuracy, time, and both in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from nas.data import ImageData, Splits
from nas.finetune.folder import FinetuneFolder
from nas.finetune.judge import calibrate, judge
from nas.finetune.recipe import Recipe
from nas.finetune.start import Start
from nas.finetune.teacher import Teacher
from nas.network import Network
from nas.training.batches import steps_an_epoch


def judged(first: Network, trained: Mapping[str, Network], teacher: Network | None, data: Splits) -> dict[str, Any]:
    """Accuracies in percent by network: of all on the held-out images, of the trained ones on the test images.

    Args:
        first: the network before training.
        trained: the `raw` network after it and, where there is one, its moving average, `ema`. The last one is kept.
        teacher: if there was one.

    Batch norms get their statistics here; see `nas.finetune.judge.calibrate`.
    """
    for network in (first, *trained.values()):
        calibrate(network, data.train)
    others = {"start": first, **({"teacher": teacher} if teacher else {})}
    return {
        "weights": list(trained)[-1],
        "held_out": _accuracies({**trained, **others}, data.held_out),
        "test": _accuracies(trained, data.test) if data.test else None,
    }


def _accuracies(networks: Mapping[str, Network], data: ImageData) -> dict[str, Any]:
    return {"source": data.source, **{name: asdict(judge(network, data)) for name, network in networks.items()}}


def seconds(folder: FinetuneFolder, images: int, batch: int) -> float:
    """How long the steps took, from metrics.csv, so that a training that was stopped and went on counts as a whole."""
    rows = pd.read_csv(folder.metrics)
    steps = rows["step"].diff().fillna(rows["step"])
    return round(float((steps * images / steps_an_epoch(images, batch) / rows["images_per_second"]).sum()), 1)


def provenance(start: Start, recipe: Recipe, data: Splits, teacher: Teacher | None, took: float) -> str:
    """What the network was trained on, and how long."""
    begun = "from random weights" if start.init is None else f"from the weights in {start.init['file']}"
    taught = f", with {recipe.distill} distillation from {teacher.about['name']}" if teacher else ""
    return f"trained {begun} for {recipe.epochs} epochs ({took:.0f} s) on {data.train.source}{taught}"
