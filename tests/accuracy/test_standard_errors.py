"""Standard errors on held-out images: never 0, right in coverage, and those of the bootstrap where
images are many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.tasks.classify import Z95, accuracy_error, difference_error


@given(st.integers(1, 10**6), st.floats(0, 100))
def test_an_accuracy_is_never_certain(images: int, accuracy: float) -> None:
    error = accuracy_error(accuracy, images)
    assert 0 < error < 50 and math.isfinite(error)
    assert accuracy_error(accuracy, 4 * images) < error


@given(st.integers(1, 10**5), st.data())
def test_a_difference_is_never_certain(images: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, images))
    gained = data.draw(st.integers(0, images - lost))
    error = difference_error(lost, gained, images)
    assert error > 0 and math.isfinite(error)
    assert error == difference_error(gained, lost, images), (
        "it does not matter which is called before"
    )


def test_the_accuracy_error_is_half_the_wilson_interval() -> None:
    """18 of 18: the interval is 82.4 to 100 %; 60 of 100: 50.2 to 69.1 % (Brown, Cai and DasGupta,
    Stat. Sci. 2001)."""
    assert 2 * Z95 * accuracy_error(100, 18) == pytest.approx(100 - 82.41, abs=0.01)
    assert 2 * Z95 * accuracy_error(60, 100) == pytest.approx(69.06 - 50.20, abs=0.01)


def test_the_difference_error_is_that_of_the_table_with_a_half_in_each_cell() -> None:
    lost = 12
    gained = 5
    images = 200
    right_before = 150
    cells = np.array([right_before - lost, lost, gained, images - right_before - gained]) + 0.5
    share = cells / cells.sum()
    variance = share[1] + share[2] - (share[1] - share[2]) ** 2
    assert difference_error(lost, gained, images) == pytest.approx(
        100 * math.sqrt(variance / cells.sum())
    )


@pytest.mark.parametrize(
    ("images", "lost", "gained"),
    [
        (2000, 0.05, 0.03),
        (2000, 0.2, 0.05),
        (5000, 0.01, 0.01),
        (1000, 0.3, 0.1),
        (10_000, 0.02, 0.0),
    ],
)
def test_for_many_images_it_is_the_error_of_the_paired_bootstrap(
    images: int, lost: float, gained: float
) -> None:
    rng = np.random.default_rng(0)
    change = np.zeros(images)
    change[: round(lost * images)] = 1
    change[round(lost * images) : round((lost + gained) * images)] = -1
    resampled = [100 * rng.choice(change, images).mean() for _ in range(1000)]
    ours = difference_error(round(lost * images), round(gained * images), images)
    assert ours == pytest.approx(np.std(resampled), rel=0.1)


@pytest.mark.parametrize("images", [20, 60, 200, 1000])
@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.02), (0.1, 0.04), (0.3, 0.1), (0.05, 0.0)])
def test_the_interval_covers_the_true_difference(images: int, lost: float, gained: float) -> None:
    """95 % intervals around the measured drop hold the true one in at least 92 % of 4,000 samples."""
    rng = np.random.default_rng(images)
    table = rng.multinomial(images, [lost, gained, 1 - lost - gained], size=4000)
    drops = 100 * (table[:, 0] - table[:, 1]) / images
    errors = np.array([difference_error(int(b), int(c), images) for b, c, _ in table])
    inside = np.abs(drops - 100 * (lost - gained)) <= Z95 * errors
    assert inside.mean() >= 0.92


@pytest.mark.parametrize("images", [20, 100, 1000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
def test_the_interval_covers_the_true_accuracy(images: int, share: float) -> None:
    """Around the centre of the Wilson interval in 92 % of samples; around the accuracy itself from
    100 images on."""
    rng = np.random.default_rng(images)
    right = rng.binomial(images, share, size=4000)
    reach = Z95 * np.array(
        [accuracy_error(100 * count / images, images) for count in right.tolist()]
    )
    centre = 100 * (right + Z95**2 / 2) / (images + Z95**2)
    assert (np.abs(centre - 100 * share) <= reach).mean() >= 0.92
    if images >= 100:
        assert (np.abs(100 * right / images - 100 * share) <= reach).mean() >= 0.91
