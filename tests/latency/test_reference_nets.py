"""The layer lists of published networks have the networks' known parameters and MACs."""

from __future__ import annotations

import pytest

from nas.latency.published import layers_of
from nas.latency.reference_nets import reference_nets
from nas.space import load_space
from nas.specs import Shape

# Parameters exactly as the authors' or torchvision's and timm's models have them; MACs in 10^9 at 224 x 224, matrix
# products included.
KNOWN = {
    "MobileNetV2x1.0": (3_504_872, 0.301),
    "MobileNetV2x1.4": (6_108_776, 0.582),
    "ResNet50": (25_557_032, 4.089),
    "ResNet101": (44_549_160, 7.801),
    "ResNet152": (60_192_808, 11.514),
    "PoolFormer-S12": (11_915_176, 1.813),
    "PoolFormer-S24": (21_388_968, 3.394),
    "PoolFormer-S36": (30_862_760, 4.975),
    "PoolFormer-M36": (56_172_520, 8.762),
    "PoolFormer-M48": (73_473_448, 11.538),
    "ConvNeXt-T": (28_589_128, 4.456),
    "ConvNeXt-S": (50_223_688, 8.684),
    "ConvNeXt-B": (88_591_464, 15.355),
    "DeiT-T": (5_717_416, 1.254),
    "DeiT-S": (22_050_664, 4.599),
    "DeiT-B": (86_567_656, 17.564),
    "MobileOne-S0": (2_100_000, 0.275),
    "MobileOne-S1": (4_800_000, 0.825),
    "MobileOne-S2": (7_800_000, 1.299),
    "MobileOne-S3": (10_100_000, 1.896),
}


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_and_macs_are_the_known_ones(name: str) -> None:
    layers = reference_nets()[name](Shape(3, 224, 224))
    params, macs = KNOWN[name]
    digits = 50_000 if name.startswith("MobileOne") else 0  # its paper gives two digits
    assert sum(layer.params for layer in layers) == pytest.approx(params, abs=digits)
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(macs, rel=0.002)


def test_every_network_is_checked_and_can_be_listed_at_other_sizes() -> None:
    nets = reference_nets()
    assert set(nets) == set(KNOWN)
    for layers in nets.values():
        small, large = (sum(layer.macs for layer in layers(Shape(3, side, side))) for side in (224, 448))
        assert 3.9 < large / small < 6


@pytest.mark.parametrize(("model", "space", "name"), [
    ("EfficientFormer-L3", "efficientformer", "efficientformer_l3"),
    ("EfficientFormerV2-S0", "efficientformerv2", "efficientformerv2_s0"),
    ("EfficientFormerV2-L", "efficientformerv2", "efficientformerv2_l"),
])  # fmt: skip
def test_members_of_shipped_spaces_are_listed_by_the_space(model: str, space: str, name: str) -> None:
    """Their counts against the authors' code are in tests/weights/test_published.py."""
    assert model not in reference_nets()
    for side in (224, 512):
        arch, layers = load_space(space).published[name].at(side), layers_of(model, side)
        assert (sum(layer.params for layer in layers), sum(layer.macs for layer in layers)) == (arch.params, arch.macs)
