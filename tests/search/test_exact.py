"""The exact engine finds what a look at every member finds, and all of the front."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nas.accuracy import load_scores
from nas.blocks import FPNHead, Identity
from nas.errors import InputError
from nas.latency import MissingRows, load_table
from nas.latency.table import make_table, table_names
from nas.search import pose, search, solve
from nas.search.engines.exact import TIE, front
from nas.search.fastest import fastest
from nas.search.limits import peak_elements, rounded
from nas.space import load_space

LOCAL = [
    "{kind: mb4d, expansion: 2}",
    "{kind: mb4d, expansion: [1, 2]}",
    "[{kind: mb4d, expansion: 2}, {kind: irmb, expansion: 2, attention: false}]",
]
GLOBAL = [
    "",
    "global: {kind: mb3d, heads: 2, key_dim: 8, value_ratio: 2, expansion: [1, 2]}",
    "global: {kind: irmb, expansion: 2, attention: true, window: 2, head_dim: [8, 12, 16]}",
]
HEADS = [
    "{kind: token_head, classes: 10, distillation: true}",
    "[{kind: map_head, classes: 10}, {kind: map_head, classes: 10, norm: layer}]",
]
STEMS = ["", "stem: {kind: efficientvit_stem, width: [4, 8]}"]


@st.composite
def space_texts(draw):
    """Spaces of a few thousand members at most, dropped positions told apart."""
    stem = draw(st.sampled_from(STEMS))
    attention = draw(st.sampled_from(["network_suffix", "stage_suffix"]))
    stages = []
    for index, widths in enumerate(([8], [8, 16], [16, 24, 32], [24, 32, 48])):
        most = draw(st.integers(1, 1 if index == 0 else 2 if index < 3 else 3))
        entry = (
            "conv_stem"
            if index == 0 and not stem
            else "mbconv_down"
            if index == 0
            else "conv_embedding"
        )
        if index == 2 and draw(st.booleans()):
            entry = "irmb_down, expansion: [2, 3]"
        chosen = sorted(draw(st.sets(st.sampled_from(widths), min_size=1, max_size=2)))
        depth = f"{{min: {draw(st.integers(1, most))}, max: {most}}}"
        stages.append(
            f"- {{entry: {{kind: {entry}}}, width: {chosen}, depth: {depth}, "
            f"local: {draw(st.sampled_from(LOCAL))}"
            + (
                f", {found}}}"
                if (found := draw(st.sampled_from(GLOBAL)) if index > 1 else "")
                else "}"
            )
        )
    head = draw(st.sampled_from(HEADS))
    return (
        "\n".join(
            [
                "format: nas-space-1",
                "name: drawn",
                "resolution: [64, 64]",
                f"attention: {attention}",
                stem,
                "stages:",
                *stages,
                f"head: {head}",
            ]
        )
        + "\n"
    )


def every_member(space):
    """Every member, those that drop different positions told apart."""
    for arch in space.enumerate():
        ways = []
        for choice, stage in zip(space.stages, arch.stages, strict=True):
            filled = []
            for positions in combinations(range(choice.depths[1]), stage.depth):
                blocks = [Identity()] * choice.depths[1]
                for position, block in zip(positions, stage.blocks, strict=True):
                    blocks[position] = block
                filled.append(replace(stage, blocks=tuple(blocks)))
            ways.append(filled)
        for stages in product(*ways):
            yield replace(arch, stages=stages)


def priced(space, table, scores):
    """(ms, cost, member) of every one that the device can run."""
    found = []
    for arch in every_member(space):
        try:
            found.append((table.total_ms(arch), scores.cost(arch), arch))
        except MissingRows:
            continue
    return found


def coarse(table, scores, seed):
    """The same with few different values, so that many members tie."""
    rng = random.Random(seed)
    rows = [
        replace(row, median_ms=ms, p10_ms=ms, p90_ms=ms)
        for row in table.rows.values()
        for ms in [rng.choice([0.0, 0.1, 0.2, 0.3])]
    ]
    return make_table(table.device, rows), replace(
        scores,
        rows=tuple(replace(row, cost=rng.choice([-0.1, 0.0, 0.1, 0.3])) for row in scores.rows),
    )


def refusing(table, seed):
    """The same for a device that cannot run some operations."""
    rng = random.Random(seed)
    refused = {key: "out of memory" for key in table.rows if rng.random() < 0.1}
    rows = [row for key, row in table.rows.items() if key not in refused]
    return replace(make_table(table.device, rows), unsupported=refused)


def pareto(pairs):
    kept = []
    for ms, cost in sorted(pairs):
        if not kept or cost < kept[-1][1] - 1e-9:
            kept.append((ms, cost))
    return kept


AMOUNTS = {
    "macs": lambda arch: arch.macs,
    "params": lambda arch: arch.params,
    "memory_mb": lambda arch: peak_elements(arch) * 4 / 1e6,
}


@pytest.fixture
def drawn(tmp_path, made_up_table, made_up_scores):
    """A function from a space's text to the space with table, scores, and its priced members, or a
    rejected example."""

    def make(text, seed, ties=False, refuses=False, levels=0):
        path = tmp_path / "drawn.yaml"
        path.write_text(text)
        try:
            space = load_space(str(path))
        except InputError:
            assume(False)
        assume(space.count() <= 300)
        space = space.with_head(FPNHead(5, width=8, levels=levels)) if levels else space
        table = made_up_table(space, seed)
        scores = made_up_scores(space, seed)
        table, scores = coarse(table, scores, seed) if ties else (table, scores)
        table = refusing(table, seed) if refuses else table
        return space, table, scores, priced(space, table, scores)

    return make


def quantile(values, share):
    return sorted(values)[round(share * (len(values) - 1))]


DRAWN = settings(max_examples=25, suppress_health_check=list(HealthCheck))


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    ties=st.booleans(),
    refuses=st.booleans(),
    levels=st.integers(0, 4),
)
@DRAWN
def test_equal_to_brute_force(drawn, text, seed, share, ties, refuses, levels):
    space, table, scores, members = drawn(text, seed, ties, refuses, levels)
    if not members:
        with pytest.raises(InputError, match="can run no member"):
            search(space, table, scores, 1.0, "exact")
        return
    target = quantile([ms for ms, _, _ in members], share)
    problem = pose(space, table, scores, target, "exact")
    found = solve(problem)
    assert found.ms <= target
    assert found.cost == pytest.approx(
        min(cost for ms, cost, _ in members if ms <= target), abs=1e-9
    )
    assert found.ms <= min(ms for ms, cost, _ in members if cost <= found.cost + 1e-12) + 1e-9
    assert (found.ms, found.cost) == (
        table.total_ms(found.architecture),
        scores.cost(found.architecture),
    )
    space.validate(found.architecture)
    points = [(point.ms, point.cost) for point in front(problem)]
    assert points == [
        pytest.approx(point, abs=1e-8) for point in pareto([(ms, cost) for ms, cost, _ in members])
    ]


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.none() | st.floats(0, 1),
    shares=st.dictionaries(st.sampled_from(list(AMOUNTS)), st.floats(0, 1), min_size=1),
    ties=st.booleans(),
    levels=st.integers(0, 4),
)
@DRAWN
def test_with_further_limits_equal_to_brute_force(drawn, text, seed, share, shares, ties, levels):
    space, table, scores, members = drawn(text, seed, ties, levels=levels)
    limits = {
        name: quantile([AMOUNTS[name](arch) for _, _, arch in members], of)
        for name, of in shares.items()
    }
    target = None if share is None else quantile([ms for ms, _, _ in members], share)
    within = [
        (ms, cost)
        for ms, cost, arch in members
        if all(AMOUNTS[name](arch) <= most for name, most in limits.items())
    ]
    costs = [cost for ms, cost in within if target is None or ms <= target]
    if not costs:
        with pytest.raises(InputError, match=r"keeps .* together|cannot be reached within"):
            search(space, table, scores, target, "exact", limits=limits)
        return
    found = search(space, table, scores, target, "exact", limits=limits)
    assert found.cost == pytest.approx(min(costs), abs=1e-9)
    assert target is None or found.ms <= target
    assert all(AMOUNTS[name](found.architecture) <= most for name, most in limits.items())
    points = [
        (point.ms, point.cost)
        for point in front(pose(space, table, scores, target, "exact", limits=limits))
    ]
    assert points == [pytest.approx(point, abs=1e-8) for point in pareto(within)]


@pytest.fixture
def drawn_stages(tmp_path, made_up_table, made_up_stage_scores):
    """As `drawn`, with scores that price whole stages."""

    def make(text, seed, **more):
        path = tmp_path / "drawn.yaml"
        path.write_text(text)
        try:
            space = load_space(str(path))
        except InputError:
            assume(False)
        assume(space.count() <= 300)
        table = made_up_table(space, seed)
        scores = made_up_stage_scores(space, seed, **more)
        members = [
            (table.total_ms(arch), scores.cautious().cost(arch), arch)
            for arch in every_member(space)
        ]
        return space, table, scores, members

    return make


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    positional=st.booleans(),
    digits=st.sampled_from([1, 6]),
)
@DRAWN
def test_costs_of_stages_equal_to_brute_force(drawn_stages, text, seed, share, positional, digits):
    space, table, scores, members = drawn_stages(text, seed, positional=positional, digits=digits)
    target = quantile([ms for ms, _, _ in members], share)
    problem = pose(space, table, scores, target)
    assert problem.engine == "exact"
    found = solve(problem)
    cost = scores.cautious().cost(found.architecture)
    assert found.ms <= target
    assert cost == pytest.approx(min(cost for ms, cost, _ in members if ms <= target), abs=1e-9)
    assert found.ms <= min(ms for ms, other, _ in members if other <= cost + 1e-10) + 1e-9
    assert (found.ms, found.cost) == (
        table.total_ms(found.architecture),
        scores.cost(found.architecture),
    )
    assert found.accuracy == scores.accuracy(found.architecture)
    space.validate(found.architecture)
    points = [(point.ms, scores.cautious().cost(point.architecture)) for point in front(problem)]
    assert points == [
        pytest.approx(point, abs=1e-8) for point in pareto([(ms, cost) for ms, cost, _ in members])
    ]


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.none() | st.floats(0, 1),
    shares=st.dictionaries(st.sampled_from(list(AMOUNTS)), st.floats(0, 1), min_size=1),
    positional=st.booleans(),
)
@DRAWN
def test_costs_of_stages_with_further_limits_equal_to_brute_force(
    drawn_stages, text, seed, share, shares, positional
):
    space, table, scores, members = drawn_stages(text, seed, positional=positional)
    limits = {
        name: quantile([AMOUNTS[name](arch) for _, _, arch in members], of)
        for name, of in shares.items()
    }
    target = None if share is None else quantile([ms for ms, _, _ in members], share)
    within = [
        (ms, cost)
        for ms, cost, arch in members
        if all(AMOUNTS[name](arch) <= most for name, most in limits.items())
    ]
    costs = [cost for ms, cost in within if target is None or ms <= target]
    if not costs:
        with pytest.raises(InputError, match=r"keeps .* together|cannot be reached within"):
            search(space, table, scores, target, limits=limits)
        return
    found = search(space, table, scores, target, limits=limits)
    assert scores.cautious().cost(found.architecture) == pytest.approx(min(costs), abs=1e-9)
    assert target is None or found.ms <= target
    assert all(AMOUNTS[name](found.architecture) <= most for name, most in limits.items())
    problem = pose(space, table, scores, target, limits=limits)
    points = [(point.ms, scores.cautious().cost(point.architecture)) for point in front(problem)]
    assert points == [pytest.approx(point, abs=1e-8) for point in pareto(within)]


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    positional=st.booleans(),
    params=st.none() | st.floats(0, 1),
)
@DRAWN
def test_the_fastest_that_keeps_an_accuracy_equal_to_brute_force(
    drawn_stages, text, seed, share, positional, params
):
    space, table, scores, members = drawn_stages(text, seed, positional=positional)
    drop = max(quantile([cost for _, cost, _ in members], share), 0.0)
    limits = {}
    if params is not None:
        limits["params"] = quantile([arch.params for _, _, arch in members], params)
        members = [each for each in members if each[2].params <= limits["params"]]
    within = [ms for ms, cost, _ in members if cost <= drop + 1e-9]
    level = scores.accuracy(space.largest()).value
    for asked in ({"max_drop": drop}, {"min_accuracy": level - drop}):
        if not within:
            message = r"cannot be reached: the most accurate member of space 'drawn' within"
            with pytest.raises(InputError, match=message):
                search(space, table, scores, limits=limits, **asked)
            continue
        found = search(space, table, scores, limits=limits, **asked)
        assert found.ms == pytest.approx(min(within), abs=1e-9)
        assert scores.cautious().cost(found.architecture) <= drop + 1e-8
        space.validate(found.architecture)


@given(
    text=space_texts(),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    error=st.sampled_from([0.04, 1.0]),
)
@DRAWN
def test_of_members_that_tie_the_fastest_is_found(drawn_stages, text, seed, share, error):
    space, table, scores, members = drawn_stages(text, seed, error=error, digits=2)
    target = quantile([ms for ms, _, _ in members], share)
    within = [each for each in members if each[0] <= target]
    least = min(cost for _, cost, _ in within)
    known = [replace(arch.compact(), name="") for arch in scores.known]
    most = min(
        (scores.cost(arch) for _, _, arch in within if arch.compact() in known), default=99.0
    )
    ties = [
        ms
        for ms, cost, arch in within
        if cost - least <= min(error, TIE) + 1e-12 and scores.cost(arch) <= most + 1e-9
    ]
    found = search(space, table, scores, target)
    assert found.ms == pytest.approx(min(ties), abs=1e-9)
    assert scores.cost(found.architecture) <= most + 1e-9


def test_the_trace_turns_the_largest_member_into_what_was_found(
    choices_space, stem_space, made_up_table, made_up_scores
):
    for space in (choices_space("stage_suffix"), stem_space()):
        table = made_up_table(space)
        scores = made_up_scores(space, 3)
        seen = []
        target = (fastest(space, table)[0] + table.total_ms(space.largest())) / 2
        found = search(space, table, scores, target, "exact", on_step=seen.append)
        arch = space.largest()
        for step in found.trace:
            before = arch
            arch = step.move.apply(arch)
            assert step.ms == table.total_ms(arch) and step.total_cost == scores.cost(arch)
            assert step.saved_ms == pytest.approx(table.total_ms(before) - step.ms)
        assert arch.stages == found.architecture.stages and arch.head == found.architecture.head
        assert arch.stem == found.architecture.stem and tuple(seen) == found.trace


def test_limits_that_contradict_each_other_are_told_with_what_can_be_had(
    small_space, made_up_table, made_up_scores
):
    space = small_space()
    table = made_up_table(space, 1)
    scores = made_up_scores(space)
    members = list(space.enumerate())
    fewest = min(arch.params for arch in members)
    least = min(table.total_ms(arch) for arch in members if arch.params == fewest)
    with pytest.raises(
        InputError,
        match=rf"cannot be reached within .* M parameters: .* takes {rounded(least, up=True)} ms",
    ):
        search(space, table, scores, least - 1e-3, "exact", limits={"params": fewest})
    assert (
        search(space, table, scores, least, "exact", limits={"params": fewest}).architecture.params
        == fewest
    )
    for name, amount in AMOUNTS.items():
        smallest = min(map(amount, members))
        with pytest.raises(
            InputError, match=r"cannot be reached: the member of space 'small' with the least"
        ):
            search(space, table, scores, None, "exact", limits={name: smallest * 0.99})
    with pytest.raises(InputError, match="unknown limit 'parms', did you mean 'params'"):
        search(space, table, scores, None, "exact", limits={"parms": 1})
    with pytest.raises(InputError, match="macs nan: expected a positive number"):
        search(space, table, scores, None, "exact", limits={"macs": float("nan")})


def test_slimming_is_never_better(small_space, choices_space, made_up_table, made_up_scores):
    for space in (small_space(), choices_space()):
        table = made_up_table(space)
        least = fastest(space, table)[0]
        for seed in range(5):
            scores = made_up_scores(space, seed)
            target = table.total_ms(space.largest()) * 0.5 + least / 2
            best = search(space, table, scores, target, "exact")
            assert best.cost <= search(space, table, scores, target, "slimming").cost + 1e-9


def test_a_full_space_with_scores_that_do_not_tie(made_up_scores):
    """Random scores tie nowhere, so that fronts are long; every shipped space must stay solvable."""
    space = load_space("efficientformer")
    table = load_table("iphone12")
    problem = pose(space, table, made_up_scores(space), engine="exact")
    found = solve(problem)
    points = front(problem)
    assert (found.ms, found.cost) == max(
        (p.ms, p.cost) for p in points if p.ms <= problem.target_ms
    )


@pytest.mark.parametrize("device", table_names())
def test_the_fastest_member_is_found_at_its_own_latency(device):
    """Tables round what they predict; a target of microseconds beyond the call feels it."""
    space = load_space("efficientformer_small")
    table = load_table(device)
    for sized in (space, space.at((64, 64)), space.at((64, 64)).with_head(FPNHead(4))):
        try:
            least, member = fastest(sized, table)
        except MissingRows:
            assert table.device.estimate is None  # nothing to price with
            continue
        found = search(sized, table, load_scores("efficientformer_small"), least)
        assert found.ms == least == table.total_ms(member)
