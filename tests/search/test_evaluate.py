"""Slimming by evaluating members: the measured cost decides, nothing is evaluated twice, a killed
search goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

import nas
from nas.accuracy.evaluations import ROWS, member_key, unfinished
from nas.errors import InputError
from nas.search import Evaluated, Evaluations, Scores, Step, StudySettings, pose
from nas.search.record import new_folder, write_run
from nas.space import Architecture

TARGET = 0.22
ALL = 10**6


class Judge:
    """A member's accuracy is 90 less what `scores` say of it; it stops after some, as by ctrl-C."""

    def __init__(self, scores: Scores, stop_after: int | None = None, name: str = "one") -> None:
        self.scores = scores
        self.stop_after = stop_after
        self.of = {"supernet": name, "images": 100}
        self.words = "made up"
        self.asked: list[str] = []
        self.batches: list[int] = []

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        self.batches.append(len(members))
        for member in reversed(members):
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(member_key(member))
            yield member, Evaluated(90.0 - self.scores.cost(member), 1.0)


@pytest.fixture
def task(small_space, made_up_table, made_up_scores):
    """A space, a table, scores to pre-rank by, and other scores that are the truth."""
    space = small_space()
    return space, made_up_table(space), made_up_scores(space, 1), made_up_scores(space, 2)


slimmed = partial(nas.search, engine="slimming")


def greedy(found: nas.Found) -> list[Step]:
    """The steps down to the target, without the trades that follow."""
    down = next(number for number, step in enumerate(found.trace, start=1) if step.ms <= TARGET)
    return list(found.trace[:down])


def places(found: nas.Found) -> list[str]:
    return [str(step.move) for step in found.trace]


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
def test_what_is_evaluated_decides(attention, small_space, made_up_table, made_up_scores):
    space = small_space(attention)
    table = made_up_table(space)
    guessed = made_up_scores(space, 1)
    true = made_up_scores(space, 2)
    judge = Judge(true)
    found = slimmed(
        space, table, guessed, TARGET, evaluations=Evaluations(judge), evaluate_best=ALL
    )
    wanted = greedy(slimmed(space, table, true, TARGET))
    assert places(found) == [str(step.move) for step in wanted]
    assert places(found) != [
        str(step.move) for step in greedy(slimmed(space, table, guessed, TARGET))
    ]
    assert found.ms == wanted[-1].ms
    assert found.drop == pytest.approx(wanted[-1].total_cost)
    assert found.evaluated == pytest.approx(90 - wanted[-1].total_cost)
    assert found.cost == pytest.approx(guessed.cost(found.architecture)), (
        "by the scores, as any engine's answer"
    )
    for step, plain in zip(found.trace, wanted, strict=True):
        assert (step.cost, step.total_cost) == (
            pytest.approx(plain.cost),
            pytest.approx(plain.total_cost),
        )
    assert len(judge.asked) == len(set(judge.asked))


def test_one_candidate_a_step_is_the_scores_choice(task):
    space, table, guessed, true = task
    judge = Judge(true)
    found = slimmed(space, table, guessed, TARGET, evaluations=Evaluations(judge), evaluate_best=1)
    assert places(found) == [
        str(step.move) for step in greedy(slimmed(space, table, guessed, TARGET))
    ]
    assert len(judge.asked) == len(found.trace) + 1, "the largest member, and one a step"


def test_no_more_than_the_best_are_evaluated(task):
    space, table, guessed, true = task
    judge = Judge(true)
    slimmed(space, table, guessed, TARGET, evaluations=Evaluations(judge), evaluate_best=3)
    assert judge.batches[0] == 4 and max(judge.batches[1:]) <= 3


def test_a_killed_search_goes_on_without_evaluating_anything_twice(task, tmp_path):
    space, table, guessed, true = task

    def search(judge: Judge, folder: Path) -> nas.Found:
        return slimmed(
            space, table, guessed, TARGET, evaluations=Evaluations(judge, folder), evaluate_best=4
        )

    whole = Judge(true)
    wanted = search(whole, tmp_path / "whole")
    for stop in (0, 1, 7):
        folder = tmp_path / str(stop)
        first = Judge(true, stop)
        second = Judge(true)
        with pytest.raises(KeyboardInterrupt):
            search(first, folder)
        assert unfinished(folder)
        assert search(second, folder) == wanted
        assert len(first.asked) == stop and sorted(first.asked + second.asked) == sorted(
            whole.asked
        )
        assert sorted((folder / ROWS).read_text().splitlines()) == sorted(
            (tmp_path / "whole" / ROWS).read_text().splitlines()
        )
        third = Judge(true)
        assert search(third, folder) == wanted and not third.asked


def test_a_row_that_a_kill_cut_off_is_evaluated_again(task, tmp_path):
    space, _, _, true = task
    member = space.sample(1)
    Evaluations(Judge(true), tmp_path).of(member, [member, space.largest()])
    text = (tmp_path / ROWS).read_text()
    (tmp_path / ROWS).write_text(text[:-4])
    judge = Judge(true)
    again = Evaluations(judge, tmp_path)
    assert len(again) == 1
    assert again.of(member, [member])[member].accuracy == 90.0 - true.cost(member)
    assert len(judge.asked) == 1 and (tmp_path / ROWS).read_text().count("\n") == text.count("\n")


def test_evaluations_of_something_else_are_refused(task, tmp_path):
    _, _, _, true = task
    Evaluations(Judge(true), tmp_path)
    with pytest.raises(
        InputError, match=r"evaluations.yaml:\d+: supernet: .*got 'one', expected 'two'"
    ):
        Evaluations(Judge(true, name="two"), tmp_path)


def test_a_damaged_row_is_named(task, tmp_path):
    Evaluations(Judge(task[3]), tmp_path)
    with (tmp_path / ROWS).open("a") as file:
        file.write("0123,many,1,8,1\n")
    with pytest.raises(InputError, match=r"evaluations.csv:2: is not a row of member, accuracy"):
        Evaluations(Judge(task[3]), tmp_path)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"engine": "exact"}, "by the engines slimming and learned, not by 'exact'"),
        ({"engine": "tpe", "study": StudySettings(5)}, "not by 'tpe'"),
        ({"evaluate_best": 0}, "evaluate_best 0"),
    ],
)
def test_what_does_not_go_together_is_refused(task, more, reason):
    space, table, guessed, true = task
    with pytest.raises(InputError, match=reason):
        pose(space, table, guessed, TARGET, **({"evaluations": Evaluations(Judge(true))} | more))


def test_members_are_told_apart_by_every_position(task):
    space = task[0]
    members = [space.sample(seed) for seed in range(40)]
    assert len({member_key(member) for member in members}) == len(
        {member.stages for member in members}
    )
    assert member_key(space.largest()) == member_key(nas.load_space(space.path).largest())


def test_the_run_says_what_judged_and_its_folder_goes_on_until_it_is_done(task, tmp_path):
    space, table, guessed, true = task
    scores = tmp_path / "scores"
    guessed.save(scores)
    folder = tmp_path / "run"
    problem = pose(
        space,
        table,
        nas.load_scores(scores),
        TARGET,
        engine="slimming",
        evaluations=Evaluations(Judge(true), folder),
        evaluate_best=2,
    )
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        new_folder(str(folder), "small", "toy")
    assert new_folder(str(folder), "small", "toy", resumes=True) == folder
    found = nas.search.solve(problem)
    write_run(folder, problem, found, ["nas", "search"])
    run = yaml.safe_load((folder / "run.yaml").read_text())
    assert run["score_by"] == {
        "name": "evaluate",
        "best": 2,
        "judge": "made up",
        "supernet": "one",
        "images": 100,
    }
    assert run["result"]["evaluated"] == found.evaluated and run["result"]["drop"] == found.drop
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        new_folder(str(folder), "small", "toy", resumes=True)
