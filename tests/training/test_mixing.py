"""Mixup and cutmix: labels are shares of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.finetune.options import Recipe
from nas.training.mixing import draw_mixture

MIXUP = Recipe(mixup=0.8, cutmix=0.0, mix=1.0)
CUTMIX = Recipe(mixup=0.0, cutmix=1.0, mix=1.0)


def batch(size: int, height: int = 16, width: int = 24) -> tuple[Tensor, Tensor]:
    """Each image of one grey value of its own, and a class of its own: its pixels tell where they
    are from."""
    images = torch.arange(1.0, size + 1).view(-1, 1, 1, 1).expand(size, 3, height, width)
    return images, F.one_hot(torch.arange(size), size).float()


def mixed(recipe: Recipe, size: int, seed: int) -> tuple[Tensor, Tensor]:
    images, targets = batch(size)
    mixture = draw_mixture(recipe, *images.shape[2:], torch.Generator().manual_seed(seed))
    if mixture is None:
        return images, targets
    return mixture.images(images, images.flip(0)), mixture.targets(targets, targets.flip(0))


@settings(max_examples=60)
@given(
    st.sampled_from([MIXUP, CUTMIX, Recipe(mix=1.0), Recipe()]),
    st.integers(1, 7),
    st.integers(0, 10**6),
)
def test_targets_are_probabilities_and_the_shares_of_the_pixels(
    recipe: Recipe, size: int, seed: int
) -> None:
    images, targets = mixed(recipe, size, seed)
    assert targets.shape == (size, size) and (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(size))
    values = torch.arange(1.0, size + 1)
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), targets @ values)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_mixup_blends_every_pixel_alike(seed: int) -> None:
    images, targets = mixed(MIXUP, 4, seed)
    for index, image in enumerate(images):
        share = float(targets[index, index])
        assert float(targets[index, 3 - index]) == pytest.approx(1 - share, abs=1e-6)
        blend = share * (index + 1) + (1 - share) * (4 - index)
        torch.testing.assert_close(image, torch.full_like(image, blend))


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_cutmix_takes_a_rectangle_from_the_other_image(seed: int) -> None:
    images, targets = mixed(CUTMIX, 4, seed)
    for index, image in enumerate(images):
        other = image[0] == 4 - index
        assert ((image == index + 1) | (image == 4 - index)).all()
        rows = other.any(dim=1)
        columns = other.any(dim=0)
        assert torch.equal(other, rows[:, None] & columns[None, :])
        assert all(len(torch.unique_consecutive(line)) <= 3 for line in (rows, columns))
        assert float(targets[index, 3 - index]) == pytest.approx(
            float(other.float().mean()), abs=1e-6
        )


def test_both_images_are_in_a_mixture() -> None:
    for recipe in (MIXUP, CUTMIX):
        shares = [float(mixed(recipe, 2, seed)[1][0, 0]) for seed in range(40)]
        assert sum(0.02 < share < 0.98 for share in shares) > 20


def test_shares_are_drawn_from_a_beta() -> None:
    """Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2a + 1)); about 0.02 is two standard
    errors here."""
    shares = np.array([float(mixed(MIXUP, 2, seed)[1][0, 0]) for seed in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)


def test_switch_and_mix_are_shares_of_the_batches() -> None:
    recipe = Recipe(mix=0.75, switch=0.25)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        image = mixed(recipe, 2, seed)[0][0]
        values = torch.unique(image)
        whole = len(values) == 1 and float(values) in (1.0, 2.0)
        kinds["none" if whole else "mixup" if len(values) == 1 else "cutmix"] += 1
    # A rectangle of no pixel, or of all of them, looks like no mixture: a few of the cut ones.
    assert kinds["mixup"] / 2000 == pytest.approx(0.75 * 0.75, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.75 * 0.25, abs=0.04)


def test_off_leaves_the_batch_and_the_same_state_gives_the_same_mixture() -> None:
    for recipe in (Recipe(mixup=0, cutmix=0), Recipe(mix=0)):
        images, targets = mixed(recipe, 4, 0)
        assert torch.equal(images, batch(4)[0]) and torch.equal(targets, batch(4)[1])
    first, second, other = (mixed(Recipe(mix=1.0), 4, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
