"""One supernet, every member: what is sliced out of it is what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas.blocks import MB3D, MB4D
from nas.space import Space
from nas.space.moves import Drop, Localise, Narrow, moves
from nas.supernet.choices import Call, GumbelSoftmax, MetaPath
from nas.supernet.supernet import Supernet

PLACEMENTS = ("network_suffix", "stage_suffix")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", [Drop, Narrow, Localise])
@torch.no_grad()
def test_sliced_supernet_equals_exported_network_after_every_move(
    small_supernet: Callable[..., Supernet], placement: str, kind: type
) -> None:
    supernet = small_supernet(placement)
    space = supernet.space
    of_kind = [move for move in moves(space, space.largest()) if isinstance(move, kind)]
    assert of_kind
    base = supernet.forward_sliced(IMAGES, space.largest())
    for move in of_kind:
        arch = move.apply(space.largest())
        exported = supernet.extract(arch)(IMAGES)
        assert (exported - base).abs().max() > 1e-3, f"{move} changed nothing"
        torch.testing.assert_close(
            supernet.forward_sliced(IMAGES, arch), exported, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_sliced_supernet_equals_exported_network_for_random_members(
    small_supernet: Callable[..., Supernet], placement: str, seed: int
) -> None:
    supernet = small_supernet(placement)
    for arch in (supernet.space.sample(seed), supernet.space.sample(seed).compact()):
        exported = supernet.extract(arch)
        torch.testing.assert_close(
            supernet.forward_sliced(IMAGES, arch), exported(IMAGES), atol=1e-5, rtol=0
        )
        assert sum(p.numel() for p in exported.parameters()) == arch.params


@torch.no_grad()
def test_narrowing_equals_silencing_the_channels_that_are_left_out(
    small_supernet: Callable[..., Supernet],
) -> None:
    """A check that does not go through the slicing code: in MB4D a channel without any weight is a
    channel less."""
    supernet = small_supernet()
    space = supernet.space
    narrow = Narrow(1, 16).apply(space.member([16, 24, 32, 48], [2, 2, 1, 1], [0, 0, 0, 0]))
    wide = supernet.extract(space.member([16, 24, 32, 48], [2, 2, 1, 1], [0, 0, 0, 0]))
    order = supernet.ranking().streams["stage2"]
    inner = supernet.ranking().inner
    gone = order[16:]
    for name in ("stage2_block1", "stage2_block2"):
        block = wide.get_submodule(name)
        source = supernet.get_submodule(name).candidates["mb4d"]
        block.project.conv.weight[:, inner[source]["hidden"][32:]] = 0
        block.expand.conv.weight[:, gone] = 0
        block.mixer_scale[gone] = block.mlp_scale[gone] = 0
    wide.stage3_entry.projection.conv.weight[:, gone] = 0
    torch.testing.assert_close(supernet.extract(narrow)(IMAGES), wide(IMAGES), atol=1e-5, rtol=0)


@torch.no_grad()
def test_kept_channels_are_the_most_important_and_nested(
    small_supernet: Callable[..., Supernet],
) -> None:
    supernet = small_supernet()
    weight = supernet.stage2_entry.projection.conv.weight
    weight[5] *= 100
    supernet.rank_channels()
    order = supernet.ranking().streams["stage2"]
    assert int(order[0]) == 5
    assert sorted(order.tolist()) == list(range(24))


SMALL = (MB4D(2), MB3D(heads=2, key_dim=8, value_ratio=2, expansion=2))
"""The small space's local and global block."""


def whole(path: MetaPath) -> Call:
    """Runs a candidate of the largest size."""
    return lambda spec, x: path.candidates.holding(spec)(x)


def test_the_mixture_is_the_papers_sum_over_candidates_and_identity(
    small_supernet: Callable[..., Supernet],
) -> None:
    path = small_supernet().stage3_block1
    assert isinstance(path, MetaPath)
    x = torch.rand(2, 32, 4, 4)
    weights = torch.tensor([0.5, 0.3, 0.2])
    local, global_ = path.candidates.values()
    tokens = global_(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (4, 4))
    mixed = path(x, weights, SMALL, whole(path))
    torch.testing.assert_close(mixed, 0.5 * local(x) + 0.3 * tokens + 0.2 * x)


def test_identity_and_candidates_of_weight_zero_are_not_computed(
    small_supernet: Callable[..., Supernet],
) -> None:
    path = small_supernet().stage3_block1
    calls = []
    for kind, block in path.candidates.items():
        block.register_forward_hook(lambda *_, kind=kind: calls.append(kind))
    x = torch.rand(2, 32, 4, 4)
    assert path(x, torch.tensor([0.0, 0.0, 1.0]), SMALL, whole(path)) is x
    path(x, torch.tensor([0.0, 1.0, 0.0]), SMALL, whole(path))
    assert calls == ["mb3d"]


def test_weights_and_alpha_get_gradients(small_supernet: Callable[..., Supernet]) -> None:
    supernet = small_supernet().train()
    for widths in (None, [8, 16, 24, 32]):
        supernet.zero_grad(set_to_none=True)
        logits, distilled = supernet(
            IMAGES, GumbelSoftmax(1.0), torch.Generator().manual_seed(0), widths
        )
        nn.functional.cross_entropy(logits + distilled, torch.tensor([1, 2])).backward()
        missing = [name for name, p in supernet.named_parameters() if p.grad is None]
        assert not missing
        assert all(float(alpha.grad.abs().sum()) > 0 for alpha in supernet.alphas().values())  # type: ignore[union-attr]


@torch.no_grad()
def test_forward_at_widths_is_the_forward_of_that_member(
    small_supernet: Callable[..., Supernet],
) -> None:
    supernet = small_supernet()
    for path in supernet.alphas().values():
        path.copy_(torch.tensor([50.0] + [0.0] * (len(path) - 1)))
    widths = [8, 16, 24, 40]
    arch = supernet.space.member(widths, [2, 2, 3, 2], [0, 0, 0, 0])
    mixed = supernet(IMAGES, GumbelSoftmax(1.0, "none", "straight_through"), widths=widths)
    torch.testing.assert_close(mixed, supernet.extract(arch)(IMAGES), atol=1e-5, rtol=0)


def test_importance_is_the_ratio_of_the_candidates_to_identity(
    small_supernet: Callable[..., Supernet],
) -> None:
    path = small_supernet().stage3_block1
    with torch.no_grad():
        path.alpha.copy_(torch.tensor([1.0, 2.0, 0.5]))
    shares = torch.tensor([1.0, 2.0, 0.5]).softmax(0)
    assert path.importance() == pytest.approx(float((shares[0] + shares[1]) / shares[2]), rel=1e-5)


def test_a_stranger_is_refused(
    small_supernet: Callable[..., Supernet], small_space: Callable[[str], Space]
) -> None:
    stranger = small_space("network_suffix").member([12, 16, 24, 32], [1, 1, 1, 1], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="stage 1: width 12 is not one of 8, 16"):
        small_supernet().extract(stranger)


def test_supernet_of_the_shipped_space_shares_enough() -> None:
    space = nas.load_space("efficientformer").at(64, 10)
    with torch.device("meta"):
        supernet = Supernet(space)
    assert sum(p.numel() for p in supernet.parameters()) <= 2.2 * space.largest().params


def test_a_single_candidate_has_the_gradients_of_the_sum(
    small_supernet: Callable[..., Supernet],
) -> None:
    """x + w (f - x) at w = 1, in its output and in what comes back to x, to the weight and to the
    block."""
    path = small_supernet().stage1_block1
    assert isinstance(path, MetaPath)
    (block,) = path.candidates.values()
    gradients = []
    for plainly in (True, False):
        x = torch.rand(2, 16, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        weights = torch.tensor([1.0, 0.0], requires_grad=True)
        y = x + weights[0] * (block(x) - x) if plainly else path(x, weights, SMALL[:1], whole(path))
        inputs = [x, weights, *block.parameters()]
        gradients.append(
            [
                y,
                *torch.autograd.grad(
                    (y * torch.linspace(0, 1, y.numel()).view_as(y)).sum(), inputs
                ),
            ]
        )
    for plain, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampling", ["soft", "straight_through"])
def test_a_pass_waits_for_the_device_once(
    small_space: Callable[[str], Space], sampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number that the host reads of a tensor makes a GPU finish all work before it."""
    supernet = Supernet(small_space("network_suffix"))
    choose = GumbelSoftmax(1.0, "uniform", sampling)
    supernet.ranking()
    reads: list[str] = []
    for name in ("tolist", "item", "__float__", "__int__", "__bool__"):
        real = getattr(torch.Tensor, name)

        def read(self: Any, *args: Any, real: Any = real, name: str = name) -> Any:
            reads.append(name)
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    supernet(IMAGES, choose, torch.Generator().manual_seed(0))
    assert reads == ["tolist"]
