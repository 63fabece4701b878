"""Scores add up over moves, place compact architectures, and refuse files that are wrong or of
another space."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.accuracy import MeasuredWith, RecordedScores
from nas.accuracy.hidden_widths import FEW, expansion, family
from nas.accuracy.recorded_file import weights_digest
from nas.accuracy.single_moves import choice_text, variants, wanted_keys
from nas.blocks import MB4D, Identity
from nas.errors import InputError
from nas.search import Drop, Exchange, Localise, Narrow, Score, load_scores, moves
from nas.space import load_space, space_names
from nas.space.moves import narrow


@pytest.fixture
def space(small_space):
    return small_space()


@pytest.fixture
def scores(space, made_up_scores):
    return made_up_scores(space)


def cost_of(scores, move, place, choice=""):
    return next(row.cost for row in scores.rows if row.key == (move, place, choice))


def key_of(move):
    """The row that says what a move costs."""
    if isinstance(move, Exchange):
        return "exchange", str(move.place), f"{move.block.kind}({move.block})"
    if isinstance(move, Narrow):
        return "narrow", f"stage{move.stage + 1}", str(move.width)
    return (
        {Drop: "drop", Localise: "localise"}[type(move)],
        f"stage{move.stage + 1}_block{move.position + 1}",
        "",
    )


def test_the_largest_member_costs_nothing_and_a_single_move_its_row(space, scores):
    largest = space.largest()
    assert scores.cost(largest) == 0
    for move in moves(space, largest):
        assert scores.cost(move.apply(largest)) == pytest.approx(cost_of(scores, *key_of(move)))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cost_is_the_sum_over_what_differs_from_the_largest_member(space, scores, seed):
    arch = space.sample(seed)
    expected = 0.0
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True), start=1):
        if stage.width < choice.widths[-1]:
            expected += cost_of(scores, "narrow", f"stage{index}", str(stage.width))
        for position, block in enumerate(stage.blocks, start=1):
            if choice.kind(block) == "identity":
                expected += cost_of(scores, "drop", f"stage{index}_block{position}")
            elif choice.kind(block) == "local" and choice.global_:
                expected += cost_of(scores, "localise", f"stage{index}_block{position}")
    assert scores.cost(arch) == pytest.approx(expected)


def test_an_attention_block_made_local_and_then_dropped_counts_as_dropped_only(space, scores):
    largest = space.largest()
    both = Drop(2, 0).apply(Localise(2, 0, space.stages[2].local[0]).apply(largest))
    assert scores.cost(both) == scores.cost(Drop(2, 0).apply(largest))


def test_an_architecture_without_dropped_positions_is_placed_as_the_space_places_it(space, scores):
    for arch in space.published.values():
        assert scores.cost(arch) == scores.cost(space.place(arch))


def test_widths_between_measured_ones_are_interpolated(space, scores):
    rows = [row for row in scores.rows if row.key[:2] != ("narrow", "stage4")]
    sparse = replace(scores, rows=(*rows, Score("narrow", "stage4", 4.0, "32")))
    sparse.check(space)
    assert sparse.cost(Narrow(3, 40).apply(space.largest())) == pytest.approx(2.0)
    assert sparse.cost(Narrow(3, 32).apply(space.largest())) == pytest.approx(4.0)


def test_importance_is_that_of_the_drop_row(scores):
    assert scores.importance(2, 1) == next(
        r.importance for r in scores.rows if r.key == ("drop", "stage3_block2", "")
    )
    bare = replace(scores, rows=tuple(replace(row, importance=None) for row in scores.rows))
    with pytest.raises(InputError, match="stage3_block2 has no importance"):
        bare.importance(2, 1)


def test_scores_survive_a_file(scores, tmp_path):
    scores.save(tmp_path / "there")
    loaded = load_scores(tmp_path / "there")
    assert (loaded.rows, loaded.notes) == (scores.rows, scores.notes)
    assert (loaded.baseline_accuracy, loaded.images, loaded.supernet) == (
        scores.baseline_accuracy,
        scores.images,
        None,
    )
    assert (
        loaded.scored.to_dict() == scores.scored.to_dict()
        and loaded.scored.stages == scores.scored.stages
    )
    assert load_scores(tmp_path / "there" / "scores.csv") == loaded
    assert loaded.provenance == "made up for a test; seed 0"


def test_scores_are_found_by_the_name_of_their_space(workplace):
    assert load_scores("small").cost(workplace.space.largest()) == 0


def test_scores_that_are_not_there_are_an_error_with_the_way_to_make_them(workplace):
    with pytest.raises(InputError, match="did you mean 'small'"):
        load_scores("smal")
    workplace.scores_file.unlink()
    with pytest.raises(InputError, match=r"scores: unknown scores 'small-toy'"):
        load_scores("small")
    with pytest.raises(InputError, match=r"nowhere/scores\.csv: there are no scores"):
        load_scores("nowhere/scores.csv")


def test_scores_of_another_space_are_refused(space, scores, small_space):
    with pytest.raises(InputError, match="scores of space 'other', not of 'small'"):
        replace(scores, scored=replace(space, name="other")).check(space)
    wider = replace(space.stages[1], widths=(16, 24, 32))
    with pytest.raises(
        InputError,
        match=r"another space 'small': stage 2 has widths \(16, 24, 32\) there and \(16, 24\)",
    ):
        replace(
            scores, scored=replace(space, stages=(space.stages[0], wider, *space.stages[2:]))
        ).check(space)
    with pytest.raises(InputError, match="3 stages were scored"):
        replace(scores, scored=replace(space, stages=space.stages[:3])).cost(space.largest())


@pytest.mark.parametrize(
    ("move", "place", "choice"),
    [("drop", "stage3_block2", ""), ("localise", "stage4_block1", ""), ("narrow", "stage4", "32")],
)
def test_a_missing_row_is_named(space, scores, move, place, choice):
    less = replace(
        scores, rows=tuple(row for row in scores.rows if row.key != (move, place, choice))
    )
    with pytest.raises(
        InputError, match=f"no row for move '{move}', {place}{choice and ', '}{choice}$"
    ):
        less.check(space)


def test_an_architecture_of_another_space_has_no_cost(space, scores):
    foreign = space.largest().with_stage(0, space.largest().stages[0].with_width(4))
    with pytest.raises(InputError, match="stage 1: width 4 is not one of"):
        scores.cost(foreign)
    foreign = space.largest().with_stage(
        0, space.largest().stages[0].with_block(0, space.stages[2].global_[0])
    )
    with pytest.raises(InputError, match="stage1_block1: mb3d"):
        scores.cost(foreign)


ROW = "drop,stage1_block1,,1.0,,,0.5,"
BAD_CSV = [
    (ROW, "drop,stage1_block1,,1.0,,,nan,", r":2: cost: 'nan' is not a finite number"),
    (ROW, "drop,stage1_block1,,inf,,,0.5,", r":2: importance: 'inf' is not a finite number"),
    (ROW, "drop,stage1_block1,,1.0,,,,", r":2: cost: '' is not a finite number"),
    (
        ROW,
        "drop,stage1_block9,,1.0,,,0.5,",
        r":2: place: the scored space has no move 'drop' at stage1_block9$",
    ),
    (
        ROW,
        "drop,stage1_blockx,,1.0,,,0.5,",
        r":2: place: the scored space has no move 'drop' at stage1_blockx$",
    ),
    (
        ROW,
        "drop,stage7_block1,,1.0,,,0.5,",
        r":2: place: the scored space has no move 'drop' at stage7_block1$",
    ),
    (
        ROW,
        "drop,stage1_block1,8,1.0,,,0.5,",
        r":2: place: the scored space has no move 'drop' at stage1_block1, 8$",
    ),
    (
        ROW,
        "lose,stage1_block1,,1.0,,,0.5,",
        r":2: move: 'lose' is not one of drop, narrow, localise, exchange$",
    ),
    (
        ROW,
        "localise,stage1_block1,,1.0,,,0.5,",
        r":2: place: .* no move 'localise' at stage1_block1$",
    ),
    (ROW, "exchange,head,mb4d(),,,,0.5,", r":2: place: .* no move 'exchange' at head, mb4d\(\)$"),
    (ROW, "narrow,stage1,9,,,,0.5,", r":2: choice: '9' is not a width of stage1"),
    (ROW, "narrow,stage1,,,,,0.5,", r":2: choice: '' is not a width of stage1"),
    (
        ROW,
        "narrow,stage9,8,,,,0.5,",
        r":2: place: 'stage9' is not one of stage1, stage2, stage3, stage4",
    ),
    (ROW, "narrow,stage1,16,,,,0.5,", r":2: cost: 0.5 for the largest width"),
    (ROW, "drop,stage1_block1,,1.0,,,0.5", r":2: has 7 values \(expected 8, as the header\)"),
    (ROW, ROW + "\n" + ROW.replace("0.5", "0.6"), r":3: this move duplicates line 2\."),
    (ROW, '"drop,stage1', r":2: malformed CSV"),
    (",cost,", ",price,", r":1: column 'cost' is missing"),
    (ROW, "drop,stage1_block1,,1.0,nan,,0.5,", r":2: accuracy_drop: 'nan' is not a finite number"),
    (
        ROW,
        "drop,stage1_block1,,1.0,1.0,inf,0.5,",
        r":2: standard_error: 'inf' is not a finite number",
    ),
    (ROW, "drop,stage1_block1,,1.0,1.0,-0.1,0.5,", r":2: standard_error: -0.1 is negative"),
    (
        ROW,
        "drop,stage1_block1,,1.0,1.0,0.1,0.5,-inf",
        r":2: loss_increase: '-inf' is not a finite number",
    ),
]


@pytest.mark.parametrize(("good", "bad", "reason"), BAD_CSV)
def test_a_bad_csv_is_refused_by_line_and_column(scores, tmp_path, good, bad, reason):
    scores.save(tmp_path)
    text = ",".join(HEADER) + f"\n{ROW}\n"
    (tmp_path / "scores.csv").write_text(text)
    assert load_scores(tmp_path).rows == (Score("drop", "stage1_block1", 0.5, importance=1.0),)
    (tmp_path / "scores.csv").write_text(text.replace(good, bad))
    with pytest.raises(InputError, match=r"scores\.csv" + reason) as error:
        load_scores(tmp_path)
    assert "\n" not in str(error.value)


HEADER = (
    "move",
    "place",
    "choice",
    "importance",
    "accuracy_drop",
    "standard_error",
    "cost",
    "loss_increase",
)

BAD_YAML = [
    ("format: nas-scores-2", "format: nas-scores-9", r"scores\.yaml:1: format"),
    (
        "depth: {min: 1, max: 3}",
        "depth: {min: 1, max: -3}",
        r"scores\.yaml:\d+: space\.stages\[2\]\.depth\.max",
    ),
    ("depth: {min: 1, max: 3}", "depth: {min: 1, max: [3}", r"scores\.yaml:\d+: malformed YAML"),
    (
        "kind: mb3d",
        "kind: mb5d",
        (
            r"scores\.yaml:\d+: space\.stages\[2\]\.global\[0\]: unknown block kind 'mb5d', did you"
            r" mean 'mb4d'"
        ),
    ),
    ("space:\n", "place:\n", r"scores\.yaml:1: space: is missing"),
    ("name: small", "nome: small", r"scores\.yaml:\d+: space\.n.me: (is missing|unknown key)"),
    (
        "width: [8, 16]",
        "width: [8, x]",
        r"scores\.yaml:\d+: space\.stages\[0\]\.width\[1\]: Input should be a valid int",
    ),
    (
        "metric: top1",
        "metric: map50",
        r"scores\.yaml:\d+: metric: Input should be 'top1' or 'miou'",
    ),
    (
        "baseline_accuracy: 90.0",
        "baseline_accuracy: .nan",
        r"scores\.yaml:\d+: baseline_accuracy: ",
    ),
    (
        "baseline_accuracy: 90.0",
        "baseline_accuracy: .inf",
        r"scores\.yaml:\d+: baseline_accuracy: ",
    ),
    (
        "baseline_accuracy: 90.0",
        "baseline_accuracy: 900.0",
        r"scores\.yaml:\d+: baseline_accuracy: ",
    ),
    ("images: 5000", "images: 0", r"scores\.yaml:\d+: images: Input should be greater than 0"),
    (
        "images: 5000",
        "measured_with: {weights: abc}",
        r"scores\.yaml:\d+: measured_with\.data: is missing",
    ),
    (
        "width: [8, 16]",
        "width: [7, 16]",
        r"scores\.yaml:\d+: space\.stages\[0\]\.width: conv_stem: width 7 must be",
    ),
]


@pytest.mark.parametrize(("good", "bad", "reason"), BAD_YAML)
def test_a_bad_yaml_is_refused_by_line_and_key(scores, tmp_path, good, bad, reason):
    scores.save(tmp_path)
    text = (tmp_path / "scores.yaml").read_text()
    assert good in text
    (tmp_path / "scores.yaml").write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError, match=reason) as error:
        load_scores(tmp_path)
    assert "\n" not in str(error.value)


WITH = MeasuredWith(
    weights="a" * 64,
    data="fingerprint",
    images=50,
    calibration_images=40,
    widths=8,
    precision="fp32",
    date="2026-11-29",
)


def test_what_scores_were_measured_with_survives_a_file(scores, tmp_path):
    row = replace(scores.rows[0], accuracy_drop=1.5, standard_error=0.25, lost=5, gained=2)
    whole = replace(
        scores, rows=(row, *scores.rows[1:]), metric="miou", data="digits", measured_with=WITH
    )
    whole.save(tmp_path)
    loaded = load_scores(tmp_path)
    assert loaded.rows == whole.rows
    assert (loaded.metric, loaded.data, loaded.measured_with) == ("miou", "digits", WITH)
    text = (tmp_path / "scores.csv").read_text().replace(",5,2\n", ",5,-2\n", 1)
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(
        InputError, match=r"scores\.csv:2: gained: '-2' is not a whole number of images"
    ):
        load_scores(tmp_path)


def test_a_recorded_standard_error_of_0_becomes_what_the_images_allow_to_know(scores, tmp_path):
    row = replace(scores.rows[0], accuracy_drop=0.0, standard_error=0.0)
    replace(scores, rows=(row, *scores.rows[1:]), images=48).save(tmp_path)
    assert load_scores(tmp_path).rows[0].standard_error == 2.0, "100 / (48 + 2)"


def test_scores_of_replaced_weights_are_refused_with_the_command_that_scores_anew(scores, tmp_path):
    weights = tmp_path / "supernet.safetensors"
    weights.write_bytes(b"first")
    replace(scores, measured_with=replace(WITH, weights=weights_digest(weights))).save(tmp_path)
    load_scores(tmp_path)
    weights.write_bytes(b"other")
    reason = (
        r"scores\.yaml:\d+: measured_with\.weights: the scores were measured on other weights than"
        r" those in "
        r".*supernet\.safetensors\. Fix: "
    )
    with pytest.raises(InputError, match=reason + r"nas train --space small --out ") as error:
        load_scores(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "supernet.yaml").write_text("command: nas train --space small --data photos\n")
    with pytest.raises(InputError, match=reason + r"nas train --space small --data photos$"):
        load_scores(tmp_path / "scores.csv")
    load_scores(tmp_path, check_weights=False)
    weights.unlink()
    load_scores(tmp_path)


def test_scores_of_another_metric_or_data_set_are_refused_by_name(space, scores):
    scores.check_evidence()
    scores.check_evidence(data="other")  # nothing is known of the data of these
    with pytest.raises(InputError, match="metric: scores of metric 'top1', expected 'miou'"):
        scores.check_evidence(metric="miou")
    with pytest.raises(InputError, match="metric: scores of metric 'miou', expected 'top1'"):
        replace(scores, metric="miou").check(space)
    known = replace(scores, data="digits", measured_with=WITH)
    known.check_evidence(data="fingerprint")
    with pytest.raises(
        InputError,
        match=r"data: scores of other images \(digits\), expected photos\. Fix: nas train",
    ):
        known.check_evidence(data="other", named="photos")


def test_shipped_scores_load_and_every_standard_error_is_above_0():
    for path in sorted(Path("experiments").glob("*-cifar10")):
        shipped = load_scores(path)
        assert shipped.metric == "top1" and shipped.measured_with is None
        assert all(row.standard_error > 0 for row in shipped.rows if row.standard_error is not None)


def test_scores_made_from_a_space_know_it(space):
    scores = RecordedScores(space.at(96, 7), (), ("note",), images=10)
    assert (scores.space, scores.scored.classes, scores.scored.resolution, scores.images) == (
        "small",
        7,
        (96, 96),
        10,
    )


PLACEMENTS = ["network_suffix", "stage_suffix"]


@pytest.mark.parametrize("attention", PLACEMENTS)
def test_with_choices_the_largest_member_costs_nothing_and_a_single_move_its_row(
    choices_space, made_up_scores, attention
):
    space = choices_space(attention)
    scores = made_up_scores(space)
    largest = space.largest()
    scores.check(space)
    assert scores.cost(largest) == 0
    options = moves(space, largest)
    assert {move.action for move in options} == {"DR", "WR", "MR", "ER", "AR", "BR"}
    for move in options:
        assert scores.cost(move.apply(largest)) == pytest.approx(cost_of(scores, *key_of(move))), (
            move
        )


def plain_cost(space, scores, arch):
    """The sum of the rows of everything in which a member differs from the largest one, whose
    blocks fit all widths.

    A candidate that does not fit the largest width was not measured, and counts as the one most
    like it that does.
    """
    total = 0.0
    largest = space.largest()
    for index, place in enumerate(("stem", "stage2_entry", "stage3_entry", "stage4_entry")):
        entry = replace(arch.stages[index].entry, width=space.stages[index].widths[-1])
        if entry != largest.stages[index].entry:
            total += cost_of(scores, "exchange", place, choice_text(entry))
    if arch.head != largest.head:
        total += cost_of(scores, "exchange", "head", choice_text(arch.head))
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True)):
        if stage.width < choice.widths[-1]:
            total += cost_of(scores, "narrow", f"stage{index + 1}", str(stage.width))
        for position, block in enumerate(stage.blocks):
            place = f"stage{index + 1}_block{position + 1}"
            best = largest.stages[index].blocks[position]
            if isinstance(block, Identity):
                total += cost_of(scores, "drop", place)
                continue
            if block in choice.local and choice.global_:
                total += cost_of(scores, "localise", place)
                best = BECOMES[index]
            if block != best and getattr(block, "head_dim", 0) != 12:
                total += cost_of(scores, "exchange", place, choice_text(block))
    return total


BECOMES = {2: MB4D(expansion=2), 3: MB4D(expansion=2)}
"""What an attention block of a stage becomes: of equally like candidates the one that is listed
first."""


@pytest.mark.parametrize("attention", PLACEMENTS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_choices_cost_is_the_sum_over_what_differs(
    choices_space, made_up_scores, attention, seed
):
    space = choices_space(attention)
    scores = made_up_scores(space)
    arch = space.sample(seed)
    assert scores.cost(arch) == pytest.approx(plain_cost(space, scores, arch))
    assert scores.cost(space.place(arch.compact())) == scores.cost(arch.compact())


def test_a_candidate_that_stands_in_at_a_narrow_width_costs_nothing(choices_space, made_up_scores):
    """Heads of 16 channels are the largest member's here, and fit 32 channels but not 24."""
    space = choices_space("network_suffix", ("head_dim: [8, 12, 16]", "head_dim: [16, 12]"))
    scores = made_up_scores(space)
    largest = space.largest()
    move = narrow(space, largest, 2, 24)
    assert [(a.head_dim, b.head_dim) for a, b in move.instead] == [(16, 12)]
    assert scores.cost(move.apply(largest)) == pytest.approx(
        cost_of(scores, "narrow", "stage3", "24")
    )


@pytest.mark.parametrize("attention", PLACEMENTS)
def test_with_choices_scores_survive_a_file(choices_space, made_up_scores, attention, tmp_path):
    space = choices_space(attention)
    scores = made_up_scores(space)
    scores.save(tmp_path)
    loaded = load_scores(tmp_path)
    assert loaded.rows == scores.rows and loaded.scored.to_dict() == space.to_dict()
    loaded.check(space)
    for seed in range(20):
        assert loaded.cost(space.sample(seed)) == scores.cost(space.sample(seed))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "scores.csv").read_bytes() == (
        tmp_path / "scores.csv"
    ).read_bytes()
    assert (tmp_path / "again" / "scores.yaml").read_bytes() == (
        tmp_path / "scores.yaml"
    ).read_bytes()


def test_wanted_rows_are_one_for_every_move_and_choice(choices_space):
    """By hand: drops, localised positions, candidates that fit the largest width but the free one,
    smallest widths."""
    keys = list(wanted_keys(choices_space()))
    assert len(set(keys)) == len(keys)
    count = {
        name: [key[1] for key in keys if key[0] == name]
        for name in ("drop", "localise", "narrow", "exchange")
    }
    assert len(count["drop"]) == 6, "stage 2 has one position, which none may leave out"
    assert len(count["localise"]) == 4 and len(count["narrow"]) == 4
    exchanged = {
        place: count["exchange"].count(place) for place in dict.fromkeys(count["exchange"])
    }
    assert exchanged == {
        "stem": 1,
        "stage1_block1": 3,
        "stage1_block2": 3,
        "stage2_entry": 2,
        "stage2_block1": 1,
        "stage3_block1": 2,
        "stage3_block2": 2,
        "stage4_block1": 2,
        "stage4_block2": 2,
        "head": 2,
    }


@pytest.mark.parametrize(
    ("place", "choice"),
    [
        ("stem", "conv_stem(width=16;activation=gelu)"),
        ("stage2_entry", "conv_embedding(width=24)"),
        ("stage1_block2", "mb4d(expansion=1;pool=3;activation=relu)"),
        ("head", "map_head(classes=10;norm=layer;distillation=false)"),
    ],
)
def test_a_missing_exchange_is_named(choices_space, made_up_scores, place, choice):
    space = choices_space()
    scores = made_up_scores(space)
    less = replace(
        scores, rows=tuple(row for row in scores.rows if row.key != ("exchange", place, choice))
    )
    assert len(less.rows) == len(scores.rows) - 1
    with pytest.raises(
        InputError, match=re.escape(f"no row for move 'exchange', {place}, {choice}")
    ):
        less.check(space)


MORE_LOCAL = ("mb4d, expansion: [1, 2]", "mb4d, expansion: [1, 2, 3]")
LESS_GLOBAL = ("head_dim: [8, 12, 16]", "head_dim: [8, 12]")
MORE_WIDTHS = ("width: [32, 48]", "width: [24, 32, 48]")
MORE_DEPTH = ("depth: {min: 1, max: 1}", "depth: {min: 1, max: 2}")


@pytest.mark.parametrize(
    ("scored", "searched", "reason"),
    [
        (
            (),
            (("conv_stem, activation: [relu, gelu]", "conv_stem, activation: [gelu, silu]"),),
            "stage 1 has entries",
        ),
        ((MORE_LOCAL,), (), "stage 1 has local"),
        ((), (LESS_GLOBAL,), "stage 3 has global"),
        ((MORE_WIDTHS,), (), "stage 4 has widths"),
        ((MORE_DEPTH,), (), "stage 2 has depths"),
    ],
)
def test_with_choices_scores_of_another_space_are_refused(
    choices_space, made_up_scores, scored, searched, reason
):
    scores = made_up_scores(choices_space("network_suffix", *scored))
    with pytest.raises(InputError, match=f"scores of another space 'choices': {reason}"):
        scores.check(choices_space("network_suffix", *searched))


@pytest.mark.parametrize(
    "change", [MORE_LOCAL, LESS_GLOBAL, MORE_WIDTHS, MORE_DEPTH], ids=lambda change: change[1]
)
def test_scores_of_a_part_of_the_choices_cover_that_part(choices_space, made_up_scores, change):
    """As those of a file that is older than some choices of its space."""
    grown = change != LESS_GLOBAL
    part = choices_space("network_suffix", *(() if grown else (change,)))
    whole = choices_space("network_suffix", *((change,) if grown else ()))
    scores = made_up_scores(part)
    scores.check(whole)
    covered = scores.covered(whole)
    assert covered.stages == part.stages and covered.largest() == part.largest()
    assert set(covered.published) == {
        n for n, arch in whole.published.items() if part.contains(arch)
    }
    assert scores.covered(part) is part
    for seed in range(20):
        assert isfinite(scores.cost(covered.sample(seed)))
    foreign = [arch for arch in map(whole.sample, range(60)) if not part.contains(arch)]
    assert foreign
    for arch in foreign:
        with pytest.raises(InputError):
            scores.cost(arch)


def test_with_choices_a_foreign_member_has_no_cost(choices_space, made_up_scores):
    space = choices_space()
    scores = made_up_scores(space)
    largest = space.largest()
    with pytest.raises(
        InputError, match=r"no row for move 'exchange', stem, conv_stem\(width=16;activation=silu\)"
    ):
        scores.cost(largest.with_block("stem", replace(largest.stages[0].entry, activation="silu")))
    with pytest.raises(
        InputError, match=r"stage1_block1: mb4d\(expansion=3.*\) is not a candidate here"
    ):
        scores.cost(largest.with_block("stage1_block1", MB4D(expansion=3)))


def test_input_size_classes_and_a_head_for_another_task_are_free(choices_space, made_up_scores):
    space = choices_space()
    scores = made_up_scores(space)
    for seed in range(10):
        arch = space.sample(seed)
        assert scores.cost(arch.at(96, 7)) == scores.cost(arch)
    scores.check(space.at(96, 7))


def expanding(count: int) -> tuple[str, str]:
    """Return a change of the space with choices that gives stage 1 some expansions."""
    return "expansion: [1, 2], activation", f"expansion: {list(range(1, count + 1))}, activation"


def test_expansions_are_scored_at_the_ends_and_interpolated(choices_space, made_up_scores):
    space = choices_space("network_suffix", expanding(6))
    scores = made_up_scores(space)
    place = "stage1_block1"
    rows = {row.choice: row.cost for row in scores.rows if row.key[:2] == ("exchange", place)}
    largest = space.largest()
    narrowest = replace(largest.stages[0].blocks[0], expansion=1)
    other = replace(narrowest, expansion=6, activation="relu")
    assert set(rows) == {choice_text(narrowest), choice_text(other)}
    costs = [
        scores.cost(largest.with_block(place, replace(narrowest, expansion=value)))
        for value in range(1, 7)
    ]
    assert costs[0] == pytest.approx(rows[choice_text(narrowest)])
    assert costs[-1] == pytest.approx(0)
    # Monotone between the two, and each halving costs the same.
    steps = [after - before for before, after in pairwise(costs)]
    assert all(step * (costs[-1] - costs[0]) > 0 for step in steps)
    assert costs[3] - costs[1] == pytest.approx(costs[1] - costs[0])
    assert costs[5] - costs[2] == pytest.approx(costs[1] - costs[0])
    # A hidden width costs the same with another activation.
    narrow_other = largest.with_block(place, replace(other, expansion=2))
    assert scores.cost(narrow_other) == pytest.approx(rows[choice_text(other)] + costs[1])


def test_a_row_of_every_expansion_counts_where_it_was_scored(choices_space, made_up_scores):
    """Files of versions that evaluated all of them."""
    space = choices_space("network_suffix", expanding(6))
    scores = made_up_scores(space)
    block = replace(space.largest().stages[0].blocks[0], expansion=3)
    row = Score("exchange", "stage1_block1", 0.7, choice_text(block))
    member = space.largest().with_block("stage1_block1", block)
    assert scores.cost(member) != pytest.approx(0.7)
    assert replace(scores, rows=(*scores.rows, row)).cost(member) == pytest.approx(0.7)


def test_few_expansions_are_scored_in_full(choices_space):
    space = choices_space("network_suffix", expanding(FEW))
    keys = [key for key in wanted_keys(space) if key[:2] == ("exchange", "stage1_block1")]
    assert len(keys) == 2 * FEW - 1, "two activations, and the largest member's block costs 0"


@pytest.mark.parametrize("name", space_names())
def test_scoring_takes_little_longer_than_with_one_expansion(name):
    space = load_space(name)
    single = [
        replace(
            stage,
            local=widest_of_each_family(stage.local),
            global_=widest_of_each_family(stage.global_),
        )
        for stage in space.stages
    ]
    more = len(variants(space, 8)) / len(variants(space.restricted(single), 8))
    families = [
        len([each for each in stage.local if family(each) == family(block)])
        for stage in space.stages
        for block in stage.local
    ]
    # Up to `FEW` expansions are scored in full.
    assert more <= (1.5 if max(families) > FEW else FEW)


def widest_of_each_family(blocks):
    """Return the block of the largest expansion of each family."""
    widest = {}
    for block in sorted(blocks, key=expansion):
        widest[family(block)] = block
    return tuple(block for block in blocks if block in widest.values())
