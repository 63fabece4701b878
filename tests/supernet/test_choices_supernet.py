"""Supernets of spaces whose places have several candidates: shared weights, every candidate a
slice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.blocks import (
    IRMB,
    MB4D,
    ConvEmbedding,
    ConvStem,
    EfficientViTStem,
    EMOStem,
    IRMBDown,
    Shape,
)
from nas.space import Space
from nas.space.moves import exchanges, moves, narrow
from nas.supernet.choices import GumbelSoftmax, MetaPath, SharedBlocks
from nas.supernet.supernet import Supernet

PLACEMENTS = pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
NAMED = pytest.mark.parametrize("named", ["choices", "stem"])
Make = Callable[[str, str], Supernet]


@pytest.fixture
def make(choices_supernet: Callable[..., Supernet], stem_supernet: Callable[..., Supernet]) -> Make:
    """A supernet of one of the two spaces, by name and placement of attention."""
    return lambda named, attention: {"choices": choices_supernet, "stem": stem_supernet}[named](
        attention
    )


def images(supernet: Supernet) -> Tensor:
    return torch.rand(2, 3, *supernet.space.resolution, generator=torch.Generator().manual_seed(1))


@NAMED
@PLACEMENTS
@torch.no_grad()
def test_sliced_supernet_equals_exported_network_for_random_members(
    make: Make, named: str, attention: str
) -> None:
    supernet = make(named, attention)
    x = images(supernet)
    for seed in range(40):
        for arch in (supernet.space.sample(seed), supernet.space.sample(seed).compact()):
            exported = supernet.extract(arch)
            torch.testing.assert_close(
                supernet.forward_sliced(x, arch), exported(x), atol=1e-5, rtol=1e-5
            )
            assert sum(p.numel() for p in exported.parameters()) == arch.params


@NAMED
@PLACEMENTS
@torch.no_grad()
def test_every_move_changes_the_output_and_sliced_equals_exported(
    make: Make, named: str, attention: str
) -> None:
    supernet = make(named, attention)
    space = supernet.space
    x = images(supernet)
    for base in (space.largest(), space.sample(3)):
        before = supernet.extract(base)(x)
        options = moves(space, base)
        assert "ER" in {move.action for move in options}
        for move in options:
            exported = supernet.extract(move.apply(base))(x)
            assert (exported - before).abs().max() > 1e-5, f"{move} changed nothing"
            sliced = supernet.forward_sliced(x, move.apply(base))
            torch.testing.assert_close(sliced, exported, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_smaller_expansion_is_the_larger_one_with_its_least_important_channels_silenced(
    make: Make,
) -> None:
    """A check that does not go through the slicing code."""
    supernet = make("choices", "network_suffix")
    arch = supernet.space.largest()
    wide = supernet.extract(arch)
    block = wide.get_submodule("stage1_block2")
    source = supernet.get_submodule("stage1_block2").candidates["mb4d"]
    gone = supernet.ranking().inner[source]["hidden"][16:]
    block.project.conv.weight[:, gone] = 0
    x = images(supernet)
    exchanged = supernet.extract(arch.with_block("stage1_block2", MB4D(1)))(x)
    torch.testing.assert_close(exchanged, wide(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_that_candidates_share_are_the_same_numbers(make: Make) -> None:
    """Another activation, and another grouping of the same keys into heads, change no tensor."""
    supernet = make("choices", "network_suffix")
    arch = supernet.space.largest()
    for place, block in (
        ("stem", ConvStem(16, "gelu")),
        ("stage1_block1", MB4D(2, activation="relu")),
        ("stage3_block1", IRMB(expansion=2, attention=True, window=2, head_dim=16)),
    ):
        assert arch.block(place) != block
        one, other = (
            supernet.extract(a).state_dict() for a in (arch, arch.with_block(place, block))
        )
        assert one.keys() == other.keys() and all(
            torch.equal(one[name], other[name]) for name in one
        )


def test_a_place_has_one_block_for_all_that_differ_in_width_and_elastic_values_only(
    make: Make,
) -> None:
    supernet = make("choices", "network_suffix")
    names = {
        "stem": ["conv_stem"],
        "stage2_entry": ["conv_embedding", "irmb_down"],
        "head": ["map_head", "map_head2", "map_head3"],
    }
    for place, kinds in names.items():
        module = supernet.get_submodule(str(place))
        assert isinstance(module, SharedBlocks) and list(module) == kinds
    assert list(supernet.get_submodule("stage1_block1").candidates) == ["mb4d"]
    assert list(supernet.get_submodule("stage3_block1").candidates) == ["mb4d", "irmb"]
    stem = make("stem", "network_suffix").get_submodule("stem")
    assert list(stem) == ["efficientvit_stem", "emo_stem"]
    assert stem["efficientvit_stem"].built_from == (EfficientViTStem(8), Shape(3, 32, 32))  # type: ignore[union-attr]


def test_shared_blocks_hold_the_largest_values() -> None:
    shape = Shape(16, 4, 4)
    shared = SharedBlocks([MB4D(1), MB4D(3, activation="relu"), MB4D(2, pool=5)], shape)
    assert list(shared) == ["mb4d", "mb4d2"]
    assert shared.holding(MB4D(1)).built_from == (MB4D(3), shape)
    assert shared.holding(MB4D(2, pool=5)).built_from == (MB4D(2, pool=5), shape)
    assert shared.holding(MB4D(1)) is shared.holding(MB4D(2, activation="relu"))
    entries = SharedBlocks(
        [IRMBDown(8, expansion=2), IRMBDown(8, expansion=3), ConvEmbedding(8)], shape, width=24
    )
    assert [block.built_from[0] for block in entries.blocks()] == [
        IRMBDown(24, expansion=3),
        ConvEmbedding(24),
    ]
    assert SharedBlocks([EMOStem(4), EMOStem(8, "relu")], Shape(3, 8, 8), 8).holding(
        EMOStem(6)
    ).built_from[0] == EMOStem(8)


def test_shared_blocks_hold_every_size_of_members_that_draw_with_and_without_attention() -> None:
    """On counts as larger than off; what a block without attention has not, comes from the one that
    has it."""
    shape = Shape(16, 4, 4)
    plain = IRMB(2, attention=False)
    attending = IRMB(1.5, attention=True, window=2, head_dim=8)
    shared = SharedBlocks([plain, attending], shape)
    assert len(shared) == 1
    assert shared.holding(plain).built_from[0] == IRMB(2, attention=True, window=2, head_dim=8)


@NAMED
@torch.no_grad()
def test_forward_with_picked_candidates_is_the_forward_of_that_member(
    make: Make, named: str
) -> None:
    supernet = make(named, "stage_suffix")
    space = supernet.space
    x = images(supernet)
    least = lambda place, candidates, shape: candidates[-1]  # noqa: E731
    for role in (0, 1):
        for alpha in supernet.alphas().values():
            alpha.copy_(
                torch.tensor([50.0 * (i == min(role, len(alpha) - 2)) for i in range(len(alpha))])
            )
        for widths in ([s.widths[0] for s in space.stages], [s.widths[-1] for s in space.stages]):
            depths = [stage.depths[1] for stage in space.stages]
            arch = space.member(widths, depths, space.attention_extremes()[role], pick=least)
            mixed = supernet(
                x, GumbelSoftmax(1.0, "none", "straight_through"), widths=widths, pick=least
            )
            torch.testing.assert_close(mixed, supernet.extract(arch)(x), atol=1e-5, rtol=1e-5)


@NAMED
@PLACEMENTS
def test_every_weight_gets_a_gradient_from_some_member(
    make: Make, named: str, attention: str
) -> None:
    supernet = make(named, attention).train()
    space = supernet.space
    x = images(supernet)
    depths = [stage.depths[1] for stage in space.stages]
    most = max(len(candidates) for _, candidates in each_place(space))
    for attending in space.attention_extremes():
        for turn in range(most):
            pick = lambda place, candidates, shape, t=turn: candidates[t % len(candidates)]  # noqa: E731
            arch = space.member(
                [stage.widths[-1] for stage in space.stages], depths, attending, pick=pick
            )
            output = supernet.forward_sliced(x, arch)
            logits = sum(output) if isinstance(output, tuple) else output
            nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
    missing = [
        n for n, p in supernet.named_parameters() if not n.endswith("alpha") and p.grad is None
    ]
    assert not missing


def each_place(space: Space):  # type: ignore[no-untyped-def]
    yield "head", space.heads
    yield "stem", space.stems
    for stage in space.stages:
        yield "stage", stage.entries
        yield "stage", stage.local
        yield "stage", stage.global_


def test_weights_and_alpha_get_gradients_at_random_candidates(make: Make) -> None:
    for named in ("choices", "stem"):
        supernet = make(named, "network_suffix").train()
        space = supernet.space
        x = images(supernet)
        for turn in range(3):
            supernet.zero_grad(set_to_none=True)
            pick = lambda place, candidates, shape, t=turn: candidates[t % len(candidates)]  # noqa: E731
            widths = [stage.widths[0] for stage in space.stages]
            output = supernet(x, GumbelSoftmax(1.0), torch.Generator().manual_seed(0), widths, pick)
            logits = sum(output) if isinstance(output, tuple) else output
            nn.functional.cross_entropy(logits, torch.tensor([1, 2])).backward()
            assert all(float(alpha.grad.abs().sum()) > 0 for alpha in supernet.alphas().values())  # type: ignore[union-attr]


def test_identity_and_candidates_of_weight_zero_are_not_computed(make: Make) -> None:
    path = make("choices", "network_suffix").stage3_block1
    assert isinstance(path, MetaPath)
    calls = []

    def call(spec: object, x: Tensor) -> Tensor:
        calls.append(spec)
        return x

    x = torch.rand(2, 32, 4, 4)
    chosen = ("local", "global")
    assert path(x, torch.tensor([0.0, 0.0, 1.0]), chosen, call) is x
    assert not calls


@torch.no_grad()
def test_narrowing_with_a_replaced_block_slices_like_any_other(make: Make) -> None:
    supernet = make("choices", "network_suffix")
    space = supernet.space
    x = images(supernet)
    arch = space.largest().with_block(
        "stage3_block1", IRMB(expansion=2, attention=True, window=2, head_dim=16)
    )
    move = narrow(space, arch, 2, 24)
    assert move.instead
    after = move.apply(arch)
    torch.testing.assert_close(
        supernet.forward_sliced(x, after), supernet.extract(after)(x), atol=1e-5, rtol=1e-5
    )


def test_the_stems_channels_are_ranked_by_all_that_touch_them(make: Make) -> None:
    supernet = make("stem", "network_suffix")
    with torch.no_grad():
        supernet.get_submodule("stage1_entry").get_parameter("mbconv_down.expand.conv.weight")[
            :, 6
        ] *= 100
        supernet.rank_channels()
    streams = supernet.ranking().streams
    assert list(streams) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert sorted(streams["stem"].tolist()) == list(range(8)) and int(streams["stem"][0]) == 6


def test_a_saved_supernet_of_choices_loads(
    choices_space: Callable[..., Space], tmp_path: Path
) -> None:
    from nas.supernet.checkpoint import load_weights, read_tensors, save_weights

    space = choices_space()
    supernet = Supernet(space)
    other = Supernet(space)
    save_weights(tmp_path / "weights.safetensors", supernet)
    load_weights(other, read_tensors(tmp_path / "weights.safetensors")[0], tmp_path)
    for (name, ours), theirs in zip(
        supernet.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_exchanges_of_the_largest_are_known_to_the_supernet(make: Make) -> None:
    """Every candidate that may stand anywhere finds its block."""
    supernet = make("stem", "stage_suffix")
    space = supernet.space
    found = {
        (move.place, move.block)
        for seed in range(60)
        for move in exchanges(space, space.sample(seed))
    }
    for place, block in found:
        module = supernet.get_submodule(str(place))
        module = module.candidates if isinstance(module, MetaPath) else module
        assert isinstance(module, SharedBlocks)
        assert module.holding(block).built_from[0].kind == block.kind
