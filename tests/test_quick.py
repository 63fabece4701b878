"""The choice of cases for `make quick`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import UNIT_S, quick_cases, recorded_times

TIMES = Path(__file__).with_name("times.csv")


@given(cases=st.integers(1, 300), cpu_s=st.floats(0, 3))
def test_as_many_cases_run_as_there_is_time_for(cases: int, cpu_s: float) -> None:
    chosen = quick_cases(cases, cpu_s)
    assert chosen <= set(range(cases))
    assert len(chosen) * cpu_s < UNIT_S + 1e-9
    assert len(chosen) == cases or (len(chosen) + 1) * cpu_s > UNIT_S - 1e-9


@pytest.mark.parametrize(
    ("cases", "cpu_s", "chosen"),
    [
        (9, 0.0, set(range(9))),
        (9, 0.32 * UNIT_S, {0, 3, 6}),
        (9, 0.6 * UNIT_S, {0}),
        (1, UNIT_S, {0}),
        (9, UNIT_S + 0.01, set()),
    ],
)
def test_they_are_spread(cases: int, cpu_s: float, chosen: set[int]) -> None:
    assert quick_cases(cases, cpu_s) == chosen


def test_the_record_is_of_tests_that_exist() -> None:
    """A test that was renamed would run in `make quick` whatever it takes."""
    root = Path(__file__).parents[1]
    names = recorded_times(TIMES)
    assert names
    gone = {
        name
        for name in names
        if f"def {name.rpartition('::')[2]}(" not in _text(root / name.partition("::")[0])
    }
    assert not gone, "Fix: make times"


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
