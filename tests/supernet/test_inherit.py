"""Weights that are inherited at another input size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import nas
from nas.blocks import AttentionFFN, ConvEmbedding, ConvFFN, ConvStem, DualPathEmbedding, MapHead
from nas.space import Architecture, Stage
from nas.supernet.checkpoint import inherited
from nas.supernet.supernet import Supernet


def test_each_bias_is_resized_to_the_grid_of_its_keys() -> None:
    """Attention at half the size in stage 3, and on the way into stage 4 over the map that comes
    in."""
    stages = (
        Stage(ConvStem(8), (ConvFFN(2),)),
        Stage(ConvEmbedding(8), (ConvFFN(2),)),
        Stage(ConvEmbedding(8), (AttentionFFN(2, heads=2, key_dim=4, stride=2),)),
        Stage(DualPathEmbedding(8, heads=2, key_dim=4), (AttentionFFN(2, heads=2, key_dim=4),)),
    )
    arch = Architecture("test", (64, 64), stages, MapHead(5))
    net = nas.build(arch)
    torch.nn.init.normal_(net.stage4_entry.bias)
    space = SimpleNamespace(resolution=(64, 64), classes=5)
    supernet = cast(Supernet, cast(Any, SimpleNamespace(space=space, extract=lambda member: net)))
    state = inherited(supernet, arch.at((128, 96)))
    nas.build(arch.at((128, 96))).load_state_dict(state)
    grids = {name: tuple(tensor.shape[1:]) for name, tensor in state.items() if tensor.ndim == 3}
    assert grids == {
        "stage3_block1.bias": (4, 3),
        "stage4_entry.bias": (8, 6),
        "stage4_block1.bias": (4, 3),
    }
    torch.testing.assert_close(
        state["stage4_entry.bias"][:, [0, -1]][:, :, [0, -1]],
        net.stage4_entry.bias[:, [0, -1]][:, :, [0, -1]],
    )
    assert inherited(supernet, arch)["stage4_entry.bias"].equal(net.stage4_entry.bias)
    with pytest.raises(ValueError, match="7 classes, the supernet has 5"):
        inherited(supernet, arch.at(classes=7))
