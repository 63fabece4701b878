"""Compare a step of the supernet's training with a plain training step. Prints JSON.

    python benchmarks/training_speed.py [SPACE ...] [--resolution 64] [--batch 16] [--rounds 15]
        [--device cpu]

A step is forward, backward and AdamW on the engine of `nas train`. There are five trainings:

    plain      the space's largest member by itself
    gumbel     the supernet at full width, one candidate per position, as at the beginning, when
               identity is as likely as the others
    late       the same where identity is never drawn, as at the end, when every block pays off
    narrowed   random widths and candidates (`--narrow 1`)
    soft       the naive mixture that computes all candidates

They take turns in one process, so that a slow moment of the machine affects all of them. A figure is
the median over the rounds, in which paths and widths are drawn anew. Memory is the peak of a fresh
process per training after a few steps, so that the optimizer's moments count. It is above what the
process holds once everything is imported; on a GPU it is the peak of what was allocated.

`growth` has plain and gumbel steps of one space, by turns deeper, wider and with more images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.data import ImageData
from nas.network import build
from nas.space import Space, load_space
from nas.supernet.checkpoint import Folder
from nas.supernet.options import Recipe
from nas.supernet.supernet import Supernet
from nas.supernet.train import SupernetTask
from nas.training.batches import Batch
from nas.training.distributed import processes
from nas.training.step import Stepper
from nas.training.task import Task
from nas.versions import versions

KINDS = ("plain", "gumbel", "late", "narrowed", "soft")
MEMORY_STEPS = 6
CLASSES = 10
TARGETS = {"gumbel/plain images/s": 0.6, "gumbel/plain memory": 1.5, "gumbel/soft images/s": 1.5}
"""Targets: a minimum, a maximum, a minimum."""


class Plain(Task):
    """The training of the space's largest member by itself."""

    def __init__(self, space: Space, recipe: Recipe) -> None:
        self.network = build(space.largest())
        self.recipe = recipe

    @property
    def module(self) -> nn.Module:
        return self.network

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters()), "weight_decay": 0.05, "peak": 1e-3}]

    def loss(
        self,
        module: nn.Module,
        images_bchw: Tensor,
        labels_b: Tensor,
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        return self.goal.loss(module(images_bchw), labels_b, self.recipe.label_smoothing)


class Training:
    """A training of one kind on noise, step by step."""

    def __init__(
        self, space: Space, kind: str, batch: int, device: str | None, precision: str
    ) -> None:
        sampling = "soft" if kind == "soft" else "straight_through"
        recipe = Recipe(
            batch=batch,
            narrow=float(kind == "narrowed"),
            sampling=sampling,  # type: ignore[arg-type]
            precision=precision,
        )  # type: ignore[arg-type]
        torch.manual_seed(0)
        task: Task = (
            Plain(space, recipe)
            if kind == "plain"
            else SupernetTask(Supernet(space), recipe, Folder(Path("unwritten")), steps=10_000)
        )
        if kind == "late":
            for alpha in task.supernet.alphas().values():  # type: ignore[attr-defined]
                alpha.data[-1] = -1e3
        self.stepper = Stepper(task, recipe, processes(device), kind)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (batch, 3, *space.resolution), dtype=np.uint8)
        self.data = ImageData(
            pixels, rng.integers(0, CLASSES, batch), tuple(map(str, range(CLASSES))), 0, "", ""
        )

    def step(self) -> float:
        """Take the next step and return how many seconds it took."""
        start = time.perf_counter()
        state = self.stepper.state
        self.stepper.task.before_step(state.step)
        generator = torch.Generator().manual_seed(state.step)
        batch = Batch.draw(self.data, np.arange(len(self.data)), self.stepper.settings, generator)
        self.stepper.step(batch, generator, 1e-3)
        if self.stepper.processes.device.type == "cuda":
            torch.cuda.synchronize()
        state.step += 1
        return time.perf_counter() - start


def speeds(
    space: Space, kinds: tuple[str, ...], options: argparse.Namespace, batch: int
) -> dict[str, float]:
    """Return the images per second of each kind, measured by turns."""
    trainings = {
        kind: Training(space, kind, batch, options.device, options.precision) for kind in kinds
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(options.rounds + 2):
        for kind, training in trainings.items():
            seconds = training.step()
            if turn >= 2:  # the first ones allocate
                times[kind].append(seconds)
    return {kind: round(batch / statistics.median(values), 2) for kind, values in times.items()}


def peak_mb(options: argparse.Namespace, space: str, kind: str) -> float:
    """Return the peak memory of a fresh process that trains, in MB (10^6 bytes)."""
    command = [
        sys.executable,
        __file__,
        space,
        "--memory-of",
        kind,
        "--resolution",
        str(options.resolution),
        "--batch",
        str(options.batch),
        "--precision",
        options.precision,
        *(["--device", options.device] if options.device else []),
    ]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def own_peak_mb(space: Space, kind: str, options: argparse.Namespace) -> float:
    """Return the peak memory of this process while it trains, above what it held before."""
    before = _resident_mb("VmRSS")
    training = Training(space, kind, options.batch, options.device, options.precision)
    for _ in range(MEMORY_STEPS):
        training.step()
    if training.stepper.processes.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return _resident_mb("VmHWM") - before


def _resident_mb(key: str) -> float:
    """Return the memory of this process in MB from Linux: VmRSS now, VmHWM at its peak.

    The peak of getrusage is inherited from the parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024 / 1e6


def compare(space: Space, options: argparse.Namespace, name: str) -> dict[str, Any]:
    images = speeds(space, KINDS, options, options.batch)
    memory = {kind: round(peak_mb(options, name, kind), 1) for kind in KINDS}
    ratios = {
        "gumbel/plain images/s": round(images["gumbel"] / images["plain"], 3),
        "gumbel/plain memory": round(memory["gumbel"] / memory["plain"], 3),
        "gumbel/soft images/s": round(images["gumbel"] / images["soft"], 3),
        "late/plain images/s": round(images["late"] / images["plain"], 3),
        "late/plain memory": round(memory["late"] / memory["plain"], 3),
        "late/soft images/s": round(images["late"] / images["soft"], 3),
        "narrowed/plain images/s": round(images["narrowed"] / images["plain"], 3),
    }
    return {"images_per_second": images, "peak_mb": memory, "ratios": ratios}


def scaled(space: Space, depth: float = 1.0, width: float = 1.0) -> Space:
    """Return the space with a share of its positions and width choices, at least one of each."""
    stages = []
    for stage in space.stages:
        positions = max(round(stage.depths[1] * depth), 1)
        kept = stage.widths[: max(round(len(stage.widths) * width), 1)]
        stages.append(
            replace(stage, widths=kept, depths=(min(stage.depths[0], positions), positions))
        )
    return replace(space, stages=tuple(stages), published={})


def growth(space: Space, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield plain and gumbel steps of deeper and wider spaces, and of more images."""
    for share in (0.5, 1.0, 1.5):
        deep = scaled(space, depth=share)
        yield {
            "depth": sum(stage.depths[1] for stage in deep.stages),
            **_pair(deep, options, options.batch),
        }
    for share in (0.4, 0.7, 1.0):
        wide = scaled(space, width=share)
        yield {"width": wide.stages[-1].widths[-1], **_pair(wide, options, options.batch)}
    for batch in (options.batch // 2, options.batch, options.batch * 2):
        yield {"batch": batch, **_pair(space, options, batch)}


def _pair(space: Space, options: argparse.Namespace, batch: int) -> dict[str, float]:
    images = speeds(space, ("plain", "gumbel"), options, batch)
    return {
        **{f"{kind} images/s": value for kind, value in images.items()},
        "ratio": round(images["gumbel"] / images["plain"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spaces", nargs="*", default=["efficientformer_small", "swiftformer"])
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--growth", action="store_true", help="how the first space grows, too")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    spaces = {name: load_space(name).at(options.resolution, CLASSES) for name in options.spaces}
    if options.memory_of:
        print(own_peak_mb(next(iter(spaces.values())), options.memory_of, options))
        return
    result: dict[str, Any] = {
        "resolution": options.resolution,
        "batch": options.batch,
        "rounds": options.rounds,
        "precision": options.precision,
        "device": str(processes(options.device).device),
        "threads": torch.get_num_threads(),
        "targets": TARGETS,
        "spaces": {name: compare(space, options, name) for name, space in spaces.items()},
    }
    if options.growth:
        result["growth"] = list(growth(next(iter(spaces.values())), options))
    print(json.dumps({**result, "versions": versions("torch", "accelerate")}, indent=2))


if __name__ == "__main__":
    main()
