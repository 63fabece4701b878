"""Backbones: maps and their description in every space, at any size, with weights of every kind."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.errors import InputError
from nas.space import Architecture, space_names

SPACES = {name: nas.load_space(name) for name in space_names()}


def smallest(name: str) -> Architecture:
    """Return the smallest published member of a space, or the smallest member where none is
    published."""
    members = list(SPACES[name].published.values()) or [SPACES[name].smallest()]
    return min(members, key=lambda arch: arch.macs)


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_maps_have_the_channels_and_strides_of_feature_info_at_any_size(name: str) -> None:
    net = nas.backbone(smallest(name)).eval()
    for height, width in ((96, 160), (64, 32)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of resized attention biases
            maps = net(torch.randn(1, 3, height, width))
        info = net.feature_info
        assert [tuple(x.shape[1:]) for x in maps] == [
            (channels, height // stride, width // stride)
            for channels, stride in zip(info.channels(), info.reduction(), strict=True)
        ]
        assert info.reduction() == [8, 16, 32]
        assert all(x.isfinite().all() for x in maps)


@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_maps_are_those_of_the_network(name: str) -> None:
    arch = smallest(name).at(64)
    net = nas.build(arch).eval()
    maps = net.forward_features(x := torch.randn(1, 3, 64, 64))
    backbone = nas.backbone(arch, out=(4, 1), weights=net.state_dict()).eval()
    last, first = backbone(x)
    assert torch.equal(last, maps[3]) and torch.equal(first, maps[0])
    assert backbone.feature_info.module_name()[0] == list(dict(backbone.named_children()))[-1]


@torch.no_grad()
def test_a_backbone_saves_and_loads_its_own_weights(tmp_path: Path) -> None:
    arch = SPACES["emo"].published["emo_1m"].at(64)
    first = nas.backbone(arch).eval()
    torch.save(first.state_dict(), tmp_path / "backbone.pth")
    second = nas.backbone(arch, weights=tmp_path / "backbone.pth").eval()
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(first(x), second(x), strict=True))


def test_stages_behind_the_last_one_are_left_out() -> None:
    children = dict(nas.backbone(SPACES["emo"].published["emo_1m"], out=[2]).named_children())
    assert {name.partition("_")[0] for name in children} == {"stem", "stage1", "stage2"}


@torch.no_grad()
def test_feature_info_has_the_methods_of_timm() -> None:
    info = nas.backbone(SPACES["swiftformer"].published["swiftformer_xs"], out=(1, 3)).feature_info
    assert info.channels() == [48, 112] and info.channels(3) == 220 and info.channels([0]) == [48]
    assert info.reduction() == [4, 16] and len(info) == 4
    assert info[1]["num_chs"] == info.get("num_chs", 1) == 56
    assert info.get_dicts(["reduction"]) == [{"reduction": 4}, {"reduction": 16}]


@pytest.mark.parametrize(
    "out",
    [(), (0, 1), (5,), (2, 2), "234", (2.5,), None, (2.0,), (True,), ("2",), ((2, 3),)],
    ids=repr,
)
def test_stages_that_do_not_exist_are_refused(out: object) -> None:
    with pytest.raises(InputError, match=r"out: expected different stages from 1 to 4 \(got"):
        nas.backbone(SPACES["emo"].published["emo_1m"], out=out)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("out", "stages"),
    [(3, (3,)), ({2, 3}, (2, 3)), (np.array([2, 4]), (2, 4)), (range(4, 0, -3), (4, 1))],
    ids=["number", "set", "array", "range"],
)
def test_stages_come_in_any_collection_of_whole_numbers(out: Any, stages: tuple[int, ...]) -> None:
    assert nas.backbone(SPACES["emo"].published["emo_1m"], out=out).out == stages


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_what_is_no_batch_of_images_is_refused(shape: tuple[int, ...]) -> None:
    net = nas.backbone(SPACES["emo"].published["emo_1m"])
    with pytest.raises(InputError, match=r"input: is not a batch of images \(got \("):
        net(torch.zeros(shape))


def test_other_inputs_are_refused_in_a_line(tmp_path: Path) -> None:
    arch = SPACES["emo"].published["emo_1m"]
    with pytest.raises(InputError, match=r"arch: expected an Architecture \(got 7\)"):
        nas.backbone(7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="100x96 is not a size for a backbone"):
        nas.backbone(arch)(torch.randn(1, 3, 100, 96))
    torch.save(nas.build(SPACES["emo"].published["emo_2m"]).state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth: the checkpoint is of another architecture: 'stage3_entry"
    ):
        nas.backbone(arch, weights=tmp_path / "other.pth")


@torch.no_grad()
def test_a_name_a_file_or_a_run_makes_a_backbone(tmp_path: Path) -> None:
    """A run's own weights are taken, unless others are given."""
    from nas.export.target import save_state

    arch = SPACES["emo"].published["emo_1m"].at(64, classes=2)
    assert nas.backbone("emo_1m").feature_info.channels() == [48, 80, 168]
    net = nas.build(arch).eval()
    run = tmp_path / "run"
    run.mkdir()
    arch.save(run / "architecture.yaml")
    save_state(run / "weights.safetensors", net.state_dict(), arch, ("a", "b"))
    x = torch.randn(1, 3, 64, 64)
    expected = net.forward_features(x)[3]
    (last,) = nas.backbone(run, out=(4,)).eval()(x)
    assert torch.equal(last, expected)
    (random,) = nas.backbone(run / "architecture.yaml", out=(4,)).eval()(x)
    assert not torch.equal(random, expected)
    given = nas.backbone(str(run / "architecture.yaml"), (4,), weights=net.state_dict()).eval()
    assert torch.equal(given(x)[0], expected)
    with pytest.raises(InputError, match="unknown architecture 'emo_9m'"):
        nas.backbone("emo_9m")
