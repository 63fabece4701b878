"""What a table must have rows for: all that members need, and nothing that none does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.latency import LatencyTable
from nas.space import Architecture, Space, load_space
from nas.space.operations import space_operations

PLACEMENTS = pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
Key = tuple[str, str, str]


def keys(arch: Architecture) -> set[Key]:
    return {operation.key for operation in arch.operations()}


@PLACEMENTS
@pytest.mark.parametrize("size", [32, 64])
def test_the_operations_of_a_space_are_those_of_its_members(
    stem_space: Callable[..., Space], attention: str, size: int
) -> None:
    space = stem_space(attention).at(size)
    needed = set().union(*map(keys, space.enumerate()))
    found = space_operations(space)
    assert {operation.key for operation in found} == needed
    assert len(found) == len(needed)


@PLACEMENTS
def test_the_operations_of_the_small_space_are_those_of_its_members(
    small_space: Callable[[str], Space], attention: str
) -> None:
    space = small_space(attention)
    assert {operation.key for operation in space_operations(space)} == set().union(
        *map(keys, space.enumerate())
    )


@PLACEMENTS
@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_member_needs_is_there(
    choices_space: Callable[..., Space], attention: str, seed: int
) -> None:
    space = choices_space(attention)
    assert keys(space.sample(seed)) <= {operation.key for operation in space_operations(space)}


@PLACEMENTS
def test_every_operation_is_in_some_sample(
    choices_space: Callable[..., Space], attention: str
) -> None:
    space = choices_space(attention)
    sampled: set[Key] = set().union(*(keys(space.sample(seed)) for seed in range(3000)))
    assert {operation.key for operation in space_operations(space)} == sampled


@PLACEMENTS
def test_a_table_of_them_predicts_every_member(
    choices_space: Callable[..., Space], made_up_table: Callable[..., LatencyTable], attention: str
) -> None:
    space = choices_space(attention)
    table = made_up_table(space)
    for arch in (
        *space.published.values(),
        space.largest(),
        space.smallest(),
        *map(space.sample, range(50)),
    ):
        assert table.predict(arch).missing == ()


def test_names_are_places_where_the_operation_stands(choices_space: Callable[..., Space]) -> None:
    for space in (choices_space(), load_space("efficientformer")):
        for operation in space_operations(space):
            parts = operation.name.split("_")
            assert parts[0] in ("stem", "head", "stage1", "stage2", "stage3", "stage4"), (
                operation.name
            )
            if len(parts) == 2 and parts[1] in ("flatten", "unflatten"):
                assert operation.spec.kind == parts[1]
