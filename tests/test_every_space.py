"""All shipped spaces alike: every published member, random members, every kind of move, and the supernet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.search.moves import Exchange, Move, moves
from nas.space import Architecture, Space
from nas.space.space import Pick
from nas.specs import BlockSpec, ConvHead
from nas.supernet.gumbel import GumbelSoftmax, Sampling
from nas.supernet.supernet import Supernet

ACTIONS = {
    "efficientformer": {"DR", "WR", "MR"},
    "efficientformerv2": {"DR", "WR", "MR", "ER"},
    "swiftformer": {"DR", "WR", "MR"},
    "efficientvit": {"DR", "WR", "MR", "AR", "BR"},
    "emo": {"DR", "WR", "MR", "ER", "BR"},
}
"""The kinds of moves that each space has, by `Move.action`."""
SPACES = {name: nas.load_space(name) for name in ACTIONS}
PUBLISHED = {name: arch for space in SPACES.values() for name, arch in space.published.items()}
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)
SIDE, CLASSES = 64, 10


def image(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Of the labels 1 and 2; of two classifiers the sum of both losses."""
    logits = (output,) if isinstance(output, Tensor) else output
    return torch.stack([nn.functional.cross_entropy(each, torch.tensor([1, 2])) for each in logits]).sum()


def rebuilt(arch: Architecture, network: nas.Network, folder: Path) -> nas.Network:
    """The network built again from the saved architecture, with a copy of the weights and in the same mode."""
    arch.save(folder / "arch.yaml")
    loaded = nas.load_architecture(folder / "arch.yaml")
    assert loaded == arch
    with torch.device("meta"):  # no initial values for weights that are assigned below
        again = nas.build(loaded).train(network.training)
    again.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True)
    return again


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name == "efficientvit_l3" else []) for name in PUBLISHED
])  # fmt: skip
def test_published_member_runs_forwards_and_backwards(name: str) -> None:
    """On images that are not square, at a size that suits neither windows nor the grid it was published for."""
    arch = PUBLISHED[name].at((64, 96), classes=CLASSES)
    net, images = nas.build(arch), image(64, 96)
    loss(net(images)).backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    with torch.no_grad():
        logits, features = net.eval()(images), net.forward_features(images)
    assert logits.shape == (2, CLASSES) and logits.isfinite().all()
    assert [tuple(feature.shape) for feature in features] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(arch.widths, (4, 8, 16, 32), strict=True)
    ]


@EVERY_SPACE
def test_random_members_are_what_their_counts_and_files_say(name: str, tmp_path: Path) -> None:
    """The largest and the smallest too."""
    space = SPACES[name]
    for arch in (space.largest(), space.smallest(), *(space.sample(seed) for seed in range(20))):
        space.validate(arch)
        arch.save(tmp_path / "arch.yaml")
        assert nas.load_architecture(tmp_path / "arch.yaml") == arch
        with torch.device("meta"):
            net = nas.build(arch)
        for operation in arch.operations():
            built = net.get_submodule(operation.name).parameters()
            assert sum(parameter.numel() for parameter in built) == operation.params, operation


@EVERY_SPACE
def test_every_move_leads_to_a_member(name: str) -> None:
    space, seen = SPACES[name], set()
    for base in (space.largest(), *(space.sample(seed) for seed in range(3))):
        for move in moves(space, base):
            seen.add(move.action)
            after = move.apply(base)
            assert after != base, move
            space.validate(after)
            for operation in after.operations():
                operation.spec.check(operation.input)
    assert seen == ACTIONS[name]


@EVERY_SPACE
def test_supernet_has_at_most_2_2_times_the_parameters_of_its_largest_member(name: str) -> None:
    with torch.device("meta"):
        supernet = Supernet(SPACES[name])
    assert sum(parameter.numel() for parameter in supernet.parameters()) <= 2.2 * SPACES[name].largest().params


def reduced(space: Space) -> Space:
    """The same candidates at every place and the same kinds of moves, in the two least widths and at two positions of
    each stage, for small images: the supernets of the whole spaces hold up to 380 million parameters."""
    stages = tuple(
        replace(
            stage, widths=stage.widths[:2], depths=(stage.depths[0], 2),
            entries=tuple(replace(entry, width=stage.widths[1]) for entry in stage.entries),  # type: ignore[call-arg]
        )
        for stage in space.stages
    )  # fmt: skip
    return replace(space.at(SIDE, classes=CLASSES), stages=stages, heads=tuple(map(smaller_head, space.heads)))


def smaller_head(head: BlockSpec) -> BlockSpec:
    """EfficientViT's, without most of its channels."""
    return replace(head, width=head.width // 16, features=head.features // 16) if isinstance(head, ConvHead) else head


@torch.no_grad()
def randomised(module: nn.Module) -> None:
    """Weights that keep images apart on their way through the network, and scales, biases and statistics that a wrong
    slice would show."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            if tensor.dim() < 2:
                tensor.uniform_(0.3, 1.2, generator=generator)
            else:
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=generator)


@pytest.fixture(scope="module", params=SPACES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    supernet = Supernet(reduced(SPACES[request.param])).eval()
    randomised(supernet)
    return supernet


def bases(space: Space) -> Iterator[Architecture]:
    """The largest member; local blocks alone, the first listed of each place; attention wherever it may stand at the
    least widths, the last listed of each place."""
    depths = [stage.depths[1] for stage in space.stages]
    none, most = space.attention_extremes()
    last: Pick = lambda place, candidates, shape: candidates[-1]  # noqa: E731
    yield space.largest()
    yield space.member([stage.widths[-1] for stage in space.stages], depths, none)
    yield space.member([stage.widths[0] for stage in space.stages], depths, most, pick=last)


def one_of_each(space: Space, base: Architecture) -> Iterator[Move]:
    """A move for each action in each stage, and of exchanges for each block that comes in."""
    seen = set()
    for move in moves(space, base):
        where = move.place.partition("_")[0] if isinstance(move, Exchange) else move.stage
        what = (move.action, where, move.block if isinstance(move, Exchange) else None)
        if what not in seen:
            seen.add(what)
            yield move


@torch.no_grad()
def test_sliced_equals_exported_for_every_kind_of_move(supernet: Supernet, tmp_path: Path) -> None:
    space, images, seen = supernet.space, image(), set()
    for base in bases(space):
        before = supernet.extract(base)(images)
        for move in one_of_each(space, base):
            arch = move.apply(base)
            exported = supernet.extract(arch)
            output = exported(images)
            assert (output - before).abs().max() > 1e-4, f"{move} changed nothing"
            torch.testing.assert_close(supernet.forward_sliced(images, arch), output, rtol=1e-5, atol=1e-5)
            if move.action not in seen:
                assert torch.equal(rebuilt(arch, exported, tmp_path)(images), output), move
                seen.add(move.action)
    assert seen == ACTIONS[space.name]


@torch.no_grad()
def test_sliced_equals_exported_for_random_members(supernet: Supernet, tmp_path: Path) -> None:
    for seed in range(6):
        arch = supernet.space.sample(seed)
        exported = supernet.extract(arch)
        with FlopCounterMode(display=False) as flops:
            output = exported(image())
        assert flops.get_total_flops() / 2 / len(output) == pytest.approx(arch.macs, rel=0.01)
        torch.testing.assert_close(supernet.forward_sliced(image(), arch), output, rtol=1e-5, atol=1e-5)
        assert torch.equal(rebuilt(arch, exported, tmp_path)(image()), output)


@torch.no_grad()
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] if name == "efficientvit" else []) for name in SPACES
])  # fmt: skip
def test_sliced_equals_exported_in_the_whole_space(name: str) -> None:
    """A published member and a random one, out of a supernet as it is trained."""
    space = SPACES[name].at(SIDE, classes=CLASSES)
    supernet = Supernet(space).eval()
    randomised(supernet)
    for arch in (next(iter(space.published.values())), space.sample(0)):
        output = supernet.extract(arch)(image())
        torch.testing.assert_close(supernet.forward_sliced(image(), arch), output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", ["soft", "straight_through"])
def test_gumbel_step_has_finite_gradients(supernet: Supernet, sampling: Sampling) -> None:
    supernet.train().zero_grad(set_to_none=True)
    try:
        choose = GumbelSoftmax(1.0, "gumbel", sampling)
        loss(supernet(image(), choose, torch.Generator().manual_seed(3))).backward()
    finally:
        supernet.eval()
    gradients = {name: parameter.grad for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    alphas = {name for name in gradients if name.endswith("alpha") and gradients[name].any()}
    assert len(alphas) == len(supernet.alphas()) if sampling == "soft" else alphas
    assert gradients.keys() - alphas
