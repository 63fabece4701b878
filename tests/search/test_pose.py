"""What a search is asked for is checked, "auto" names the engine that it takes, and what is found
can be saved."""

from __future__ import annotations

from dataclasses import replace

import pytest

import nas
from nas.accuracy import load_scores
from nas.errors import InputError
from nas.latency import load_table
from nas.search import Evaluations, pose, search, solve
from nas.search.compare import answers
from nas.search.engines.exact import front
from nas.search.fastest import fastest
from nas.space import load_space


class _Judge:
    def __init__(self):
        self.of = {"judge": "a test"}
        self.words = "a test"

    def evaluate(self, members):
        raise NotImplementedError


@pytest.fixture
def parts(small_space, made_up_table, made_up_scores):
    space = small_space()
    return space, made_up_table(space), made_up_scores(space)


def test_auto_is_exact_unless_something_else_is_asked_for(parts):
    assert pose(*parts).engine == pose(*parts, engine="auto").engine == "exact"
    assert pose(*parts, objective="mes").engine == "slimming"
    assert pose(*parts, candidates="paper").engine == "slimming"
    assert pose(*parts, evaluations=Evaluations(_Judge())).engine == "learned"
    assert pose(*parts, max_drop=1.0).engine == "exact"
    assert pose(*parts, engine="tpe").engine == "tpe"
    found = nas.search(*parts)
    assert found == search(*parts, engine="exact")


@pytest.mark.parametrize("target", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_target_that_is_no_positive_number_is_refused(parts, target):
    with pytest.raises(InputError, match="expected a positive number"):
        pose(*parts, target)


@pytest.mark.parametrize("name", ["latency_ms", "min_accuracy", "max_drop"])
@pytest.mark.parametrize("value", ["1.4", True, [1.0]])
def test_what_is_no_number_at_all_is_refused(parts, name, value):
    with pytest.raises(InputError, match=r"expected a number"):
        pose(*parts, **{name: value})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_drop": -0.1}, "max_drop -0.1: expected 0 or a positive number"),
        ({"max_drop": float("nan")}, "max_drop nan: expected 0 or a positive number"),
        ({"min_accuracy": 0}, "min_accuracy 0: expected a percentage"),
        ({"min_accuracy": 101.0}, "min_accuracy 101: expected a percentage"),
        ({"min_accuracy": 80, "max_drop": 1}, "exclude each other"),
        ({"max_drop": 1, "engine": "slimming"}, r"require the engine 'exact' \(got 'slimming'\)"),
        (
            {"min_accuracy": 99.0},
            r"min_accuracy 99 % cannot be reached: the most accurate member of space 'small' "
            r"\(widths .*, depths .*\) is expected to have 9\d\.\d+ % top1",
        ),
    ],
)
def test_an_accuracy_that_makes_no_sense_is_refused(parts, asked, message):
    with pytest.raises(InputError, match=message):
        search(*parts, **asked)


def test_scores_that_know_costs_only_take_a_drop_but_no_accuracy(parts):
    space, table, scores = parts
    costs = replace(scores, baseline_accuracy=None)
    with pytest.raises(InputError, match="these scores know costs only"):
        pose(space, table, costs, min_accuracy=80.0)
    found = search(space, table, costs, max_drop=0.5)
    assert found.cost <= 0.5 and found.accuracy is None
    assert {point.accuracy for point in front(pose(space, table, costs))} == {None}


def test_an_accuracy_and_a_latency_together(parts):
    space, table, scores = parts
    quickest = search(space, table, scores, max_drop=0.2)
    assert search(space, table, scores, quickest.ms * 1.01, max_drop=0.2) == replace(
        quickest, architecture=replace(quickest.architecture)
    )
    with pytest.raises(
        InputError, match=r"max_drop 0\.2 points cannot be reached: .* within the limits"
    ):
        search(space, table, scores, quickest.ms * 0.99, max_drop=0.2)


def test_slimming_is_no_answer_to_a_question_for_an_accuracy(parts):
    problem = pose(*parts, max_drop=0.2)
    assert list(answers(problem, solve(problem))) == ["exact"]


def test_a_front_has_accuracies(parts):
    _, _, scores = parts
    points = front(pose(*parts))
    assert all(point.accuracy == scores.accuracy(point.architecture) for point in points)
    assert all(point.accuracy.value == pytest.approx(90 - point.cost) for point in points)


def test_what_was_found_is_saved(parts, tmp_path):
    space, table, _ = parts
    found = search(*parts, fastest(space, table)[0] * 1.1)
    found.save(tmp_path / "new")
    assert nas.load_architecture(tmp_path / "new" / "architecture.yaml") == found.architecture
    assert len((tmp_path / "new" / "trace.csv").read_text().splitlines()) == len(found.trace) + 1


def test_scores_name_themselves(parts, made_up_scores, made_up_stage_scores):
    space, _, scores = parts
    assert (
        scores.fingerprint
        == made_up_scores(space).fingerprint
        != made_up_scores(space, 1).fingerprint
    )
    stages = made_up_stage_scores(space)
    assert (
        stages.fingerprint
        == made_up_stage_scores(space).fingerprint
        != made_up_stage_scores(space, 1).fingerprint
    )


def test_frozen_parts_are_those_of_the_smallest_published_member(parts):
    space, table, scores = parts
    smallest = min(space.published.values(), key=lambda arch: arch.params)
    problem = pose(*parts, freeze=["stage1"])
    assert problem.target_ms == pytest.approx(table.total_ms(smallest), rel=1e-9)
    kept = solve(problem).architecture.stages[0]
    assert kept.width == smallest.stages[0].width
    assert kept.present == smallest.stages[0].present
    nobodys = replace(space, published={})
    largest = pose(nobodys, table, scores, freeze=["stage1"])
    assert largest.start is not None and largest.start.widths == space.largest().widths


@pytest.mark.parametrize("name", ["efficientformer", "swiftformer", "emo"])
def test_a_search_keeps_to_the_choices_that_the_scores_know(name: str) -> None:
    """The recorded scores are older than the expansions below those of published members."""
    space = load_space(name)
    scores = load_scores(f"{name}-cifar10")
    problem = pose(space, load_table("iphone12"), scores)
    assert problem.space.stages == scores.scored.stages != space.stages
    assert set(problem.space.published) == set(space.published)
    assert [text.split(":")[0] for text in problem.unscored] == [f"stage {n}" for n in range(1, 5)]
    known = pose(problem.space, load_table("iphone12"), scores)
    assert known.unscored == ()
