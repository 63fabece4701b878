"""Interpolation over widths, and the choice of what is measured for it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.blocks import MB4D, ConvEmbedding, Operation, Shape
from nas.latency import Row
from nas.latency.profile.interpolate import fill, interpolate, leave_one_out
from nas.latency.profile.width_groups import Group, groups, spread, widths
from nas.space import load_space
from nas.space.operations import space_operations

BLOCKS = [Operation("block", MB4D(), Shape(width, 14, 14)) for width in range(64, 385, 16)]
PAIRS = [
    Operation("entry", ConvEmbedding(after), Shape(before, 28, 28))
    for before, after in itertools.product(range(32, 97, 16), range(64, 193, 16))
]


def roofline(operation: Operation, a: float, b: float, c: float) -> float:
    moved = sum(layer.read + layer.written for layer in operation.spec.layers(operation.input))
    return a + b * operation.macs + c * moved


coefficients = st.tuples(st.floats(0, 0.1), st.floats(1e-9, 1e-7), st.floats(1e-9, 1e-6))


@settings(max_examples=30)
@given(coefficients, st.sampled_from([BLOCKS, PAIRS]))
def test_roofline_is_recovered(
    coefficients: tuple[float, float, float], operations: list[Operation]
) -> None:
    known = spread(operations, 8)
    found = interpolate(known, [roofline(op, *coefficients) for op in known], operations)
    truth = np.array([roofline(op, *coefficients) for op in operations])
    assert found.ms == pytest.approx(truth, rel=0.02)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1e3), min_size=4, max_size=4))
def test_any_latencies_give_finite_ones(times: list[float]) -> None:
    found = interpolate(spread(BLOCKS, 4), times, BLOCKS)
    assert np.isfinite(found.ms).all() and (found.ms >= 0).all()
    assert np.isfinite(found.error_ms).all() and (found.error_ms > 0).all()


def test_smooth_deviation_from_the_roofline_is_followed() -> None:
    """Cost per MAC that falls with width, as kernels fill their tiles better."""
    times = {op: op.macs / 4e7 * (1 + 0.3 * np.exp(-op.input.channels / 100)) for op in BLOCKS}
    known = spread(BLOCKS, 6)
    found = interpolate(known, [times[op] for op in known], BLOCKS)
    assert found.ms == pytest.approx(np.array(list(times.values())), rel=0.01)


def test_error_is_larger_far_from_what_was_measured() -> None:
    near = BLOCKS[1]
    far = BLOCKS[-1]
    known = BLOCKS[:1] + BLOCKS[2:4]
    times = [1.3 * op.macs if index == 1 else op.macs for index, op in enumerate(known)]
    found = interpolate(known, [time / 4e7 for time in times], [near, far])
    assert found.error_ms[1] / found.ms[1] > found.error_ms[0] / found.ms[0]


def test_leave_one_out_sees_an_outlier() -> None:
    known = spread(BLOCKS, 6)
    times = [op.macs / 4e7 for op in known]
    assert leave_one_out(known, times) == pytest.approx(times, rel=0.01)
    times[2] *= 1.5
    assert abs(leave_one_out(known, times)[2] / times[2] - 1) > 0.2


def test_groups_of_the_shipped_space() -> None:
    operations = space_operations(load_space("efficientformer"))
    found = groups(operations)
    assert sum(len(group.operations) for group in found) == len(operations)
    assert {(group.operations[0].spec.kind, group.varying()) for group in found} == {
        ("conv_stem", 1),
        ("conv_embedding", 2),
        ("mb4d", 3),
        ("mb3d", 3),
        ("flatten", 1),
        ("unflatten", 1),
        ("token_head", 1),
    }
    assert sum(len(group.chosen()) for group in found) < 150


@settings(max_examples=50)
@given(st.sets(st.sampled_from(PAIRS), min_size=1), st.integers(1, 12))
def test_spread_is_distinct_and_takes_the_extremes(chosen: set[Operation], count: int) -> None:
    operations = sorted(chosen, key=widths)
    found = spread(operations, count)
    assert len(set(found)) == len(found) == min(count, len(operations))
    assert set(found) <= chosen
    ends = Group(tuple(BLOCKS)).chosen()
    assert BLOCKS[0] in ends and BLOCKS[-1] in ends


def test_fill_needs_two_and_skips_what_failed() -> None:
    def measured(operation: Operation, ms: float) -> Row:
        return Row(*operation.key, str(operation.output), ms, ms, ms, 10, "measured", "2026-01-31")

    one = {BLOCKS[0].key: measured(BLOCKS[0], 1.0)}
    assert fill(BLOCKS, one) == ({}, 0.0)
    two = one | {BLOCKS[-1].key: measured(BLOCKS[-1], 20.0)}
    rows, _ = fill(BLOCKS, two, failed=[BLOCKS[3].key])
    assert set(rows) == {op.key for op in BLOCKS[1:-1]} - {BLOCKS[3].key}
    assert all(
        row.p10_ms <= row.median_ms <= row.p90_ms and row.provenance == "interpolated"
        for row in rows.values()
    )
    assert fill(BLOCKS, {key: replace(row, median_ms=0.0) for key, row in two.items()})[0]
