"""What moves cost: the shared walk equals evaluating each member alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas.accuracy import RecordedScores, Score, load_scores
from nas.accuracy.single_moves import LARGEST, variants, wanted_keys
from nas.data import ImageData
from nas.space import Architecture, Space
from nas.space.moves import Move, Narrow, moves, narrow
from nas.supernet import sensitivity
from nas.supernet.score import costs, importances, to_scores
from nas.supernet.sensitivity import Evaluator, measure
from nas.supernet.supernet import Supernet
from nas.supernet.walk import Walk
from nas.training import evaluate
from nas.training.batches import normalise
from nas.training.statistics import Moments

CALIBRATION = 32
HELD_OUT = 40


def images(count: int, seed: int) -> ImageData:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (count, 3, 64, 64), dtype=np.uint8)
    return ImageData(pixels, rng.integers(0, 10, count), tuple("0123456789"), 0, "noise", "none")


@pytest.fixture
def evaluator(small_supernet: Callable[..., Supernet]) -> Evaluator:
    return Evaluator(small_supernet(), images(CALIBRATION, 0), images(HELD_OUT, 1), batch=16)


def test_variants_are_one_for_every_move(small_space: Callable[[str], Space]) -> None:
    space = small_space("network_suffix")
    found = variants(space, widths=2)
    count = {
        move: sum(v.key[0] == move for v in found)
        for move in ("none", "drop", "narrow", "localise")
    }
    assert count == {"none": 1, "drop": 9, "narrow": 4, "localise": 5}
    assert len({v.key for v in found}) == len(found)
    for variant in found:
        space.validate(variant.arch)


SIZES_THAT_FIT = (("head_dim: [8, 12, 16]", "head_dim: [8, 16]"), ("12, null]", "8, null]"))
"""Heads that fit the largest width, for the space with choices: 16 does not fit the smaller one."""


@pytest.fixture(params=["network_suffix", "stage_suffix"])
def choosing(
    choices_supernet: Callable[..., Supernet], request: pytest.FixtureRequest
) -> Evaluator:
    """An evaluator of the space whose places have several candidates."""
    return Evaluator(
        choices_supernet(request.param, *SIZES_THAT_FIT),
        images(CALIBRATION, 0),
        images(HELD_OUT, 1),
        batch=16,
    )


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
def test_with_choices_variants_are_one_for_every_row_that_scores_want(
    choices_space: Callable[..., Space], stem_space: Callable[..., Space], attention: str
) -> None:
    for space in (
        choices_space(attention, *SIZES_THAT_FIT),
        stem_space(attention, ("head_dim: [12, 16]", "head_dim: 4")),
    ):
        found = variants(space, widths=2)
        keys = [variant.key for variant in found]
        assert keys[0] == LARGEST and found[0].arch == space.largest()
        assert len(set(keys)) == len(keys) and set(keys[1:]) == set(wanted_keys(space))
        known = {variant.key: variant for variant in found}
        for variant in found[1:]:
            space.validate(variant.arch)
            base = known[variant.base].arch
            (move,) = [m for m in every_move(space, base) if m.apply(base) == variant.arch]
            assert variant.key[0] == type(move).__name__.lower(), (
                "one move from what it is compared with"
            )
            if variant.base != LARGEST:
                assert variant.key[0] in ("localise", "exchange") and variant.base[0] == "localise"
            if variant.key[0] == "exchange" and variant.base != LARGEST:
                assert variant.key[1] == variant.base[1], (
                    "a local candidate is compared with the local block there"
                )


def test_candidates_that_fit_narrower_widths_only_are_measured_or_not_asked_for(
    choices_space: Callable[..., Space], stem_space: Callable[..., Space]
) -> None:
    for space in (choices_space(), stem_space()):
        assert {variant.key for variant in variants(space, 2)[1:]} == set(wanted_keys(space))


def every_move(space: Space, arch: Architecture) -> list[Move]:
    """Those to every smaller width, too."""
    widths = [
        narrow(space, arch, i, width) for i, s in enumerate(space.stages) for width in s.widths[:-1]
    ]
    return [*(move for move in moves(space, arch) if not isinstance(move, Narrow)), *widths]


PIECE_BYTES = (2**25, 2**16)
"""All images pass an operation at once, or a few of them do."""


def test_with_choices_walking_together_equals_evaluating_alone(
    choosing: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_alone(choosing, 2, monkeypatch)


def test_walking_together_equals_evaluating_alone(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_alone(evaluator, 3, monkeypatch)


def check_alone(evaluator: Evaluator, widths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with networks that are built, calibrated on one batch and run on another."""
    wanted = variants(evaluator.supernet.space, widths)
    walks = []
    for size in PIECE_BYTES:
        monkeypatch.setattr(evaluate, "_PIECE_BYTES", {"cpu": size})
        walks.append({row.key: row for row in evaluator.evaluate(wanted)})
        assert walks[-1].keys() == {variant.key for variant in wanted}
    labels = torch.from_numpy(images(HELD_OUT, 1).labels)
    right = {}
    for variant in wanted:
        logits = answers_alone(evaluator, variant.arch)
        loss = float(nn.functional.cross_entropy(logits, labels))
        right[variant.key] = logits.argmax(dim=1) == labels
        before = right[variant.base]
        for rows in walks:
            row = rows[variant.key]
            assert row.loss == pytest.approx(loss, abs=1e-4, rel=1e-4), variant.key
            assert row.accuracy == pytest.approx(100 * float(right[variant.key].double().mean()))
            assert (row.lost, row.gained) == (
                int((before & ~right[variant.key]).sum()),
                int((right[variant.key] & ~before).sum()),
            )


@torch.no_grad()
def answers_alone(evaluator: Evaluator, arch: Architecture) -> torch.Tensor:
    net = evaluator.supernet.extract(arch).eval()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    calibration, held_out = (
        normalise(torch.from_numpy(data.images))
        for data in (images(CALIBRATION, 0), images(HELD_OUT, 1))
    )
    net(calibration)
    logits: torch.Tensor = net.eval()(held_out)
    return logits


def test_no_digit_depends_on_the_number_of_threads(
    small_supernet: Callable[..., Supernet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_PIECE_BYTES", {"cpu": 2**18})
    supernet = small_supernet("stage_suffix")
    wanted = variants(supernet.space, 2)[::3]
    evaluator = Evaluator(supernet, images(CALIBRATION, 0), images(96, 1))
    wanted = [variant for variant in wanted if variant.base == LARGEST]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(list(evaluator.evaluate(wanted)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) > 4 and found[0] == found[1] == found[2]


def test_the_batch_changes_rounding_at_most(
    small_supernet: Callable[..., Supernet], tmp_path: Path
) -> None:
    supernet = small_supernet()
    wanted = variants(supernet.space, 2)
    rows = [
        list(
            Evaluator(supernet, images(CALIBRATION, 0), images(HELD_OUT, 1), batch=batch).evaluate(
                wanted
            )
        )
        for batch in (1, 7, 40, 1000)
    ]
    for one, *others in zip(*rows, strict=True):
        for other in others:
            assert other.key == one.key and other.loss == pytest.approx(one.loss, abs=1e-5)


def test_bf16_is_used_and_noted_in_the_losses(small_supernet: Callable[..., Supernet]) -> None:
    supernet = small_supernet()
    wanted = variants(supernet.space, 1)
    losses = [
        [
            row.loss
            for row in Evaluator(
                supernet, images(CALIBRATION, 0), images(HELD_OUT, 1), bf16=bf16
            ).evaluate(wanted)
        ]
        for bf16 in (False, True)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1, abs=0.1)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_results_do_not_depend_on_the_groups(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    wanted = variants(evaluator.supernet.space, 1)
    usual = list(evaluator.evaluate(wanted))
    monkeypatch.setattr(sensitivity, "_GROUP", (limit, limit))
    groups = list(evaluator.rounds(wanted))
    assert (len(groups) == 1) == (limit > 50)
    assert [row for group in groups for row in group] == usual


def test_memory_holds_a_chunk_of_images_whatever_their_number(
    small_supernet: Callable[..., Supernet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No operation sees more images at once, and of a chunk that is done no activation is kept."""
    supernet = small_supernet()
    seen: list[int] = []
    kept: list[int] = []
    alive: list[ref[torch.Tensor]] = []
    answer = Walk._answer

    def spy(self: Walk, step: Any, x: torch.Tensor, run: Any) -> torch.Tensor:
        alive[:] = [each for each in alive if each() is not None]
        kept.append(len(alive))
        seen.append(len(x))
        output = answer(self, step, x, run)
        alive.append(ref(output))
        return output

    monkeypatch.setattr(Walk, "_answer", spy)
    most = []
    for count in (20, 200):
        seen.clear()
        kept.clear()
        evaluator = Evaluator(supernet, images(8, 0), images(count, 1), batch=10)
        list(evaluator.evaluate(variants(supernet.space, 1)[:8]))
        assert set(seen) == {10}
        most.append(max(kept))
    assert most[0] == most[1] < 8


def test_frames_of_an_unfinished_walk_keep_no_activations(
    small_supernet: Callable[..., Supernet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibration leaves blocks in the middle; what they held is free at once, without a collector."""
    monkeypatch.setattr(evaluate, "_PIECE_BYTES", {"cpu": 1})
    alive: list[ref[torch.Tensor]] = []
    most = 0
    supernet = small_supernet()
    evaluator = Evaluator(supernet, images(CALIBRATION, 0), images(2, 1))
    moments = Moments.of

    def of(x: torch.Tensor) -> Moments:
        nonlocal most
        alive[:] = [each for each in alive if each() is not None]
        alive.append(ref(x))
        most = max(most, len(alive))
        return moments(x)

    monkeypatch.setattr(Moments, "of", of)
    gc.disable()
    try:
        list(evaluator.evaluate(variants(supernet.space, 1)[:2]))
    finally:
        gc.enable()
    assert 0 < most <= 2


def test_a_killed_scoring_goes_on(evaluator: Evaluator, tmp_path: Path) -> None:
    wanted = variants(evaluator.supernet.space, 2)
    journal = tmp_path / "evaluations.csv"
    whole = measure(evaluator, wanted, journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:7]) + lines[7][:9] + "\n")
    done: list[int] = []
    again = measure(evaluator, wanted, journal, report=lambda n, total, row: done.append(n))
    assert [row.key for row in again] == [row.key for row in whole]
    assert len(done) == len(whole) - 6


def test_scores_are_complete_and_localised_drops_add_up(
    evaluator: Evaluator, tmp_path: Path
) -> None:
    space = evaluator.supernet.space
    wanted = variants(space, 2)
    rows = measure(evaluator, wanted, tmp_path / "evaluations.csv")
    scores = RecordedScores(space, tuple(to_scores(wanted, rows, {})), ("made up",))
    scores.save(tmp_path)
    loaded = load_scores(str(tmp_path))
    loaded.check(space)
    assert loaded.cost(space.largest()) == 0
    local = [s for s in scores.rows if s.move == "localise"]
    last = next(row for row in rows if row.key == ("localise", "stage4_block2", ""))
    assert sum(s.accuracy_drop or 0 for s in local) == pytest.approx(
        rows[0].accuracy - last.accuracy, abs=0.01
    )


def test_with_choices_scores_are_complete_and_drops_add_up(
    choosing: Evaluator, tmp_path: Path
) -> None:
    space = choosing.supernet.space
    wanted = variants(space, 2)
    rows = measure(choosing, wanted, tmp_path / "evaluations.csv")
    scores = RecordedScores(
        space, tuple(to_scores(wanted, rows, importances(choosing.supernet))), ("made up",)
    )
    scores.save(tmp_path)
    loaded = load_scores(str(tmp_path))
    loaded.check(space)
    assert loaded.cost(space.largest()) == 0
    assert {row.key for row in loaded.rows if row.importance is not None} == {
        k for k in wanted_keys(space) if k[0] == "drop"
    }
    measured = {row.key: row for row in rows}
    by_key = {row.key: row for row in loaded.rows}
    for variant in wanted[1:]:
        added = by_key[variant.key].accuracy_drop or 0.0
        base = variant.base
        while base != LARGEST:
            added += by_key[base].accuracy_drop or 0.0
            base = next(v.base for v in wanted if v.key == base)
        assert added == pytest.approx(
            measured[LARGEST].accuracy - measured[variant.key].accuracy, abs=0.01
        ), variant.key


def made_up(position: int, drop: float, error: float, loss: float) -> Score:
    place = f"stage1_block{position}"
    return Score("drop", place, 0.0, accuracy_drop=drop, standard_error=error, loss_increase=loss)


def test_an_exact_measurement_is_the_cost() -> None:
    measured = [made_up(1, 3.0, 0.0, 0.1), made_up(2, -1.0, 0.0, 0.2), made_up(3, 5.0, 0.0, 0.3)]
    assert costs(measured) == pytest.approx([3.0, -1.0, 5.0])


def test_differences_within_the_noise_follow_the_loss() -> None:
    noisy = [
        made_up(i, drop, 2.0, i / 10) for i, drop in enumerate([1.0, 0.4, 2.2, 1.8, 3.1], start=1)
    ]
    found = costs(noisy)
    assert all(a <= b for a, b in pairwise(found)), (
        "with no more spread than the errors explain, the fit alone counts"
    )


@given(
    st.lists(
        st.tuples(st.floats(-5, 30), st.floats(0, 2), st.floats(-0.1, 2)), min_size=2, max_size=30
    )
)
def test_a_cost_lies_within_what_was_measured(rows: list[tuple[float, float, float]]) -> None:
    found = costs([made_up(i, *row) for i, row in enumerate(rows, start=1)])
    drops = [0.0, *(row[0] for row in rows)]
    assert min(drops) - 1e-6 <= found.min() and found.max() <= max(drops) + 1e-6
