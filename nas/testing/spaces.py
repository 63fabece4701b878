"""Conformance tests for a space, which other packages can run on their own spaces.

    from nas.testing.spaces import check_space
    check_space(nas.load_space("my_space.yaml"))

Every function raises AssertionError with what is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from nas.accuracy.law import shipped_law
from nas.accuracy.law_scores import LawScores
from nas.blocks import HeadSpec
from nas.export import load_target
from nas.export.target import Model
from nas.latency import DeviceInfo, LatencyTable, Row
from nas.network import Network, build
from nas.search import pose, solve
from nas.search.fastest import fastest
from nas.space import Architecture, Space, load_architecture, load_space
from nas.space.candidates import Pick, most_macs
from nas.space.moves import Exchange, Move, moves
from nas.space.operations import space_operations
from nas.supernet.choices import GumbelSoftmax, Sampling
from nas.supernet.supernet import Supernet
from nas.weights.importing import LAYOUTS, export_weights, import_weights, names_in

SIDE = 64
CLASSES = 10
MOST_PARAMETERS = 2.2
"""Maximum parameters of a supernet, as a multiple of its largest member's."""
UNKNOWN_ERROR = 1.0
"""Minimum standard error, in points of ImageNet top-1, for a space that the law was not fitted to.

Networks that the law was fitted to have smaller errors.
"""
Head = Callable[[HeadSpec], HeadSpec]


def check_space(space: Space, side: int = SIDE, smaller_head: Head = lambda head: head) -> None:
    """Run all checks of this module on a space.

    Args:
        space: the space.
        side: of the test images, in pixels; a size that all of the space's blocks accept.
        smaller_head: returns a smaller head, for the checks that run a supernet. Its own head could
            hold most of its weights.
    """
    if space.path:
        check_file(space)
    for arch in space.published.values():
        check_member_runs(arch.at(side, CLASSES))
    check_counts(space)
    check_moves(space)
    check_search(space)
    check_accuracy(space)
    check_export_config(space)
    check_checkpoints(space)
    check_supernet_size(space)
    supernet = small_supernet(space, side, smaller_head)
    check_slices(supernet, side)
    for sampling in ("soft", "straight_through"):
        check_gumbel_step(supernet, sampling, side)


def check_file(space: Space) -> None:
    """Check that the space's file has its name."""
    loaded = load_space(space.path)
    assert Path(space.path).stem == loaded.name, (
        f"{space.path}: the file's name differs from that of its space '{loaded.name}'"
    )


def check_member_runs(arch: Architecture) -> None:
    """Check that a member runs forwards and backwards and gives the maps of four stages.

    Every parameter must get a finite gradient.
    """
    height, width = arch.resolution
    net = build(arch)
    images = image(height, width)
    loss(net(images)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), (
            f"{arch.name}: the gradient of {name} is missing or not finite"
        )
    with torch.no_grad():
        logits = net.eval()(images)
        features = net.forward_features(images)
    assert logits.shape == (2, arch.classes) and logits.isfinite().all(), f"{arch.name}: bad logits"
    expected = [
        (2, channels, height // s, width // s)
        for channels, s in zip(arch.widths, (4, 8, 16, 32), strict=True)
    ]
    shapes = [tuple(feature.shape) for feature in features]
    assert shapes == expected, f"{arch.name}: features {shapes}, expected {expected}"


def check_counts(space: Space, members: int = 20) -> None:
    """Check that random members, the largest and the smallest are valid.

    Each must equal the architecture read from its file, and have as many parameters as its specs
    say.
    """
    for arch in (
        space.largest(),
        space.smallest(),
        *(space.sample(seed) for seed in range(members)),
    ):
        space.validate(arch)
        with TemporaryDirectory() as folder:
            arch.save(Path(folder) / "arch.yaml")
            assert load_architecture(Path(folder) / "arch.yaml") == arch, (
                f"{arch.name}: the architecture read from its file differs"
            )
        with torch.device("meta"):
            net = build(arch)
        for operation in arch.operations():
            count = sum(
                parameter.numel() for parameter in net.get_submodule(operation.name).parameters()
            )
            assert count == operation.params, (
                f"{operation} has {count} parameters, its spec gives {operation.params}"
            )


def check_moves(space: Space) -> set[str]:
    """Check that every move leads to another member, and return the actions that occur."""
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


def made_up_table(space: Space) -> LatencyTable:
    """Return a latency table for a space by a formula: every row grows with MACs and parameters."""
    rows = {}
    for operation in space_operations(space):
        ms = 0.01 + operation.macs / 1e9 + operation.params / 1e7
        output = str(operation.output)
        rows[operation.key] = Row(
            *operation.key, output, ms, ms, ms, runs=0, provenance="estimated", date="2026-01-31"
        )
    device = DeviceInfo(
        name="formula",
        kind="formula",
        soc="none",
        os="none",
        runtime="none",
        runtime_version="0",
        compute_unit="none",
        precision="fp32",
        provenance="estimated",
        date="2026-01-31",
    )
    return LatencyTable(device, rows)


def check_search(space: Space, members: int = 20) -> None:
    """Check that a search of the `reduced` space keeps its limit and finds the best member.

    It searches with the accuracy law on a made-up table. No random member within the limit may cost
    less. Costs are cautious ones, which include a margin for extrapolation: the search minimises
    these.
    """
    small = reduced(space)
    table = made_up_table(small)
    scores = LawScores(small, shipped_law())
    least, _ = fastest(small, table)
    limit = (least + table.predict(small.largest()).ms) / 2
    problem = pose(small, table, scores, limit)
    found = solve(problem)
    small.validate(found.architecture)
    assert found.ms <= limit, f"{found.architecture.name}: {found.ms} ms, the limit is {limit} ms"
    predicted = table.predict(found.architecture).ms
    assert abs(found.ms - predicted) < 1e-9 * predicted, f"found {found.ms} ms, table: {predicted}"
    cost = problem.cautious_scores.cost
    least_cost = cost(found.architecture)
    for arch in map(small.sample, range(members)):
        assert table.predict(arch).ms > limit or cost(arch) >= least_cost - 1e-9, (
            f"{arch.name} is within {limit} ms and costs less than the found member"
        )


def check_accuracy(space: Space) -> None:
    """Check that the accuracy law gives every member an accuracy with a standard error.

    Where the law was fitted to no network of the space, the error is above UNKNOWN_ERROR points.
    """
    law = shipped_law()
    scores = LawScores(space, law)
    fitted = space.published.keys() & law.published.keys()
    for arch in (space.largest(), space.smallest(), *map(space.sample, range(5))):
        accuracy = scores.accuracy(arch)
        assert isfinite(accuracy.value) and accuracy.value < 100, f"{arch.name}: {accuracy}"
        least = 0.0 if fitted else UNKNOWN_ERROR
        assert isfinite(accuracy.standard_error) and accuracy.standard_error > least, (
            f"{arch.name}: {accuracy}: expected a finite error above {least} points"
        )


def check_export_config(space: Space) -> None:
    """Check that the file of the export target `config` loads as the same member."""
    for arch in (space.smallest(), *list(space.published.values())[:1]):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "architecture.yaml"
            load_target("config").write(Model(arch, {}, (), {}), path)
            assert load_architecture(path) == arch, (
                f"{arch.name}: the architecture read from its file differs"
            )


def check_checkpoints(space: Space, side: int = SIDE) -> set[str]:
    """Check that weights survive an export and import, and return the space's checkpoint layouts.

    The weights are those of the smallest published member, or of the smallest member where none is
    published.
    """
    members = list(space.published.values()) or [space.smallest()]
    arch = min(members, key=lambda member: member.params).at(side, CLASSES)
    network = build(arch).eval()
    randomise(network)
    layouts = {name for name, layout in LAYOUTS.items() if names_in(network, layout) is not None}
    # Those that lack some of our tensors come last, because these are 0 from there on.
    for name in sorted(layouts, key=lambda each: (len(LAYOUTS[each].zeros), each)):
        for zero in LAYOUTS[name].zeros:
            nn.init.zeros_(network.get_parameter(zero))
        state = network.state_dict()
        again = build(arch)
        recognised = import_weights(again, export_weights(network, name))
        assert recognised in layouts, f"{arch.name}: {name} is recognised as {recognised}"
        for tensor, value in again.state_dict().items():
            # Published weights do not contain counters of training steps.
            assert tensor.endswith("num_batches_tracked") or torch.equal(value, state[tensor]), (
                f"{arch.name}: {tensor} differs after the round trip through {name}"
            )
    return layouts


def check_supernet_size(space: Space) -> None:
    """Check that the supernet has at most MOST_PARAMETERS times its largest member's parameters."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Supernet(space).parameters())
    share = count / space.largest().params
    assert share <= MOST_PARAMETERS, (
        f"the supernet has {share:.2f} times the parameters of its largest member"
    )


@torch.no_grad()
def check_slices(supernet: Supernet, side: int = SIDE) -> set[str]:
    """Check slices of the supernet after moves of each action in each stage; return the actions.

    Each move must change the output. The sliced supernet must equal the member extracted as a
    network of its own, also when that is saved and built again.
    """
    space = supernet.space
    images = image(side, side)
    seen = set[str]()
    for base in bases(space):
        before = supernet.extract(base)(images)
        for move in one_of_each(space, base):
            arch = move.apply(base)
            exported = supernet.extract(arch)
            output = exported(images)
            changed = (output - before).abs().max()
            if beyond_map(move, side):
                assert changed < 1e-4, f"{move} changed what no window reaches"
            else:
                assert changed > 1e-4, f"{move} changed nothing"
            torch.testing.assert_close(
                supernet.forward_sliced(images, arch), output, rtol=1e-5, atol=1e-5
            )
            # Saving and building again is slow, so it runs once per action.
            if move.action not in seen:
                assert torch.equal(rebuilt(arch, exported)(images), output), (
                    f"{move}: the network that was saved and built again differs"
                )
                seen.add(move.action)
    return seen


def beyond_map(move: Move, side: int) -> bool:
    """Return whether a move only exchanges windows that both reach over the whole map of its stage.

    On a map of n x n positions all windows of 2 n - 1 and more read the same positions.

    Args:
        move: of a member of a space of four stages.
        side: of the images, in pixels.
    """
    if not isinstance(move, Exchange) or move.place.part != "block" or move.place.stage is None:
        return False
    covering = 2 * (side // (4 << move.place.stage)) - 1
    before = move.before.hyperparameters()
    after = move.block.hyperparameters()
    differing = {name for name in before | after if before.get(name) != after.get(name)}
    return move.before.kind == move.block.kind and all(
        name.endswith("kernel") and min(before[name], after[name]) >= covering for name in differing
    )


def check_gumbel_step(supernet: Supernet, sampling: Sampling, side: int = SIDE) -> None:
    """Check that a training step gives finite gradients.

    With soft sampling every architecture parameter must get one.
    """
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
    expected = len(supernet.alphas()) if sampling == "soft" else 1
    assert len(alphas) >= expected, (
        f"{sampling}: {len(alphas)} architecture parameters get a gradient, expected {expected}"
    )
    assert gradients.keys() - alphas, f"{sampling}: no weight gets a gradient"


def image(height: int = SIDE, width: int = SIDE, batch: int = 2) -> Tensor:
    """Return noise (B, 3, H, W), the same each time."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy for the labels 1 and 2; of two classifiers the sum of both."""
    logits = (output,) if isinstance(output, Tensor) else output
    return torch.stack(
        [nn.functional.cross_entropy(each, torch.tensor([1, 2])) for each in logits]
    ).sum()


def rebuilt(arch: Architecture, network: Network) -> Network:
    """Return the network built again from the saved architecture.

    It has a copy of the weights and the same mode.
    """
    with TemporaryDirectory() as folder:
        arch.save(Path(folder) / "arch.yaml")
        loaded = load_architecture(Path(folder) / "arch.yaml")
    assert loaded == arch, f"{arch.name}: the architecture read from its file differs"
    with torch.device("meta"):  # no initial values for weights that are assigned below
        again = build(loaded).train(network.training)
    again.load_state_dict(
        {name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True
    )
    return again


def small_supernet(
    space: Space, side: int = SIDE, smaller_head: Head = lambda head: head
) -> Supernet:
    """Return the supernet of the `reduced` space, in eval mode.

    Its weights reveal wrong slices.
    """
    supernet = Supernet(reduced(space, side, smaller_head))
    randomise(supernet)
    settle(supernet, side)
    return supernet.eval()


def reduced(space: Space, side: int = SIDE, smaller_head: Head = lambda head: head) -> Space:
    """Return the space for small images, with the two smallest widths and two positions per stage.

    It has the same candidates at every place and the same kinds of moves. The supernet of a whole
    space may hold hundreds of millions of parameters.
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
    """Set random weights that preserve the differences between images through the network.

    Scales, biases and statistics get values that reveal wrong slices.
    """
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            # Scales, biases and statistics of norms: positive and away from 0 and 1, so that one
            # channel's is not another's. Weights keep the variance of their input (std ~
            # 1/sqrt(fan-in)).
            if tensor.dim() < 2:
                tensor.uniform_(0.3, 1.2, generator=generator)
            else:
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=generator)


@torch.no_grad()
def settle(supernet: Supernet, side: int = SIDE, passes: int = 8) -> None:
    """Set the batch norms' statistics to those of their inputs, in some passes.

    Otherwise products of activations would grow without bound.
    """
    norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    rng = random.Random(0)
    some: Pick = lambda place, candidates, shape: rng.choice(candidates)  # noqa: E731
    supernet.train()
    for number in range(passes):

        def choose(alpha: Tensor, generator: object, role: int = number // 2 % 2) -> Tensor:
            """Return one-hot weights for a block: local in two passes, global in the next two."""
            return torch.eye(len(alpha))[min(role, len(alpha) - 2)]

        # Odd passes take random candidates, so that the norms of all candidates see inputs.
        pick = some if number % 2 else most_macs
        supernet(image(side, side, 4), choose, pick=pick)


def bases(space: Space) -> Iterator[Architecture]:
    """Yield three members whose moves are checked.

    The first is the largest. The second has local blocks only and the first candidate of each
    place. The third has the smallest widths, attention wherever it is allowed, and the last
    candidates.
    """
    depths = [stage.depths[1] for stage in space.stages]
    none, most = space.attention_extremes()
    last: Pick = lambda place, candidates, shape: candidates[-1]  # noqa: E731
    yield space.largest()
    yield space.member([stage.widths[-1] for stage in space.stages], depths, none)
    yield space.member([stage.widths[0] for stage in space.stages], depths, most, pick=last)


def one_of_each(space: Space, base: Architecture) -> Iterator[Move]:
    """Yield one move per action and stage; of exchanges, those with something new in their block.

    A block is new by its kind, by a value of a hyperparameter, or by which hyperparameters change.
    Of exchanges of an expansion alone, only whole numbers and fractions differ. Combinations of
    values are as many as a space has candidates; random members cover these.
    """
    seen = set[tuple[object, ...]]()
    for move in moves(space, base):
        facts: set[tuple[object, ...]]
        if isinstance(move, Exchange) and move.action == "ER":
            is_whole = float(move.block.hyperparameters()["expansion"]).is_integer()
            facts = {("ER", move.place.stream, move.block.kind, is_whole)}
        elif isinstance(move, Exchange):
            after = {("kind", move.block.kind), *move.block.texts().items()}
            changed = frozenset(name for name, _ in after - set(move.before.texts().items()))
            facts = {(move.action, move.place.stream, *fact) for fact in (*after, (changed,))}
        else:
            facts = {(move.action, move.stage)}
        if not facts <= seen:
            seen |= facts
            yield move
