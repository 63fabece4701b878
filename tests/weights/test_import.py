"""Published checkpoints, here EfficientFormer's: how they may be wrapped, and every way to be
wrong."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import seeded
import torch
from torch import Tensor

import nas
import nas.weights
from nas.errors import InputError
from nas.weights import load_state_dict

FOLDER = Path(seeded.__file__).parent / "efficientformer"


def member(name: str) -> nas.Architecture:
    return nas.load_space(name.partition("_")[0]).published[name]


def checkpoint(name: str, layout: str) -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(FOLDER / f"{name}.{layout}.csv"))


@pytest.fixture(scope="module")
def l1() -> dict[str, Tensor]:
    return checkpoint("efficientformer_l1", "official")


@pytest.fixture
def net() -> nas.Network:
    return nas.build(member("efficientformer_l1"))


@torch.no_grad()
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"model": tensors, "epoch": 3},
        lambda tensors: {
            "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}
        },
        lambda tensors: {
            name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")
        },
        lambda tensors: {
            name: t.half() if t.is_floating_point() else t for name, t in tensors.items()
        },
    ],
    ids=["model", "module", "no counters", "half"],
)
def test_wrapped_checkpoints(net: nas.Network, l1: dict[str, Tensor], wrap) -> None:  # type: ignore[no-untyped-def]
    nas.import_weights(net, wrap(l1))
    assert net.head.classifier.weight.dtype == torch.float32
    torch.testing.assert_close(net.head.classifier.weight, l1["head.weight"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        net.stage4_block4.bias.flatten(1),
        l1["network.6.4.token_mixer.attention_biases"],
        rtol=1e-3,
        atol=1e-4,
    )


@torch.no_grad()
def test_attention_bias_of_another_grid_is_resized(net: nas.Network, l1: dict[str, Tensor]) -> None:
    """A bias that is linear in the distance stays so, and the resized network equals the original
    run at that size."""
    table = torch.arange(7.0)[:, None] * 2 + torch.arange(7.0)
    biases = "network.6.4.token_mixer.attention_biases"
    tensors = {**l1, biases: table.flatten().expand(8, 49) + torch.arange(8.0)[:, None]}
    larger = nas.build(net.architecture.at((256, 320)))
    with pytest.warns(UserWarning, match="resized from a 7x7 grid to 8x10"):
        nas.import_weights(larger, tensors)
    expected = torch.linspace(0, 6, 8)[:, None] * 2 + torch.linspace(0, 6, 10)
    torch.testing.assert_close(
        larger.stage4_block4.bias, expected + torch.arange(8.0)[:, None, None]
    )
    square = nas.build(net.architecture.at(256)).eval()
    with pytest.warns(UserWarning, match="resized from a 7x7 grid to 8x8"):
        nas.import_weights(square, l1)
    nas.import_weights(net, l1)
    images = seeded.images((1, 3, 256, 256))
    with pytest.warns(UserWarning, match="resized"):
        expected_logits = net.eval()(images)
    torch.testing.assert_close(square(images), expected_logits, rtol=0, atol=1e-5)


def test_member_with_every_block_of_stage_4_global_shifts_by_the_flat_layer() -> None:
    """Published code counts its change of layout as a layer: first in L7's stage 4, between MB4D
    and MB3D in L1."""
    prefixes = nas.weights.LAYOUTS["efficientformer/official"].prefixes(
        member("efficientformer_l7").operations()
    )
    assert prefixes["stage4_block1"] == "network.6.1" and prefixes["stage4_entry"] == "network.5"
    prefixes = nas.weights.LAYOUTS["efficientformer/timm"].prefixes(
        member("efficientformer_l1").operations()
    )
    assert (
        prefixes["stage4_block3"] == "stages.3.blocks.2"
        and prefixes["stage4_block4"] == "stages.3.blocks.4"
    )


def refused(net: nas.Network, tensors: dict[str, Tensor]) -> str:
    """The one line that refuses this checkpoint; the network must be as it was."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        nas.import_weights(net, tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_member_names_the_first_tensor_and_both_shapes(net: nas.Network) -> None:
    message = refused(net, checkpoint("efficientformer_l3", "timm"))
    assert "'stem.conv1.weight' (here stem.first.conv.weight)" in message
    assert "[32, 3, 3, 3] in the checkpoint, [24, 3, 3, 3] in this network" in message


def test_smaller_member_into_a_larger_network(l1: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        larger = nas.build(member("efficientformer_l7"))
    with pytest.raises(InputError, match=r"another architecture: 'patch_embed\.0\.weight'"):
        nas.import_weights(larger, l1)


def test_missing_and_surplus_tensors_are_named(net: nas.Network, l1: dict[str, Tensor]) -> None:
    message = refused(
        net, {name: tensor for name, tensor in l1.items() if name != "network.2.1.layer_scale_2"}
    )
    assert "lacks 'network.2.1.layer_scale_2', 1 of 280 tensors" in message
    message = refused(net, {**l1, "network.2.2.layer_scale_1": torch.zeros(96)})
    assert "no place for 'network.2.2.layer_scale_1', 1 of its tensors" in message


def test_no_distillation_head(l1: dict[str, Tensor]) -> None:
    arch = member("efficientformer_l1")
    plain = nas.build(replace(arch, head=replace(arch.head, distillation=False)))  # type: ignore[call-arg]
    assert "no place for 'dist_head.weight', 'dist_head.bias'" in refused(plain, l1)


def test_other_number_of_classes(l1: dict[str, Tensor]) -> None:
    net = nas.build(member("efficientformer_l1").at(classes=10))
    message = refused(net, l1)
    assert (
        "'head.weight' has 1000 classes in the checkpoint (expected 10, as this network). Fix: build"
        " it with arch.at(classes=1000)" in (message)
    )


@pytest.mark.parametrize(
    "tensors, reason",
    [
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)},
            (
                "(got tensors named 'conv1.weight', 'fc.bias', expected"
                " efficientformer/official ('patch_embed.0.weight'"
            ),
        ),
        ({}, "this checkpoint has no state dict (got nothing)"),
        ({"epoch": 3, "args": "x"}, "'epoch' is not a tensor (got int)"),
        ({"model": {"a": {"b": 1}}}, "'a' is not a tensor (got dict)"),
        ({"model": {}}, "this checkpoint has no state dict (got nothing)"),
    ],
    ids=["foreign", "empty", "no tensors", "nested", "empty model"],
)
def test_foreign_checkpoints(net: nas.Network, tensors: dict[str, Tensor], reason: str) -> None:
    assert reason in refused(net, tensors)


def test_biases_of_a_wrong_number_of_heads(net: nas.Network, l1: dict[str, Tensor]) -> None:
    name = "network.6.4.token_mixer.attention_biases"
    message = refused(net, {**l1, name: torch.zeros(4, 49)})
    assert (
        f"'{name}' (here stage4_block4.bias) is [4, 49] in the checkpoint, [8, 7, 7] in this"
        " network" in message
    )


def test_files(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    options = argparse.Namespace(lr=0.1)
    torch.save(
        {"model": {f"module.{n}": t for n, t in tensors.items()}, "args": options},
        tmp_path / "a.pth",
    )
    for name in ("a.safetensors", "a.pth"):
        loaded = load_state_dict(tmp_path / name)
        assert list(loaded) == ["a.weight"] and torch.equal(loaded["a.weight"], tensors["a.weight"])


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder.pth").mkdir()
    reasons = {
        "cut.pt": "damaged",
        "noise.bin": "damaged",
        "empty.pth": "damaged",
        "text.safetensors": "damaged",
        "weights.onnx": "got the suffix '.onnx', expected .safetensors, .pth",
        "evil.pth": "nas never loads",
        "list.pth": "one list",
        "gone.pth": "no such checkpoint",
        "folder.pth": "no such checkpoint",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError) as caught:
            load_state_dict(tmp_path / name)
        message = str(caught.value)
        assert (
            message.startswith(f"{tmp_path / name}: ") and reason in message and "\n" not in message
        ), message
    assert "executed" not in capsys.readouterr().out
