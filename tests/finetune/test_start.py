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
from nas.finetune.start import load_start
from nas.network import Network
from nas.runs.resolve import Subject, find_subject
from nas.runs.trained_on import TrainedOn
from nas.space import Architecture, Space, load_space
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
    with pytest.raises(InputError, match=r"is not a finished run \(run.yaml is missing\)"):
        find_subject(tmp_path)
    small.save(tmp_path / "architecture.yaml")
    with pytest.raises(
        InputError, match=rf"Fix: give .*/architecture\.yaml, with --init {tmp_path}"
    ):
        find_subject(tmp_path)
    folder = make_run(small, format="nas-supernet-1")
    with pytest.raises(
        InputError, match=r"run\.yaml:1: format: is 'nas-supernet-1' \(expected 'nas-run-1'\)"
    ):
        find_subject(folder)
    dense = small.with_head(FPNHead(5))
    assert find_subject(make_run(dense)).architecture == dense


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


NAMES = tuple("abcdefghij")


@pytest.fixture
def weights(
    small: Architecture, seeded: Seeded, tmp_path: Path
) -> Callable[..., tuple[Path, Network]]:
    """A function from class names to a file of weights that know them, and its network."""

    def make(
        classes: tuple[str, ...] | None = NAMES, arch: Architecture = small
    ) -> tuple[Path, Network]:
        network = seeded(arch)
        path = tmp_path / "weights" / "w.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(network.state_dict(), path, TrainedOn(classes).header())
        return path, network

    return make


def test_the_classifier_follows_the_names_of_the_classes(
    small: Architecture, weights: Callable[..., tuple[Path, Network]]
) -> None:
    file, network = weights()
    start = load_start(Subject(small), NAMES, 0, init=file)
    assert equal(start.network.state_dict(), network.state_dict())
    assert start.trained_on.classes == NAMES
    with pytest.warns(UserWarning, match="the outputs of the classifier are reordered"):
        turned = load_start(Subject(small), NAMES[::-1], 0, init=file).network.state_dict()
    for name, tensor in network.state_dict().items():
        classes = name.startswith(("head.classifier", "head.distilled"))
        assert torch.equal(turned[name], tensor.flip(0) if classes else tensor), name


def test_classes_of_other_names_need_a_new_head(
    small: Architecture, weights: Callable[..., tuple[Path, Network]]
) -> None:
    file, network = weights()
    other = ("k", *NAMES[1:])
    with pytest.raises(
        InputError, match=r"classes are 10 \(a, b, .* data 10 \(k, b, .*Fix: --new-head starts"
    ):
        load_start(Subject(small), other, 0, init=file)
    start = load_start(Subject(small), other, 0, init=file, new_head=True).network
    assert torch.equal(start.stem.first.conv.weight, network.stem.first.conv.weight)
    assert not torch.equal(start.head.classifier.weight, network.head.classifier.weight)
    # Weights that do not know their classes are taken by the number of these.
    file, network = weights(None)
    start = load_start(Subject(small), other, 0, init=file).network
    assert equal(start.state_dict(), network.state_dict())


def test_weights_without_a_classifier_need_a_new_head(
    small: Architecture, seeded: Seeded, tmp_path: Path
) -> None:
    network = seeded(small)
    headless = {n: t for n, t in network.state_dict().items() if not n.startswith("head.")}
    save_file(headless, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"w\.safetensors: .* has no classifier, .*--new-head"):
        load_start(Subject(small), NAMES, 0, init=tmp_path / "w.safetensors")
    start = load_start(Subject(small), NAMES[:3], 0, init=tmp_path / "w.safetensors", new_head=True)
    assert start.network.architecture.classes == 3
    assert torch.equal(start.network.stem.first.conv.weight, network.stem.first.conv.weight)


def test_another_member_of_the_space_is_a_start(
    small_space: Callable[..., Space],
    seeded: Seeded,
    make_run: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = small_space()
    monkeypatch.chdir(tmp_path)
    run = make_run(space.sample(2), space={"file": space.path})
    member = seeded(space.published["small_l"])
    space.published["small_l"].save("l.yaml")
    save_file(member.state_dict(), "l.safetensors", TrainedOn(NAMES).header())
    subject = find_subject(run)
    with pytest.warns(
        UserWarning, match=r"are of small_l, not of .*: \d+ of \d+ tensors are taken"
    ):
        start = load_start(subject, NAMES, 0, init="l.yaml")
    assert start.init and start.init["member"] == "small_l"
    assert 0 < start.init["tensors"] <= len(start.network.state_dict())
    assert start.words.startswith(f"{start.init['tensors']} tensors of small_l among the weights")
    assert start.network.architecture.operations() == subject.architecture.operations()
    rows = {tuple(row.flatten().tolist()) for row in member.stem.first.conv.weight}
    assert tuple(start.network.stem.first.conv.weight[0].flatten().tolist()) in rows
    # A damaged file of a member is of no member, and is refused as the network's own.
    whole = member.state_dict()
    del whole["stage2_block1.expand.conv.weight"]
    save_file(whole, "l.safetensors")
    with pytest.raises(
        InputError, match=r"l\.safetensors: the checkpoint is of another architecture"
    ):
        load_start(subject, NAMES, 0, init="l.yaml")
    # Without its space nobody knows which blocks have the same role.
    with pytest.raises(InputError, match="the checkpoint is of another architecture"):
        load_start(Subject(space.sample(2)), NAMES, 0, init="l.yaml")


def test_another_space_is_no_start(small: Architecture, seeded: Seeded, tmp_path: Path) -> None:
    arch = load_space("emo").published["emo_1m"].at(32, 10)
    arch.save(tmp_path / "emo.yaml")
    save_file(seeded(arch).state_dict(), tmp_path / "emo.safetensors")
    with pytest.raises(InputError, match=r"emo\.safetensors: "):
        load_start(Subject(small), NAMES, 0, init=tmp_path / "emo.yaml")


def test_of_several_copies_the_taken_one_is_recorded(
    small: Architecture, seeded: Seeded, tmp_path: Path
) -> None:
    state = seeded(small).state_dict()
    torch.save({"model": seeded(small, 1).state_dict(), "model_ema": state}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"w\.pth: several copies .*'model_ema' is taken"):
        start = load_start(Subject(small), NAMES, 0, init=tmp_path / "w.pth")
    assert start.init and start.init["copy"] == "model_ema"
    assert equal(start.network.state_dict(), state)
