"""Measure memory and time of scoring a supernet's moves. Prints JSON.

    python benchmarks/scoring.py [--rounds 3] [--images 2000] [--only memory|time]
        [--wide efficientvit] [--wide-images 2000]

Supernets have random weights and images are noise: neither changes memory or time. Every figure is
of fresh processes with one thread each.

    memory   peak resident memory of scoring EfficientFormer's small space at 96x96 on 2,000 and on
             4,000 images, and of a wide space at 224x224 on 2,000 images. Of the wide space only
             three members are evaluated, those that need most memory: the peak is one of a group.
             That alone takes an hour on a slow core; --wide-images shortens it.
    time     seconds of one process against two under torchrun, wall and processor time, of scoring
             alone and with the start of the processes; and whether both write equal rows. They take
             turns, and the lowest of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.accuracy.single_moves import Variant, variants
from nas.data import ImageData, Splits
from nas.files import data_sha256
from nas.space import Space, load_space
from nas.supernet.checkpoint import Folder, describe, load_supernet, save_weights
from nas.supernet.groups import Work
from nas.supernet.options import Recipe
from nas.supernet.score import JOURNAL, first_images, score
from nas.supernet.sensitivity import Evaluator
from nas.supernet.supernet import Supernet
from nas.supernet.walk import calibration_images
from nas.testing.spaces import randomise
from nas.training.distributed import leave, processes
from nas.versions import versions

CLASSES = 10
CALIBRATION = 512
TARGETS = {"growth_mb": 50, "wide_gb": 3.0, "two/one": 0.6}
"""Targets, all of them maxima."""


def space_at(name: str, resolution: int) -> Space:
    return load_space(name).at(resolution, CLASSES)


def prepare(folder: Path, name: str, resolution: int, images: int) -> None:
    """Write a supernet with random weights and a file of noise."""
    space = space_at(name, resolution)
    torch.manual_seed(0)
    supernet = Supernet(space)
    randomise(supernet)
    data = _data(folder, resolution, images, write=True)
    of = {"source": "noise", "fingerprint": data.train.fingerprint}
    describe(Folder(folder), space, Recipe(epochs=1), of)
    save_weights(Folder(folder).weights, supernet)


def _data(folder: Path, resolution: int, images: int, write: bool = False) -> Splits:
    """Return noise as memory-mapped splits, which is written first if asked for."""
    parts = {}
    for part, count, seed in (("train", CALIBRATION, 0), ("held_out", images, 1)):
        path = folder / f"{part}-{count}.u8"
        shape = (count, 3, resolution, resolution)
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(seed)
            with path.open("wb") as file:
                for _ in range(count):
                    file.write(rng.integers(0, 256, shape[1:], dtype=np.uint8).tobytes())
        parts[part] = ImageData(
            np.memmap(path, dtype=np.uint8, mode="r", shape=shape),
            np.random.default_rng(seed).integers(0, CLASSES, count),
            tuple(map(str, range(CLASSES))),
            0,
            "noise",
            data_sha256([part, count]),
        )
    return Splits(parts["train"], parts["held_out"], None)


def run_score(folder: Path, resolution: int, images: int) -> dict[str, float]:
    """Score all moves in this process, or in these; return the seconds and the peak memory."""
    splits = _data(folder, resolution, images)
    together = processes()
    together.wait()
    begin = time.perf_counter()
    cpu = time.process_time()
    score(Folder(folder), splits, images=images, calibration=CALIBRATION)
    spent = torch.tensor([time.process_time() - cpu], dtype=torch.float64)
    total = float(together.share(spent))
    seconds = time.perf_counter() - begin
    main = together.main
    leave()
    return {"seconds": seconds, "processor_seconds": total, "peak_mb": _peak_mb()} if main else {}


def run_wide(folder: Path, resolution: int, images: int) -> dict[str, float]:
    """Evaluate the moves that need most memory; return the peak memory."""
    splits = _data(folder, resolution, images)
    supernet, _ = load_supernet(folder)
    largest = supernet.space.largest()
    train = first_images(splits.train, calibration_images(largest, CALIBRATION))
    evaluator = Evaluator(supernet, train, splits.held_out)
    begin = time.perf_counter()
    rows = list(evaluator.evaluate(_most_memory(supernet.space)))
    return {
        "seconds": time.perf_counter() - begin,
        "members": len(rows),
        "calibration_images": len(train),
        "batch": evaluator.batch,
        "peak_mb": _peak_mb(),
    }


def _most_memory(space: Space) -> list[Variant]:
    """Return the largest member, the one that computes most of its own, and a narrow last stage.

    The second branches off early, where activations are widest. The third cuts most weights.
    """
    largest, *others = variants(space, 3)
    early = max(others, key=lambda each: Work.of(each, largest.arch).own)
    last = f"stage{len(space.stages)}"
    narrow = next(each for each in others if each.key[:2] == ("narrow", last))
    return [largest, early, narrow]


def _peak_mb() -> float:
    """Return the peak resident memory of this process in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def fresh(
    what: str, folder: Path, name: str, resolution: int, images: int, count: int = 1
) -> dict[str, Any]:
    """Return what a fresh process, or `count` under torchrun, prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [sys.executable, *(launcher if count > 1 else [])]
    command += [__file__, "--do", what, str(folder), name, str(resolution), str(images)]
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wall = time.perf_counter() - begin
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return {**(json.loads(lines[-1]) if lines else {}), "with_start_seconds": wall}


def memory(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    small = []
    for images in (options.images, 2 * options.images):
        folder = root / f"small-{images}"
        for what in ("prepare", "score"):
            found = fresh(what, folder, "efficientformer_small", 96, images)
        small.append(found["peak_mb"])
    folder = root / "wide"
    for what in ("prepare", "wide"):
        found = fresh(what, folder, options.wide, 224, options.wide_images)
    return {
        "small_96_mb": {str(options.images): small[0], str(2 * options.images): small[1]},
        "growth_mb": small[1] - small[0],
        f"{options.wide}_224": found,
        "wide_gb": found["peak_mb"] / 1000,
    }


def seconds(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    folder = root / "time"
    fresh("prepare", folder, "efficientformer_small", 96, options.images)
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    rows: dict[int, set[bytes]] = {1: set(), 2: set()}
    for _ in range(options.rounds):
        for count, found in runs.items():
            for name in (JOURNAL, "scores.csv", "scores.yaml"):
                (folder / name).unlink(missing_ok=True)
            found.append(fresh("score", folder, "efficientformer_small", 96, options.images, count))
            rows[count].add((folder / JOURNAL).read_bytes() + (folder / "scores.csv").read_bytes())
    lowest = {
        count: {key: round(min(run[key] for run in found), 2) for key in found[0]}
        for count, found in runs.items()
    }
    return {
        "one": lowest[1],
        "two": lowest[2],
        "two/one": round(lowest[2]["seconds"] / lowest[1]["seconds"], 3),
        "two/one with start": round(
            lowest[2]["with_start_seconds"] / lowest[1]["with_start_seconds"], 3
        ),
        "equal_rows": rows[1] == rows[2] and len(rows[1]) == 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--wide", default="efficientvit", help="space of the third memory figure")
    parser.add_argument("--wide-images", type=int, default=2000)
    parser.add_argument("--only", choices=["memory", "time"])
    parser.add_argument("--do", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do:
        what, folder, name, resolution, images = options.do
        if what == "prepare":
            prepare(Path(folder), name, int(resolution), int(images))
        else:
            work = run_score if what == "score" else run_wide
            found = work(Path(folder), int(resolution), int(images))
            if found:
                print(json.dumps({key: round(value, 2) for key, value in found.items()}))
        return
    result: dict[str, Any] = {"images": options.images, "targets": TARGETS}
    with tempfile.TemporaryDirectory() as root:
        if options.only != "time":
            result["memory"] = memory(Path(root), options)
        if options.only != "memory":
            result["time"] = seconds(Path(root), options)
    result["load_average"] = os.getloadavg()
    print(json.dumps({**result, "versions": versions("torch", "accelerate")}, indent=2))


if __name__ == "__main__":
    main()
