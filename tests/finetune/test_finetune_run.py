"""Fine-tuning: from inherited weights or none, with a teacher or without, stopped and gone on with."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nas
from nas.data import Splits, load_data
from nas.errors import InputError
from nas.files import YamlFile, write_yaml
from nas.finetune import Finetuned, Recipe
from nas.finetune.task import Finetuning
from nas.network import Network
from nas.option_values import make
from nas.runs.images import UsedImages, read_images, used_by
from nas.runs.trained_on import TrainedOn, images_of, read_trained_on
from nas.space import Architecture
from nas.training.evaluate import accuracy_of, calibrate
from nas.training.metrics import Progress
from nas.weights.network_file import read_network

QUICK = Recipe(epochs=1, batch=60, flip=False, ema=0)
LEARNS = Recipe(epochs=15, batch=30, learning_rate=2e-3, flip=False, mix=0.0)
Seeded = Callable[..., Network]
MakeRun = Callable[..., Path]


class Killed(BaseException):
    pass


def teacher_in(folder: Path) -> dict[str, Any]:
    return {
        "teacher": str(folder / "architecture.yaml"),
        "teacher_weights": folder / "weights.safetensors",
    }


def held_out(finetuned: Finetuned, name: str) -> float:
    return float(finetuned.description["accuracy"]["held_out"][name]["accuracy"])


def test_inherited_weights_start_better_than_none_and_both_learn(
    small: Architecture, trained: Path, digits: Splits, make_run: MakeRun
) -> None:
    run = make_run(small, read_network(trained / "weights.safetensors", small))
    inherited = nas.finetune(run, digits, replace(QUICK, epochs=2))
    scratch = nas.finetune(run, digits, replace(QUICK, epochs=2), from_scratch=True)
    assert (inherited.folder, scratch.folder) == (run / "finetune", run / "finetune-scratch")
    assert (
        inherited.description["start"] == "inherited" and scratch.description["start"] == "scratch"
    )
    assert held_out(inherited, "start") > 60 > 30 > held_out(scratch, "start")
    assert held_out(inherited, "raw") > held_out(scratch, "raw") + 20
    assert inherited.description["init"]["file"] == str(run / "weights.safetensors")
    assert "from the weights in" in inherited.description["provenance"]


def test_what_it_writes_is_what_the_network_scores(
    small: Architecture, seeded: Seeded, digits: Splits, make_run: MakeRun
) -> None:
    # The pixels of other digits test it.
    other = load_data("digits", (32, 32), seed=1)
    used = {*digits.train.image_hashes(), *digits.held_out.image_hashes()}
    new = other.train.selected(np.array([h not in used for h in other.train.image_hashes()]))
    test = new.some(slice(30))
    finetuned = nas.finetune(
        make_run(small, seeded(small)),
        replace(digits, test=test),
        QUICK,
        command="nas finetune a --data b",
    )
    folder = finetuned.folder
    description = finetuned.description
    assert yaml.safe_load((folder / "finetune.yaml").read_text()) == description
    assert (
        description["format"] == "nas-finetune-1"
        and description["command"] == "nas finetune a --data b"
    )
    assert description["data"]["classes"] == [str(digit) for digit in range(10)]
    assert description["recipe"] == QUICK.to_dict() and {"nas", "torch"} <= set(
        description["versions"]
    )
    network = nas.build(nas.load_architecture(folder / "architecture.yaml"))
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    accuracy = description["accuracy"]
    assert accuracy["held_out"]["raw"]["accuracy"] == accuracy_of(network, digits.held_out).accuracy
    assert accuracy["test"]["raw"]["accuracy"] == accuracy_of(network, test).accuracy
    assert accuracy["test"]["raw"]["images"] == 30
    images = read_images(folder / "images.csv")
    assert description["images"] == {
        **images.record(),
        "unknown": [str(folder.parent / "weights.safetensors")],
        "left_out_of_test": {"trained": 0, "held_out": 0},
    }
    assert set(images.held_out.tolist()) == set(digits.held_out.image_hashes().tolist())
    assert (
        accuracy["held_out"]["raw"]["images"] == len(digits.held_out)
        and accuracy["weights"] == "raw"
    )
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        header = file.metadata()
    assert (header["format"], header["architecture"]) == ("nas-weights-1", "small_s")
    known = read_trained_on(folder / "weights.safetensors")
    assert known.classes == digits.train.classes
    assert known.images == (images_of(digits.train, QUICK.seed),)
    assert description["seconds"] > 0 and "1 epochs" in description["provenance"]


def test_the_average_is_kept_with_statistics_of_its_own(
    small: Architecture, seeded: Seeded, digits: Splits, make_run: MakeRun
) -> None:
    recipe = replace(QUICK, ema=0.9, epochs=3)
    finetuned = nas.finetune(make_run(small, seeded(small)), digits, recipe)
    assert finetuned.description["accuracy"]["weights"] == "ema"
    assert {"raw", "ema", "start"} <= set(finetuned.description["accuracy"]["held_out"])
    kept = read_network(finetuned.folder / "weights.safetensors", small)
    state = load_file(finetuned.folder / "state.safetensors")
    for name, parameter in kept.named_parameters():
        torch.testing.assert_close(parameter.data, state[f"averaged.module.{name}"])
    assert not torch.equal(
        kept.state_dict()["head.classifier.weight"], state["module.head.classifier.weight"]
    )
    again = read_network(finetuned.folder / "weights.safetensors", small)
    calibrate(again, digits.train)
    for ours, theirs in zip(kept.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-3, atol=1e-4
        )  # another memory format, other rounding


@pytest.mark.parametrize("taught", [False, True], ids=["alone", "taught"])
def test_killed_and_resumed_is_uninterrupted(
    small: Architecture,
    seeded: Seeded,
    trained: Path,
    digits: Splits,
    make_run: MakeRun,
    tmp_path: Path,
    taught: bool,
) -> None:
    run = make_run(small, seeded(small))
    recipe = replace(QUICK, epochs=2, ema=0.9, distill="soft" if taught else "none")
    teacher = teacher_in(trained) if taught else {}

    def train(out: str, report: Callable[[Progress], None] = lambda progress: None) -> Finetuned:
        return nas.finetune(
            run,
            digits,
            recipe,
            out=tmp_path / out,
            report=report,
            save_every=0,
            report_every=1,
            **teacher,
        )

    def kill(progress: Progress) -> None:
        if progress.step == 8:
            raise Killed

    whole = train("whole")
    with pytest.raises(Killed):
        train("killed", kill)
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    steps: list[int] = []
    resumed = train("killed", lambda progress: steps.append(progress.step))
    assert steps[0] == 8, "it resumes from step 7, the last that was saved"
    ours, theirs = (load_file(each.folder / "weights.safetensors") for each in (resumed, whole))
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    assert resumed.description["accuracy"] == whole.description["accuracy"]
    with (resumed.folder / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 13))
    again = train("killed", lambda progress: pytest.fail("nothing is left to do"))
    assert again.description == resumed.description


def test_a_student_comes_to_agree_with_its_teacher(
    small: Architecture, trained: Path, digits: Splits, make_run: MakeRun
) -> None:
    """The labels are shuffled: what the student knows it has from the teacher."""
    labels = digits.train.labels
    noise = replace(
        digits, train=replace(digits.train, labels=labels[torch.randperm(len(labels)).numpy()])
    )
    recipe = replace(LEARNS, epochs=10, distill_weight=0.9, distill="hard")
    finetuned = nas.finetune(
        make_run(small), noise, recipe, from_scratch=True, **teacher_in(trained)
    )
    assert held_out(finetuned, "ema") > 50
    assert held_out(finetuned, "teacher") > 80
    assert finetuned.description["teacher"]["name"] == "small_s"
    assert "with hard distillation from small_s" in finetuned.description["provenance"]


def test_a_run_goes_on_in_another_place_but_not_with_other_weights(
    small: Architecture, seeded: Seeded, digits: Splits, make_run: MakeRun
) -> None:
    first = nas.finetune(make_run(small, seeded(small)), digits, QUICK)
    moved = first.folder.parent.rename(first.folder.parent.with_name("moved"))
    # As an older version wrote it, which did not lay transparent pixels on a colour.
    older = YamlFile(moved / "finetune" / "finetune.yaml").data
    assert older["data"].pop("background") == "white"
    write_yaml(moved / "finetune" / "finetune.yaml", older)
    assert (
        nas.finetune(moved, digits, QUICK).description["accuracy"] == first.description["accuracy"]
    )
    save_file(seeded(small, 1).state_dict(), moved / "weights.safetensors")
    with pytest.raises(InputError, match=r"init: this folder holds another fine-tuning \(sha256 '"):
        nas.finetune(moved, digits, QUICK)


@pytest.mark.parametrize(
    "name", ["run.yaml", "weights.safetensors", "supernet.yaml", "architecture.yaml"]
)
def test_files_of_something_else_are_not_replaced(
    small: Architecture, digits: Splits, make_run: MakeRun, tmp_path: Path, name: str
) -> None:
    run = make_run(small)
    small.at(classes=7).save(tmp_path / "architecture.yaml")
    other = tmp_path / "other"
    other.mkdir()
    (other / name).write_bytes((tmp_path / "architecture.yaml").read_bytes())
    with pytest.raises(InputError, match=rf"other: holds {name} of something else.*Fix: .*--out"):
        nas.finetune(run, digits, QUICK, from_scratch=True, out=other)
    assert (other / name).read_bytes() == (tmp_path / "architecture.yaml").read_bytes()
    assert {each.name for each in other.iterdir()} <= {name, ".lock"}


def test_a_result_without_its_state_is_not_replaced_by_another(
    small: Architecture, digits: Splits, make_run: MakeRun
) -> None:
    run = make_run(small)
    folder = nas.finetune(run, digits, QUICK, from_scratch=True).folder
    (folder / "state.safetensors").unlink()
    with pytest.raises(InputError, match="this folder holds another fine-tuning"):
        nas.finetune(run, digits, replace(QUICK, learning_rate=0.1), from_scratch=True)


def test_a_new_head_is_for_the_classes_of_the_data(
    small: Architecture, seeded: Seeded, digits: Splits, make_run: MakeRun
) -> None:
    run = make_run(small.at(classes=4), seeded(small.at(classes=4)))
    wrong = (
        r"weights\.safetensors: has a head for 4 classes, the data has 10 \(0, 1, 2, \.\.\)\. Fix:"
        r" --new-head"
    )
    with pytest.raises(InputError, match=wrong):
        nas.finetune(run, digits, QUICK)
    wrong = r"the architecture 'small_s': has a head for 4 classes, the data has 10"
    with pytest.raises(InputError, match=wrong):
        nas.finetune(run, digits, QUICK, from_scratch=True)
    assert not (run / "finetune").exists()
    finetuned = nas.finetune(run, digits, QUICK, new_head=True)
    assert (
        finetuned.architecture
        == small
        == nas.load_architecture(finetuned.folder / "architecture.yaml")
    )
    assert read_network(finetuned.folder / "weights.safetensors", small).architecture.classes == 10


def test_weight_decay_is_for_kernels_and_matrices(small: Architecture, seeded: Seeded) -> None:
    network = seeded(small)
    decayed, others = Finetuning(
        network, None, Recipe(weight_decay=0.1, learning_rate=0.2)
    ).parameter_groups()
    assert (decayed["weight_decay"], others["weight_decay"], decayed["peak"], others["peak"]) == (
        0.1,
        0.0,
        0.2,
        0.2,
    )
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))
    assert all(p.dim() > 1 for p in decayed["params"])
    assert [p.dim() for p in others["params"] if p.dim() > 1] == [3], "a table of attention biases"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {},
            (
                r"run: has no weights\.safetensors \(it was searched without --supernet\)\. Fix:"
                r" --init FILE, or"
            ),
        ),
        (
            {"init": "x.safetensors", "from_scratch": True},
            r"--init x\.safetensors with --from-scratch: .*leave out one",
        ),
        ({"init": "x.safetensors"}, r"x\.safetensors: there is no such checkpoint file"),
        (
            {"teacher_weights": "x", "from_scratch": True},
            r"--teacher-weights x: requires a teacher",
        ),
        (
            {"recipe": replace(QUICK, distill="soft")},
            r"--distill soft: requires a teacher\. Fix: name one with --teacher",
        ),
        (
            {"teacher": "supernet", "recipe": QUICK},
            r"--teacher supernet with --distill none: .*leave out one",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_told(
    small: Architecture, digits: Splits, make_run: MakeRun, options: dict[str, object], reason: str
) -> None:
    run = make_run(small)
    with pytest.raises(InputError, match=reason):
        nas.finetune(run, digits, **options)  # type: ignore[arg-type]
    assert not (run / "finetune").exists()


def test_images_of_another_size_and_another_fine_tuning_are_told(
    small: Architecture, digits: Splits, make_run: MakeRun
) -> None:
    with pytest.raises(InputError, match=r"images of 32x32 for a network at 64x64"):
        nas.finetune(make_run(small.at(64)), digits, QUICK, from_scratch=True)
    run = make_run(small)
    nas.finetune(run, digits, QUICK, from_scratch=True)
    stream = replace(digits.train, store="stream", fingerprint="other")
    with pytest.raises(InputError, match=r"data: .*\(store 'memory' there, 'stream' here\)"):
        nas.finetune(run, replace(digits, train=stream), QUICK, from_scratch=True)
    with pytest.raises(
        InputError,
        match=r"finetune\.yaml:\d+: recipe: .*learning_rate 0\.0005 there, 0\.1 here.*--out",
    ):
        nas.finetune(run, digits, replace(QUICK, learning_rate=0.1), from_scratch=True)
    make_run(small.with_stage(0, replace(small.stages[0], blocks=small.stages[0].blocks * 2)))
    with pytest.raises(
        InputError, match=r"finetune\.yaml:\d+: architecture: this folder holds .*params"
    ):
        nas.finetune(run, digits, QUICK, from_scratch=True)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("mixup", -1.0, r"--mixup -1.0: is out of range \(expected a number, at least 0"),
        ("mix", 1.5, r"--mix 1.5: is out of range \(expected a number, at least 0 and at most 1\)"),
        (
            "switch",
            -0.5,
            r"--switch -0.5: is out of range \(expected a number, at least 0 and at most 1\)",
        ),
        ("distill", "both", r"--distill both: is unknown \(expected none, hard or soft\)"),
        ("epochs", 0, r"--epochs 0: is out of range \(expected a whole number, at least 1"),
        (
            "distill_temperature",
            0.0,
            r"--distill-temperature 0.0: is out of range \(expected a number, above 0",
        ),
        ("learning_rate", float("nan"), "--learning-rate nan: is not a finite number"),
        ("ema", 1.0, r"--ema 1.0: is out of range \(expected a number, at least 0 and below 1\)"),
        ("label_smoothing", 1.0, r"--label-smoothing 1.0: is out of range \(expected .* below 1\)"),
    ],
)
def test_bad_recipes_name_the_option(option: str, value: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make(Recipe, {option: value})


def test_held_out_images_that_were_trained_on_are_said(
    small: Architecture, seeded: Seeded, make_run: MakeRun, tmp_path: Path
) -> None:
    """By the weights and by the teacher; the result remembers both trainings."""
    before = images_of(load_data("digits", (32, 32), held_out=20, limit=200).train, 0)
    assert before is not None
    run = make_run(small, seeded(small))
    header = TrainedOn(tuple(map(str, range(10))), (before,)).header()
    save_file(seeded(small).state_dict(), run / "weights.safetensors", header)
    data = load_data("digits", (32, 32), held_out=50, limit=200)
    with pytest.warns(
        UserWarning, match="30 of the 50 held-out images were trained on by the weights"
    ):
        finetuned = nas.finetune(run, data, QUICK)
    known = read_trained_on(finetuned.folder / "weights.safetensors")
    assert known.images == (before, images_of(data.train, 0))
    with pytest.warns(
        UserWarning, match="30 of the 50 held-out images were trained on by the teacher"
    ):
        nas.finetune(
            run,
            data,
            replace(QUICK, distill="hard"),
            out=tmp_path / "taught",
            from_scratch=True,
            teacher=str(run / "architecture.yaml"),
            teacher_weights=run / "weights.safetensors",
        )
    same = load_data("digits", (32, 32), held_out=20, limit=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nas.finetune(run, same, QUICK, out=tmp_path / "same")


@pytest.mark.parametrize("store", ["memory", "stream"])
def test_images_that_chose_the_network_are_not_in_its_test(
    small: Architecture, seeded: Seeded, make_run: MakeRun, store: str
) -> None:
    """A search's held-out images, a training's and a teacher's are left out of a later test."""
    every = load_data("digits", (32, 32), held_out=200, store=store)  # type: ignore[arg-type]
    run = make_run(small, seeded(small))
    search = Splits(every.train.some(slice(0, 40)), every.held_out.some(slice(0, 30)), None)
    used_by(search).save(run)
    # 5 of the search's training images, 7 of those that chose, 3 to train on now, 20 new ones.
    now = Splits(
        every.train.some(slice(100, 220)), every.train.some(slice(220, 260)), every.held_out
    )
    chosen = np.zeros(len(every.train), bool)
    chosen[:5] = chosen[100:103] = chosen[300:320] = True
    with_seven = every.train.selected(chosen)
    for test, trained, held_out, left in (
        (with_seven, 8, 0, 20),
        (every.held_out.some(slice(23, 60)), 0, 7, 30),
    ):
        with pytest.warns(
            UserWarning, match=rf"{trained + held_out} of the {len(test)} test image"
        ):
            finetuned = nas.finetune(run, replace(now, test=test), QUICK, out=run / f"f{left}")
        images = finetuned.description["images"]
        assert images["left_out_of_test"] == {"trained": trained, "held_out": held_out}
        assert finetuned.description["accuracy"]["test"]["raw"]["images"] == left
        assert (images["trained"], images["held_out"]) == (160, 70)
    # What is fine-tuned on from there inherits the list, also from random weights.
    with pytest.raises(InputError, match=r"all 30 test images were used before \(0 trained"):
        nas.finetune(run, replace(now, test=search.held_out), QUICK, from_scratch=True)
    # A teacher that was trained on the test images has told them to the network.
    others = every.train.some(slice(400, 440))
    teacher = run / "f20"
    seen = UsedImages(trained=np.unique(others.image_hashes()))
    (read_images(teacher / "images.csv") | seen).save(teacher)
    with pytest.raises(InputError, match=r"all 40 test images were used before \(40 trained on"):
        nas.finetune(
            run,
            replace(now, test=others),
            replace(QUICK, distill="hard"),
            out=run / "taught",
            **teacher_in(teacher),
        )
