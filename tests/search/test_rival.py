"""Which published member a found network is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nas.accuracy import Scores
from nas.latency import LatencyTable
from nas.search.compare import published_rival
from nas.space import Space


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    """Published are `small_s` and the larger `small_l`."""
    return small_space()


@pytest.fixture
def table(space: Space, made_up_table: Callable[..., LatencyTable]) -> LatencyTable:
    return made_up_table(space)


@pytest.fixture
def scores(space: Space, made_up_stage_scores: Callable[..., Scores]) -> Scores:
    """Scores by which `small_l` is the more accurate one, and most members are in between."""
    seed = next(seed for seed in range(100) if _gain(made_up_stage_scores(space, seed)) > 0)
    return made_up_stage_scores(space, seed)


def _gain(scores: Scores) -> float:
    members = scores.scored.published
    return scores.cost(members["small_s"]) - scores.cost(members["small_l"])


@pytest.mark.parametrize(
    ("share", "limits", "name", "reason"),
    [
        (1.0, {}, "small_l", "the most accurate published member within"),
        (10.0, {}, "small_l", "the most accurate published member within"),
        (0.99, {}, "small_s", "the most accurate published member within"),
        (0.01, {}, "small_s", "the smallest published member: none is within"),
        (10.0, {"params": 0.9}, "small_s", "M parameters"),
        (10.0, {"params": 0.01}, "small_s", "the smallest published member: none is within"),
        (None, {"params": 2.0}, "small_l", "the most accurate published member within"),
        (None, {"macs": 0.9}, "small_s", "M MACs"),
    ],
)
def test_the_rival_is_the_most_accurate_within_the_target_else_the_smallest(
    space: Space,
    table: LatencyTable,
    scores: Scores,
    share: float | None,
    limits: dict[str, float],
    name: str,
    reason: str,
) -> None:
    # Targets and limits are shares of what small_l takes.
    large = space.published["small_l"]
    target_ms = None if share is None else share * table.total_ms(large)
    amounts = {"params": large.params, "macs": large.macs}
    asked = {key: part * amounts[key] for key, part in limits.items()}
    rival = published_rival(
        space, table, scores, space.smallest(), target_ms=target_ms, limits=asked
    )
    assert rival is not None and rival.architecture.name == name and reason in rival.reason
    assert target_ms is None or f"{target_ms:.4g} ms" in rival.reason


def test_accuracy_decides_within_the_target_not_size(
    space: Space, table: LatencyTable, made_up_stage_scores: Callable[..., Scores]
) -> None:
    seed = next(seed for seed in range(100) if _gain(made_up_stage_scores(space, seed)) < 0)
    rival = published_rival(
        space, table, made_up_stage_scores(space, seed), space.smallest(), target_ms=1e3
    )
    assert rival is not None and rival.architecture.name == "small_s"


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        ("small_s", "small_s", "the fastest published member that is expected to be as accurate"),
        ("small_l", "small_l", "the fastest published member that is expected to be as accurate"),
        ("best", "small_l", "none is as accurate as the found one"),
    ],
)
def test_a_search_for_the_fastest_is_compared_with_the_fastest_as_accurate(
    space: Space, table: LatencyTable, scores: Scores, found: str, name: str, reason: str
) -> None:
    best = min((space.sample(seed) for seed in range(200)), key=scores.cost)
    arch = best if found == "best" else space.published[found]
    rival = published_rival(space, table, scores, arch, target_ms=None)
    assert rival is not None and rival.architecture.name == name and reason in rival.reason


def test_a_space_without_published_members_has_none(
    space: Space, table: LatencyTable, scores: Scores
) -> None:
    assert (
        published_rival(space.with_published({}), table, scores, space.smallest(), target_ms=1.0)
        is None
    )


def test_the_rival_has_the_size_and_classes_of_the_space(
    space: Space, made_up_table: Callable[..., LatencyTable], scores: Scores
) -> None:
    sized = space.at(96, 3)
    rival = published_rival(sized, made_up_table(sized), scores, sized.smallest(), target_ms=1e3)
    assert rival is not None and (rival.architecture.resolution, rival.architecture.classes) == (
        (96, 96),
        3,
    )


def test_a_member_that_the_table_lacks_is_not_within_the_target(
    space: Space, table: LatencyTable, scores: Scores
) -> None:
    own = {operation.key for operation in space.published["small_s"].operations()}
    rows = {key: row for key, row in table.rows.items() if key in own}
    rival = published_rival(
        space, replace(table, rows=rows), scores, space.smallest(), target_ms=1e3
    )
    assert rival is not None and rival.architecture.name == "small_s"
