"""What moves cost: the shared walk equals evaluating each member alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas.data import ImageData
from nas.search.scores import Score, load_scores
from nas.space import Space
from nas.supernet.score import costs, to_scores
from nas.supernet.sensitivity import Evaluator, measure, variants
from nas.supernet.supernet import Supernet


def images(count: int, seed: int) -> ImageData:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (count, 3, 64, 64), dtype=np.uint8)
    return ImageData(pixels, rng.integers(0, 10, count), tuple("0123456789"), 0, "noise", "none")


@pytest.fixture
def evaluator(small_supernet: Callable[..., Supernet]) -> Evaluator:
    return Evaluator(small_supernet(), images(32, 0), images(40, 1), batch=16)


def test_variants_are_one_for_every_move(small_space: Callable[[str], Space]) -> None:
    space = small_space("network_suffix")
    found = variants(space, widths=2)
    count = {move: sum(v.row.move == move for v in found) for move in ("none", "drop", "narrow", "localise")}
    assert count == {"none": 1, "drop": 9, "narrow": 4, "localise": 5}
    assert len({v.row.key for v in found}) == len(found)
    for variant in found:
        space.validate(variant.arch)


@torch.no_grad()
def test_walking_together_equals_evaluating_alone(evaluator: Evaluator) -> None:
    wanted = variants(evaluator.supernet.space, 3)
    rows = list(evaluator.evaluate(wanted))
    assert len(rows) == len(wanted)
    by_key = {row.key: row for row in rows}
    for variant in wanted:
        net = evaluator.supernet.extract(variant.arch).eval()
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        net(evaluator.calibration[0])
        logits = torch.cat([net.eval()(x) for x in evaluator.images])
        loss = float(nn.functional.cross_entropy(logits, evaluator.labels))
        assert by_key[variant.row.key].loss == pytest.approx(loss, abs=1e-4), variant.row


def test_a_killed_scoring_goes_on(evaluator: Evaluator, tmp_path: Path) -> None:
    space, journal = evaluator.supernet.space, tmp_path / "evaluations.csv"
    whole = measure(evaluator, space, journal, widths=2)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:7]) + lines[7][:9] + "\n")
    done: list[int] = []
    again = measure(evaluator, space, journal, widths=2, report=lambda n, total, row: done.append(n))
    assert [row.key for row in again] == [row.key for row in whole]
    assert len(done) == len(whole) - 6


def test_scores_are_complete_and_localised_drops_add_up(evaluator: Evaluator, tmp_path: Path) -> None:
    from nas.search.scores import Scores

    space = evaluator.supernet.space
    rows = measure(evaluator, space, tmp_path / "evaluations.csv", widths=2)
    scores = Scores.of(space, to_scores(rows, {}), ["made up"])
    scores.save(tmp_path)
    loaded = load_scores(str(tmp_path))
    loaded.check(space)
    assert loaded.cost(space.largest()) == 0
    local = [s for s in to_scores(rows, {}) if s.move == "localise"]
    last = next(row for row in rows if row.key == ("localise", 4, 2, None))
    assert sum(s.accuracy_drop or 0 for s in local) == pytest.approx(rows[0].accuracy - last.accuracy, abs=0.01)


def made_up(position: int, drop: float, error: float, loss: float) -> Score:
    return Score("drop", 1, 0.0, position, accuracy_drop=drop, standard_error=error, loss_increase=loss)


def test_an_exact_measurement_is_the_cost() -> None:
    measured = [made_up(1, 3.0, 0.0, 0.1), made_up(2, -1.0, 0.0, 0.2), made_up(3, 5.0, 0.0, 0.3)]
    assert costs(measured) == pytest.approx([3.0, -1.0, 5.0])


def test_differences_within_the_noise_follow_the_loss() -> None:
    noisy = [made_up(i, drop, 2.0, i / 10) for i, drop in enumerate([1.0, 0.4, 2.2, 1.8, 3.1], start=1)]
    found = costs(noisy)
    assert all(a <= b for a, b in pairwise(found)), "with no more spread than the errors explain, the fit alone counts"


@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(0, 2), st.floats(-0.1, 2)), min_size=2, max_size=30))
def test_a_cost_lies_within_what_was_measured(rows: list[tuple[float, float, float]]) -> None:
    found = costs([made_up(i, *row) for i, row in enumerate(rows, start=1)])
    drops = [0.0, *(row[0] for row in rows)]
    assert min(drops) - 1e-6 <= found.min() and found.max() <= max(drops) + 1e-6
