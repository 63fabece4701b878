"""Which network of a run is exported, with which weights and names of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.files import write_yaml
from nas.runs.resolve import Subject, find_source
from nas.space import Architecture

Tiny = Callable[..., Architecture]
Run = Callable[..., Path]


@pytest.fixture
def run(tiny: Tiny, make_run: Run) -> Path:
    return make_run(tiny("swiftformer_xs"))


def finetuned(run: Path, arch: Architecture, **data: object) -> Path:
    """A fine-tuning in a run's folder."""
    folder = run / "finetune"
    folder.mkdir()
    arch.save(folder / "architecture.yaml")
    (folder / "weights.safetensors").write_bytes(b"")
    write_yaml(
        folder / "finetune.yaml",
        {"data": {"classes": list("abc"), "held_out": 20, **data}, "recipe": {"seed": 5}},
    )
    return folder


def test_a_run_has_inherited_weights(run: Path) -> None:
    source = find_source(str(run))
    assert (source.provenance, source.weights) == ("inherited", run / "weights.safetensors")
    assert source.folder == run / "export" and source.classes == tuple("0123456")


def test_a_fine_tuning_comes_first_with_its_own_head_and_classes(run: Path, tiny: Tiny) -> None:
    folder = finetuned(run, tiny("swiftformer_xs", classes=3))
    source = find_source(str(run))
    assert (source.provenance, source.weights) == ("fine-tuned", folder / "weights.safetensors")
    assert source.architecture.classes == 3 and source.classes == ("a", "b", "c")
    assert (source.held_out, source.seed) == (20, 5)
    alone = find_source(str(folder))
    assert (alone.weights, alone.provenance) == (source.weights, "fine-tuned"), (
        "its folder is a run too"
    )
    assert alone.classes == ("a", "b", "c")


def test_the_background_of_the_images_is_that_of_the_training(run: Path, tiny: Tiny) -> None:
    assert find_source(str(run)).background == "white"
    finetuned(run, tiny("swiftformer_xs", classes=3), background="#102030")
    assert find_source(str(run)).background == "#102030"


def test_names_of_classes_that_are_too_few_are_refused_with_the_line(run: Path, tiny: Tiny) -> None:
    folder = finetuned(run, tiny("swiftformer_xs", classes=4))
    with pytest.raises(
        InputError, match=rf"{folder}/finetune.yaml:\d+: data.classes: has 3 names \(expected 4, as"
    ):
        find_source(str(run))


def test_a_run_without_weights_has_random_ones(tiny: Tiny, make_run: Run) -> None:
    source = find_source(str(make_run(tiny("emo_1m"), weights=False)))
    assert (source.provenance, source.weights) == ("random", None)


def test_an_architecture_file_takes_given_weights(run: Path) -> None:
    given = run / "weights.safetensors"
    source = find_source(str(run / "architecture.yaml"), given)
    assert (source.provenance, source.weights) == ("given", given)
    assert source.folder == run / "architecture-export"
    assert find_source(str(run), None, run / "other").folder == run / "other"


def test_a_fine_tunings_weights_bring_what_it_says_with_them(run: Path, tiny: Tiny) -> None:
    folder = finetuned(run, tiny("swiftformer_xs", classes=3))
    source = find_source(str(folder / "architecture.yaml"), folder / "weights.safetensors")
    assert (source.provenance, source.classes, source.seed) == ("fine-tuned", ("a", "b", "c"), 5)


def test_the_datas_names_stand_in_for_numbers_alone(run: Path, tiny: Tiny) -> None:
    names = tuple("tuvwxyz")
    assert find_source(str(run)).named(names).classes == names
    finetuned(run, tiny("swiftformer_xs", classes=3))
    assert find_source(str(run)).named(tuple("xyz")).classes == ("a", "b", "c")
    with pytest.raises(InputError, match=r"the data has 7 classes \(expected 3, as the network\)"):
        find_source(str(run)).named(names)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.yaml"])
def test_what_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match=f"{name}: there is no such run folder or architecture file"
    ):
        find_source(str(tmp_path / name))


@pytest.mark.parametrize(
    "name", ["a/../../../../escaped", "../escaped", "/absolute", "..", "x" * 300, "ä" * 200, "a\0b"]
)
def test_a_name_in_a_file_does_not_lead_elsewhere(tiny: Tiny, name: str) -> None:
    folder = Subject(replace(tiny("swiftformer_xs"), name=name)).folder(False)
    assert folder.parent == Path("runs") and folder.name.startswith("finetune-")
    assert len(folder.name.encode()) < 200 and "\0" not in folder.name
    # Another name that looks the same gets another folder.
    assert folder != Subject(replace(tiny("swiftformer_xs"), name=f"{name}/")).folder(False)


def test_a_plain_name_is_the_folders(tiny: Tiny) -> None:
    folder = Subject(replace(tiny("swiftformer_xs"), name="my net_1.5")).folder(True)
    assert folder == Path("runs") / "finetune-scratch-my net_1.5"


def test_a_folder_that_is_no_run_and_missing_weights_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run folder \(architecture.yaml is missing\)"):
        find_source(str(tmp_path))
    with pytest.raises(InputError, match=r"--weights .*none.safetensors: there is no such file"):
        find_source(str(run), Path("none.safetensors"))
