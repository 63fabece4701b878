"""A search that also chooses the input size: one answer and one front over all sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from nas.accuracy import default_scores, load_scores
from nas.errors import InputError
from nas.latency import load_table
from nas.report.front import _read, front_picture
from nas.search.engines.exact import front
from nas.search.input_sizes import Posed, best_size, front_of_sizes, pose_sizes, solve_sizes
from nas.search.problem import OutOfReach
from nas.search.record import write_front
from nas.search.solver import pose, search
from nas.space import load_space
from nas.space.sizes import size_text

SPACE = load_space("efficientformer")
TABLE = load_table("iphone12")
SIZES = (160, 224)


def posed(target: float | None) -> Posed:
    scores = default_scores(SPACE)
    return pose_sizes(
        lambda space, ms: pose(space, TABLE, scores, ms, engine="exact"),
        [SPACE.at(size) for size in SIZES],
        SPACE.resolution,
        target,
    )


def test_the_answer_is_the_best_of_the_sizes_alone() -> None:
    answers, _ = solve_sizes(posed(1.3))
    alone = partial(search, table=TABLE, scores=default_scores(SPACE), latency_ms=1.3)
    values = {size: alone(SPACE.at(size)).accuracy for size in SIZES}
    assert {each.problem.space.resolution[0]: each.found.accuracy for each in answers} == values
    best = best_size(answers)
    assert best.accuracy >= max(each.accuracy for each in answers) - 0.05


def test_the_front_is_over_all_sizes_and_the_answer_is_on_it() -> None:
    problems = posed(1.3).problems
    points = front_of_sizes(problems)
    assert {point.architecture.resolution[0] for point in points} == set(SIZES)
    times = [point.ms for point in points]
    assert times == sorted(times)
    cautious_scores = {problem.space.resolution: problem.cautious_scores for problem in problems}
    cautious = [
        cautious_scores[point.architecture.resolution].accuracy(point.architecture).value
        for point in points
    ]
    assert cautious == sorted(cautious)
    best = best_size(solve_sizes(posed(1.3))[0])
    within = max(value for point, value in zip(points, cautious, strict=True) if point.ms <= 1.3)
    assert best.accuracy == pytest.approx(within, abs=0.1)


def test_tooltips_tell_the_size_where_there_are_several(tmp_path: Path) -> None:
    both = posed(1.3).problems
    points = front_of_sizes(both)
    found = best_size(solve_sizes(posed(1.3))[0])
    several = front_picture(found.problem, points, {"exact": found.found})
    sizes = [point.about[-1] for point in several.points]
    assert sizes == [f"input {size_text(point.architecture.resolution)}" for point in points]
    size = size_text(found.found.architecture.resolution)
    assert several.found[0].about[-1] == f"input {size}"
    # The file has the sizes too.
    write_front(tmp_path, found.problem, points)
    assert [point.about[-1] for point in _read(tmp_path / "front.csv")] == sizes
    one = front(found.problem)
    alone = front_picture(found.problem, one, {"exact": found.found})
    for point in (*alone.points, *alone.found):
        assert not any(line.startswith("input ") for line in point.about)


def test_the_default_target_is_that_of_the_own_size_for_all() -> None:
    problems = posed(None).problems
    own = pose(SPACE, TABLE, default_scores(SPACE))
    assert {problem.target_ms for problem in problems} == {own.target_ms}


def test_a_size_out_of_reach_is_left_out_with_its_reason() -> None:
    least = {size: _least(size) for size in SIZES}
    between = (least[160] + least[224]) / 2
    some = posed(between)
    assert [problem.space.resolution[0] for problem in some.problems] == [160]
    assert some.refused[0][0] == (224, 224) and "cannot be reached" in some.refused[0][1]
    with pytest.raises(OutOfReach, match=r"--resolution: .* at 160"):
        posed(least[160] / 2)


def _least(size: int) -> float:
    from nas.search.fastest import fastest

    return fastest(SPACE.at(size), TABLE)[0]


def test_scores_that_do_not_know_sizes_are_refused() -> None:
    scores = load_scores("efficientformer-cifar10")
    with pytest.raises(InputError, match=r"--resolution 160,224: .*Fix: one size"):
        pose_sizes(
            lambda space, ms: pose(space, TABLE, scores, ms),
            [SPACE.at(size) for size in SIZES],
            SPACE.resolution,
            1.3,
        )
