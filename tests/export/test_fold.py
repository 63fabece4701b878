"""Batch norms folded into convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nas
from nas.blocks import MB4D, ConvEmbedding, ConvStem, Shape
from nas.blocks.build import build_block
from nas.blocks.module import fold


def randomise(module: nn.Module) -> nn.Module:
    """Statistics and factors as after a training, so that folding the wrong way round shows."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            low, high = (0.5, 2.0) if name.endswith("var") else (-0.5, 0.5)
            tensor.data = torch.empty_like(tensor).uniform_(low, high, generator=generator)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize("spec", [ConvStem(width=16), ConvEmbedding(width=24), MB4D()])
def test_block_gives_the_same(spec: ConvStem | ConvEmbedding | MB4D) -> None:
    shape = Shape(3 if isinstance(spec, ConvStem) else 16, 32, 32)
    block = randomise(build_block(spec, shape))
    x_bchw = torch.randn(2, *shape.tensor()[1:])
    with torch.no_grad():
        expected = block(x_bchw)
        found = fold(block)(x_bchw)
    assert norms(block) == 0
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_network_gives_the_same() -> None:
    arch = nas.load_space("efficientformer").published["efficientformer_l1"].at(64, classes=10)
    network = nas.build(arch).eval()
    x_bchw = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(x_bchw)
        found = fold(network)(x_bchw)
    assert norms(network) == 0
    assert torch.allclose(found, expected, atol=1e-5)


def test_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        fold(build_block(MB4D(), Shape(8, 4, 4)))
