"""Batches that workers make: the same images whichever worker, process or start makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nas.data import ImageData, load_whole
from nas.errors import InputError, NasError
from nas.extras import need
from nas.training import loader as loading
from nas.training.augmentation import POLICIES
from nas.training.batches import Batches, epoch_batches, partners, shares, step_generator
from nas.training.distributed import Processes
from nas.training.loader import WorkerBatches, open_batches
from nas.training.loop import train
from nas.training.settings import Settings
from nas.training.state import TrainingFolder
from nas.training.transforms import random_fit, seeded

CPU = torch.device("cpu")
ONE = Processes(0, 1, CPU)
MIXED = {"mixup": 0.5, "cutmix": 1.0, "mix": 0.7}


def has_torchvision() -> bool:
    try:
        need("", "vision", "torchvision")
    except InputError:
        return False
    return True


vision = pytest.mark.skipif(not has_torchvision(), reason="the extra `vision` is not installed")
AUGMENTS = ["light", pytest.param("standard", marks=vision), pytest.param("strong", marks=vision)]


@pytest.fixture
def folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two classes, each picture of its own size and pixels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    rng = np.random.default_rng(1)
    for number in range(50):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + number % 7, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def load(folder: Path, store: str = "stream") -> ImageData:
    return load_whole(str(folder), (16, 16), store=store).train  # type: ignore[arg-type]


def settled(augment: str = "light", **options: Any) -> Settings:
    return Settings(augment=augment, **{"batch": 20, "epochs": 2, "seed": 3, **options})  # type: ignore[arg-type]


def loaded(
    data: ImageData,
    settings: Settings,
    steps: range = range(6),
    processes: Processes = ONE,
    workers: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """Return the images and targets of each step that a process loads."""
    batches = open_batches(data, settings, processes, steps, workers)
    try:
        made = []
        for step in steps:
            batch = batches.draw(step, step_generator(settings.seed, step))
            parts = [
                batch.load(start, stop, CPU)
                for start, stop in shares(
                    len(batch), settings.accumulate, processes.index, processes.count
                )
            ]
            images = torch.cat([each.images for each in parts])
            made.append((images, torch.cat([each.targets for each in parts])))
        return made
    finally:
        batches.close()


def assert_equal(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_light_batches_of_both_stores_are_equal(folder_of_photos: Path) -> None:
    """And a store in memory needs no workers for them."""
    memory = load(folder_of_photos, "memory")
    assert type(open_batches(memory, settled(), ONE, range(6), 2)) is Batches
    for more in ({}, MIXED, {"repeats": 2}):
        settings = settled(**more)
        assert_equal(loaded(load(folder_of_photos), settings, workers=2), loaded(memory, settings))


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("store", ["memory", "stream"])
def test_an_image_depends_on_neither_worker_nor_process_nor_start(
    folder_of_photos: Path, augment: str, store: str
) -> None:
    data = load(folder_of_photos, store)
    settings = settled(augment, repeats=2, **MIXED)
    before = torch.get_rng_state()
    whole = loaded(data, settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(loaded(data, settings, workers=2), whole)
    assert_equal(loaded(data, settings, range(4, 6)), whole[4:])
    shared = [loaded(data, settings, processes=Processes(index, 3, CPU)) for index in range(3)]
    together = [
        (
            torch.cat([each[step][0] for each in shared]),
            torch.cat([each[step][1] for each in shared]),
        )
        for step in range(6)
    ]
    assert_equal(together, whole)
    assert any(targets.dim() == 2 for _, targets in whole), "no step was mixed"


@pytest.mark.parametrize("augment", AUGMENTS)
def test_epochs_seeds_and_repetitions_are_augmented_differently(
    folder_of_photos: Path, augment: str
) -> None:
    data = replace(load(folder_of_photos), labels=np.arange(50))
    settings = settled(augment, repeats=2)
    seen: dict[int, list[Tensor]] = {}
    for images, labels in loaded(data, settings, range(6)):
        for image, label in zip(images, labels.tolist(), strict=True):
            seen.setdefault(label, []).append(image)
    copies = [images for images in seen.values() if len(images) > 1]
    # A light one has 50 shifts and flips to draw from, and may draw one twice.
    different = sum(not torch.equal(images[0], images[1]) for images in copies)
    assert different > 0.8 * len(copies) > 20


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_killed_training_ends_with_the_same_state(
    toy: Any, folder_of_photos: Path, tmp_path: Path, augment: str
) -> None:
    class Killed(BaseException):
        pass

    data = load(folder_of_photos)
    settings = settled(augment, epochs=4, **MIXED)
    whole = TrainingFolder(tmp_path / "whole")
    cut = TrainingFolder(tmp_path / "cut")
    often: dict[str, Any] = {"save_every": 0, "report_every": 1}
    train(mixing(toy), data, settings, whole, workers=0, **often)

    def kill(progress: Any) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(mixing(toy), data, settings, cut, report=kill, workers=2, **often)
    train(mixing(toy), load(folder_of_photos), settings, cut, workers=1, **often)
    ours = load_file(cut.state)
    theirs = load_file(whole.state)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def mixing(toy: Any) -> Any:
    """Return the task, whose network has four outputs, for data of two classes."""
    task = toy()
    whole = task.layers
    task.layers = torch.nn.Sequential(*list(whole)[:-1], torch.nn.Linear(32, 2))
    return task


def test_a_broken_image_is_replaced_by_one_of_its_class(
    folder_of_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = folder_of_photos / "a" / "004.png"
    broken.write_bytes(broken.read_bytes()[:100])
    data = load(folder_of_photos)
    one = loaded(data, settled(), workers=2)
    assert "004.png cannot be decoded" in capsys.readouterr().err
    assert_equal(loaded(load(folder_of_photos), settled(), workers=0), one)
    # Without normalisation and shifts: all pixels of the epoch are those of good images.
    pixels = np.asarray(data.images)
    index = next(
        i
        for i in range(50)
        if data.images.stream.where(i).endswith("004.png")  # type: ignore[union-attr]
    )
    same = [i for i in range(50) if i != index and np.array_equal(pixels[i], pixels[index])]
    assert len(same) == 1 and data.labels[same[0]] == data.labels[index]


def test_a_smaller_share_has_the_images_of_the_planned_one(folder_of_photos: Path) -> None:
    """Memory runs out, and smaller micro-batches are tried."""
    data = load(folder_of_photos)
    batches = open_batches(data, settled(), ONE, range(6), 0)
    batch = batches.draw(0, step_generator(3, 0))
    whole = batch.load(0, len(batch), CPU).images
    assert torch.equal(batch.load(0, 5, CPU).images, whole[:5])
    batches.close()


def test_a_killed_worker_is_told_in_one_line(folder_of_photos: Path) -> None:
    settings = settled(batch=50, epochs=200)
    batches = open_batches(load(folder_of_photos), settings, ONE, range(200), 1)
    assert isinstance(batches, WorkerBatches)
    batches.draw(0, step_generator(3, 0)).load(0, 50, CPU)
    (worker,) = batches._chunks._workers  # type: ignore[union-attr]
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(timeout=30)
    # The end of another child is no reason to fail, wherever the program is.
    subprocess.run([sys.executable, "-c", ""], check=True)
    with pytest.raises(NasError, match=r"a worker that decodes images failed.*Fix: --workers 0"):
        for step in range(1, 200):
            batches.draw(step, step_generator(3, step)).load(0, 50, CPU)
    batches.close()


def test_workers_let_the_training_finish_its_step_after_a_signal(folder_of_photos: Path) -> None:
    settings = settled(batch=50, epochs=200)
    batches = open_batches(load(folder_of_photos), settings, ONE, range(200), 2)
    assert isinstance(batches, WorkerBatches)
    batches.draw(0, step_generator(3, 0)).load(0, 50, CPU)
    workers = batches._chunks._workers  # type: ignore[union-attr]
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    for step in range(1, 20):
        batches.draw(step, step_generator(3, step)).load(0, 50, CPU)
    batches.close()
    for worker in workers:
        worker.join(timeout=30)
        assert worker.exitcode == 0


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loading.default_workers() == 3


@tries(max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 64), st.integers(1, 5), st.integers(1, 30), st.booleans()
)
def test_an_epoch_repeats_images_and_keeps_its_length(
    images: int, batch: int, repeats: int, blocks: int, blocked: bool
) -> None:
    in_blocks = np.arange(images) % blocks if blocked else None
    batches = epoch_batches(images, batch, 0, 1, repeats=repeats, blocks=in_blocks)
    counts = Counter(np.concatenate(batches).tolist())
    assert sum(counts.values()) == images
    assert len(counts) == -(-images // repeats)
    assert sorted(counts.values())[1:] == [repeats] * (len(counts) - 1)


def test_a_window_of_an_epoch_lies_in_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.batches.WINDOW", 100)
    blocks = np.arange(1000) // 20
    order = np.concatenate(epoch_batches(1000, 10, seed=0, epoch=0, blocks=blocks))
    for start in range(0, 1000, 100):
        window = order[start : start + 100]
        assert len(set(blocks[window])) == 5
        assert list(window) != sorted(window)
    first = {
        tuple(sorted(set(blocks[order[start : start + 100]]))) for start in range(0, 1000, 100)
    }
    other = np.concatenate(epoch_batches(1000, 10, seed=0, epoch=1, blocks=blocks))
    second = {
        tuple(sorted(set(blocks[other[start : start + 100]]))) for start in range(0, 1000, 100)
    }
    assert first != second


@pytest.mark.parametrize(("batch", "accumulate", "count"), [(20, 1, 3), (21, 4, 2), (7, 1, 7)])
def test_partners_are_mirror_images_in_their_part(batch: int, accumulate: int, count: int) -> None:
    (whole,) = [
        [range(*part) for part in shares(batch, accumulate, 0, 1)],
    ]
    for index in range(count):
        for part, (start, stop) in zip(whole, shares(batch, accumulate, index, count), strict=True):
            if start < stop:
                first, last = partners(batch, accumulate, start, stop)
                mirrored = [part[-1 - (place - part[0])] for place in range(start, stop)]
                assert mirrored == list(range(first, last))[::-1]


@vision
def test_random_crops_show_a_part_of_the_image_in_its_colours() -> None:
    """A ramp from black to white: crops are parts of it, mirrored or not."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(256, axis=0)
    image = Image.fromarray(ramp)
    standard = POLICIES["standard"].image
    plain = replace(standard, colour_jitter=0.0, erasing=0.0)
    crop = random_fit(plain, (32, 32), flip=True)
    widths = []
    rising = 0
    for number in range(60):
        with seeded((number,)):
            pixels = crop(image)
        assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8
        line = pixels[0, 16].astype(int)
        rising += line[-1] > line[0]
        widths.append(abs(line[-1] - line[0]) / 255)
    assert 15 < rising < 45
    assert min(widths) > 0.35 and max(widths) > 0.9 and np.std(widths) > 0.05
    unmirrored = random_fit(plain, (32, 32), flip=False)
    for number in range(10):
        with seeded((number,)):
            pixels = unmirrored(image)
        assert pixels[0, 16, -1] > pixels[0, 16, 0]


@vision
def test_each_part_of_an_augmentation_has_an_effect() -> None:
    image = Image.fromarray(np.full((64, 64, 3), 100, dtype=np.uint8))
    crop = replace(POLICIES["strong"].image, erasing=0.0, randaugment_operations=0)
    changed = {
        "crop": crop,
        "erasing": replace(crop, erasing=1.0),
        "colour": replace(crop, colour_jitter=0.5),
        "randaugment": replace(crop, randaugment_operations=2),
    }
    seen = {}
    for name, augmentation in changed.items():
        fit = random_fit(augmentation, (32, 32), flip=True)
        images = []
        for number in range(20):
            with seeded((number,)):
                images.append(fit(image))
        seen[name] = np.stack(images)
    assert (seen["crop"] == 100).all()
    share = (seen["erasing"] != 100).any(axis=1).mean()
    assert 0.02 < share < 1 / 3
    assert set(np.unique(seen["erasing"][:, 0])) == {100, round(255 * 0.485)}
    assert len(np.unique(seen["colour"])) > 5
    assert len(np.unique(seen["randaugment"])) > 5
