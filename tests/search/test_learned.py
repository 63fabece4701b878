"""Costs learned from evaluated members come to what those say, and lead to the front with few of
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from nas.errors import InputError
from nas.latency import LatencyTable
from nas.search import Evaluated, Evaluations, Problem, Scores, StudySettings, pose, solve
from nas.search.engines.exact import front
from nas.search.engines.learned import LearnedCosts, learned_front
from nas.space import Architecture, Space

MOST = 40
SEED = 8


class Judge:
    """Other costs than the recorded ones, which do not quite add up."""

    of: ClassVar[dict[str, str]] = {"supernet": "sum"}
    words = "made up"

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.asked: list[Architecture] = []

    def drop(self, member: Architecture) -> float:
        return float(8 * np.tanh(self.scores.cost(member) / 8))

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        for member in members:
            self.asked.append(member)
            yield member, Evaluated(90 - self.drop(member), 1.0)


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def scores(space: Space, made_up_scores: Callable[..., Scores]) -> Scores:
    return made_up_scores(space)


@pytest.fixture
def judge(space: Space, made_up_scores: Callable[..., Scores]) -> Judge:
    return Judge(made_up_scores(space, seed=SEED))


@pytest.fixture
def table(space: Space, made_up_table: Callable[..., LatencyTable]) -> LatencyTable:
    return made_up_table(space)


@pytest.fixture
def problem(space: Space, table: LatencyTable, scores: Scores, judge: Judge) -> Problem:
    return pose(
        space,
        table,
        scores,
        engine="learned",
        study=StudySettings(MOST),
        evaluations=Evaluations(judge),
    )


def sample(space: Space, seeds: range) -> list[Architecture]:
    return list({member.operations(): member for member in map(space.sample, seeds)}.values())


def error(scores: Scores, judge: Judge, members: Sequence[Architecture]) -> float:
    """Spread of what is left over: a shift that all members share does not matter."""
    return float(np.std([scores.cost(member) - judge.drop(member) for member in members]))


def test_nothing_learned_leaves_the_recorded_costs(scores: Scores) -> None:
    assert LearnedCosts(scores).expected() == scores


def test_what_was_learned_predicts_other_members(
    space: Space, scores: Scores, judge: Judge
) -> None:
    costs = LearnedCosts(scores)
    others = sample(space, range(1000, 1100))
    errors = [error(costs.expected(), judge, others)]
    for seeds in (range(10), range(10, 60)):
        for member in sample(space, seeds):
            costs.learn(member, judge.drop(member))
        errors.append(error(costs.expected(), judge, others))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.3 * errors[0]


def test_draws_narrow_down_around_what_is_expected(
    space: Space, scores: Scores, judge: Judge
) -> None:
    members = sample(space, range(1000, 1040))
    spreads = []
    costs = LearnedCosts(scores)
    for seeds in (range(20), range(20, 80)):
        for member in sample(space, seeds):
            costs.learn(member, judge.drop(member))
        generator = np.random.default_rng(0)
        draws = np.array(
            [[costs.drawn(generator).cost(member) for member in members] for _ in range(60)]
        )
        draws -= draws.mean(
            axis=1, keepdims=True
        )  # of the shift that all members share nothing is learned
        expected = np.array([costs.expected().cost(member) for member in members])
        spreads.append(draws.std(axis=0).mean())
        assert np.abs(draws.mean(axis=0) - (expected - expected.mean())).mean() < 0.5 * spreads[-1]
    assert spreads[1] < 0.7 * spreads[0]


def test_the_engine_finds_the_best_member_where_the_recorded_scores_mislead(
    problem: Problem, judge: Judge
) -> None:
    found = solve(problem)
    recorded = solve(replace(problem, engine="exact"))
    best = solve(replace(problem, engine="exact", scores=judge.scores))  # tanh changes no order
    assert len(judge.asked) == len(set(judge.asked)) <= MOST
    drops = [judge.drop(each.architecture) for each in (best, found, recorded)]
    assert drops[0] <= drops[1] <= drops[0] + 0.05 < drops[2] - 0.5, drops
    assert (
        found.drop == pytest.approx(judge.drop(found.architecture))
        and found.ms <= problem.target_ms
    )
    assert found.scores is not None and found.cost == found.scores.cost(found.architecture)
    assert f"corrected by {len(judge.asked)} members" in found.scores.provenance
    assert len(found.trace) > 0 and found.trace[-1].ms == pytest.approx(found.ms)


def test_the_same_seed_looks_at_the_same_members(problem: Problem, judge: Judge) -> None:
    asked = []
    for seed in (1, 1, 2):
        judge.asked = []
        solve(replace(problem, evaluations=Evaluations(judge), study=StudySettings(MOST, seed)))
        asked.append(judge.asked)
    assert asked[0] == asked[1] != asked[2]


def test_without_evaluations_it_says_what_is_missing(problem: Problem) -> None:
    with pytest.raises(InputError, match="give --score-by evaluate"):
        solve(replace(problem, evaluations=None))


def test_a_single_trial_is_too_few(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"trials 1: .* at least one more"):
        solve(replace(problem, study=StudySettings(1)))


def hypervolume(
    problem: Problem, judge: Judge, members: Sequence[Architecture], worst: tuple[float, float]
) -> float:
    points = sorted((problem.table.total_ms(member), judge.drop(member)) for member in members)
    volume = 0.0
    best = worst[1]
    for ms, drop in points:
        if drop < best:
            volume = volume + (best - drop) * (worst[0] - ms)
            best = drop
    return volume


def test_the_front_is_found_with_a_tenth_of_the_members(problem: Problem, judge: Judge) -> None:
    everything = list(problem.space.enumerate())
    worst = (max(map(problem.table.total_ms, everything)), max(map(judge.drop, everything)))
    whole = hypervolume(problem, judge, everything, worst)
    problem = replace(problem, study=StudySettings(len(everything) // 10))
    found = [point.architecture for point in learned_front(problem)]
    assert len(judge.asked) <= len(everything) // 10
    recorded = [point.architecture for point in front(problem)]
    assert hypervolume(problem, judge, recorded, worst) < 0.97 * whole
    assert hypervolume(problem, judge, found, worst) > 0.99 * whole
    assert [point.cost for point in learned_front(problem)] == pytest.approx(
        list(map(judge.drop, found))
    )
