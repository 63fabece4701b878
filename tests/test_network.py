"""Networks of whole architectures: published counts, features, other input sizes, and rebuilding
from a file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.blocks.efficientformer.module import MB3DBlock

# Parameters exactly and MACs (in G) as counted on the authors' code.
PUBLISHED = {
    "efficientformer_l1": (12_289_928, 1.2913),
    "efficientformer_l3": (31_406_000, 3.9066),
    "efficientformer_l7": (82_229_328, 10.1193),
}
SPACE = nas.load_space("efficientformer")


def small(seed: int, resolution: tuple[int, int] = (64, 64)) -> nas.Network:
    """A random member for a small input, with attention biases that are not all the same."""
    torch.manual_seed(seed)
    net = nas.build(SPACE.sample(seed).at(resolution, classes=10))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith((".bias", "_scale")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    arch = SPACE.published[name]
    params, gmacs = PUBLISHED[name]
    with torch.device("meta"):
        net = nas.build(arch).eval()
        images = torch.empty(1, 3, 224, 224)
    assert arch.params == sum(parameter.numel() for parameter in net.parameters()) == params
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        net(images)
    assert arch.macs == pytest.approx(gmacs * 1e9, rel=0.01)
    assert flops.get_total_flops() / 2 == pytest.approx(arch.macs, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_random_members(seed: int) -> None:
    """Each operation gives the shape that it tells, and has as many parameters and MACs."""
    arch = SPACE.sample(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        net = nas.build(arch).eval()
        images = torch.empty(1, 3, 224, 224)
    for name, block in net.named_children():
        block.register_forward_hook(
            lambda block, x, y, name=name: shapes.update({name: tuple(y.shape)})
        )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        net(images)
    assert shapes == {operation.name: operation.output.tensor() for operation in arch.operations()}
    assert sum(parameter.numel() for parameter in net.parameters()) == arch.params
    assert flops.get_total_flops() / 2 == pytest.approx(arch.macs, rel=1e-6)


def test_outputs_in_eval_and_in_training() -> None:
    net = small(1)
    images = torch.randn(2, 3, 64, 64)
    logits, distilled = net(images)
    assert logits.shape == distilled.shape == (2, 10) and not torch.equal(logits, distilled)
    (logits.sum() + distilled.sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.eval()(images).shape == (2, 10)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_features_have_the_widths_and_strides_of_the_stages(seed: int) -> None:
    net = small(seed, (64, 96)).eval()
    images = torch.randn(2, 3, 64, 96)
    features = net.forward_features(images)
    expected = [
        (2, width, 64 // s, 96 // s)
        for width, s in zip(net.architecture.widths, (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    tokens = features[3].flatten(2).transpose(1, 2)
    torch.testing.assert_close(net.head(tokens), net(images))


@torch.no_grad()
def test_other_input_size_resizes_the_bias_and_says_so() -> None:
    net = nas.build(SPACE.published["efficientformer_l1"]).eval()
    with pytest.warns(UserWarning, match=r"attention bias resized from \(7, 7\) to \(8, 8\)"):
        logits = net(torch.randn(1, 3, 256, 256))
    assert logits.shape == (1, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.randn(1, 3, 224, 224))
        nas.build(net.architecture.at((256, 128))).eval()(torch.randn(1, 3, 256, 128))


@torch.no_grad()
def test_another_aspect_ratio_is_taken_by_blocks_that_are_told_their_grid() -> None:
    net = nas.build(SPACE.published["efficientformer_l1"]).eval()
    with pytest.warns(UserWarning, match=r"attention bias resized from \(7, 7\) to \(7, 14\)"):
        assert net(torch.randn(1, 3, 224, 448)).shape == (1, 1000)


def test_a_block_that_cannot_see_its_grid_needs_another_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nas.build(SPACE.published["efficientformer_l1"]).eval()
    monkeypatch.setattr(MB3DBlock, "takes_grid", False)
    with pytest.raises(
        ValueError, match=r"mb3d cannot see .* 224x448.* 7:7\)\. Fix: nas\.build\(arch\.at"
    ):
        net(torch.randn(1, 3, 224, 448))


def test_building_gives_the_child_modules_of_the_operations() -> None:
    net = small(3)
    assert [name for name, _ in net.named_children()] == [
        operation.name for operation in net.architecture.operations()
    ]


@torch.no_grad()
def test_saved_architecture_rebuilds_the_network(tmp_path: Path) -> None:
    net = small(5).eval()
    net.architecture.save(tmp_path / "a.yaml")
    again = nas.build(nas.load_architecture(tmp_path / "a.yaml")).eval()
    again.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), net(images))


@torch.no_grad()
def test_compact_architecture_is_the_same_network() -> None:
    """Dropped positions hold no module, so that the tensors keep their order without them."""
    net = small(6).eval()
    compact = nas.build(net.architecture.compact()).eval()
    compact.load_state_dict(dict(zip(compact.state_dict(), net.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(compact(images), net(images))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_deployed_network_gives_the_same_output(seed: int) -> None:
    net = small(seed).eval()
    images = torch.randn(2, 3, 64, 64)
    before = net(images)
    torch.testing.assert_close(net.deploy()(images), before, rtol=1e-4, atol=1e-5)
