"""Drop path: factors by position in the batch, and blocks whose branches are left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.blocks import Operation
from nas.blocks.build import build_block
from nas.blocks.drop_path import MOST_BRANCHES, DropPath, block_factors, dropping
from nas.network import Network, build, checkpointing
from nas.space import Architecture, load_space, space_names
from nas.space.place import Place
from nas.supernet.choices import GumbelSoftmax
from nas.supernet.supernet import Supernet

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=50)
@given(
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**62),
    batch=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    passes=st.integers(1, 3),
)
def test_parts_of_a_batch_get_the_factors_of_the_whole(
    rate: float, seed: int, batch: int, cuts: list[int], passes: int
) -> None:
    bounds = sorted({0, batch, *(cut for cut in cuts if cut < batch)})
    whole = DropPath(rate, seed, batch, 0, batch)
    parts = [DropPath(rate, seed, batch, *pair) for pair in pairwise(bounds)]
    drawn = [whole.factors(5, CPU) for _ in range(passes)]
    for expected in drawn:
        found = torch.cat([part.factors(5, CPU) for part in parts], dim=2)
        assert torch.equal(found, expected)
    # Passes differ, as do seeds.
    if batch > 10 and 0.3 < rate < 0.7:
        assert all(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_the_probability_rises_linearly_and_the_mean_stays() -> None:
    images = 20_000
    factors = DropPath(0.4, 0, images, 0, images).factors(4, CPU)
    assert factors.shape == (4, MOST_BRANCHES, images)
    for block, probability in enumerate((0.1, 0.2, 0.3, 0.4)):
        each = factors[block]
        values = each.unique().tolist()
        assert values == pytest.approx([0.0, 1 / (1 - probability)])
        # 160,000 draws: five standard errors are 0.006.
        assert float((each == 0).float().mean()) == pytest.approx(probability, abs=0.006)
        assert float(each.mean()) == pytest.approx(1, abs=0.01)
    # Branches of a block are left out independently of each other.
    both = ((factors[3, 0] == 0) & (factors[3, 1] == 0)).float().mean()
    assert float(both) == pytest.approx(0.16, abs=0.013)


def position_operations() -> Iterator[tuple[str, Operation]]:
    """Yield a block of every kind, and of every set of its own choices, at positions of any space."""
    seen = set()
    for name in space_names():
        space = load_space(name).at((64, 64))
        for member in (space.largest(), space.smallest(), *space.published.values()):
            for operation in member.operations():
                key = (operation.spec.kind, str(operation.spec))
                if Place.parse(operation.name).part == "block" and key not in seen:
                    seen.add(key)
                    yield f"{name}-{operation.spec.kind}-{len(seen)}", operation


POSITIONS = dict(position_operations())


@pytest.mark.parametrize("name", POSITIONS)
def test_a_block_without_its_branches_is_the_identity(name: str) -> None:
    """Or its parts that are no branches: then nothing else decides about the output."""
    operation = POSITIONS[name]
    torch.manual_seed(0)
    block = build_block(operation.spec, operation.input).train()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        x = torch.randn(operation.input.tensor(batch=3))
        factors = torch.ones(MOST_BRANCHES, 3)
        factors[:, 1] = 0
        with block_factors(factors):
            kept = block(x)
        for part, parameter in block.named_parameters():
            if part.partition(".")[0] not in block.undropped:
                parameter.add_(torch.randn_like(parameter))
        with block_factors(factors):
            changed = block(x)
        assert torch.equal(kept[1], changed[1])
        assert torch.equal(kept[1], x[1]) != bool(
            {part.partition(".")[0] for part, _ in block.named_parameters()} & set(block.undropped)
        )
        assert not torch.equal(kept[0], x[0]) and not torch.equal(kept[2], x[2])
        assert not torch.equal(kept[0], changed[0])
        # In eval mode, as it is exported, nothing is left out.
        block.eval()
        with block_factors(torch.zeros(MOST_BRANCHES, 3)):
            assert torch.equal(block(x), block(x)) and not torch.equal(block(x), x)


@torch.no_grad()
def lively(arch: Architecture) -> Network:
    """Return a network in which every branch adds something: scales may be 0 at first."""
    torch.manual_seed(0)
    network = build(arch).train()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return network


def logits(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", space_names())
def test_a_network_leaves_out_the_same_branches_when_it_computes_again(name: str) -> None:
    arch = load_space(name).smallest().at((32, 32), 4)
    x = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    outputs = []
    for recompute in (False, True):
        network = lively(arch)
        with dropping(DropPath(0.5, 1, 6, 0, 6)):
            if recompute:
                with checkpointing():
                    output = logits(network(x))
            else:
                output = logits(network(x))
        # Outside of the context, where the backward pass calls the operations again.
        output.square().sum().backward()
        outputs.append(output.detach())
        gradients.append([p.grad for p in network.parameters()])
    assert torch.equal(outputs[0], outputs[1])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)
    assert not torch.equal(logits(lively(arch)(x)), outputs[0])


def test_no_branch_is_left_out_in_eval_mode_or_without_gradients() -> None:
    arch = load_space("emo").smallest().at((32, 32), 4)
    network = build(arch)
    x = torch.rand(2, 3, 32, 32)
    images = DropPath(0.9, 1, 2, 0, 2)
    network.eval()
    expected = network(x)
    with dropping(images):
        assert torch.equal(network(x), expected)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("sampling", ["soft", "straight_through"])
@pytest.mark.parametrize("narrowed", [False, True])
def test_a_supernet_without_branches_is_the_one_of_identities(
    monkeypatch: pytest.MonkeyPatch, sampling: str, narrowed: bool
) -> None:
    """At every position, also where blocks are sliced or stand on tokens."""
    torch.manual_seed(0)
    supernet = Supernet(load_space("efficientformer_small").at((64, 64), 4)).train()
    widths = [stage.widths[0 if narrowed else -1] for stage in supernet.space.stages]
    x = torch.rand(3, 3, 64, 64)
    choose = GumbelSoftmax(1.0, "none", sampling)  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor in supernet.parameters():
            if tensor.dim() == 1:
                tensor.uniform_(0.3, 1.2)
        for alpha in supernet.alphas().values():
            alpha.copy_(torch.arange(len(alpha)).flip(0))  # local blocks first

    def output() -> Tensor:
        return logits(supernet(x, choose, torch.Generator().manual_seed(0), widths))

    whole = output()
    with torch.no_grad():
        chosen = {name: alpha.clone() for name, alpha in supernet.alphas().items()}
        for alpha in supernet.alphas().values():
            alpha.copy_(torch.tensor([-1e4] * (len(alpha) - 1) + [1e4]))
    identities = output()
    assert not torch.allclose(whole, identities)
    with torch.no_grad():
        for name, alpha in supernet.alphas().items():
            alpha.copy_(chosen[name])
    monkeypatch.setattr(
        DropPath,
        "factors",
        lambda self, blocks, device: torch.zeros(blocks, MOST_BRANCHES, self.batch),
    )
    with dropping(DropPath(0.5, 1, 3, 0, 3)):
        dropped = output()
    torch.testing.assert_close(dropped, identities)
    dropped.square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in supernet.parameters())
