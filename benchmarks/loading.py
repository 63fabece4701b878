"""Measure how fast the stream store loads JPEGs for a training. Prints JSON.

    python benchmarks/loading.py [--images 20000] [--more 200000] [--size 300x400]
        [--resolution 224] [--workers 2] [--seconds 30] [--folder FOLDER]

The pictures are synthetic photos of two classes: smooth colours with some noise, about 40 kB each.
`--images` of them are written. The second set of `--more` files are links to the first ones.

Each figure is of a process of its own:

    first_batch_s       from the start of `load_data` to the first batch on the device; imports are
                        done before. Listing the files is part of it.
    images_per_second   with random crops and flips (`--augment standard` without colours, erasing
                        and mixing), after the first batches. It needs torchvision.
    light               the same with the light augmentation, which decodes and resizes whole images.
    written_bytes       on the disk, under XDG_CACHE_HOME
    cpu_ms_per_image    processor time of the process and its workers. On idle cores the images per
                        second are at most 1000 * cores / this; on a busy machine it is the figure
                        that can be compared.
    rss_mb              memory of the process and its workers after `--seconds` of loading. Pages that
                        they share are counted once (PSS).
    rss_growth_mb       memory for `--more` files above that for `--images` files
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nas.versions import versions

TARGETS = {
    "first_batch_s": 15,
    "images_per_second": 350,
    "written_bytes": 5_000_000,
    "rss_growth_mb": 150,
}
"""Targets: maxima, but for the images per second."""
BATCH = 64
CLASSES = 2


def main() -> None:
    """Write the pictures, measure each set in a process of its own, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--more", type=int, default=200_000)
    parser.add_argument("--size", default="300x400", help="height x width of the pictures")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--folder", type=Path, help="of the pictures, which stay there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options, options.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        height, width = map(int, options.size.split("x"))
        few = root / "few"
        many = root / "many"
        write(few, options.images, height, width)
        link(few, many, options.images, options.more)
        crops = in_process(options, few, "crops")
        light = in_process(options, few, "light")
        more = in_process(options, many, "light")
    document = {
        "versions": versions("torch", "torchvision", "pillow"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "images": options.images,
        "more": options.more,
        "size": options.size,
        "resolution": options.resolution,
        "workers": options.workers,
        "crops": crops,
        "light": light,
        "light_with_more": more,
        "first_batch_s": max(light["first_batch_s"], crops.get("first_batch_s", 0)),
        "images_per_second": crops.get("images_per_second"),
        "written_bytes": max(light["written_bytes"], more["written_bytes"]),
        "rss_growth_mb": round(more["rss_mb"] - light["rss_mb"], 1),
        "targets": TARGETS,
    }
    print(json.dumps(document, indent=1))


def write(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEGs of a size into class folders; those that are there stay."""
    from PIL import Image

    rng = np.random.default_rng(0)
    # A small random picture, enlarged, has about the detail of a photo.
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:06d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (height, width, 1))
        pixels = np.clip(np.asarray(large).astype(np.int16) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        path.write_bytes(file.getvalue())


def link(few: Path, many: Path, images: int, count: int) -> None:
    """Make a folder of `count` names of the pictures."""
    for number in range(count):
        name = f"class{number % CLASSES}"
        path = many / name / f"{number:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # The class follows from the number, in both sets alike.
            os.link(few / name / f"{number % (images - images % CLASSES):06d}.jpg", path)


def in_process(options: argparse.Namespace, folder: Path, kind: str) -> dict[str, Any]:
    """Return the figures of one set, measured in a new process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [
            *(sys.executable, __file__, "--measure", kind, "--folder", str(folder)),
            *("--resolution", str(options.resolution), "--workers", str(options.workers)),
            *("--seconds", str(options.seconds)),
        ]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": cache},
        )
        files = [path for path in Path(cache).rglob("*") if path.is_file()]
        written = sum(path.stat().st_size for path in files)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures | {"written_bytes": written}


def measured(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the figures of a folder in this process."""
    import torch

    from nas.data import load_data
    from nas.errors import InputError
    from nas.training import loader
    from nas.training.augmentation import POLICIES, Augmentation, Policy
    from nas.training.batches import step_generator
    from nas.training.distributed import Processes
    from nas.training.settings import Settings

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "crops":
        from nas.training.transforms import transforms_v2

        try:
            transforms_v2()
        except InputError as error:
            return {"missing": str(error)}
        crops = Augmentation(crop_area=POLICIES["standard"].image.crop_area)
        POLICIES["standard"] = Policy(crops, {})
    settings = Settings(
        batch=BATCH, epochs=10_000, augment="standard" if kind == "crops" else "light"
    )
    resolution = (options.resolution, options.resolution)
    start = time.perf_counter()
    data = load_data(str(options.folder), resolution, store="stream").train
    processes = Processes(0, 1, device)
    batches = loader.open_batches(data, settings, processes, range(1_000_000), options.workers)

    def load(step: int) -> int:
        batch = batches.draw(step, step_generator(0, step))
        images = batch.load(0, len(batch), device).images
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(images)

    load(0)
    first = time.perf_counter() - start
    # The workers have images ready by now; these are not counted.
    step = 10
    for warm in range(1, step):
        load(warm)
    count = 0
    used = cpu_seconds()
    since = time.perf_counter()
    while time.perf_counter() - since < options.seconds:
        count += load(step)
        step += 1
    rate = count / (time.perf_counter() - since)
    used = cpu_seconds() - used
    memory = memory_mb()
    batches.close()
    return {
        "first_batch_s": round(first, 2),
        "images_per_second": round(rate, 1),
        "cpu_ms_per_image": round(1000 * used / count, 3),
        "rss_mb": memory,
    }


def memory_mb() -> float:
    """Return the memory of this process and its children in MB; shared pages count once."""
    total = 0
    for process in [os.getpid(), *children(os.getpid())]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return round(total / 1024, 1)


def cpu_seconds() -> float:
    """Return the processor time of this process and its children so far."""
    ticks = 0
    for process in [os.getpid(), *children(os.getpid())]:
        # The name of a process, in parentheses, may have spaces. utime and stime follow it.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    """Return the numbers of a process's children."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in text.split()]


if __name__ == "__main__":
    main()
