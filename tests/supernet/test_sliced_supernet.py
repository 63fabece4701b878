"""The sliced supernet as a judge: one accuracy a member, whichever way it was come to, on the
images held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import nas
from nas.data import Splits, load_data
from nas.errors import InputError, NasError
from nas.files import write_yaml
from nas.latency import LatencyTable
from nas.search import Evaluations, Scores, moves
from nas.space import Space
from nas.supernet.checkpoint import Folder, describe, save_weights
from nas.supernet.evaluate import SlicedSupernet, training_splits
from nas.supernet.options import Recipe
from nas.supernet.supernet import Supernet
from nas.supernet.walk import Walk
from nas.tasks.classify import accuracy_error
from nas.testing.spaces import randomise

SIZE = (32, 32)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Splits]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda **options: load_data("digits", SIZE, **options)


@pytest.fixture
def trained(small_space: Callable[..., Space], tmp_path: Path) -> Callable[..., Folder]:
    """A function from splits to the folder of a training on them that ended where it began."""

    def make(splits: Splits) -> Folder:
        folder = Folder(tmp_path / "trained")
        space = small_space().at(SIZE)
        supernet = Supernet(space)
        randomise(supernet)
        of = {
            "source": splits.train.source,
            "images": len(splits.train),
            "fingerprint": splits.train.fingerprint,
        }
        describe(folder, space, Recipe(), of)
        save_weights(folder.weights, supernet)
        return folder

    return make


def test_a_member_has_one_accuracy_whichever_way_it_was_come_to(
    trained: Callable[..., Folder], data: Callable[..., Splits]
) -> None:
    root = trained(data(limit=400)).root
    judge = SlicedSupernet(root, "digits", images=40, calibration=32)
    space = judge._evaluator.supernet.space
    largest = space.largest()
    near = [move.apply(largest) for move in moves(space, largest)][::5]
    first = dict(judge.evaluate(largest, [largest, *near]))
    assert next(iter(first)) == largest and set(first) == {largest, *near}
    again = SlicedSupernet(root, "digits", images=40, calibration=32)
    for member in near:
        ((_, alone),) = again.evaluate(member, [member])
        assert alone.accuracy == first[member].accuracy and alone.loss == pytest.approx(
            first[member].loss, abs=1e-5
        )
    assert len({found.loss for found in first.values()}) > len(near) / 2, "members differ"
    assert judge.of == again.of and judge.of["images"] == 40


def test_slimming_by_it_is_the_same_each_time(
    trained: Callable[..., Folder],
    data: Callable[..., Splits],
    made_up_table: Callable[..., LatencyTable],
    made_up_scores: Callable[..., Scores],
) -> None:
    judge = SlicedSupernet(trained(data(limit=400)).root, "digits", images=40, calibration=32)
    space = judge._evaluator.supernet.space
    table = made_up_table(space)
    scores = made_up_scores(space)
    target = (table.total_ms(space.largest()) + table.total_ms(space.smallest())) / 2
    asked = {"engine": "slimming", "evaluations": Evaluations(judge), "evaluate_best": 3}
    runs = [nas.search(space, table, scores, target, **asked) for _ in range(2)]
    assert runs[0] == runs[1] and runs[0].ms <= target
    assert runs[0].drop is not None and runs[0].trace[-1].total_cost == runs[0].drop


@pytest.mark.parametrize(
    "options",
    [{}, {"held_out": 0.25}, {"held_out": 17}, {"limit": 300}, {"limit": 300, "held_out": 40}],
)
def test_the_held_out_images_are_those_of_the_training(
    trained: Callable[..., Folder], data: Callable[..., Splits], options: dict[str, float]
) -> None:
    splits = data(**options)
    found = training_splits(trained(splits).root, "digits")
    assert found.held_out.fingerprint == splits.held_out.fingerprint
    assert found.train.fingerprint == splits.train.fingerprint


def test_the_counts_of_images_stand_under_keys_and_words_decide_nothing(
    trained: Callable[..., Folder], data: Callable[..., Splits]
) -> None:
    splits = data(limit=300, held_out=40)
    root = trained(splits).root
    description = yaml.safe_load(Folder(root).description.read_text())
    description["data"] |= {"total": 300, "held_out": 40, "source": "the words of another version"}
    write_yaml(Folder(root).description, description)
    assert training_splits(root, "digits").train.fingerprint == splits.train.fingerprint
    del description["data"]["total"]
    write_yaml(Folder(root).description, description)
    with pytest.raises(InputError, match=r"supernet\.yaml: data: total and held_out are missing"):
        training_splits(root, "digits")


def test_the_images_that_it_evaluates_on_are_part_of_its_record(
    trained: Callable[..., Folder], data: Callable[..., Splits], tmp_path: Path
) -> None:
    splits = data(limit=100)
    root = trained(splits).root
    evaluator = SlicedSupernet(root, "digits", images=10, calibration=20)
    wanted = splits.held_out.some(slice(10)).image_hashes()
    assert set(evaluator.used.held_out.tolist()) == set(wanted.tolist())
    assert not len(evaluator.used.trained)
    fewer = SlicedSupernet(root, "digits", images=9, calibration=20)
    assert evaluator.of["held_out"] != fewer.of["held_out"]
    Evaluations(evaluator, tmp_path / "run")
    about = tmp_path / "run" / "evaluations.yaml"
    record = yaml.safe_load(about.read_text())
    assert record["held_out"] == evaluator.of["held_out"]
    write_yaml(about, {**record, "held_out": fewer.of["held_out"]})
    with pytest.raises(InputError, match="held_out: the evaluations here are of another source"):
        Evaluations(evaluator, tmp_path / "run")
    # Folders of older versions lack it.
    del record["held_out"]
    write_yaml(about, record)
    assert len(Evaluations(evaluator, tmp_path / "run")) == 0


def test_a_member_has_the_wilson_standard_error(
    trained: Callable[..., Folder], data: Callable[..., Splits]
) -> None:
    judge = SlicedSupernet(trained(data(limit=100)).root, "digits", images=10, calibration=20)
    largest = judge.space.largest()
    ((_, found),) = judge.evaluate(largest, [largest])
    assert found.standard_error == accuracy_error(found.accuracy, 10)


def test_other_images_are_refused(
    trained: Callable[..., Folder], data: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trained(data(seed=3)).root  # the recipe says seed 0
    with pytest.raises(
        InputError, match=r"--data digits: other images than the supernet in .* was trained on"
    ):
        training_splits(root, "digits")


def test_a_folder_without_a_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no supernet here"):
        SlicedSupernet(tmp_path, "digits")


def test_outputs_that_are_not_finite_are_no_accuracy(
    trained: Callable[..., Folder], data: Callable[..., Splits]
) -> None:
    judge = SlicedSupernet(trained(data(limit=100)).root, "digits", images=10, calibration=20)
    with torch.no_grad():
        for parameter in judge._evaluator.supernet.parameters():
            parameter.fill_(float("nan"))
    largest = judge.space.largest()
    with pytest.raises(NasError, match="outputs are not finite"):
        list(judge.evaluate(largest, [largest]))


def test_without_memory_a_search_ends_with_one_line(
    trained: Callable[..., Folder], data: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trained(data(limit=100)).root
    judge = SlicedSupernet(root, "digits", images=10, calibration=20)

    def full(*arguments: object, **named: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Walk, "_answer", full)
    largest = judge.space.largest()
    with pytest.raises(NasError, match=f"{root}: out of memory .* not even one fits") as found:
        list(judge.evaluate(largest, [largest]))
    assert "\n" not in str(found.value) and "Finished evaluations are kept" in str(found.value)
