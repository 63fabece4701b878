"""All shipped spaces alike: every published member, random members, every kind of move, and the
supernet."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.blocks import ConvHead, HeadSpec
from nas.space import space_names
from nas.supernet.choices import Sampling
from nas.supernet.supernet import Supernet
from nas.testing import spaces as conform
from nas.testing.spaces import CLASSES, SIDE, image, randomise, rebuilt, small_supernet

ACTIONS = {
    "efficientformer": {"DR", "WR", "MR", "ER"},
    "efficientformerv2": {"DR", "WR", "MR", "ER"},
    "swiftformer": {"DR", "WR", "MR", "ER"},
    "efficientvit": {"DR", "WR", "MR", "AR", "BR"},
    "emo": {"DR", "WR", "MR", "ER", "BR"},
}
"""The kinds of moves of spaces that are known, by `Move.action`."""
SPACES = {name: nas.load_space(name) for name in space_names()}
PUBLISHED = {name: arch for space in SPACES.values() for name, arch in space.published.items()}
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "efficientvit_l3" else [])
        for name in PUBLISHED
    ],
)
def test_published_member_runs_forwards_and_backwards(name: str) -> None:
    """On images that are not square, at a size that suits neither windows nor the grid it was
    published for."""
    conform.check_member_runs(PUBLISHED[name].at((64, 96), classes=CLASSES))


@EVERY_SPACE
def test_random_members_are_what_their_counts_and_files_say(name: str) -> None:
    """The largest and the smallest too."""
    conform.check_counts(SPACES[name])


@EVERY_SPACE
def test_every_move_leads_to_a_member(name: str) -> None:
    kinds = conform.check_moves(SPACES[name])
    assert kinds == ACTIONS.get(name, kinds)


@EVERY_SPACE
def test_the_file_is_called_as_the_space(name: str) -> None:
    conform.check_file(SPACES[name])


@EVERY_SPACE
def test_supernet_has_at_most_2_2_times_the_parameters_of_its_largest_member(name: str) -> None:
    conform.check_supernet_size(SPACES[name])


def smaller_head(head: HeadSpec) -> HeadSpec:
    """EfficientViT's, without most of its channels."""
    return (
        replace(head, width=head.width // 16, features=head.features // 16)
        if isinstance(head, ConvHead)
        else head
    )


@pytest.fixture(scope="module", params=SPACES)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    return small_supernet(SPACES[request.param], smaller_head=smaller_head)


def test_sliced_equals_exported_for_every_kind_of_move(supernet: Supernet) -> None:
    kinds = conform.check_slices(supernet)
    assert kinds == ACTIONS.get(supernet.space.name, kinds)


@torch.no_grad()
def test_sliced_equals_exported_for_random_members(supernet: Supernet) -> None:
    for seed in range(6):
        arch = supernet.space.sample(seed)
        exported = supernet.extract(arch)
        with FlopCounterMode(display=False) as flops:
            output = exported(image())
        assert flops.get_total_flops() / 2 / len(output) == pytest.approx(arch.macs, rel=0.01)
        torch.testing.assert_close(
            supernet.forward_sliced(image(), arch), output, rtol=1e-5, atol=1e-5
        )
        assert torch.equal(rebuilt(arch, exported)(image()), output)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "efficientvit" else [])
        for name in SPACES
    ],
)
def test_sliced_equals_exported_in_the_whole_space(name: str) -> None:
    """A published member and a random one, out of a supernet as it is trained."""
    space = SPACES[name].at(SIDE, classes=CLASSES)
    supernet = Supernet(space).eval()
    randomise(supernet)
    for arch in (*list(space.published.values())[:1], space.sample(0)):
        output = supernet.extract(arch)(image())
        torch.testing.assert_close(
            supernet.forward_sliced(image(), arch), output, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("sampling", ["soft", "straight_through"])
def test_gumbel_step_has_finite_gradients(supernet: Supernet, sampling: Sampling) -> None:
    conform.check_gumbel_step(supernet, sampling)


@EVERY_SPACE
def test_the_reduced_space_is_searched_on_a_made_up_table(name: str) -> None:
    conform.check_search(SPACES[name])


@EVERY_SPACE
def test_the_accuracy_law_has_a_figure_and_an_error(name: str) -> None:
    conform.check_accuracy(SPACES[name])


@EVERY_SPACE
def test_a_member_is_exported_as_a_config(name: str) -> None:
    conform.check_export_config(SPACES[name])


@EVERY_SPACE
def test_published_weights_are_imported_as_they_are_exported(name: str) -> None:
    layouts = conform.check_checkpoints(SPACES[name])
    assert layouts or not SPACES[name].published
