"""Several segmentation heads in one space: shared weights that are sliced, and a search over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from nas.accuracy import RecordedScores, load_scores
from nas.accuracy.law import shipped_law
from nas.accuracy.law_scores import LawScores
from nas.blocks import FPNHead, Shape, pyramid
from nas.blocks.build import build_block
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.search import ENGINES, StudySettings, pose, search
from nas.search.description import heads
from nas.search.fastest import fastest
from nas.space import Space, load_space
from nas.supernet.checkpoint import Folder as SupernetFolder
from nas.supernet.checkpoint import describe, open_folder
from nas.supernet.options import Recipe
from nas.supernet.slicing import inner_orders, slice_block
from nas.supernet.supernet import Supernet
from nas.testing.blocks import _silence, randomised

CLASSES = 3
HEADS = tuple(FPNHead(CLASSES, width=w, depth=d) for w, d in product((8, 16), (1, 2)))
PYRAMID = pyramid([Shape(8, 12, 16), Shape(12, 6, 8), Shape(16, 3, 4)])


@pytest.fixture
def space(small_space: Callable[[str], Space]) -> Space:
    return small_space("network_suffix").at((64, 64)).with_head(*HEADS)


@pytest.mark.parametrize("final", [-1, 0, 2])
@pytest.mark.parametrize("middle", ["mbconv", "fused_mbconv"])
@torch.no_grad()
def test_a_narrow_head_is_the_wide_one_with_silent_channels(final: int, middle: str) -> None:
    """The channels of the fused map are one group: the levels that write it and all that read it."""
    wide_spec = FPNHead(CLASSES, width=16, middle=middle, final_expansion=final)  # type: ignore[arg-type]
    narrow_spec = replace(wide_spec, width=6)
    wide = randomised(wide_spec, PYRAMID).eval()
    narrow = build_block(narrow_spec, PYRAMID).eval()
    inner = inner_orders(wide)
    assert len(inner["fused"]) == 16
    sliced = slice_block(wide, narrow, {}, inner)
    narrow.load_state_dict({name: tensor.clone() for name, tensor in sliced.items()})
    maps = [torch.randn(2, *each.tensor()[1:]) for each in PYRAMID.levels]
    before = wide(maps)
    _silence(wide, narrow, {}, inner)
    torch.testing.assert_close(narrow(maps), wide(maps), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, wide(maps))


@torch.no_grad()
def test_a_shallow_head_is_the_first_blocks_of_a_deep_one() -> None:
    deep = randomised(FPNHead(CLASSES, width=8, depth=3), PYRAMID).eval()
    shallow = build_block(FPNHead(CLASSES, width=8), PYRAMID).eval()
    shallow.load_state_dict(slice_block(deep, shallow, {}, inner_orders(deep)))
    maps = [torch.randn(2, *each.tensor()[1:]) for each in PYRAMID.levels]
    deep.refine = deep.refine[:1]
    torch.testing.assert_close(shallow(maps), deep(maps))


@torch.no_grad()
def test_members_with_every_head_are_sliced_as_they_are_extracted(space: Space) -> None:
    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    for tensor in supernet.parameters():
        tensor.add_(torch.randn_like(tensor) * 0.1)
    # One block holds the weights of all heads.
    blocks = supernet.get_submodule("head")
    assert len(list(blocks.children())) == 1
    assert supernet.holding("head", HEADS[0]) is supernet.holding("head", HEADS[-1])
    x = torch.randn(2, 3, 64, 64)
    answers = []
    for head in HEADS:
        member = replace(space.sample(3), head=head)
        network = supernet.extract(member)
        answers.append(network(x))
        assert torch.equal(supernet.forward_sliced(x, member), answers[-1])
        assert sum(each.numel() for each in network.parameters()) == member.params
    assert not any(torch.allclose(a, b) for i, a in enumerate(answers) for b in answers[:i])


def test_the_folder_of_a_training_keeps_all_heads(space: Space, tmp_path: Path) -> None:
    folder = SupernetFolder(tmp_path / "super")
    describe(folder, space, Recipe(), {"source": "made up"})
    assert open_folder(folder.root)[2].heads == HEADS
    one = space.with_head(HEADS[1])
    folder = SupernetFolder(tmp_path / "one")
    describe(folder, one, Recipe(), {"source": "made up"})
    assert open_folder(folder.root)[2].heads == HEADS[1:2]


@pytest.fixture
def table(space: Space, made_up_table: Callable[..., LatencyTable]) -> LatencyTable:
    return made_up_table(space)


@pytest.fixture
def scores(space: Space, made_up_scores: Callable[..., RecordedScores]) -> RecordedScores:
    """Scores by which smaller heads lose some points."""
    made = made_up_scores(space)
    lost = iter((0.9, 0.4, 0.3))
    rows = [replace(row, cost=next(lost)) if row.place == "head" else row for row in made.rows]
    return replace(made, metric="miou", rows=tuple(rows))


def test_a_search_over_heads_is_the_best_of_searches_with_each_one(
    space: Space, table: LatencyTable, scores: RecordedScores
) -> None:
    quickest = fastest(space, table)[0]
    slowest = table.total_ms(space.largest())
    chosen = set()
    for share in (0.001, 0.05, 0.2, 0.5):
        target = quickest + share * (slowest - quickest)
        found = search(space, table, scores, target, engine="exact")
        alone = []
        for head in HEADS:
            one = space.with_head(head)
            if fastest(one, table)[0] <= target:
                alone.append(search(one, table, scores, target, engine="exact"))
        assert found.cost == pytest.approx(min(each.cost for each in alone))
        assert found.ms <= target
        chosen.add(found.architecture.head)
    # A looser target affords a larger head.
    assert len(chosen) > 1


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"learned"}))
def test_every_engine_chooses_a_head_and_says_what_it_costs(
    engine: str, space: Space, table: LatencyTable, scores: RecordedScores
) -> None:
    target = 1.2 * fastest(space, table)[0]
    problem = pose(space, table, scores, target, engine, study=StudySettings(60, 0))
    found = ENGINES[engine](problem)
    assert found.architecture.head in HEADS and found.ms <= target
    rows = heads(problem, found.architecture)
    assert [row["chosen"] for row in rows] == [head == found.architecture.head for head in HEADS]
    largest = space.largest().head
    for head, row in zip(HEADS, rows, strict=True):
        # The cost of a head is the difference that it makes in any member.
        members = [replace(space.sample(1), head=each) for each in (head, largest)]
        assert row["cost"] == pytest.approx(scores.cost(members[0]) - scores.cost(members[1]))
    assert heads(replace(problem, space=space.with_head(HEADS[0])), found.architecture) == []


def test_scores_that_do_not_know_the_heads_are_refused(
    space: Space, table: LatencyTable, scores: RecordedScores, tmp_path: Path
) -> None:
    # The law is of classifiers, and these scores are of one head.
    one = replace(scores, scored=space.with_head(HEADS[0]))
    whole = load_space(space.path)
    for unknowing in (LawScores(whole, shipped_law()), one):
        with pytest.raises(InputError, match=r"4 heads to choose from: .* Fix: one --head-width"):
            pose(space, table, unknowing)
    # A frozen head is not chosen, so nothing has to be known of it.
    start = replace(space.smallest(), head=HEADS[1])
    frozen = pose(space, table, LawScores(whole, shipped_law()), freeze=["head"], start=start)
    assert frozen.space.heads == HEADS[1:2]
    scores.save(tmp_path)
    read = load_scores(tmp_path)
    assert isinstance(read, RecordedScores) and read.scored.heads == HEADS
    assert pose(space, table, read).space.heads == HEADS
