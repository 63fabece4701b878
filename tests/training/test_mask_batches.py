"""Images with masks in a training: both are cut, mirrored and resized together, in both stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import load_data
from nas.data.images import IGNORED, MEAN, ImageData
from nas.training.augmentation import MASK_POLICIES, Augmentation
from nas.training.batches import Batch, step_generator
from nas.training.distributed import ALONE
from nas.training.loader import open_batches
from nas.training.settings import Settings
from nas.training.transforms import random_pair_fit, seeded

LEVELS = (20, 120, 220)
"""Grey value of each class, so that an image tells its mask."""


def scene(seed: int, size: tuple[int, int] = (60, 90)) -> tuple[Image.Image, Image.Image]:
    """Return an image of three grey blocks, and its mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, rng.integers(20, 40) :] = 1
    mask[rng.integers(20, 40) :, rng.integers(50, 80) :] = 2
    grey = np.array(LEVELS, dtype=np.uint8)[mask]
    return Image.fromarray(np.stack([grey] * 3, axis=2)), Image.fromarray(mask)


def told(layers: np.ndarray) -> float:
    """Return the share of labelled pixels whose grey value is that of their class."""
    mask = layers[3].astype(int)
    labelled = mask != IGNORED
    grey = layers[0].astype(int)
    levels = np.array([*LEVELS, *[0] * 253])
    return float((np.abs(grey - levels[mask])[labelled] < 30).mean())


def test_an_image_and_its_mask_stay_together() -> None:
    fit = random_pair_fit(Augmentation(scale=(0.5, 2.0)), (48, 64), flip=True)
    sizes = []
    for seed in range(30):
        with seeded((0, seed)):
            layers = fit(*scene(seed))
        assert layers.shape == (4, 48, 64) and layers.dtype == np.uint8
        assert set(np.unique(layers[3])) <= {0, 1, 2, IGNORED}
        assert told(layers) > 0.93
        outside = layers[3] == IGNORED
        sizes.append(float(outside.mean()))
        # What the image does not cover has the mean colour.
        assert (np.abs(layers[0][outside] - 255 * MEAN[0]) < 1).all()
    # Smaller images leave room, larger ones do not.
    assert min(sizes) == 0 and max(sizes) > 0.3


def test_colours_change_in_the_image_alone() -> None:
    plain = random_pair_fit(Augmentation(scale=(0.5, 2.0)), (48, 64), flip=False)
    strong = random_pair_fit(MASK_POLICIES["strong"].image, (48, 64), flip=False)
    with seeded((1,)):
        before = plain(*scene(0))
    with seeded((1,)):
        after = strong(*scene(0))
    assert np.array_equal(before[3], after[3])
    assert not np.array_equal(before[:3], after[:3])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for n in range(12):
        image, mask = scene(n)
        image.save(folder / f"images/{n}.png")
        mask.save(folder / f"masks/{n}.png")
    return folder


def data_of(root: Path, store: str) -> ImageData:
    return load_data(str(root), (32, 48), held_out=2, masks=True, store=store).train  # type: ignore[arg-type]


def loaded(
    data: ImageData, settings: Settings, workers: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = open_batches(data, settings, ALONE, range(3), workers)
    try:
        drawn: list[Batch] = []
        result = []
        for step in range(3):
            batch = batches.draw(step, step_generator(settings.seed, step))
            drawn.append(batch)
            part = batch.load(0, len(batch), torch.device("cpu"))
            assert part.targets is part.labels
            result.append((part.images, part.labels))
        return result
    finally:
        batches.close()


@pytest.mark.parametrize("augment", ["light", "standard"])
@pytest.mark.parametrize("store", ["memory", "stream"])
def test_batches_of_both_stores(root: Path, store: str, augment: str) -> None:
    settings = Settings(batch=4, augment=augment)  # type: ignore[arg-type]
    data = data_of(root, store)
    for images, masks in loaded(data, settings):
        assert images.shape == (len(masks), 3, 32, 48) and images.dtype == torch.float32
        assert masks.shape == (len(masks), 32, 48) and masks.dtype == torch.int64
        assert set(masks.unique().tolist()) <= {0, 1, 2, IGNORED}
        # Classes differ in brightness, whatever was done to both.
        means = [float(images[:, 0][masks == kind].mean()) for kind in (0, 1)]
        assert means[0] < means[1]


def test_light_augmentation_is_the_same_in_both_stores(root: Path) -> None:
    settings = Settings(batch=4)
    pairs = zip(
        loaded(data_of(root, "memory"), settings),
        loaded(data_of(root, "stream"), settings),
        strict=True,
    )
    for (images, masks), (others, theirs) in pairs:
        assert torch.equal(images, others) and torch.equal(masks, theirs)
