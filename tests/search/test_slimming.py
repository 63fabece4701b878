"""Slimming takes the best move at every step, by a plain search over all of them, and stops at the
target."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.blocks import FPNHead, Identity
from nas.errors import InputError, NasError
from nas.latency import MissingRows
from nas.latency.table import make_table
from nas.search import Drop, Narrow, moves, pose, search
from nas.search.engines.exact import exact
from nas.search.engines.prices import Prices
from nas.search.engines.slimming import slim
from nas.search.fastest import fastest
from nas.search.limits import rounded
from nas.space.moves import narrow


def plain_options(space, table, scores, arch):
    """Every move that may be taken from `arch`: (points per ms, -saved, order), and where it leads."""
    options = []
    for order, move in enumerate(moves(space, arch)):
        alternatives = [move]
        if isinstance(move, Narrow):
            widths = [w for w in space.stages[move.stage].widths if w <= move.width]
            alternatives = [
                narrow(space, arch, move.stage, width) for width in sorted(widths, reverse=True)
            ]
        for alternative in alternatives:
            after = alternative.apply(arch)
            saved = table.total_ms(arch) - table.total_ms(after)
            if saved > 1e-9:
                points = scores.cost(after) - scores.cost(arch)
                options.append(
                    (round(points / saved, 9), -round(saved, 9), order, alternative, after)
                )
                break
    return options


def plain_slimming(space, table, scores, target):
    arch = space.largest()
    taken = []
    while table.total_ms(arch) > target:
        options = plain_options(space, table, scores, arch)
        if not options:
            return None
        *_, move, arch = min(options, key=lambda option: option[:3])
        taken.append(move)
    return taken


@pytest.fixture
def spaces(small_space, choices_space, stem_space):
    """Functions from the placement of attention to a space, by the space's name."""
    return {"small": small_space, "choices": choices_space, "stem": stem_space}


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
@pytest.mark.parametrize("named", ["small", "choices", "stem"])
@given(
    table_seed=st.none() | st.integers(0, 1000), seed=st.integers(0, 1000), share=st.floats(0, 1)
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_step_is_the_best_there_is(
    spaces, made_up_table, made_up_scores, named, attention, table_seed, seed, share
):
    space = spaces[named](attention)
    table = made_up_table(space, table_seed)
    scores = made_up_scores(space, seed)
    least = fastest(space, table)[0]
    most = table.total_ms(space.largest())
    target = least + share * max(most - least, 0)
    expected = plain_slimming(space, table, scores, target)
    if expected is None:
        with pytest.raises(NasError, match="no single move saves time"):
            search(space, table, scores, target, "slimming")
        return
    found = search(space, table, scores, target, "slimming")
    assert [step.move for step in found.trace[: len(expected)]] == expected
    greedy = found.trace[len(expected) - 1].total_cost if expected else 0.0
    assert found.cost <= greedy + 1e-9
    assert found.ms <= target and found.ms == table.total_ms(found.architecture)
    assert found.cost == pytest.approx(scores.cost(found.architecture))
    space.validate(found.architecture)


@pytest.mark.parametrize("named", ["small", "choices", "stem"])
def test_the_trace_adds_up(spaces, made_up_table, made_up_scores, named):
    space = spaces[named]()
    table = made_up_table(space)
    scores = made_up_scores(space)
    seen = []
    found = search(space, table, scores, fastest(space, table)[0], "slimming", on_step=seen.append)
    assert tuple(seen) == found.trace and [step.step for step in found.trace] == list(
        range(1, len(found.trace) + 1)
    )
    arch = space.largest()
    for step in found.trace:
        before = arch
        arch = step.move.apply(arch)
        assert step.ms == table.total_ms(arch) and (step.macs, step.params) == (
            arch.macs,
            arch.params,
        )
        assert step.saved_ms == pytest.approx(table.total_ms(before) - step.ms)
        assert step.cost == pytest.approx(scores.cost(arch) - scores.cost(before))
        assert step.total_cost == pytest.approx(scores.cost(arch))
        assert step.points_per_ms == pytest.approx(step.cost / step.saved_ms)
        assert step.action == step.move.action
    assert arch.stages == found.architecture.stages
    assert found.architecture.name == f"{named}-toy-{found.ms:.3g}ms"
    assert found.ms == pytest.approx(fastest(space, table)[0])
    if named == "small":
        assert found.architecture.compact().stages == space.smallest().stages
    else:
        assert {"DR", "WR", "MR", "ER"} <= {step.action for step in found.trace}


def test_two_searches_are_the_same(small_space, made_up_table, made_up_scores):
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space, 3)
    again = search(space, made_up_table(space), made_up_scores(space, 3), 0.5, "slimming")
    assert search(space, table, scores, 0.5, "slimming") == again


def test_ties_go_to_the_larger_saving_and_then_to_the_first_position(
    small_space, made_up_table, made_up_scores
):
    space = small_space()
    scores = made_up_scores(space)
    free = replace(scores, rows=tuple(replace(row, cost=0.0) for row in scores.rows))
    table = made_up_table(space)
    largest = space.largest()
    savings = [
        table.total_ms(largest) - table.total_ms(move.apply(largest))
        for move in moves(space, largest)
    ]
    first = search(space, table, free, table.total_ms(largest) * 0.999, "slimming").trace[0]
    assert first.saved_ms == pytest.approx(max(savings))
    if isinstance(first.move, Drop):
        assert first.move.position == 0


@pytest.mark.parametrize("named", ["small", "choices", "stem"])
@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_known_optimum_spares_the_proof_and_changes_nothing(
    spaces, made_up_table, made_up_scores, named, seed, share
):
    space = spaces[named]()
    table = made_up_table(space)
    least = fastest(space, table)[0]
    target = least + share * (table.total_ms(space.largest()) - least)
    problem = pose(space, table, made_up_scores(space, seed), target)
    cost = problem.cautious_scores.cost
    optimum = cost(exact(problem).architecture)
    found = slim(problem)
    assert slim(problem, optimum) == found
    # Where every cost counts as the optimum, no trade is looked for.
    assert cost(slim(problem, math.inf).architecture) >= cost(found.architecture)
    with mock.patch("nas.search.engines.exchange._trade", side_effect=AssertionError):
        slim(problem, math.inf)


@pytest.mark.parametrize("engine", ["slimming", "exact"])
def test_a_target_that_limits_nothing_gets_the_most_accurate_member(
    small_space, made_up_table, made_up_scores, engine
):
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    target = table.total_ms(space.largest())
    positive = replace(
        scores, rows=tuple(replace(row, cost=abs(row.cost) + 0.01) for row in scores.rows)
    )
    found = search(space, table, positive, target, engine)
    assert (
        found.trace == ()
        and found.architecture.stages == space.largest().stages
        and found.cost == 0
    )
    best = search(space, table, scores, 10 * target, "exact").cost
    assert search(space, table, scores, 10 * target, engine).cost == pytest.approx(best)


@pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
@pytest.mark.parametrize("named", ["small", "choices", "stem"])
@given(seed=st.integers(0, 1000), share=st.floats(0, 1), positional=st.booleans())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_costs_of_stages_are_slimmed_to_a_member_that_no_published_one_beats(
    spaces, made_up_table, made_up_stage_scores, named, attention, seed, share, positional
):
    space = spaces[named](attention)
    table = made_up_table(space)
    scores = made_up_stage_scores(space, seed, positional=positional)
    judge = scores.cautious()
    least = fastest(space, table)[0]
    most = table.total_ms(space.largest())
    target = least + share * (most - least)
    try:
        found = search(space, table, scores, target, "slimming")
    except NasError as error:
        assert "no single move saves time" in str(error)
        return
    assert found.ms <= target and found.ms == table.total_ms(found.architecture)
    assert found.cost == scores.cost(found.architecture)
    space.validate(found.architecture)
    arch = space.largest()
    for step in found.trace:
        arch = step.move.apply(arch)
        space.validate(arch)
        assert (step.ms, step.total_cost) == (table.total_ms(arch), scores.cost(arch))
    assert arch.stages == found.architecture.stages
    known = [space.place(arch) for arch in scores.known]
    rivals = [judge.cost(arch) for arch in known if table.total_ms(arch) <= target]
    assert judge.cost(found.architecture) <= min(rivals, default=99) + 1e-9
    assert (
        judge.cost(found.architecture)
        >= judge.cost(search(space, table, scores, target).architecture) - 1e-9
    )


def test_prices_are_those_of_scores_and_table(
    spaces, made_up_table, made_up_stage_scores, made_up_scores, small_space
):
    for space in (spaces["choices"]("stage_suffix"), spaces["stem"](), spaces["small"]()):
        headed = [space, space.with_head(FPNHead(5, width=8, levels=3))]
        for known in headed:
            table = made_up_table(known, 3)
            for scores in (made_up_stage_scores(space, 5, positional=True), made_up_scores(space)):
                limits = {"params": 1e9, "macs": 1e12, "memory_mb": 1e6}
                problem = pose(known, table, scores, table.total_ms(known.largest()), limits=limits)
                prices = Prices(problem)
                for seed in range(30):
                    arch = known.place(known.sample(seed))
                    assert prices.cost(arch) == pytest.approx(problem.cautious_scores.cost(arch))
                    for limit in prices.limits:
                        assert prices.amount(limit.measure, arch) == limit.measure.total(arch)


def test_without_a_target_it_is_the_smallest_published_members(
    small_space, made_up_table, made_up_scores
):
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    target = table.total_ms(space.published["small_s"])
    assert search(space, table, scores) == search(space, table, scores, target)
    half = pose(space.with_published({}), table, scores)
    assert half.target_ms == pytest.approx(
        max(table.total_ms(space.largest()) / 2, fastest(space, table)[0])
    )
    assert "half of what the largest member of small takes" in half.target_reason


def test_a_move_that_saves_nothing_is_never_taken(small_space, made_up_table, made_up_scores):
    """Narrowing stage 1 costs nothing but slows the network down; narrowing stage 4 saves at the
    last width only."""
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    rows = {row.key: row for row in table.rows.values()}
    for key, row in rows.items():
        if key[0] == "conv_stem":
            ms = 0.5 if "width=16" in key[1] else 50.0
            rows[key] = replace(row, median_ms=ms, p10_ms=ms, p90_ms=ms)
        if key[0] == "token_head" and ":40x" in key[2]:
            rows[key] = replace(row, median_ms=9.0, p10_ms=9.0, p90_ms=9.0)
    slow = make_table(table.device, rows.values())
    cheap = replace(
        scores, rows=tuple(replace(r, cost=-1.0) if r.move == "narrow" else r for r in scores.rows)
    )
    found = search(space, slow, cheap, fastest(space, slow)[0], "slimming")
    taken = [step.move for step in found.trace]
    assert not any(isinstance(move, Narrow) and move.stage == 0 for move in taken)
    assert [move for move in taken if isinstance(move, Narrow) and move.stage == 3] == [
        Narrow(3, 32)
    ]


def test_the_papers_candidates_are_the_least_important(small_space, made_up_table, made_up_scores):
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    arch = space.largest()
    found = search(space, table, scores, fastest(space, table)[0], candidates="paper")
    for step in found.trace:
        options = [option[3] for option in plain_options(space, table, scores, arch)]
        if step.action == "DR":
            drops = [move for move in options if move.action == "DR"]
            assert step.move == min(
                drops, key=lambda move: scores.importance(move.stage, move.position)
            )
        elif step.action == "WR":
            stages = {
                move.stage: sum(
                    scores.importance(move.stage, p)
                    for p, block in enumerate(arch.stages[move.stage].blocks)
                    if not isinstance(block, Identity)
                )
                for move in options
                if move.action == "WR"
            }
            assert step.move.stage == min(stages, key=stages.get)
        arch = step.move.apply(arch)
    assert {step.action for step in found.trace} == {"DR", "WR", "MR"}


def test_what_cannot_be_is_refused(small_space, made_up_table, made_up_scores):
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    least = fastest(space, table)[0]
    with pytest.raises(
        InputError,
        match=rf"cannot be reached: the fastest member .* takes {rounded(least, up=True)} ms on toy",
    ):
        search(space, table, scores, least * 0.99)
    for target in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected a positive number"):
            search(space, table, scores, target)
    with pytest.raises(InputError, match="unknown engine 'sliming', did you mean 'slimming'"):
        search(space, table, scores, 1.0, engine="sliming")
    with pytest.raises(InputError, match="unknown candidates 'papers', did you mean 'paper'"):
        search(space, table, scores, 1.0, candidates="papers")
    with pytest.raises(InputError, match="not of 'small'"):
        search(space, table, replace(scores, scored=replace(scores.scored, name="big")), 1.0)
    fewer = make_table(
        table.device, [row for row in table.rows.values() if row.kind != "conv_stem"]
    )
    with pytest.raises(
        MissingRows, match=r"no row for conv_stem.*Fix: nas profile --space .*--device toy"
    ) as e:
        search(space, fewer, scores, 1.0)
    assert len(e.value.operations) == 2


def test_the_public_name_can_be_called_before_and_after_its_package_is_imported():
    """`import nas.space.moves` binds the package to `nas.search`, which the public API says is a
    function."""
    code = "import nas; {} assert nas.load_scores and callable(nas.search); nas.search()"
    for first in ("", "import nas.space.moves;"):
        result = subprocess.run(
            [sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=False
        )
        assert "search() missing 3 required positional arguments" in result.stderr


def test_with_choices_the_papers_candidates_have_no_exchange(
    choices_space, made_up_table, made_up_scores
):
    """The paper's actions are DR, WR and MR."""
    space = choices_space("network_suffix", ("depth: {min: 1, max: 1}", "depth: {min: 1, max: 2}"))
    table = made_up_table(space)
    scores = made_up_scores(space, 3)
    least = fastest(space, table)[0]
    most = table.total_ms(space.largest())
    target = least + 0.1 * (most - least)
    found = search(space, table, scores, target, candidates="paper")
    assert {step.action for step in found.trace} == {"DR", "WR", "MR"}
    assert found.ms <= target


def test_the_papers_candidates_in_a_space_with_a_stage_of_fixed_depth(
    choices_space, made_up_table, made_up_scores
):
    space = choices_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    scores.check(space)
    assert search(
        space, table, scores, table.total_ms(space.largest()) * 0.9, candidates="paper"
    ).trace


def test_an_exchange_is_undone_only_by_one_that_saves_time(
    choices_space, made_up_table, made_up_scores
):
    space = choices_space("stage_suffix")
    for seed in range(10):
        table = made_up_table(space, seed)
        scores = made_up_scores(space, seed)
        try:
            found = search(space, table, scores, fastest(space, table)[0] * 1.01, "slimming")
        except NasError:
            continue
        down = next(
            n for n, step in enumerate(found.trace) if step.ms <= fastest(space, table)[0] * 1.01
        )
        latencies = [
            table.total_ms(space.largest()),
            *(step.ms for step in found.trace[: down + 1]),
        ]
        assert latencies == sorted(latencies, reverse=True) and len(set(latencies)) == len(
            latencies
        )
