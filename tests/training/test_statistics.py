"""Batch-norm statistics in pieces are those of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.training.evaluate import recalibrate
from nas.training.statistics import Moments, Normalised, measure


def in_turn(function: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    return [function(piece) for piece in pieces]


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from([0.0, 1000.0, -1e6]),
    st.integers(0, 100),
)
def test_moments_of_pieces_are_those_of_all(
    sizes: list[int], channels: int, offset: float, seed: int
) -> None:
    """An offset that is large beside the spread is where E[x^2] - mean^2 would lose all digits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), channels, 3, 2, generator=generator) + offset
    found = Moments.combined(Moments.of(part) for part in torch.split(x, sizes))
    wide = x.double()
    assert found.count == sum(sizes) * 6
    torch.testing.assert_close(found.mean, wide.mean((0, 2, 3)))
    for biased in (False, True):
        mean, variance = found.statistics(biased)
        expected = wide.var((0, 2, 3), correction=0 if biased else 1)
        torch.testing.assert_close(variance.double(), expected, rtol=1e-6, atol=1e-9)
        assert mean.dtype == variance.dtype == torch.float32


def test_a_single_value_per_channel_has_no_variance() -> None:
    mean, variance = Moments.of(torch.full((1, 2, 1, 1), 3.0)).statistics()
    assert mean.tolist() == [3.0, 3.0] and variance.tolist() == [0.0, 0.0]


class Twice(nn.Module):
    """Batch norms one after the other and side by side; one of them is called in both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.left = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
        self.right = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.left(x) * self.right(x).sigmoid()


def block() -> Twice:
    torch.manual_seed(0)
    made = Twice().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.5)
    return made


@pytest.mark.parametrize("images", [None, 1, 4, 5, 10, 100])
@torch.no_grad()
def test_recalibrated_in_pieces_is_as_torch_in_one_batch(images: int | None) -> None:
    x = torch.randn(10, 3, 6, 6)
    reference = block()
    for norm in (each for each in reference.modules() if isinstance(each, nn.BatchNorm2d)):
        norm.momentum = None
        norm.train()
    expected = reference(x)
    made = block()
    torch.testing.assert_close(recalibrate(made, x, images), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(made.buffers(), reference.buffers(), strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not any(module.training for module in made.modules())


@torch.no_grad()
def test_statistics_are_given_back_in_the_order_of_calls() -> None:
    x = torch.randn(6, 3, 6, 6)
    other = torch.randn(2, 3, 6, 6)
    made = block()
    before = [buffer.clone() for buffer in made.buffers()]
    _, norms = measure(made, x, 4, in_turn)
    assert all(torch.equal(a, b) for a, b in zip(before, made.buffers(), strict=True))
    with Normalised([norm.moments.statistics() for norm in norms]):
        found = made(other)
    recalibrate(made, x)
    torch.testing.assert_close(found, made(other), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_layout_of_the_output_stays() -> None:
    x = torch.randn(6, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    output, _ = measure(block(), x, 4, in_turn)
    assert output.is_contiguous(memory_format=torch.channels_last)
    flat, _ = measure(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), x, 4, in_turn)
    assert flat.shape == (6, 5)
