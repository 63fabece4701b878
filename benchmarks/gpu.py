"""Measure training and scoring on a GPU, within eight minutes. Prints JSON.

    python benchmarks/gpu.py [SPACE] [--resolution 224] [--batch 128] [--minutes 7.5] [--device cuda]
    python benchmarks/gpu.py --tiny      # on a CPU, in a minute: whether everything but compilation runs

`equality` trains a small network and a small supernet on the device and on the CPU, with the same seeds:
losses and weights must agree within TOLERANCE.

`training` has a row per setting of the plain training of the space's largest member, and of the supernet's:
images per second (median step), the share of a step that goes into loading its images to the device, and
the peak of allocated memory. Loading is timed in steps of its own, as the clock needs the device to be idle.

`scoring` has images per second of the evaluator of moves, each image counted once per member.

Rows for which no time is left say so; the most important ones come first. Compiled rows run in processes
of their own, which are stopped when time is up. Images are noise in memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_speed import Plain

from nas.accuracy.single_moves import variants
from nas.data import ImageData
from nas.space import Space, load_space
from nas.supernet.checkpoint import Folder
from nas.supernet.options import Recipe
from nas.supernet.sensitivity import Evaluator
from nas.supernet.supernet import Supernet
from nas.supernet.train import SupernetTask
from nas.training.batches import Batch
from nas.training.distributed import processes
from nas.training.step import Stepper, out_of_memory
from nas.versions import versions

CLASSES = 10
WARM_UP = 3
"""Steps that are not timed: the first ones allocate, choose kernels and compile."""
TOLERANCE = 0.02
"""Maximum difference between device and CPU: of weights, as a share of how far they have moved; of
losses, as a share of the loss."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"precision": "fp32", "channels_last": False},
    {"precision": "bf16", "channels_last": True},
    {"precision": "bf16", "channels_last": False},
    {"precision": "fp32", "channels_last": True},
)
"""Settings of the rows of `training`, the most important ones first."""
COMPILED: dict[str, Any] = {"precision": "bf16", "channels_last": True, "compile": True}
KINDS = ("plain", "supernet")


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        space: name of the space.
        resolution: of the images, in pixels.
        batch: images per step.
        steps: maximum number of timed steps per row.
        row_seconds: time per row after which no step begins.
        images: images that a member is scored on.
        members: number of members that are scored.
        compiled: whether compiled trainings are measured.
    """

    space: str
    resolution: int
    batch: int
    steps: int
    row_seconds: float
    images: int
    members: int
    compiled: bool = True


TINY = Sizes(
    "efficientformer_small",
    resolution=32,
    batch=8,
    steps=2,
    row_seconds=5,
    images=40,
    members=3,
    compiled=False,
)


def noise(images: int, resolution: int) -> ImageData:
    """Return images of random pixels and classes."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (images, 3, resolution, resolution), dtype=np.uint8)
    labels = draw.integers(0, CLASSES, images)
    return ImageData(pixels, labels, tuple(map(str, range(CLASSES))), 0, "noise", "")


class Training:
    """A training of one kind, step by step."""

    def __init__(
        self, space: Space, kind: str, data: ImageData, device: str, recipe: Recipe
    ) -> None:
        torch.manual_seed(0)
        self.task = (
            Plain(space, recipe)
            if kind == "plain"
            else SupernetTask(Supernet(space), recipe, Folder(Path("unwritten")), steps=10_000)
        )
        self.stepper = Stepper(self.task, recipe, processes(device), kind)
        self.data = data
        self.batch = recipe.batch
        self.recipe = recipe

    def step(self) -> float:
        """Take the next step and return its loss."""
        state = self.stepper.state
        self.task.before_step(state.step)
        generator = torch.Generator().manual_seed(state.step)
        first = state.step * self.batch % len(self.data)
        indices = np.arange(first, first + self.batch) % len(self.data)
        outcome = self.stepper.step(
            Batch.draw(self.data, indices, self.recipe, generator), generator, rate=1.0
        )
        state.step += 1
        return math.nan if outcome.loss is None else outcome.loss

    def weights(self) -> dict[str, torch.Tensor]:
        return {
            name: parameter.detach().to("cpu", torch.float64, copy=True)
            for name, parameter in self.task.module.named_parameters()
        }


def synchronise(device: str) -> None:
    """Wait until the device has done all work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@contextmanager
def timed_loading(device: str) -> Iterator[list[float]]:
    """Context manager: inside, the seconds of every load of a micro-batch are noted."""
    seconds: list[float] = []
    load = Batch.load

    def timed(self: Batch, *arguments: Any) -> Any:
        # Kernels that are still running belong to the step before.
        synchronise(device)
        start = time.perf_counter()
        loaded = load(self, *arguments)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        return loaded

    Batch.load = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Batch.load = load  # type: ignore[method-assign]


def step_times(training: Training, sizes: Sizes, device: str) -> list[float]:
    """Return the seconds of up to `sizes.steps` steps, at least one."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < sizes.steps and (
        not times or time.perf_counter() - began < sizes.row_seconds
    ):
        start = time.perf_counter()
        training.step()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return times


def training_row(
    space: Space, kind: str, device: str, sizes: Sizes, settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the row of a training of one kind with these settings."""
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    data = noise(4 * sizes.batch, sizes.resolution)
    training = Training(space, kind, data, device, Recipe(batch=sizes.batch, **settings))
    start = time.perf_counter()
    for _ in range(WARM_UP):
        training.step()
    synchronise(device)
    warm_up = time.perf_counter() - start
    times = step_times(training, sizes, device)
    with timed_loading(device) as loading:
        with_loading = step_times(training, sizes, device)
    training.stepper.close()
    return {
        "images_per_second": round(sizes.batch / statistics.median(times), 1),
        "loading_share": round(sum(loading) / sum(with_loading), 4),
        "peak_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if gpu else None,
        "steps": len(times),
        "warm_up_seconds": round(warm_up, 1),
    }


def scoring_row(space: Space, device: str, sizes: Sizes, bf16: bool) -> dict[str, Any]:
    """Return the images per second of scoring members at all depths of the space."""
    torch.manual_seed(0)
    supernet = Supernet(space).to(device)
    images = noise(sizes.images, sizes.resolution)
    evaluator = Evaluator(supernet, images, images, bf16=bf16)
    # The largest member is first and is walked anyway. The others are spread over all places.
    every = variants(space, 2)
    members = every[:: max(len(every) // sizes.members, 1)][: sizes.members]
    synchronise(device)
    start = time.perf_counter()
    rows = list(evaluator.evaluate(members))
    synchronise(device)
    seconds = time.perf_counter() - start
    return {
        "images_per_second": round(len(rows) * sizes.images / seconds, 1),
        "members": len(rows),
        "images": sizes.images,
    }


def equality(device: str) -> dict[str, Any]:
    """Return how far trainings on the device and on the CPU are apart after some steps."""
    space = load_space(TINY.space).at(TINY.resolution, CLASSES)
    data = noise(4 * TINY.batch, TINY.resolution)
    # Plain SGD: AdamW scales gradients that are nothing but rounding up to whole steps.
    recipe = Recipe(batch=TINY.batch, optimizer="sgd", learning_rate=1e-3, alpha_rate=1e-3)
    # TensorFloat-32 has 10 bits; the CPU has no such thing.
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    rows: dict[str, Any] = {"tolerance": TOLERANCE}
    try:
        for kind in KINDS:
            here, there = (Training(space, kind, data, each, recipe) for each in (device, "cpu"))
            begin = there.weights()
            losses = [(here.step(), there.step()) for _ in range(3)]
            ours, theirs = here.weights(), there.weights()
            moved = max(float((theirs[name] - begin[name]).abs().max()) for name in begin)
            apart = max(float((ours[name] - theirs[name]).abs().max()) for name in begin)
            row = {
                "loss": max(abs(a - b) / abs(b) for a, b in losses),
                "weights": apart / moved,
            }
            within = all(math.isfinite(value) and value <= TOLERANCE for value in row.values())
            rows[kind] = {**row, "within": within}
    finally:
        torch.backends.cudnn.allow_tf32 = kept
    return rows


def guarded(measure: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    """Return a row, or why there is none: no time, or no memory."""
    if time.monotonic() > deadline:
        return {"left_out": "no time"}
    try:
        return measure()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return {"left_out": "out of memory"}
    finally:
        # What a row allocated must not count for the next one.
        gc.collect()
        torch.cuda.empty_cache()


def compiled_row(kind: str, device: str, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """Return the row of a compiled training from a process that ends after so many seconds."""
    about = json.dumps([kind, device, asdict(sizes)])
    command = [sys.executable, __file__, "--compiled-row", about]
    if seconds < sizes.row_seconds:
        return {"left_out": "no time"}
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"left_out": "no time"}
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def own_compiled_row(about: str) -> dict[str, Any]:
    """Return the row of a compiled training in this process."""
    kind, device, sizes = json.loads(about)
    sizes = Sizes(**sizes)
    space = load_space(sizes.space).at(sizes.resolution, CLASSES)
    return guarded(lambda: training_row(space, kind, device, sizes, COMPILED), math.inf)


def measure(sizes: Sizes, device: str, minutes: float) -> dict[str, Any]:
    """Return everything that is measured."""
    began = time.monotonic()
    end = began + 60 * minutes
    # A row takes up to twice its time, and its first steps before it.
    deadline = end - 3 * sizes.row_seconds
    space = load_space(sizes.space).at(sizes.resolution, CLASSES)
    result: dict[str, Any] = {"equality": equality(device)}
    result["training"] = [
        {
            "kind": kind,
            **settings,
            **guarded(
                lambda k=kind, s=settings: training_row(space, k, device, sizes, s), deadline
            ),
        }
        for settings in SETTINGS
        for kind in KINDS
    ]
    result["scoring"] = [
        {
            "precision": "bf16" if bf16 else "fp32",
            **guarded(lambda b=bf16: scoring_row(space, device, sizes, b), deadline),
        }
        for bf16 in (False, True)
    ]
    # Compilation takes the longest, so it comes last.
    for kind in KINDS if sizes.compiled else ():
        row = compiled_row(kind, device, sizes, end - time.monotonic())
        result["training"].append({"kind": kind, **COMPILED, **row})
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space", nargs="?", default="efficientformer")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=7.5, help="time in all, at most about")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: a GPU where there is one"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, which a CPU takes")
    parser.add_argument("--compiled-row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compiled_row:
        print(json.dumps(own_compiled_row(options.compiled_row)))
        return
    device = str(processes(options.device).device)
    gpu = device.startswith("cuda")
    sizes = (
        TINY
        if options.tiny
        else Sizes(
            options.space, options.resolution, options.batch,
            steps=50, row_seconds=12, images=2000, members=12,
        )
    )  # fmt: skip
    about = {
        "device": device,
        "name": torch.cuda.get_device_name() if gpu else "cpu",
        "threads": torch.get_num_threads(),
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix_products": torch.backends.cuda.matmul.allow_tf32,
        },
        "sizes": vars(sizes),
    }
    result = measure(sizes, device, options.minutes)
    print(json.dumps({**about, **result, "versions": versions("torch", "accelerate")}, indent=2))


if __name__ == "__main__":
    main()
