"""Compare what nas finds with scaled, random and pruned networks of one latency. Prints JSON.

    python benchmarks/worth.py SPACE --data DATA --table TABLE --keep FOLDER [--share 0.6]
        [--images 10000] [--passes 20] [--seeds 0 1 2] [--only law scaled ...]

Every method gets the same images and the same budget of passes over them: what a base network or a
supernet takes is no longer there for the final network. Half of the budget trains a base, the
space's smallest published member (or its largest member, where none is published).

    law             `nas search` by the accuracy law alone, trained from random weights
    supernet        a supernet for half of the budget, `nas search --supernet`, inherited weights
    warm            the base, a supernet that starts with it, inherited weights: a half and two
                    quarters
    scaled          the base with widths, depths or both times one factor, from random weights
    scaled-sliced   the same network, its weights cut out of the base
    random          another member for each seed, drawn at random, from random weights
    fastnas         the base, pruned by NVIDIA ModelOpt's FastNAS
    torch-pruning   the base, pruned by Torch-Pruning
    law-fastnas     the law's network for a latency 1.25 times as long, pruned by FastNAS

Each method's knob is turned until the *measured* latency of its converted file is within 3 % of
`--share` times that of the base, the two measured by turns. At the end all files are measured by
turns once more. Test images are evaluated once per network. FOLDER keeps everything, and the same
command resumes there. Nothing else should run while it measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from worth_peers import fastnas, torch_pruning

import nas
from nas.blocks import BlockSpec, Shape
from nas.blocks.module import fold
from nas.data import ImageData, Splits, load_data
from nas.devices import Settings
from nas.files import replacing
from nas.finetune.options import Recipe
from nas.finetune.start import load_start
from nas.finetune.task import groups_of, loss_of
from nas.latency.known_devices import opened
from nas.runs.resolve import find_subject
from nas.space import Architecture, Space
from nas.space.place import Place
from nas.training.batches import normalise
from nas.training.loop import train
from nas.training.state import TrainingFolder
from nas.training.task import Task
from nas.versions import versions

HELD_OUT = 2000
TOLERANCE = 0.03
"""Share of the target by which a measured latency may differ from it."""
TRIES = 8
"""Settings of a knob that are measured at most."""
TURNS = 15
DRAWN = 400
"""Random members of which the nearest by the table are measured."""
CALIBRATION = 1024
"""Training images for the statistics of batch norms, before every evaluation."""
WIDER = 1.25
"""Latency of the network that FastNAS prunes in `law-fastnas`, as a factor of the target."""


@dataclass
class Start:
    """A network to train, and what is left of its budget.

    Attributes:
        network: its weights are those to start with.
        epochs: passes over the images that are left.
        ratio: measured latency over the base's.
        about: further facts for the result.
    """

    network: nn.Module
    epochs: int
    ratio: float
    about: dict[str, Any] = field(default_factory=dict)


class Plain(Task):
    """Classification by any module, with the loss and the weight decay of `nas finetune`."""

    def __init__(self, network: nn.Module, recipe: Recipe, classes: int) -> None:
        self._network = network
        self.recipe = recipe
        self.classes = classes

    @property
    def module(self) -> nn.Module:
        return self._network

    def parameter_groups(self) -> list[dict[str, Any]]:
        return groups_of(self._network, self.recipe)

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        targets: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        if targets.dim() == 1:
            targets = F.one_hot(targets, self.classes).float()  # (B,) to (B, classes)
        return loss_of(module(images_bchw), targets, None, self.recipe)


class Study:
    """The networks of one seed: one space, its data, its base and their folder.

    Args:
        options: of the command.
        seed: of weights, orders of images and random members.
    """

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.folder: Path = options.keep / f"seed{seed}"
        self.space: Space = nas.load_space(options.space)
        self.splits: Splits = load_data(
            options.data,
            self.space.resolution,
            held_out=HELD_OUT,
            limit=options.images + HELD_OUT,
        )
        self.space = self.space.at(classes=len(self.splits.train.classes))
        published = self.space.published.values()
        self.shape: Architecture = (
            min(published, key=lambda member: member.params) if published else self.space.largest()
        )

    @cached_property
    def table(self) -> nas.LatencyTable:
        return nas.load_table(self.options.table).calibrated(self.space.name, self.space.resolution)

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, 3, *self.space.resolution)

    @property
    def half(self) -> int:
        return self.options.passes // 2

    def recipe(self, epochs: int) -> Recipe:
        """Return the recipe of every training."""
        return Recipe(
            epochs=epochs,
            batch=128,
            learning_rate=2e-3,
            ema=0.0,
            mix=0.0,
            seed=self.seed,
        )

    def network(self, arch: Architecture, init: Path | None = None) -> nn.Module:
        """Return the network of an architecture with random weights, or with those of a file."""
        path = self.folder / "architectures" / f"{arch.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        arch.save(path)
        classes = self.splits.train.classes
        start = load_start(
            find_subject(path), classes, self.seed, init=init, from_scratch=init is None
        )
        return start.network

    def trained(self, network: nn.Module, epochs: int, name: str) -> nn.Module:
        """Return a network after these passes over the images, or from its folder."""
        folder = self.folder / name
        weights = folder / "weights.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            recipe = self.recipe(epochs)
            task = Plain(network, recipe, len(self.splits.train.classes))
            train(task, self.splits.train, recipe, TrainingFolder(folder), report_every=100)
            with replacing(weights) as temporary:
                save_model(network, str(temporary))
        load_model(network, weights)
        return network.eval()

    @cached_property
    def base(self) -> nn.Module:
        """The base after half of the budget."""
        return self.trained(self.network(self.shape), self.half, "base")

    @cached_property
    def base_weights(self) -> Path:
        """The base as a file beside its architecture, as `nas --init` takes it."""
        folder = self.folder / "base-member"
        folder.mkdir(parents=True, exist_ok=True)
        self.shape.save(folder / "architecture.yaml")
        save_model(self.base, str(folder / "architecture.safetensors"))
        return folder / "architecture.yaml"


class Clock:
    """Measured latencies of converted networks, each beside the base's in the same turns.

    Args:
        study: whose base is the unit.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.files = study.folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self._base = self.converted(study.network(study.shape), "base")

    def converted(self, network: nn.Module, name: str) -> Path:
        """Return the network as a LiteRT file, its batch norms folded into convolutions."""
        import litert_torch

        path = self.files / f"{name}.tflite"
        # The converter prints its steps; standard output is for the JSON.
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            deployed = deepcopy(network).eval()
            if hasattr(deployed, "deploy"):
                deployed = deployed.deploy()
            fold(deployed)
            example = self.study.example
            last = litert_torch.to_channel_last_io(deployed, args=[0])
            example = example.permute(0, 2, 3, 1).contiguous()  # (1, H, W, 3)
            litert_torch.convert(last.eval(), (example,)).export(str(path))
        return path

    def ratio(self, network: nn.Module, name: str) -> float:
        """Return the network's latency over the base's, a median over turns."""
        file = self.converted(network, name)
        return ratios({"base": self._base, name: file}, "base")[name]


def ratios(files: dict[str, Path], unit: str, turns: int = TURNS) -> dict[str, float]:
    """Return the medians over turns of each file's latency over that of `unit` in the same turn."""
    found: dict[str, list[float]] = {name: [] for name in files}
    with opened("host", Settings()) as devices:
        for _ in range(turns):
            times = {name: devices[0].measure(file).median_ms for name, file in files.items()}
            for name, each in times.items():
                found[name].append(each / times[unit])
    return {name: statistics.median(each) for name, each in found.items()}


def turned(
    make: Callable[[float], nn.Module | None],
    clock: Clock,
    name: str,
    share: float,
    low: float,
    high: float,
) -> tuple[nn.Module, float, float]:
    """Return the network, its ratio and its knob, by bisection of a knob that makes it slower.

    The nearest of all tries is returned, which may be outside the tolerance.
    """
    best: tuple[nn.Module, float, float] | None = None
    for number in range(TRIES):
        knob = (low + high) / 2
        network = make(knob)
        if network is None:  # nothing is that fast
            low = knob
            continue
        ratio = clock.ratio(network, f"{name}-{number}")
        print(f"{name}: knob {knob:.4f}, {ratio:.3f} of the base", file=sys.stderr, flush=True)
        if best is None or abs(ratio - share) < abs(best[1] - share):
            best = network, ratio, knob
        if abs(ratio / share - 1) <= TOLERANCE:
            break
        low, high = (knob, high) if ratio < share else (low, knob)
    assert best is not None, f"{name}: no setting of the knob gave a network"
    return best


def law(study: Study, clock: Clock) -> Start:
    """The accuracy law alone: the whole budget is the network's."""
    network, ratio, about = searched(study, clock, "law", study.options.share)
    return Start(network, study.options.passes, ratio, about)


def searched(
    study: Study, clock: Clock, name: str, share: float, supernet: Path | None = None
) -> tuple[nn.Module, float, dict[str, Any]]:
    """Return what `nas search` finds at a share of the base's latency, its ratio, and facts."""
    unit = study.table.total_ms(study.shape)
    what = ["--supernet", str(supernet)] if supernet else ["--space", study.options.space]
    sides = "x".join(map(str, study.space.resolution))
    members: dict[float, Architecture] = {}

    def make(knob: float) -> nn.Module | None:
        run = study.folder / f"{name}-search" / f"{knob:.5f}"
        asked = [*what, "--device", study.options.table, "--latency-ms", f"{knob * unit:.6f}"]
        asked += [] if supernet else ["--resolution", sides]
        if not (run / "architecture.yaml").exists():
            command = [sys.executable, "-m", "nas", "search", *asked, "--out", str(run)]
            done = subprocess.run(command, stdout=sys.stderr, check=False)
            if done.returncode:
                return None
        found = nas.load_architecture(run / "architecture.yaml")
        members[knob] = found
        classes = study.splits.train.classes
        start = load_start(
            find_subject(run), classes, study.seed, from_scratch=supernet is None, new_head=True
        )
        return start.network

    network, ratio, knob = turned(make, clock, name, share, 0.5 * share, 2.0 * share)
    return network, ratio, facts(members[knob]) | {"predicted_ratio": knob}


def with_supernet(study: Study, clock: Clock, name: str, epochs: int, init: Path | None) -> Start:
    """A supernet for some epochs, its scores, a search, and inherited weights."""
    out = study.folder / f"{name}-supernet"
    command = [
        *(sys.executable, "-m", "nas", "train", "--space", study.options.space),
        *("--data", study.options.data, "--out", str(out), "--epochs", str(epochs)),
        *("--resolution", "x".join(map(str, study.space.resolution)), "--batch", "128"),
        *("--learning-rate", "2e-3", "--alpha-rate", "2e-3", "--held-out", str(HELD_OUT)),
        *("--limit", str(study.options.images + HELD_OUT), "--seed", str(study.seed), "--quiet"),
        *(["--init", str(init)] if init else []),
    ]
    subprocess.run(command, stdout=sys.stderr, check=True)
    network, ratio, about = searched(study, clock, name, study.options.share, out)
    used = epochs + (study.half if init else 0)
    return Start(network, study.options.passes - used, ratio, about)


def supernet(study: Study, clock: Clock) -> Start:
    return with_supernet(study, clock, "supernet", study.half, None)


def warm(study: Study, clock: Clock) -> Start:
    return with_supernet(study, clock, "warm", study.half // 2, study.base_weights)


def nearest_scaled(study: Study, clock: Clock) -> tuple[Architecture, float]:
    """Return the scaled base whose measured latency is nearest to the target, and its ratio."""
    target = study.options.share * study.table.total_ms(study.shape)
    return nearest(study, clock, "scaled", scalings(study.space, study.shape), target)


def nearest(
    study: Study, clock: Clock, name: str, members: Iterator[Architecture], target_ms: float
) -> tuple[Architecture, float]:
    """Return the member whose measured latency is nearest, of those nearest by the table."""
    different = {member.operations(): member for member in members}.values()
    ranked = sorted(different, key=lambda member: abs(study.table.total_ms(member) - target_ms))
    found: list[tuple[Architecture, float]] = []
    for number, member in enumerate(ranked[:TRIES]):
        found.append((member, clock.ratio(study.network(member), f"{name}-{number}")))
        print(f"{name}: {member.name}, {found[-1][1]:.3f}", file=sys.stderr, flush=True)
        if abs(found[-1][1] / study.options.share - 1) <= TOLERANCE:
            break
    return min(found, key=lambda each: abs(each[1] - study.options.share))


def scaled(study: Study, clock: Clock) -> Start:
    member, ratio = nearest_scaled(study, clock)
    return Start(study.network(member), study.options.passes, ratio, facts(member))


def scaled_sliced(study: Study, clock: Clock) -> Start:
    member, ratio = nearest_scaled(study, clock)
    network = study.network(member, study.base_weights)
    return Start(network, study.options.passes - study.half, ratio, facts(member))


def random(study: Study, clock: Clock) -> Start:
    target = study.options.share * study.table.total_ms(study.shape)
    drawn = (study.space.sample(DRAWN * study.seed + number) for number in range(DRAWN))
    member, ratio = nearest(study, clock, "random", drawn, target)
    return Start(study.network(member), study.options.passes, ratio, facts(member))


def by_fastnas(study: Study, clock: Clock, network: nn.Module, name: str) -> Start:
    """A network after half of the budget, pruned until it has the target's share of the base's latency."""
    train_images = study.splits.train
    held_out = study.splits.held_out
    batches = [normalised(train_images, at, at + 128) for at in range(0, CALIBRATION, 128)]
    counted = 0

    def evaluate(candidate: nn.Module) -> float:
        nonlocal counted
        counted += 1
        return accuracy(candidate, held_out)

    begin = time.process_time()
    cache = study.folder / f"{name}.pth"
    pruned, ratio, knob = turned(
        lambda knob: fastnas(network, knob, study.example, batches, evaluate, cache),
        clock,
        name,
        study.options.share,
        0.05,
        1.0,
    )
    about = {"operations_kept": knob, "evaluations": counted}
    about["processor_seconds"] = round(time.process_time() - begin, 1)
    return Start(pruned, study.options.passes - study.half, ratio, about)


def fastnas_of_base(study: Study, clock: Clock) -> Start:
    return by_fastnas(study, clock, study.base, "fastnas")


def law_fastnas(study: Study, clock: Clock) -> Start:
    network, _, about = searched(study, clock, "law-wider", WIDER * study.options.share)
    network = study.trained(network, study.half, "law-wider")
    start = by_fastnas(study, clock, network, "law-fastnas")
    return Start(start.network, start.epochs, start.ratio, start.about | {"pruned": about})


def pruned_by_magnitude(study: Study, clock: Clock) -> Start:
    network, ratio, knob = turned(
        partial(torch_pruning, study.base, example_bchw=study.example),
        clock,
        "torch-pruning",
        study.options.share,
        0.1,
        1.0,
    )
    epochs = study.options.passes - study.half
    return Start(network, epochs, ratio, {"channels_kept": knob})


METHODS: dict[str, Callable[[Study, Clock], Start]] = {
    "law": law,
    "supernet": supernet,
    "warm": warm,
    "scaled": scaled,
    "scaled-sliced": scaled_sliced,
    "random": random,
    "fastnas": fastnas_of_base,
    "torch-pruning": pruned_by_magnitude,
    "law-fastnas": law_fastnas,
}


def facts(member: Architecture) -> dict[str, Any]:
    return {
        "widths": member.widths,
        "depths": member.depths,
        "macs": member.macs,
        "params": member.params,
    }


def scalings(space: Space, published: Architecture) -> Iterator[Architecture]:
    """Yield the published member with widths, depths or both times every factor up to 1."""
    attention = [
        sum(stages.kind(block) == "global" for block in stage.blocks)
        for stages, stage in zip(space.stages, published.stages, strict=True)
    ]
    # An exponent of 0 leaves widths or depths as they are.
    for factor, (wide, deep) in product(np.arange(1.0, 0.0, -0.01), ((1, 1), (1, 0), (0, 1))):
        widths = [
            min(stage.widths, key=lambda each, wanted=factor**wide * width: abs(each - wanted))
            for stage, width in zip(space.stages, published.widths, strict=True)
        ]
        depths = [
            max(stage.depths[0], round(factor**deep * depth))
            for stage, depth in zip(space.stages, published.depths, strict=True)
        ]
        kept = [min(count, depth) for count, depth in zip(attention, depths, strict=True)]
        name = f"{published.name}-widths{factor**wide:.2f}-depths{factor**deep:.2f}"
        yield space.member(widths, depths, kept, name, as_in(published))


def as_in(published: Architecture) -> Callable[..., BlockSpec]:
    """Return a function that picks the published member's candidates, such as its expansions."""

    def pick(place: Place, candidates: tuple[BlockSpec, ...], shape: Shape) -> BlockSpec:
        own: tuple[BlockSpec | None, ...] = (published.head, published.stem)
        if place.part == "block":
            own = published.stages[place.stage or 0].blocks
        return next((block for block in candidates if block in own), candidates[0])

    return pick


def normalised(data: ImageData, start: int, stop: int) -> Tensor:
    """Return images (B, 3, H, W) of a data set."""
    return normalise(torch.from_numpy(np.array(data.images[start:stop])))


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageData) -> float:
    """Return the top-1 accuracy of a network in percent, as its batch norms are."""
    network.eval()
    right = 0
    for start in range(0, len(data), 256):
        labels = torch.from_numpy(np.array(data.labels[start : start + 256]))
        right += int((network(normalised(data, start, start + 256)).argmax(1) == labels).sum())
    return 100 * right / len(data)


def recalibrated(network: nn.Module, data: ImageData) -> nn.Module:
    """Give a network the batch norm statistics of unaugmented training images, in place."""
    with torch.no_grad():
        update_bn((normalised(data, at, at + 128) for at in range(0, CALIBRATION, 128)), network)
    return network.eval()


def cell(study: Study, name: str) -> dict[str, Any]:
    """Return the result of a method with a seed, which is kept in its folder."""
    folder = study.folder / name
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text())  # type: ignore[no-any-return]
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(study)
    start = METHODS[name](study, clock)
    clock.converted(start.network, f"final-{name}")
    train_images = study.splits.train
    before = accuracy(recalibrated(deepcopy(start.network), train_images), study.splits.held_out)
    network = recalibrated(study.trained(start.network, start.epochs, name), train_images)
    assert study.splits.test is not None
    found = {
        "ratio": round(start.ratio, 4),
        "epochs": start.epochs,
        "params": sum(each.numel() for each in network.parameters()),
        "held_out_before": round(before, 3),
        "held_out": round(accuracy(network, study.splits.held_out), 3),
        "test": round(accuracy(network, study.splits.test), 3),
        **start.about,
    }
    with replacing(result) as temporary:
        temporary.write_text(json.dumps(found, indent=2))
    print(f"seed {study.seed}, {name}: {found['test']} %", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space")
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.6, help="of the base's latency")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    studies = {seed: Study(options, seed) for seed in options.seeds}
    cells: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in options.only}
    for seed, study in studies.items():
        for name in options.only:
            cells[name][seed] = cell(study, name)
    final = {}
    for seed, study in studies.items():
        files = study.folder / "files"
        shown = {name: files / f"final-{name}.tflite" for name in options.only}
        final[seed] = ratios({"base": files / "base.tflite", **shown}, "base")
    first = next(iter(studies.values()))
    print(
        json.dumps(
            {
                "space": options.space,
                "base": facts(first.shape),
                "share": options.share,
                "images": options.images,
                "passes": options.passes,
                "held_out": HELD_OUT,
                "test_images": len(first.splits.test) if first.splits.test else 0,
                "cells": cells,
                "ratios": final,
                "mean_test": {
                    name: round(statistics.mean(each["test"] for each in row.values()), 3)
                    for name, row in cells.items()
                },
                "versions": versions("torch", "ai-edge-litert"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
