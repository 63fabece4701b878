"""Groups of members: every member once, in order, in equal shares."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from nas.accuracy.single_moves import variants
from nas.space import Space
from nas.supernet.groups import Work, next_groups, passes

WORKS = st.lists(
    st.builds(
        lambda shared, share: Work(None, 0, shared, share * (1 - shared)),  # type: ignore[arg-type]
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=40,
).map(lambda works: sorted(works, key=lambda each: each.shared))


@given(WORKS, st.floats(0.5, 20), st.integers(1, 5))
def test_groups_are_consecutive_and_all_members_come(
    works: list[Work], limit: float, processes: int
) -> None:
    rest = works
    taken = []
    while rest:
        groups = next_groups(rest, limit, processes)
        assert 1 <= len(groups) <= processes and all(groups)
        taken += [each for group in groups for each in group]
        rest = rest[sum(map(len, groups)) :]
    assert taken == works


@given(WORKS, st.floats(2, 20), st.integers(1, 5))
def test_groups_keep_about_to_the_limit(works: list[Work], limit: float, processes: int) -> None:
    """A walk of the base comes on top, and a member is never cut."""
    for group in next_groups(works, limit, processes):
        own = sum(each.own for each in group)
        assert own <= limit + 2 or len(group) == 1


def test_two_processes_get_equal_shares(small_space: Callable[[str], Space]) -> None:
    space = small_space("stage_suffix")
    base = space.largest()
    rest = sorted((Work.of(each, base) for each in variants(space)), key=lambda each: each.start)
    first, second = next_groups(rest, 1000, 2)
    assert len(first) + len(second) == len(rest)
    assert abs(passes(first) - passes(second)) <= 1
