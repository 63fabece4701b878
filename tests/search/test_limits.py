"""Peak memory is what a look at every layer counts, and slimming keeps every limit that it is
given."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.blocks import MB4D, ConvEmbedding, FPNHead, Operation, Shape
from nas.errors import InputError, NasError
from nas.search import pose, search, solve
from nas.search.graph import Graph
from nas.search.limits import MACS, latency, live_elements, memory, mes, peak_elements, rounded

AMOUNTS = {
    "macs": lambda arch: arch.macs,
    "params": lambda arch: arch.params,
    "memory_mb": lambda arch: peak_elements(arch) * 4 / 1e6,
}


def test_live_elements_of_operations_that_one_can_count_by_hand():
    # A 3x3 convolution of stride 2: 8x16x16 comes in, 16x8x8 goes out.
    embedding = Operation("stage2_entry", ConvEmbedding(16), Shape(8, 16, 16))
    assert live_elements(embedding) == 8 * 256 + 16 * 64
    assert live_elements(embedding, held=100) == 8 * 256 + 16 * 64 + 100
    # MB4D: its widest layers read n and write 4 n, or the reverse; the residual needs n more.
    assert (
        live_elements(Operation("stage1_block1", MB4D(4), Shape(8, 16, 16)))
        == (1 + 4 + 1) * 8 * 256
    )


def test_the_peak_is_the_largest_operations(small_space):
    for arch in small_space("stage_suffix").published.values():
        assert peak_elements(arch) == max(map(live_elements, arch.operations()))


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_maps_wait_for_a_head_that_takes_them(small_space, levels):
    """Stage 3 of the small space works on 4x4, beside the map of stage 2, 8x8, where the head takes
    both."""
    arch = small_space().published["small_l"].with_head(FPNHead(5, width=8, levels=levels))
    waiting = {1: [], 3: [24 * 64], 4: [16 * 256, 24 * 64]}[levels]
    last = [op for op in arch.operations() if op.name.startswith("stage3_block")]
    head = arch.operations()[-1]
    assert peak_elements(arch) >= max(live_elements(op, sum(waiting)) for op in last)
    assert live_elements(head) >= head.input.elements


@pytest.mark.parametrize("levels", [0, 2, 4])
def test_the_graph_counts_what_members_count(stem_space, levels):
    space = stem_space("stage_suffix")
    space = space.with_head(FPNHead(5, width=8, levels=levels)) if levels else space
    graph = Graph(space)
    for name, amount in AMOUNTS.items():
        measure = memory("float32") if name == "memory_mb" else None
        for seed in range(20):
            arch = space.place(space.sample(seed))
            path = path_of(graph, arch)
            if measure:
                assert max(map(measure.of, path)) == pytest.approx(amount(arch))
            else:
                total = sum(getattr(op, name) for arc in path for op in arc.operations)
                assert total == amount(arch)


def path_of(graph, arch):
    """The arcs that an architecture with all positions takes."""
    blocks = [
        *([arch.stem] if arch.stem else []),
        *(b for s in arch.stages for b in (s.entry, *s.blocks)),
        arch.head,
    ]
    node = 0
    path = []
    for layer, block in zip(graph.layers, blocks, strict=True):
        (arc,) = [arc for arc in layer if arc.tail == node and arc.block == block]
        path.append(arc)
        node = arc.head
    return path


def test_a_precision_tells_the_bytes(small_space):
    arch = small_space().largest()
    sizes = [memory(precision).total(arch) for precision in ("float32", "fp16", "int8")]
    assert sizes == pytest.approx([peak_elements(arch) * size / 1e6 for size in (4, 2, 1)])
    with pytest.raises(InputError, match="does not say how many bits"):
        memory("unknown")


@pytest.mark.parametrize("objective", ["limits", "mes"])
@pytest.mark.parametrize(
    "names", [["macs"], ["params"], ["memory_mb"], ["macs", "params"], list(AMOUNTS)]
)
def test_slimming_keeps_every_limit(choices_space, made_up_table, made_up_scores, names, objective):
    space = choices_space("stage_suffix")
    table = made_up_table(space)
    scores = made_up_scores(space)
    least = {name: min(AMOUNTS[name](space.sample(seed)) for seed in range(30)) for name in names}
    limits = {
        name: 0.4 * amount + 0.6 * AMOUNTS[name](space.largest()) for name, amount in least.items()
    }
    problem = pose(space, table, scores, engine="slimming", limits=limits, objective=objective)
    assert problem.target_ms == float("inf")
    assert {limit.measure.key: limit.most for limit in problem.every_limit} == limits
    try:
        found = solve(problem)
    except NasError as error:
        assert "no single move saves" in str(error) and "--engine exact" in str(error)
        assert objective == "mes" and "memory_mb" in names
        return
    assert all(AMOUNTS[name](found.architecture) <= most for name, most in limits.items())
    within = [
        all(AMOUNTS[name](arch) <= most for name, most in limits.items())
        for arch in passed(space, found.trace)
    ]
    greedy = within.index(True)
    assert not any(within[:greedy])
    assert objective == "limits" or greedy == len(found.trace)
    space.validate(found.architecture)


def passed(space, steps):
    """The members on the way, the largest first."""
    arch = space.largest()
    yield arch
    for step in steps:
        arch = step.move.apply(arch)
        yield arch


def test_no_limited_amount_grows_on_the_way(choices_space, made_up_table, made_up_scores):
    space = choices_space()
    for seed in range(5):
        table = made_up_table(space, seed)
        scores = made_up_scores(space, seed)
        ms = table.total_ms(space.largest())
        limits = {"macs": space.largest().macs * 0.7, "params": space.largest().params * 0.7}
        try:
            found = search(space, table, scores, ms, "slimming", limits=limits)
        except NasError:
            continue
        kept = [
            step.macs <= limits["macs"] and step.params <= limits["params"] for step in found.trace
        ]
        amounts = [(s.ms, s.macs, s.params) for s in found.trace[: kept.index(True) + 1]]
        for column in zip(*amounts, strict=True):
            assert list(column) == sorted(column, reverse=True)


def test_mes_is_the_papers(small_space, made_up_table, made_up_scores):
    assert mes(3_500_000, 0.9) == pytest.approx(102.9, abs=0.05)
    assert mes(3_000_000, 1.0) == 100
    assert mes(3_000_000, 0.0) == math.inf
    space = small_space()
    table = made_up_table(space)
    scores = made_up_scores(space)
    target = table.total_ms(space.largest()) * 0.99
    arch = space.largest()
    found = search(space, table, scores, target, objective="mes")
    for step in found.trace:
        after = step.move.apply(arch)
        assert mes(after.params, table.total_ms(after)) > mes(arch.params, table.total_ms(arch))
        arch = after
    with pytest.raises(InputError, match="objective 'mes' is one of slimming"):
        search(space, table, scores, target, "exact", objective="mes")
    with pytest.raises(InputError, match="unknown objective 'me', did you mean 'mes'"):
        search(space, table, scores, target, objective="me")


def test_messages_say_what_the_measures_say(small_space, made_up_table):
    """No word is looked for in another: a name that holds one of them stays whole."""
    arch = small_space().largest()
    measure = latency(made_up_table(small_space(), seed=1))
    assert measure.text(1.25) == "1.25 ms" and measure.saved == "time"
    other = replace(measure, unit="rows ms latency", name="rows", named=True, saved="")
    assert other.text(1.25) == "1.25 rows ms latency rows"
    assert MACS.text(arch.macs).endswith(" M MACs") and not MACS.saved


@given(st.floats(1e-9, 1e12), st.integers(1, 17))
def test_a_rounded_amount_is_near_and_not_below_where_it_is_a_limit(value, digits):
    for up in (False, True):
        found = float(rounded(value, digits, up))
        assert abs(found - value) <= value * 10.0 ** (1 - digits) * (1 + 1e-12)
        assert found >= value or not up
    assert rounded(1.23449) == "1.234" and rounded(1.23449, up=True) == "1.235"
    assert rounded(9.9996, up=True) == "10" and rounded(1.25, up=True) == "1.25"


def test_amounts_that_differ_are_told_apart(small_space, made_up_table):
    measure = latency(made_up_table(small_space(), seed=1))
    assert measure.texts(1.2, 1.3) == ("1.2 ms", "1.3 ms")
    assert measure.texts(1.23449, 1.23448) == ("1.23449 ms", "1.23448 ms")
    assert measure.texts(1.0, 1.0) == ("1 ms", "1 ms")
    assert MACS.texts(123_456_789, 123_456_788) == ("123.456789 M MACs", "123.456788 M MACs")


def test_a_limit_just_out_of_reach_shows_by_how_much(small_space, made_up_table, made_up_scores):
    space = small_space()
    table = made_up_table(space)
    smallest = min(space.smallest().macs, *(arch.macs for arch in space.published.values()))
    limits = {"macs": smallest - 1}
    with pytest.raises(InputError) as refusal:
        search(space, table, made_up_scores(space), None, limits=limits)
    shown = re.findall(r"([\d.]+) M MACs", str(refusal.value))
    assert len(shown) == 2 and float(shown[0]) < float(shown[1])


@pytest.mark.parametrize("precision", ["version 3 of a mixture", "w8a16", ""])
def test_a_number_in_a_precisions_name_is_not_its_bits(precision):
    with pytest.raises(InputError, match="does not say how many bits"):
        memory(precision)
