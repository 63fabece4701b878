"""The order in which tests run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from order import dealt


@given(seconds=st.lists(st.integers(0, 9), max_size=40), workers=st.integers(1, 5))
def test_every_worker_begins_with_its_share_of_the_long_ones(
    seconds: list[int], workers: int
) -> None:
    tests = list(enumerate(seconds))
    ordered = dealt(tests, lambda test: test[1], workers)
    assert sorted(ordered) == tests
    short = [test for test in tests if not test[1]]
    assert [test for test in ordered if not test[1]] == short

    parts, begin = [], 0
    for worker in range(workers):  # As pytest-xdist splits them.
        end = begin + (len(ordered) - begin) // (workers - worker)
        parts.append([test[1] for test in ordered[begin:end]])
        begin = end
    long = [[each for each in part if each] for part in parts]
    for part, first in zip(parts, long, strict=True):
        assert part[: len(first)] == sorted(first, reverse=True)
    sizes = [len(each) for each in long]
    assert max(sizes) - min(sizes) <= 1
