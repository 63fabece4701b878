"""The fastest member is the one that a look at every member finds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.accuracy import default_scores
from nas.latency import MissingRows
from nas.latency.table import make_table
from nas.search import moves, pose
from nas.search.fastest import fastest
from nas.search.solver import solve
from nas.space import load_space
from nas.space.operations import space_operations


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
def test_equal_to_brute_force(small_space, made_up_table, attention):
    space = small_space(attention)
    members = list(space.enumerate())
    for seed in (None, *range(5)):
        table = made_up_table(space, seed)
        ms, arch = fastest(space, table)
        assert ms == pytest.approx(min(map(table.total_ms, members)))
        assert ms == table.total_ms(arch)
        space.validate(arch)


@pytest.mark.parametrize(
    ("attention", "counts"), [("network_suffix", (1, 1)), ("stage_suffix", (1, 0))]
)
def test_attention_that_is_fast_in_stage_3_only_counts_where_it_may_stand(
    small_space, made_up_table, attention, counts
):
    """Stage 3 is slow without attention, stage 4 with it: only suffixes by the stage allow the best
    of both."""
    space = small_space(attention)
    table = made_up_table(space)

    def ms(row):
        in_stage_3 = "x4x4" in row.input
        return {"mb4d": 9.0 if in_stage_3 else 0.1, "mb3d": 0.1 if in_stage_3 else 5.0}.get(
            row.kind, 0.1
        )

    table = make_table(
        table.device,
        [replace(r, median_ms=ms(r), p10_ms=ms(r), p90_ms=ms(r)) for r in table.rows.values()],
    )
    least, arch = fastest(space, table)
    assert least == pytest.approx(min(map(table.total_ms, space.enumerate())))
    space.validate(arch)
    assert (
        tuple(block.kind == "mb3d" for stage in arch.stages[2:] for block in stage.blocks) == counts
    )


def test_it_names_every_missing_row(small_space, made_up_table):
    space = small_space()
    table = made_up_table(space)
    empty = make_table(table.device, [])
    with pytest.raises(MissingRows) as error:
        fastest(space, empty)
    assert {op.key for op in error.value.operations} == {op.key for op in space_operations(space)}
    assert "\n" not in str(error.value)


def test_at_another_resolution(small_space, made_up_table):
    space = small_space().at(96, 3)
    ms, arch = fastest(space, made_up_table(space))
    assert ms > 0 and arch.resolution == (96, 96) and arch.classes == 3


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
def test_with_choices_and_a_stem_equal_to_brute_force(stem_space, made_up_table, attention):
    space = stem_space(attention)
    members = list(space.enumerate())
    for seed in (None, *range(6)):
        table = made_up_table(space, seed)
        ms, arch = fastest(space, table)
        assert ms == pytest.approx(min(map(table.total_ms, members)))
        assert ms == table.total_ms(arch)
        space.validate(arch)


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
def test_with_choices_no_sample_and_no_single_change_is_faster(
    choices_space, made_up_table, attention
):
    """The space is too large to look at every member: random ones, and all that one move leads to."""
    space = choices_space(attention)
    for seed in range(4):
        table = made_up_table(space, seed)
        ms, arch = fastest(space, table)
        assert ms == table.total_ms(arch)
        others = [space.sample(seed) for seed in range(300)]
        others += [
            move.apply(other) for other in (arch, *others[:20]) for move in moves(space, other)
        ]
        assert ms <= min(map(table.total_ms, others)) + 1e-9


def test_with_choices_it_names_every_missing_row(choices_space, stem_space, made_up_table):
    for space in (choices_space(), stem_space()):
        with pytest.raises(MissingRows) as error:
            fastest(space, make_table(made_up_table(space).device, []))
        assert {op.key for op in error.value.operations} == {
            op.key for op in space_operations(space)
        }


@pytest.fixture
def older_table(made_up_table):
    """A function from a space to a table without rows of mb4d below expansion 4."""

    def make(space):
        table = made_up_table(space)
        rows = [
            row
            for row in table.rows.values()
            if row.kind != "mb4d" or "expansion=4" in row.hyperparameters
        ]
        return make_table(table.device, rows)

    return make


def test_a_search_does_without_expansions_that_the_table_has_no_rows_of(older_table):
    space = load_space("efficientformer_small")
    table = older_table(space)
    with pytest.raises(MissingRows):
        fastest(space, table)
    problem = pose(space, table, default_scores(space))
    assert problem.unpriced == tuple(f"stage {number}: local" for number in range(1, 5))
    assert {block.expansion for stage in problem.space.stages for block in stage.local} == {4}
    assert [stage.global_ for stage in problem.space.stages] == [s.global_ for s in space.stages]
    found = solve(problem)
    space.validate(found.architecture)
    assert found.ms == table.total_ms(found.architecture)


def test_rows_of_a_block_without_any_other_expansion_must_be_measured(older_table):
    space = load_space("efficientformer_small")
    table = older_table(space)
    rows = [row for row in table.rows.values() if row.kind != "mb4d" or "x8x8" not in row.input]
    with pytest.raises(MissingRows, match="no row for mb4d"):
        pose(space, make_table(table.device, rows), default_scores(space))
