"""The gate of evidence: each reason with its number of images, and that following the number makes
it pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import nas
from nas.accuracy.gate import Evidence, Reason, gate, rounded_up, verdict_on
from nas.accuracy.recorded import RecordedScores
from nas.space import Space
from nas.tasks.classify import difference_error


def measured(
    images: int, spread: float, seed: int = 0, moves: int = 60, changed: float = 0.08
) -> Evidence:
    """Drops around true ones of this spread (points), on so many images, a share `changed` of which
    change."""
    rng = np.random.default_rng(seed)
    true = rng.normal(2.0, spread, moves) / 100
    lost = np.clip((changed + true) / 2, 0, 1)
    gained = np.clip((changed - true) / 2, 0, 1)
    tables = [rng.multinomial(images, [b, c, 1 - b - c]) for b, c in zip(lost, gained, strict=True)]
    return Evidence(
        images=images,
        classes=10,
        accuracy=80.0,
        drops=tuple(100 * float(b - c) / images for b, c, _ in tables),
        errors=tuple(difference_error(int(b), int(c), images) for b, c, _ in tables),
    )


def test_enough_images_are_usable() -> None:
    verdict = verdict_on(measured(20_000, spread=1.5))
    assert verdict.usable and verdict.reason is None and verdict.images_needed is None
    assert verdict.text.startswith("usable: 20,000 held-out images tell moves apart")
    true = math.sqrt(2) * 1.5 * 0.6745
    assert verdict.difference == pytest.approx(true, rel=0.3)


@pytest.mark.parametrize("seed", range(5))
def test_too_few_images_are_told_with_a_number_that_does(seed: int) -> None:
    few = verdict_on(measured(400, spread=1.5, seed=seed))
    assert (
        few.reason is Reason.TOO_FEW_IMAGES
        and few.images_needed is not None
        and few.images_needed > 400
    )
    assert f"{rounded_up(few.images_needed):,} held-out images" in few.text
    if not few.at_least:
        assert verdict_on(measured(3 * few.images_needed, spread=1.5, seed=seed)).usable


@pytest.mark.parametrize("seed", range(20))
def test_moves_that_all_cost_the_same_never_pass(seed: int) -> None:
    """Noise shows a spread, too; more images do not make it a finding."""
    for images in (200, 2000, 20_000):
        verdict = verdict_on(measured(images, spread=0.0, seed=seed))
        assert (
            not verdict.usable
            and verdict.images_needed is not None
            and verdict.images_needed >= 2 * images
        )


def test_the_number_of_images_is_where_difference_and_error_meet() -> None:
    evidence = Evidence(
        images=100, classes=10, accuracy=90.0, drops=(0.0, 4.0, 8.0), errors=(3.0, 3.0, 3.0)
    )
    verdict = verdict_on(evidence)
    assert verdict.reason is Reason.TOO_FEW_IMAGES and not verdict.at_least
    assert verdict.standard_error == pytest.approx(math.hypot(3, 3))
    assert verdict.difference == pytest.approx(0.6745 * math.sqrt((4 / 0.6745) ** 2 - 18))
    needed = 100 * (verdict.standard_error / verdict.difference) ** 2
    assert verdict.images_needed == math.ceil(needed)
    scale = math.sqrt(100 / verdict.images_needed)
    # With so many images and the true drops seen as they are, it passes.
    better = Evidence(
        images=verdict.images_needed,
        classes=10,
        accuracy=90.0,
        drops=tuple(
            drop * math.sqrt(verdict.difference**2 + (0.6745 * scale * 18**0.5) ** 2) / 4
            for drop in evidence.drops
        ),
        errors=tuple(error * scale for error in evidence.errors),
    )
    assert verdict_on(better).usable


def test_a_perfect_member_on_18_images_has_equal_costs() -> None:
    error = difference_error(0, 0, 18)
    verdict = verdict_on(
        Evidence(images=18, classes=2, accuracy=100.0, drops=(0.0,) * 12, errors=(error,) * 12)
    )
    assert verdict.reason is Reason.EQUAL_COSTS and verdict.at_least
    assert verdict.images_needed == pytest.approx(18 * 2 * error**2, abs=1), (
        "a point would be a standard error"
    )
    assert "all 12 moves cost the same on 18 held-out images" in verdict.text


def test_equal_costs_on_many_images_are_not_for_want_of_images() -> None:
    error = difference_error(0, 0, 10_000)
    verdict = verdict_on(
        Evidence(images=10_000, classes=2, accuracy=100.0, drops=(0.0,) * 12, errors=(error,) * 12)
    )
    assert verdict.reason is Reason.EQUAL_COSTS and verdict.images_needed is None
    assert "harder images" in verdict.text


def test_one_image_is_too_few_whatever_it_says() -> None:
    for accuracy in (0.0, 100.0):
        error = difference_error(0, 0, 1)
        verdict = verdict_on(
            Evidence(
                images=1, classes=2, accuracy=accuracy, drops=(0.0, 100.0), errors=(error, error)
            )
        )
        assert verdict.reason is Reason.TOO_FEW_IMAGES and verdict.at_least
        assert verdict.images_needed is not None and verdict.images_needed > 100


@pytest.mark.parametrize(
    ("accuracy", "images", "untrained"),
    [
        (8.0, 1000, True),
        (10.0, 1000, True),
        (11.8, 1000, True),
        (12.0, 1000, False),
        (11.8, 2000, False),
    ],
)
def test_a_largest_member_near_chance_is_untrained(
    accuracy: float, images: int, untrained: bool
) -> None:
    """Chance is 10 %, two standard errors of it 1.9 points on 1,000 images and 1.3 on 2,000."""
    verdict = verdict_on(replace(measured(images, spread=10.0), accuracy=accuracy))
    assert (verdict.reason is Reason.UNTRAINED) == untrained
    if untrained:
        assert verdict.chance == 10 and "not above chance (10.0 %). Train longer" in verdict.text
        assert verdict.images_needed == {8.0: None, 10.0: None, 11.8: 1112}[accuracy]


def test_without_a_number_of_images_there_is_none_to_name() -> None:
    verdict = verdict_on(replace(measured(400, spread=0.2), images=None))
    assert verdict.reason is Reason.TOO_FEW_IMAGES and verdict.images_needed is None
    assert (
        verdict_on(replace(measured(400, spread=0.2), images=None, accuracy=9.0)).reason
        is Reason.UNTRAINED
    )


def test_recorded_scores_go_through_it(
    small_space: Callable[..., Space], made_up_scores: Callable[..., RecordedScores]
) -> None:
    scores = made_up_scores(small_space())
    verdict = gate(scores)
    assert verdict.usable and not verdict.checked and verdict.chance == 10
    assert "not checked" in verdict.text
    rows = tuple(replace(row, accuracy_drop=row.cost, standard_error=0.01) for row in scores.rows)
    assert gate(replace(scores, rows=rows)).checked
    assert gate(replace(scores, rows=rows)).usable
    equal = tuple(replace(row, cost=1.0) for row in scores.rows)
    assert gate(replace(scores, rows=equal)).reason is Reason.EQUAL_COSTS
    one_without = (replace(rows[0], standard_error=None), *rows[1:])
    assert not gate(replace(scores, rows=one_without)).checked
    assert gate(replace(scores, rows=rows, baseline_accuracy=9.0)).reason is Reason.UNTRAINED


def test_the_recorded_experiments_have_a_verdict() -> None:
    verdict = gate(nas.load_scores("experiments/efficientformer-cifar10"))
    assert verdict.checked and verdict.moves == 89 and verdict.images == 2000
    assert verdict.reason is Reason.TOO_FEW_IMAGES and verdict.images_needed is not None


@pytest.mark.parametrize(
    ("count", "rounded"), [(1, 1), (18, 18), (100, 100), (101, 110), (1838, 1900), (19_380, 20_000)]
)
def test_numbers_of_images_are_rounded_up(count: int, rounded: int) -> None:
    assert rounded_up(count) == rounded
