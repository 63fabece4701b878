"""Networks with imported weights against outputs that the reference implementation gave."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import seeded
import torch
from torch import Tensor

import nas
from nas.blocks.module import fold
from nas.space import Architecture


@torch.no_grad()
def assert_recorded(
    arch: Architecture, weights: Mapping[str, Tensor], layout: str, outputs: Path
) -> None:
    """Compare features and logits, then the logits after all that only training needs is folded."""
    with torch.device("meta"):
        net = nas.build(arch).eval()
    net = net.to_empty(device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nas.import_weights(net, dict(weights)) == layout
    recorded = np.load(outputs, allow_pickle=False)
    images = seeded.images((2, 3, *arch.resolution))
    features = net.forward_features(images)
    for index, feature in enumerate(features, start=1):
        values = feature.flatten().numpy()
        expected = recorded[f"stage{index}_samples"]
        samples = values[:: values.size // expected.size][: expected.size]
        np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-5)
    logits = net.head(features[-1]).numpy()
    np.testing.assert_allclose(logits, recorded["logits"], rtol=0, atol=1e-5)
    assert recorded["logits"].std() > 0.01
    folded = fold(net.deploy())(images).numpy()
    np.testing.assert_allclose(folded, recorded["logits"], rtol=0, atol=1e-5)
