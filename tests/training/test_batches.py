"""Batches and augmentation: the same for the same seed, and nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.training.batches import MEAN, SHIFT, STD, augment, epoch_batches, normalise


@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_is_a_permutation_in_even_batches(
    images: int, batch: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(images, batch, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(images))
    sizes = [len(indices) for indices in batches]
    assert max(sizes) <= batch and max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = np.concatenate(epoch_batches(100, 10, seed=0, epoch=3))
    assert np.array_equal(first, np.concatenate(epoch_batches(100, 10, seed=0, epoch=3)))
    assert not np.array_equal(first, np.concatenate(epoch_batches(100, 10, seed=0, epoch=4)))
    assert not np.array_equal(first, np.concatenate(epoch_batches(100, 10, seed=1, epoch=3)))


@pytest.mark.parametrize(("images", "batch"), [(0, 4), (4, 0)])
def test_empty_batches_are_refused(images: int, batch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        epoch_batches(images, batch, 0, 0)


def pixels(batch: int = 64, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.randint(
        0,
        256,
        (batch, 3, height, width),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(5),
    )


def test_normalise() -> None:
    white = normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert white.dtype == torch.float32
    torch.testing.assert_close(white[0, :, 1, 1], expected)


def test_augment_repeats_with_its_generator() -> None:
    first, again, other = (
        augment(pixels(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("flip", [True, False])
def test_augment_is_pad_crop_and_flip(flip: bool) -> None:
    """Every image equals some crop of the image padded by reflection, flipped or not; without
    `flip` never flipped."""
    images = pixels()
    _, _, height, width = images.shape
    tall = round(SHIFT * height)
    wide = round(SHIFT * width)
    padded = torch.nn.functional.pad(normalise(images), (wide, wide, tall, tall), mode="reflect")
    flipped = 0
    offsets = set()
    for image, source in zip(
        augment(images, torch.Generator().manual_seed(0), flip=flip), padded, strict=True
    ):
        matches = [
            (top, left, mirrored)
            for top in range(2 * tall + 1)
            for left in range(2 * wide + 1)
            for mirrored in (False, True)
            if torch.equal(
                image.flip(-1) if mirrored else image,
                source[:, top : top + height, left : left + width],
            )
        ]
        assert len(matches) == 1
        offsets.add(matches[0][:2])
        flipped += matches[0][2]
    assert len(offsets) > 15
    assert (10 < flipped < 54) if flip else flipped == 0
