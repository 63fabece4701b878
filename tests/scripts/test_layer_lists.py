"""The layer lists of published networks have the networks' known parameters and MACs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from record_layer_lists import layer_lists
from reference_networks import reference_networks
from reference_networks.traced import traced_networks

import nas
from nas.blocks import Shape
from nas.errors import InputError
from nas.latency.estimate.layer_lists import PATH, recorded_layers
from nas.latency.estimate.layer_lists import TRACED as TRACED_PATH
from nas.latency.estimate.published_latencies import layers_of
from nas.space import load_space

# Parameters exactly as the authors' or torchvision's and timm's models have them; MACs in 10^9 at
# 224 x 224, matrix products included.
KNOWN = {
    "MobileNetV1": (4_231_976, 0.569),
    "MobileNetV2x0.5": (1_968_680, 0.097),
    "MobileNetV2x1.5": (6_858_152, 0.673),
    "MobileNetV2x2.0": (11_258_088, 1.137),
    "MobileNetV3-Large": (5_483_032, 0.2166),
    "MobileNetV3-Small": (2_542_856, 0.0565),
    "MNASNet05": (2_218_512, 0.1045),
    "EfficientNet-B0": (5_288_548, 0.386),
    "EfficientNet-B1@240": (7_794_184, 0.688),
    "EfficientNet-B2@288": (9_109_994, 1.088),
    "EfficientNet-B3@300": (12_233_232, 1.829),
    "EfficientNet-B4@380": (19_341_616, 4.394),
    "EfficientNet-B5@456": (30_389_784, 10.266),
    "EfficientNet-B6@528": (43_040_704, 19.068),
    "EfficientNet-V2-s@384": (21_458_488, 8.366),
    "MNv4-Conv-S": (3_774_024, 0.186),
    "MNv4-Conv-M": (9_715_512, 0.828),
    "ShuffleNetV2-0.5": (1_366_792, 0.0405),
    "ShuffleNetV2-1.0": (2_278_604, 0.145),
    "ShuffleNetV2-1.5": (3_503_624, 0.296),
    "ShuffleNetV2-2.0": (7_393_996, 0.583),
    "SqueezeNet-1.1": (1_235_496, 0.3491),
    "LeViT-128S": (7_391_290, 0.304),
    "MobileViT-XXS@256": (1_272_024, 0.407),
    "MobileViT-XS@256": (2_317_848, 1.026),
    "MobileViT-S@256": (5_578_632, 2.001),
    "ViT-B-16": (86_567_656, 17.564),
    "ResNet18": (11_689_512, 1.814),
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
    "MobileOne-S4": (14_800_000, 2.978),
}


TRACED = {
    "ConvNeXtV2-B": (88.72, 15.38),
    "DenseNet-121": (7.98, 2.83),
    "DLA-102-X": (26.31, 5.89),
    "EfficientNet-Lite4@300": (13.01, 2.55),
    "GoogLeNet": (6.62, 1.50),
    "Inception-v3@299": (23.83, 5.71),
    "NASNet-A-Large@331": (88.75, 23.89),
    "RegNetX-3.2GF": (15.30, 3.20),
    "RegNetY-800MF": (6.26, 0.81),
    "ResNeXt101-32x8d": (88.79, 16.41),
    "ResNeXt50-32x4d": (25.03, 4.23),
    "Swin-B": (87.77, 15.43),
    "Swin-S": (49.61, 8.74),
    "Swin-T": (28.29, 4.49),
    "SwinV2-B": (87.93, 17.0),
    "WideResNet50-2": (68.88, 11.40),
}


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_and_macs_are_the_known_ones(name: str) -> None:
    model, _, side = name.partition("@")
    layers = reference_networks()[model](Shape(3, int(side or 224), int(side or 224)))
    params, macs = KNOWN[name]
    digits = 50_000 if name.startswith("MobileOne") else 0  # its paper gives two digits
    assert sum(layer.params for layer in layers) == pytest.approx(params, abs=digits)
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(macs, rel=0.003)


def test_every_network_is_checked_and_can_be_listed_at_other_sizes() -> None:
    nets = reference_networks()
    assert set(nets) == {name.partition("@")[0] for name in KNOWN}
    for layers in nets.values():
        small, large = (
            sum(layer.macs for layer in layers(Shape(3, side, side))) for side in (224, 448)
        )
        assert 3.8 < large / small < 6


@pytest.mark.parametrize(
    ("model", "space", "name"),
    [
        ("EfficientFormer-L3", "efficientformer", "efficientformer_l3"),
        ("EfficientFormerV2-S0", "efficientformerv2", "efficientformerv2_s0"),
        ("EfficientFormerV2-L", "efficientformerv2", "efficientformerv2_l"),
        ("FastViT-SA12", "fastvit", "fastvit_sa12"),
        ("RepViT-M0.9", "repvit", "repvit_m0_9"),
    ],
)
def test_members_of_shipped_spaces_are_listed_by_the_space(
    model: str, space: str, name: str
) -> None:
    """In their form in inference.

    Their counts against the authors' code are in tests/weights.
    """
    assert model not in reference_networks()
    for side in (224, 512):
        operations = load_space(space).published[name].at(side).operations()
        assert layers_of(model, side) == tuple(
            layer for each in operations for layer in each.spec.deployed_layers(each.input)
        )


def test_the_recorded_file_is_what_the_script_writes() -> None:
    assert layer_lists().encode() == PATH.read_bytes()


def test_a_recorded_network_has_the_layers_that_were_listed() -> None:
    networks = reference_networks()
    assert len(recorded_layers()) > 48
    for (name, side), layers in recorded_layers().items():
        if name not in traced_networks():
            assert layers == networks[name](Shape(3, side, side))


@pytest.mark.parametrize("name", TRACED)
def test_traced_networks_have_the_published_parameters_and_macs(name: str) -> None:
    """Parameters in millions and MACs in 10^9, as torchvision and timm publish them."""
    model, _, side = name.partition("@")
    layers = recorded_layers()[model, int(side or 224)]
    params, macs = TRACED[name]
    # Tables of positions in transformers are no part of a layer.
    assert sum(layer.params for layer in layers) / 1e6 == pytest.approx(params, rel=0.02)
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(macs, rel=0.04)


def test_every_traced_network_is_checked() -> None:
    assert {name.partition("@")[0] for name in TRACED} == set(traced_networks())


def test_the_file_of_traced_networks_is_what_the_script_writes() -> None:
    try:
        import timm  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision or timm cannot be imported here: {error}")
    from record_traced_layers import traced_layer_lists

    assert traced_layer_lists().encode() == TRACED_PATH.read_bytes()


@pytest.mark.parametrize(("name", "side"), [("ResNet50", 223), ("ResNet51", 224)])
def test_a_network_that_is_not_recorded_is_named_with_the_command(name: str, side: int) -> None:
    with pytest.raises(
        InputError,
        match=rf"no layers of {name} at {side}.*Fix: python scripts/record_layer_lists.py",
    ):
        layers_of(name, side)


def test_what_ships_does_not_need_what_makes_estimates() -> None:
    """`nas/latency/estimate` is left out of the wheel."""
    package = Path(nas.__file__).parent
    for path in package.rglob("*.py"):
        if "estimate" not in path.relative_to(package).parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imports = [
                node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
            ]
            assert not any(module.startswith("nas.latency.estimate") for module in imports), path
    settings = (package.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'exclude = ["/nas/latency/estimate"]' in settings
