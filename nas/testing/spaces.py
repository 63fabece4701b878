"""What every space must be: tests for a space of one's own, which ours pass too.

    from nas.testing.spaces import check_space
    check_space(nas.load_space("my_space.yaml"))

Every function raises AssertionError with what is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from nas.blocks import HeadSpec
from nas.network import Network, build
from nas.space import Architecture, Space, load_architecture, load_space
from nas.space.candidates import Pick, most_macs
from nas.space.moves import Exchange, Move, moves
from nas.supernet.choices import GumbelSoftmax, Sampling
from nas.supernet.supernet import Supernet

SIDE = 64
CLASSES = 10
MOST_PARAMETERS = 2.2
"""Of a supernet, times those of its largest member."""
Head = Callable[[HeadSpec], HeadSpec]


def check_space(space: Space, side: int = SIDE, smaller_head: Head = lambda head: head) -> None:
    """Everything below.

    Args:
        side: of the images that networks are run on, a size that all of the space's blocks take.
        smaller_head: makes a head smaller that holds most of a supernet's weights, for the checks
            that run one.
    """
    if space.path:
        check_file(space)
    for arch in space.published.values():
        check_member_runs(arch.at(side, CLASSES))
    check_counts(space)
    check_moves(space)
    check_supernet_size(space)
    supernet = small_supernet(space, side, smaller_head)
    check_slices(supernet, side)
    for sampling in ("soft", "straight_through"):
        check_gumbel_step(supernet, sampling, side)


def check_file(space: Space) -> None:
    """The file is called as the space, and gives it back."""
    loaded = load_space(space.path)
    assert Path(space.path).stem == loaded.name, (
        f"{space.path}: is called otherwise than its space '{loaded.name}'"
    )


def check_member_runs(arch: Architecture) -> None:
    """A member runs forwards and backwards, with a gradient for every parameter, and gives the maps
    of four stages."""
    height, width = arch.resolution
    net = build(arch)
    images = image(height, width)
    loss(net(images)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), (
            f"{arch.name}: gradient of {name}"
        )
    with torch.no_grad():
        logits = net.eval()(images)
        features = net.forward_features(images)
    assert logits.shape == (2, arch.classes) and logits.isfinite().all(), f"{arch.name}: logits"
    wanted = [
        (2, channels, height // s, width // s)
        for channels, s in zip(arch.widths, (4, 8, 16, 32), strict=True)
    ]
    found = [tuple(feature.shape) for feature in features]
    assert found == wanted, f"{arch.name}: features {found}, expected {wanted}"


def check_counts(space: Space, members: int = 20) -> None:
    """Random members, the largest and the smallest are valid, survive their file, and have as many
    parameters as they say."""
    for arch in (
        space.largest(),
        space.smallest(),
        *(space.sample(seed) for seed in range(members)),
    ):
        space.validate(arch)
        with TemporaryDirectory() as folder:
            arch.save(Path(folder) / "arch.yaml")
            assert load_architecture(Path(folder) / "arch.yaml") == arch, (
                f"{arch.name}: its file gives another"
            )
        with torch.device("meta"):
            net = build(arch)
        for operation in arch.operations():
            count = sum(
                parameter.numel() for parameter in net.get_submodule(operation.name).parameters()
            )
            assert count == operation.params, (
                f"{operation} has {count} parameters, its spec says {operation.params}"
            )


def check_moves(space: Space) -> set[str]:
    """Return every move leads to another member; the kinds of moves that the space has."""
    seen = set[str]()
    for base in (space.largest(), *(space.sample(seed) for seed in range(3))):
        for move in moves(space, base):
            seen.add(move.action)
            after = move.apply(base)
            assert after != base, f"{move} changes nothing"
            space.validate(after)
            for operation in after.operations():
                operation.spec.check(operation.input)
    return seen


def check_supernet_size(space: Space) -> None:
    """The supernet has at most MOST_PARAMETERS times the parameters of its largest member."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Supernet(space).parameters())
    share = count / space.largest().params
    assert share <= MOST_PARAMETERS, (
        f"the supernet has {share:.2f} times the parameters of its largest member"
    )


@torch.no_grad()
def check_slices(supernet: Supernet, side: int = SIDE) -> set[str]:
    """Return each kind of move in each stage changes the output, and the sliced supernet equals the
    member as a network of its own, also when that is saved and built again; the kinds of moves that
    there were."""
    space = supernet.space
    images = image(side, side)
    seen = set[str]()
    for base in bases(space):
        before = supernet.extract(base)(images)
        for move in one_of_each(space, base):
            arch = move.apply(base)
            exported = supernet.extract(arch)
            output = exported(images)
            assert (output - before).abs().max() > 1e-4, f"{move} changed nothing"
            torch.testing.assert_close(
                supernet.forward_sliced(images, arch), output, rtol=1e-5, atol=1e-5
            )
            if move.action not in seen:
                assert torch.equal(rebuilt(arch, exported)(images), output), (
                    f"{move}: built again it is another"
                )
                seen.add(move.action)
    return seen


def check_gumbel_step(supernet: Supernet, sampling: Sampling, side: int = SIDE) -> None:
    """A training step gives finite gradients; with soft sampling every architecture parameter gets
    one."""
    supernet.train().zero_grad(set_to_none=True)
    try:
        choose = GumbelSoftmax(1.0, "gumbel", sampling)
        loss(supernet(image(side, side), choose, torch.Generator().manual_seed(3))).backward()  # type: ignore[no-untyped-call]
    finally:
        supernet.eval()
    gradients = {
        name: parameter.grad
        for name, parameter in supernet.named_parameters()
        if parameter.grad is not None
    }
    assert all(gradient.isfinite().all() for gradient in gradients.values()), (
        f"{sampling}: gradients are not finite"
    )
    alphas = {name for name in gradients if name.endswith("alpha") and gradients[name].any()}
    wanted = len(supernet.alphas()) if sampling == "soft" else 1
    assert len(alphas) >= wanted, (
        f"{sampling}: {len(alphas)} architecture parameters get a gradient, not {wanted}"
    )
    assert gradients.keys() - alphas, f"{sampling}: no weight gets a gradient"


def image(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
    """Return noise (B, 3, H, W), the same each time."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Of the labels 1 and 2; of two classifiers the sum of both losses."""
    logits = (output,) if isinstance(output, Tensor) else output
    return torch.stack(
        [nn.functional.cross_entropy(each, torch.tensor([1, 2])) for each in logits]
    ).sum()


def rebuilt(arch: Architecture, network: Network) -> Network:
    """Return the network built again from the saved architecture, with a copy of the weights and in
    the same mode."""
    with TemporaryDirectory() as folder:
        arch.save(Path(folder) / "arch.yaml")
        loaded = load_architecture(Path(folder) / "arch.yaml")
    assert loaded == arch, f"{arch.name}: its file gives another"
    with torch.device("meta"):  # no initial values for weights that are assigned below
        again = build(loaded).train(network.training)
    again.load_state_dict(
        {name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True
    )
    return again


def small_supernet(
    space: Space, side: int = SIDE, smaller_head: Head = lambda head: head
) -> Supernet:
    """Return the supernet of the space `reduced`, in eval mode, with weights that a wrong slice
    would show."""
    supernet = Supernet(reduced(space, side, smaller_head))
    randomise(supernet)
    settle(supernet, side)
    return supernet.eval()


def reduced(space: Space, side: int = SIDE, smaller_head: Head = lambda head: head) -> Space:
    """Return the same candidates at every place and the same kinds of moves, in the two least
    widths and at two positions of each stage, for small images: the supernet of a whole space may
    hold hundreds of millions of parameters.
    """
    sized = space.at(side, classes=CLASSES)
    stages = tuple(
        replace(
            stage,
            widths=stage.widths[:2],
            depths=(stage.depths[0], max(stage.depths[0], min(stage.depths[1], 2))),
            entries=tuple(replace(entry, width=stage.widths[:2][-1]) for entry in stage.entries),
        )
        for stage in sized.stages
    )
    return replace(sized, stages=stages, heads=tuple(map(smaller_head, sized.heads)))


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Weights that keep images apart on their way through the network, and scales, biases and
    statistics that a wrong slice would show."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            if tensor.dim() < 2:
                tensor.uniform_(0.3, 1.2, generator=generator)
            else:
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=generator)


@torch.no_grad()
def settle(supernet: Supernet, side: int = SIDE, passes: int = 8) -> None:
    """Give the batch norms the statistics of what passes them, so that products of activations do
    not run away."""
    norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    rng = random.Random(0)
    some: Pick = lambda place, candidates, shape: rng.choice(candidates)  # noqa: E731
    supernet.train()
    for number in range(passes):

        def choose(alpha: Tensor, generator: object, role: int = number // 2 % 2) -> Tensor:
            """Return a block at every position, local ones in one pass and global ones in the next."""
            return torch.eye(len(alpha))[min(role, len(alpha) - 2)]

        pick = some if number % 2 else most_macs
        supernet(image(side, side, 4), choose, pick=pick)


def bases(space: Space) -> Iterator[Architecture]:
    """Yield the largest member; local blocks alone, the first listed of each place; attention
    wherever it may stand at the least widths, the last listed of each place."""
    depths = [stage.depths[1] for stage in space.stages]
    none, most = space.attention_extremes()
    last: Pick = lambda place, candidates, shape: candidates[-1]  # noqa: E731
    yield space.largest()
    yield space.member([stage.widths[-1] for stage in space.stages], depths, none)
    yield space.member([stage.widths[0] for stage in space.stages], depths, most, pick=last)


def one_of_each(space: Space, base: Architecture) -> Iterator[Move]:
    """Yield a move for each action in each stage, and of exchanges for each block that comes in."""
    seen = set()
    for move in moves(space, base):
        where = move.place.stream if isinstance(move, Exchange) else move.stage
        what = (move.action, where, move.block if isinstance(move, Exchange) else None)
        if what not in seen:
            seen.add(what)
            yield move
