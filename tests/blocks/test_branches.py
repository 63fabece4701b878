"""Parallel convolutions and the one that they fold into."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.blocks import Shape
from nas.blocks.branches import RepConv, ResidualConv, identity_kernel
from nas.blocks.module import Foldable, Repeated, SqueezeExcite, fold
from nas.blocks.spec import Trace


def randomised(part: nn.Module) -> nn.Module:
    """Statistics and factors as after a training."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in part.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 2.0) if name.endswith("var") else (-1.0, 1.0)
            tensor.uniform_(low, high, generator=generator)
    return part.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 8, "width": 8, "kernel": 3, "small": 1, "identity": True, "groups": 8},
        {"channels": 8, "width": 8, "kernel": 1, "identity": True},
        {"channels": 8, "width": 5, "kernel": 1, "identity": True},
        {"channels": 5, "width": 8, "kernel": 3, "small": 1, "identity": True},
        {"channels": 8, "width": 16, "kernel": 7, "stride": 2, "small": 3, "groups": 8},
        {"channels": 3, "width": 8, "kernel": 3, "stride": 2, "small": 1},
        {"channels": 8, "width": 8, "kernel": 3, "small": 1, "identity": True, "groups": 2},
    ],
)
def test_branches_are_one_convolution(arguments: dict[str, int]) -> None:
    part = randomised(RepConv(**arguments))
    x = torch.randn(2, arguments["channels"], 9, 11)
    expected = part(x)
    holder = fold(nn.Sequential(part).eval())
    assert [type(each) for each in holder.modules()] == [nn.Sequential, nn.Conv2d]
    assert (holder(x) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_branches_that_cancel_are_folded_in_double_precision() -> None:
    """The difference of two large kernels keeps the digits of the small one that is left."""
    part = RepConv(4, 4, 3, groups=4, small=1).eval()
    part.large.conv.weight.zero_()
    part.large.conv.weight[:, :, 1, 1] = 1e4
    part.small.conv.weight.fill_(-1e4 + 0.001)
    ratio = part.large.norm.weight.double() / (1.0 + part.large.norm.eps) ** 0.5
    exact = part.large.conv.weight.double()[:, :, 1, 1] + part.small.conv.weight.double()[..., 0, 0]
    found = part.folded().weight[:, :, 1, 1]
    torch.testing.assert_close(found.double(), exact * ratio[:, None], rtol=1e-6, atol=0)


@torch.no_grad()
def test_a_shortcut_around_a_depthwise_convolution_is_part_of_it() -> None:
    part = randomised(ResidualConv(6, 7))
    x = torch.randn(2, 6, 8, 8)
    expected = part(x)
    folded = fold(nn.Sequential(part).eval())[0]
    assert type(folded) is nn.Conv2d
    assert (folded(x) - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_identity_kernel_copies_every_channel_of_a_group() -> None:
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=3)
    x = torch.randn(1, 6, 4, 4)
    assert torch.equal(identity_kernel(conv).conv(conv)(x), x)


def test_a_part_must_say_what_it_becomes() -> None:
    with pytest.raises(NotImplementedError):
        fold(nn.Sequential(Foldable()).eval())


def test_traces_of_both_forms() -> None:
    shape = Shape(8, 6, 6)
    trained = Trace(shape).branches(8, 3, groups=8, small=1, identity=True)
    deployed = Trace(shape, deployed=True).branches(8, 3, groups=8, small=1, identity=True)
    part = RepConv(8, 8, 3, groups=8, small=1, identity=True)
    assert sum(layer.params for layer in trained.layers) == sum(
        each.numel() for each in part.parameters()
    )
    assert [layer.kind for layer in deployed.layers] == ["depthwise"]
    assert sum(layer.params for layer in deployed.layers) == sum(
        each.numel() for each in part.eval().folded().parameters()
    )
    assert trained.shape == deployed.shape


def test_gate_has_the_traced_parameters() -> None:
    traced = sum(layer.params for layer in Trace(Shape(8, 5, 5)).squeeze_excite(3).layers)
    assert traced == sum(each.numel() for each in SqueezeExcite(8, 3).parameters())


@pytest.mark.parametrize("adjacent", [False, True])
def test_copies_of_channels_are_found(adjacent: bool) -> None:
    axis = Repeated("in", 3, adjacent)
    values = torch.arange(4).repeat_interleave(3) if adjacent else torch.arange(4).repeat(3)
    kept = axis.positions(torch.tensor([1, 3]), 12)
    assert values[kept].tolist() == ([1, 1, 1, 3, 3, 3] if adjacent else [1, 3, 1, 3, 1, 3])
    parts = axis.parts(values[None, :, None], 1)
    assert [part.flatten().tolist() for part in parts] == [[0, 1, 2, 3]] * 3
