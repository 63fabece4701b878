"""Zero-cost proxies have the values that their definitions give for networks of a few weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zero_cost import PROXIES, Batch, naswot, synflow, zico

import nas

SPACES = sorted((Path(__file__).parents[2] / "benchmarks" / "spaces").glob("*_enumerable.yaml"))


def batches(count: int = 2, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 3, 32, 32, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def linear(*weights: list[list[float]]) -> nn.Sequential:
    """Return linear layers with these weights (out, in) and ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for values in weights:
        layer = nn.Linear(len(values[0]), len(values), bias=False)
        layer.weight.data = torch.tensor(values)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_synflow_is_the_flow_of_every_layer() -> None:
    """Without biases each layer's sum of theta dR/dtheta is R itself (conservation of flow)."""
    network = linear([[1.0, -2.0], [0.0, 3.0]], [[-1.0, 4.0], [2.0, 0.5]])
    # |W2| |W1| 1 = [[1, 4], [2, 0.5]] (3, 3) = (15, 7.5), so R = 22.5, in both layers.
    score = synflow(network, [(torch.zeros(1, 2), torch.zeros(1))])
    assert score == pytest.approx(math.log(2 * 22.5))


def test_synflow_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    synflow(network, batches())
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_naswot_of_opposite_codes() -> None:
    """Two images on opposite sides of every unit agree on none: K = units * identity."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 32, bias=False), nn.ReLU())
    image = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    score = naswot(network, [(torch.cat([image, -image]), torch.zeros(2))])
    assert score == pytest.approx(2 * math.log(32))


def test_naswot_of_equal_codes() -> None:
    """Images that no unit tells apart make K singular."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 32, bias=False), nn.ReLU())
    image = torch.ones(1, 4)
    assert naswot(network, [(torch.cat([image, 2 * image]), torch.zeros(2))]) == -math.inf


def test_zico_of_known_gradients() -> None:
    """With weights of 0 the gradient of two classes is x / 2 in size: 0.5 and 1.5 here.

    Mean 1 and deviation 0.5 give a ratio of 2 for each of two weights.
    """
    network = linear([[0.0], [0.0]])
    labels = torch.zeros(1, dtype=torch.int64)
    score = zico(network, [(torch.tensor([[1.0]]), labels), (torch.tensor([[3.0]]), labels)])
    assert score == pytest.approx(math.log(4))


def test_zico_leaves_out_what_does_not_vary() -> None:
    network = linear([[0.0], [0.0]])
    batch = (torch.tensor([[1.0]]), torch.zeros(1, dtype=torch.int64))
    assert zico(network, [batch, batch]) == 0.0


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", PROXIES)
def test_the_benchmark_spaces(name: str, path: Path) -> None:
    """Every proxy is finite, repeatable, and higher for the largest member than for the smallest."""
    space = nas.load_space(str(path))
    values = []
    for arch in (space.smallest(), space.largest(), space.largest()):
        torch.manual_seed(0)
        values.append(PROXIES[name](nas.build(arch), batches()))
    assert np.isfinite(values).all()
    assert values[1] == values[2]
    assert values[0] < values[1]
