"""The choice between candidates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.supernet.choices import GumbelSoftmax, TemperatureSchedule


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=4), st.floats(0.1, 10), st.integers(0, 99))
def test_soft_weights_are_a_distribution(alpha: list[float], temperature: float, seed: int) -> None:
    weights = GumbelSoftmax(temperature, "gumbel")(torch.tensor(alpha), seeded(seed))
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_without_noise_it_is_the_papers_formula() -> None:
    alpha = torch.tensor([0.3, -1.0, 0.8])
    expected = torch.exp(alpha / 2) / torch.exp(alpha / 2).sum()
    torch.testing.assert_close(GumbelSoftmax(2.0, "none")(alpha), expected)


def test_uniform_noise_is_added_to_alpha_before_the_temperature() -> None:
    alpha = torch.tensor([0.3, -1.0, 0.8])
    noise = torch.rand(3, generator=seeded(4))
    torch.testing.assert_close(
        GumbelSoftmax(0.7)(alpha, seeded(4)), ((alpha + noise) / 0.7).softmax(0)
    )


def test_true_gumbel_noise_draws_candidates_by_their_softmax() -> None:
    alpha = torch.tensor([1.0, 0.0, -1.0])
    generator = seeded()
    choose = GumbelSoftmax(1.0, "gumbel", "straight_through")
    drawn = torch.stack([choose(alpha, generator) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(drawn, alpha.softmax(0), atol=0.03, rtol=0)


def test_straight_through_is_one_hot_with_the_gradient_of_the_soft_weights() -> None:
    alpha = torch.tensor([0.2, 0.9, -0.4], requires_grad=True)
    hard = GumbelSoftmax(0.5, "uniform", "straight_through")(alpha, seeded(1))
    assert sorted(hard.tolist()) == [0.0, 0.0, 1.0]
    values = torch.tensor([1.0, 2.0, 3.0])
    (by_hard,) = torch.autograd.grad(hard @ values, alpha)
    (by_soft,) = torch.autograd.grad(GumbelSoftmax(0.5)(alpha, seeded(1)) @ values, alpha)
    torch.testing.assert_close(by_hard, by_soft)


def test_a_cold_choice_is_nearly_one_hot() -> None:
    assert float(GumbelSoftmax(0.01, "none")(torch.tensor([0.0, 0.5])).max()) > 0.999


def test_schedule_falls_from_start_to_end() -> None:
    schedule = TemperatureSchedule(5.0, 0.5)
    temperatures = [schedule.at(i / 10) for i in range(11)]
    assert temperatures[0] == pytest.approx(5.0)
    assert temperatures[-1] == pytest.approx(0.5)
    assert temperatures == sorted(temperatures, reverse=True)
