"""EfficientViT's checkpoints: what only its weights need. That all of them fit is in
test_published."""

from __future__ import annotations

from pathlib import Path

import seeded
import torch
from torch import Tensor

import nas
from nas.blocks.module import ConvNorm

FOLDER = Path(seeded.__file__).parent / "efficientvit"
MEMBERS = nas.load_space("efficientvit").published


def official(name: str) -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(FOLDER / f"{name}.official.csv"))


@torch.no_grad()
def test_small_variances_count_with_the_eps_of_their_series() -> None:
    """Trained networks have channels of little variance, where an eps of 1e-5 in place of 1e-7
    would be felt."""
    for name, eps in (("efficientvit_b0", 1e-5), ("efficientvit_l1", 1e-7)):
        weights = {
            n: t * 1e-5 if n.endswith("running_var") else t for n, t in official(name).items()
        }
        net = nas.build(MEMBERS[name]).eval()
        nas.import_weights(net, weights)
        stem = (
            "backbone.input_stem.op_list.0"
            if name == "efficientvit_b0"
            else "backbone.stages.0.op_list.0"
        )
        norm = net.stem.conv.norm
        assert isinstance(net.stem.conv, ConvNorm)
        torch.testing.assert_close(
            norm.running_var + norm.eps, weights[f"{stem}.norm.running_var"] + eps
        )


def test_queries_keys_and_values_come_out_of_their_heads() -> None:
    """Channel c of head h is published at 3 d h + c, + d and + 2 d as query, key and value."""
    name = "backbone.stages.2.op_list.1.context_module.main"
    weights = official("efficientvit_b0")
    net = nas.build(MEMBERS["efficientvit_b0"])
    nas.import_weights(net, weights)
    attention = net.stage3_block1.attention
    published = weights[f"{name}.qkv.conv.weight"]
    for part in range(3):
        for head, channel in ((0, 0), (1, 5), (3, 15)):
            ours = 64 * part + 16 * head + channel
            theirs = 48 * head + 16 * part + channel
            assert torch.equal(attention.qkv.weight[ours], published[theirs])
            for conv, index in ((attention.depthwise, 0), (attention.grouped, 1)):
                assert torch.equal(
                    conv.weight[ours], weights[f"{name}.aggreg.0.{index}.weight"][theirs]
                )
