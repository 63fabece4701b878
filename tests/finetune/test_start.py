"""What is fine-tuned, and the weights it starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.blocks import FPNHead
from nas.errors import InputError
from nas.network import Network
from nas.runs.resolve import Subject, find_subject
from nas.space import Architecture, load_space
from nas.weights.network_file import read_network, with_new_head

Seeded = Callable[..., Network]


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )


def test_a_run_a_file_and_a_published_member_are_subjects(
    small: Architecture, seeded: Seeded, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_run(small, seeded(small))
    assert find_subject(folder) == Subject(small, folder, folder / "weights.safetensors")
    assert find_subject(folder / "architecture.yaml") == Subject(small)
    l1 = load_space("efficientformer").published["efficientformer_l1"]
    assert find_subject("efficientformer_l1") == Subject(l1)
    (folder / "weights.safetensors").unlink()
    assert find_subject(folder).weights is None


def test_the_comparison_from_scratch_has_a_folder_of_its_own(small: Architecture) -> None:
    assert Subject(small, Path("runs/a")).folder(False) == Path("runs/a/finetune")
    assert Subject(small, Path("runs/a")).folder(True) == Path("runs/a/finetune-scratch")
    assert Subject(small).folder(False) == Path("runs/finetune-small_s")


def test_what_is_no_subject_is_told(
    small: Architecture, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"unknown architecture 'swiftformer_ss', did you mean 'swiftformer_s'"
    ):
        find_subject("swiftformer_ss")
    with pytest.raises(InputError, match=r"no finished run here \(there is no run.yaml\)"):
        find_subject(tmp_path)
    folder = make_run(small, format="nas-supernet-1")
    with pytest.raises(
        InputError, match=r"run\.yaml:1: format: is 'nas-supernet-1', expected 'nas-run-1'"
    ):
        find_subject(folder)
    dense = make_run(small.with_head(FPNHead(5)))
    with pytest.raises(InputError, match=r"its head fpn_head gives maps"):
        find_subject(dense)


def test_own_weights_are_read_at_the_classes_they_have(
    small: Architecture, seeded: Seeded, make_run: Callable[..., Path]
) -> None:
    network = seeded(small.at(classes=7))
    file = make_run(small, network) / "weights.safetensors"
    found = read_network(file, small)
    assert found.architecture.classes == 7
    assert equal(found.state_dict(), network.state_dict())


@pytest.mark.parametrize("classes", [10, 1000])
def test_published_weights_are_read_at_the_classes_they_have(
    small: Architecture,
    seeded: Seeded,
    published: Callable[[Network], dict[str, Tensor]],
    tmp_path: Path,
    classes: int,
) -> None:
    network = seeded(small.at(classes=classes))
    save_file(published(network), tmp_path / "timm.safetensors")
    found = read_network(tmp_path / "timm.safetensors", small)
    assert found.architecture.classes == classes
    assert equal(found.state_dict(), network.state_dict())


def test_a_new_head_has_other_classes_and_all_else_stays(
    small: Architecture, seeded: Seeded
) -> None:
    network = seeded(small)
    old = network.state_dict()
    new = with_new_head(network, 3).state_dict()
    assert new["head.classifier.weight"].shape[0] == new["head.distilled.bias"].shape[0] == 3
    rest = [name for name in old if not name.startswith(("head.classifier", "head.distilled"))]
    assert len(rest) == len(old) - 4 and all(torch.equal(old[name], new[name]) for name in rest)
    same = with_new_head(network, 10).state_dict()
    assert not torch.equal(same["head.classifier.weight"], old["head.classifier.weight"]), (
        "asked for: it is new"
    )


def test_weights_of_another_architecture_are_refused(
    small: Architecture,
    seeded: Seeded,
    make_run: Callable[..., Path],
    published: Callable[[Network], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    wider = small.with_stage(1, small.stages[1].with_width(24))
    network = seeded(wider)
    file = make_run(small, network) / "weights.safetensors"
    with pytest.raises(
        InputError,
        match=r"weights\.safetensors: .* another architecture: 'stage2_entry\.projection",
    ):
        read_network(file, small)
    save_file(published(network), tmp_path / "timm.safetensors")
    with pytest.raises(
        InputError, match=r"timm\.safetensors: the checkpoint is of another architecture"
    ):
        read_network(tmp_path / "timm.safetensors", small)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"the safetensors file is damaged or incomplete"):
        read_network(file, small)
