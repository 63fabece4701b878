"""EfficientFormerV2's checkpoints: what only its weights need. That all of them fit is in
test_published."""

from __future__ import annotations

from pathlib import Path

import pytest
import seeded
import torch

import nas

FILE = Path(seeded.__file__).parent / "efficientformerv2" / "efficientformerv2_s0.timm.csv"


@torch.no_grad()
def test_every_bias_is_resized_to_its_own_grid() -> None:
    """At half the size in stage 3, and of the map that comes in on the way into stage 4."""
    arch = nas.load_space("efficientformerv2").published["efficientformerv2_s0"]
    tensors = seeded.state_dict(seeded.read_types(FILE))
    larger = nas.build(arch.at((256, 320))).eval()
    with pytest.warns(UserWarning) as caught:
        nas.import_weights(larger, tensors)
    assert {
        str(warning.message).partition(" grid to ")[2].partition(".")[0] for warning in caught
    } == {"16x20", "8x10"}
    assert larger.stage3_block6.bias.shape == larger.stage4_block4.bias.shape == (8, 8, 10)
    assert larger.stage4_entry.bias.shape == (8, 16, 20)
    net = nas.build(arch).eval()
    nas.import_weights(net, tensors)
    images = seeded.images((1, 3, 256, 320))
    with pytest.warns(UserWarning, match="resized"):
        expected = net(images)
    torch.testing.assert_close(larger(images), expected, rtol=0, atol=1e-4)
