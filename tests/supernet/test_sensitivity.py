"""What moves cost: the shared walk equals evaluating each member alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas.data import ImageData
from nas.search.scores import load_scores
from nas.space import Space
from nas.supernet.score import to_scores
from nas.supernet.sensitivity import Evaluation, Evaluator, measure, variants
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


def test_costs_follow_the_loss_and_narrower_never_costs_less() -> None:
    def row(
        move: str, loss: float, accuracy: float, position: int | None = None, width: int | None = None
    ) -> Evaluation:
        return Evaluation(move, 0 if move == "none" else 1, position, width, accuracy, loss, 0.1)

    rows = [row("none", 1.0, 70.0), row("drop", 1.1, 70.5, 1), row("drop", 1.2, 66.0, 2), row("drop", 1.4, 60.0, 3),
            row("narrow", 1.3, 63.0, width=24), row("narrow", 1.25, 66.0, width=16)]  # fmt: skip
    scores = {s.key: s for s in to_scores(rows, {(1, 1): 2.5})}
    drops = [scores[("drop", 1, i)] for i in (1, 2, 3)]
    assert [d.accuracy_drop for d in drops] == [-0.5, 4.0, 10.0]
    assert drops[0].cost <= drops[1].cost <= drops[2].cost
    assert abs(drops[0].cost) < 0.5, "a gain that the loss does not share is noise"
    assert drops[0].importance == 2.5
    assert scores[("narrow", 1, 16)].cost >= scores[("narrow", 1, 24)].cost
