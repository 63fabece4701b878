"""Published checkpoints, here EfficientFormer's: how they may be wrapped, and every way to be
wrong."""

from __future__ import annotations

import argparse
import collections
import datetime
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import seeded
import torch
from torch import Tensor

import nas
import nas.weights
from nas.errors import InputError
from nas.weights import load_state_dict
from nas.weights.importing import export_weights

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
        ({}, "this checkpoint has no tensors (got nothing)"),
        ({"epoch": 3, "args": "x"}, "this checkpoint has no tensors (got 'epoch', 'args')"),
        ({"model": {"a": {"b": 1}}}, "this checkpoint has no tensors (got 'model')"),
        ({"model": {}}, "(got 'model')"),
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
    plain = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(81.5),
        "curve": np.arange(3.0),
        "history": collections.defaultdict(list, {"loss": [np.float32(1.5)]}),
        "last": collections.deque([1, 2], maxlen=2),
        "date": datetime.datetime(2024, 1, 1),
        "classes": frozenset(["cat"]),
    }
    module = {f"module.{n}": t for n, t in tensors.items()}
    torch.save({"model": module, **plain}, tmp_path / "a.pth")
    torch.save(
        {"model": module, **plain}, tmp_path / "old.tar", _use_new_zipfile_serialization=False
    )
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "renamed.ckpt")
    shutil.copy(tmp_path / "a.pth", tmp_path / "torch.safetensors")
    (tmp_path / "hub").mkdir()
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "hub" / "model.safetensors")
    for name in ("a.safetensors", "a.pth", "old.tar", "renamed.ckpt", "torch.safetensors", "hub"):
        loaded = load_state_dict(tmp_path / name)
        assert list(loaded) == ["a.weight"] and torch.equal(loaded["a.weight"], tensors["a.weight"])


@pytest.mark.parametrize("new", [True, False])
def test_damage_anywhere_is_told_in_one_line(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(9.0), "b": 1}, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for position in random.permutation(len(whole))[:150]:
        kept = whole[position + 1 :] if position % 3 else b""
        path.write_bytes(whole[:position] + bytes([random.integers(256)]) + kept)
        try:
            load_state_dict(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused > 50


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "weights.onnx").write_bytes(b"x")
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder.pth").mkdir()
    reasons = {
        "cut.pt": "damaged",
        "noise.bin": "damaged",
        "empty.pth": "the file is empty",
        "weights.onnx": "a text file that begins with 'x'",
        "evil.pth": "nas never loads",
        "list.pth": "one list",
        "gone.pth": "no such checkpoint",
        "folder.pth": "there is no checkpoint in this folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError) as caught:
            load_state_dict(tmp_path / name)
        message = str(caught.value)
        assert (
            message.startswith(f"{tmp_path / name}: ") and reason in message and "\n" not in message
        ), message
    assert "executed" not in capsys.readouterr().out


@pytest.fixture
def small() -> nas.Network:
    """A network of few weights that tell a mistake, for ten classes."""
    torch.manual_seed(0)
    net = nas.build(nas.load_space("efficientformer_small").smallest().at(32, 10))
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.uniform_(0.1, 1)
    return net


def published(net: nas.Network, layout: str = "efficientformer/official") -> dict[str, Tensor]:
    return export_weights(net, layout)


def equal(one: nas.Network, other: nas.Network) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: {"state_dict": {f"model._orig_mod.{n}": t for n, t in sd.items()}},
        lambda sd: {f"_orig_mod.module.{n}": t for n, t in sd.items()},
        lambda sd: {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in sd.items()}},
        lambda sd: {"a": {"b": {"c": {f"some.other.part.{n}": t for n, t in sd.items()}}}},
        lambda sd: {"epoch": 3, "best": np.float64(1), **sd},
        lambda sd: {**sd, "total_ops": torch.zeros(1), "stem.total_params": torch.zeros(1)},
        lambda sd: {"state_dict": {"model." + n: t for n, t in sd.items()} | {"loss.weight": torch.ones(10)}},
    ],
    ids=["lightning", "compiled", "averaged", "deep", "flat", "counters", "beside a loss"],
)  # fmt: skip
@pytest.mark.parametrize("own", [False, True])
def test_wrappers_are_seen_through(small: nas.Network, own: bool, wrap) -> None:  # type: ignore[no-untyped-def]
    tensors = small.state_dict() if own else published(small)
    net = nas.build(small.architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layout = nas.import_weights(net, wrap(tensors))
    assert layout == ("nas" if own else "efficientformer/official")
    assert equal(net, small)


def test_of_two_copies_the_average_is_taken_and_said(small: nas.Network) -> None:
    good = published(small)
    live = {n: t + 1 if t.is_floating_point() else t for n, t in good.items()}
    net = nas.build(small.architecture)
    with pytest.warns(
        UserWarning, match=r"'ema\.module' is taken, the moving average .*'model' is"
    ):
        nas.import_weights(net, {"model": live, "ema": {f"module.{n}": t for n, t in good.items()}})
    assert equal(net, small)


def test_an_average_without_statistics_is_not_taken_and_that_is_said(small: nas.Network) -> None:
    good = published(small)
    shadow = {n: t + 1 for n, t in good.items() if not n.endswith(("_mean", "_var", "_tracked"))}
    net = nas.build(small.architecture)
    with pytest.warns(UserWarning, match="'shadow' in the checkpoint is incomplete: 'model' is"):
        nas.import_weights(net, {"model": good, "shadow": shadow})
    assert equal(net, small)


def test_one_classifier_serves_both(small: nas.Network) -> None:
    single = {n: t for n, t in published(small).items() if not n.startswith("dist_head.")}
    net = nas.build(small.architecture)
    with pytest.warns(UserWarning, match="both classifiers of the network begin with it"):
        nas.import_weights(net, single)
    assert torch.equal(net.head.distilled.weight, small.head.classifier.weight)
    assert torch.equal(net.head.distilled.bias, small.head.classifier.bias)


def test_a_new_head_keeps_its_values_where_the_checkpoints_does_not_fit(small: nas.Network) -> None:
    other = nas.build(small.architecture.at(classes=3))
    headless = {n: t for n, t in published(other).items() if not n.startswith("head.")}
    for tensors in (published(other), headless, {**headless, "fc.weight": torch.zeros(5, 7)}):
        net = nas.build(small.architecture)
        before = net.head.classifier.weight.clone()
        nas.import_weights(net, tensors, new_head=True)
        assert torch.equal(net.head.classifier.weight, before)
        assert torch.equal(net.stem.first.conv.weight, other.stem.first.conv.weight)
    message = refused(nas.build(other.architecture), headless)
    assert "has no classifier, or not all of the head: it lacks 'head.weight'" in message


@pytest.mark.parametrize("resolution", [(288, 512), (128, 288)])
def test_biases_that_fit_are_taken_as_they_are(resolution: tuple[int, int]) -> None:
    """The number of entries of these grids is a square, as that of published ones."""
    net = nas.build(member("efficientformer_l1").at(resolution))
    bias = net.stage4_block4.bias
    table = torch.arange(float(bias[0].numel())).expand(len(bias), -1)
    tensors = published(net) | {"network.6.4.token_mixer.attention_biases": table}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nas.import_weights(net, tensors)
    assert torch.equal(net.stage4_block4.bias.flatten(1), table)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda t: torch.full_like(t, float("nan")), r"has NaN or infinite values \(216 of 216\)"),
        (lambda t: t / torch.zeros_like(t), "NaN or infinite"),
        (lambda t: t.double() * 1e300, "NaN or infinite"),
        (lambda t: (t * 100).to(torch.int8), "is not a weight .got torch.int8,"),
        (lambda t: t > 0.5, "is not a weight .got torch.bool,"),
        (lambda t: t.to(torch.complex64), "is not a weight .got torch.complex64,"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_weights_that_are_no_finite_numbers_are_refused_by_name(
    small: nas.Network,
    own: bool,
    damage,  # type: ignore[no-untyped-def]
    reason: str,
) -> None:
    tensors = small.state_dict() if own else published(small)
    name = "stem.first.conv.weight" if own else "patch_embed.0.weight"
    assert re.search(f"'{name}' {reason}|'{name}' has {reason}", refused(
        nas.build(small.architecture), {**tensors, name: damage(tensors[name])}
    ))  # fmt: skip


def test_what_the_network_does_not_take_may_be_anything(small: nas.Network) -> None:
    """The state of an optimizer that overflowed, beside good weights."""
    net = nas.build(small.architecture)
    bad = {n: t.float() * float("nan") for n, t in list(small.state_dict().items())[:9]}
    nas.import_weights(net, {"model": small.state_dict(), "optimizer": {"state": {0: bad}}})
    assert equal(net, small)
