"""Which network of a run is exported, with which weights and names of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.errors import InputError
from nas.files import write_yaml
from nas.runs.resolve import Initial, Subject, find_initial, find_source
from nas.runs.schema import WEIGHTS_FORMAT
from nas.runs.trained_on import ImageRange, TrainedOn
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
    assert find_source(str(run)).named(tuple("cab")).classes == ("a", "b", "c")
    with pytest.raises(InputError, match=r"its classes are 3 \(a, b, c\), .* data 3 \(x, y, z\)"):
        find_source(str(run)).named(tuple("xyz"))
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


def test_inherited_weights_know_their_classes_and_held_out_images(run: Path) -> None:
    names = tuple("tuvwxyz")
    images = ImageRange("digits", "digits", total=100, start=30, stop=100, seed=4)
    header = {"format": WEIGHTS_FORMAT, **TrainedOn(names, (images,)).header()}
    save_file({"a": torch.zeros(1)}, run / "weights.safetensors", header)
    source = find_source(str(run))
    assert source.classes == names and source.are_named
    assert source.split("digits") == (30, 4)
    assert source.split("other") == (0.1, 0)


def test_what_init_may_name(run: Path, tiny: Tiny, tmp_path: Path) -> None:
    arch = tiny("swiftformer_xs")
    file = run / "weights.safetensors"
    assert find_initial(run) == find_initial(file) == Initial(file, arch)
    assert find_initial(run / "architecture.yaml") == Initial(file, arch)
    other = tiny("swiftformer_xs", classes=3)
    folder = finetuned(run, other)
    assert find_initial(run) == Initial(folder / "weights.safetensors", other)
    # An architecture's file with weights of its own name, or an export's.
    other.save(tmp_path / "b.yaml")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert find_initial(tmp_path / "b.yaml").file.name == "model.safetensors"
    assert find_initial(tmp_path) == Initial(tmp_path / "model.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"x")
    assert find_initial(tmp_path / "b.yaml") == Initial(tmp_path / "b.safetensors", other)
    # A published file that stands beside an architecture need not be of it.
    (run / "official.pth").write_bytes(b"x")
    assert find_initial(run / "official.pth") == Initial(run / "official.pth")


def test_what_init_may_not_name(tiny: Tiny, make_run: Run, tmp_path: Path) -> None:
    bare = make_run(tiny("emo_1m"), weights=False, name="bare")
    supernet = tmp_path / "supernet"
    supernet.mkdir()
    (supernet / "supernet.yaml").write_text("format: nas-supernet-1")
    (supernet / "supernet.safetensors").write_bytes(b"x")
    wrong = {
        bare / "architecture.yaml": "architecture without weights .*architecture.safetensors or",
        supernet: f"a supernet, not one network. Fix: nas search --supernet {supernet}",
        supernet / "supernet.safetensors": f"a supernet, not one .* --supernet {supernet}",
        Path("swiftformer_xs"): "a published member, whose weights are not shipped",
        tmp_path / "gone": "there is no such checkpoint file",
        bare: "there is no checkpoint in this folder",
    }
    for name, reason in wrong.items():
        with pytest.raises(InputError, match=reason):
            find_initial(name)
    (bare / "run.yaml").write_text("format: nas-run-1")
    with pytest.raises(InputError, match=r"a run without weights .*searched without --supernet"):
        find_initial(bare)
