"""Scores add up over moves, place compact architectures, and refuse files that are wrong or of another space."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.errors import InputError
from nas.search import Drop, Localise, Narrow, Score, Scores, load_scores, moves


@pytest.fixture
def space(small_space):
    return small_space()


@pytest.fixture
def scores(space, made_up_scores):
    return made_up_scores(space)


def cost_of(scores, move, stage, place):
    return next(row.cost for row in scores.rows if row.key == (move, stage, place))


def test_the_largest_member_costs_nothing_and_a_single_move_its_row(space, scores):
    largest = space.largest()
    assert scores.cost(largest) == 0
    for move in moves(space, largest):
        name, place = {
            Drop: lambda m: ("drop", m.position + 1),
            Localise: lambda m: ("localise", m.position + 1),
            Narrow: lambda m: ("narrow", m.width),
        }[type(move)](move)
        assert scores.cost(move.apply(largest)) == pytest.approx(cost_of(scores, name, move.stage + 1, place))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cost_is_the_sum_over_what_differs_from_the_largest_member(space, scores, seed):
    arch, expected = space.sample(seed), 0.0
    for index, (choice, stage) in enumerate(zip(space.stages, arch.stages, strict=True), start=1):
        if stage.width < choice.widths[-1]:
            expected += cost_of(scores, "narrow", index, stage.width)
        for position, block in enumerate(stage.blocks, start=1):
            if choice.kind(block) == "identity":
                expected += cost_of(scores, "drop", index, position)
            elif choice.kind(block) == "local" and choice.global_:
                expected += cost_of(scores, "localise", index, position)
    assert scores.cost(arch) == pytest.approx(expected)


def test_an_attention_block_made_local_and_then_dropped_counts_as_dropped_only(space, scores):
    largest = space.largest()
    both = Drop(2, 0).apply(Localise(2, 0, space.stages[2].local).apply(largest))
    assert scores.cost(both) == scores.cost(Drop(2, 0).apply(largest))


def test_an_architecture_without_dropped_positions_is_placed_as_the_space_places_it(space, scores):
    for arch in space.published.values():
        assert scores.cost(arch) == scores.cost(space.place(arch))


def test_widths_between_measured_ones_are_interpolated(space, scores):
    rows = [row for row in scores.rows if row.move != "narrow" or row.stage != 4]
    sparse = replace(scores, rows=(*rows, Score("narrow", 4, 4.0, width=32)))
    sparse.check(space)
    assert sparse.cost(Narrow(3, 40).apply(space.largest())) == pytest.approx(2.0)
    assert sparse.cost(Narrow(3, 32).apply(space.largest())) == pytest.approx(4.0)


def test_importance_is_that_of_the_drop_row(scores):
    assert scores.importance(2, 1) == next(r.importance for r in scores.rows if r.key == ("drop", 3, 2))
    bare = replace(scores, rows=tuple(replace(row, importance=None) for row in scores.rows))
    with pytest.raises(InputError, match="stage 3 position 2 has no importance"):
        bare.importance(2, 1)


def test_scores_survive_a_file(scores, tmp_path):
    scores.save(tmp_path / "there")
    loaded = load_scores(tmp_path / "there")
    assert replace(loaded, path="") == scores
    assert load_scores(tmp_path / "there" / "scores.csv") == loaded
    assert loaded.provenance == "made up for a test; seed 0"


def test_scores_are_found_by_the_name_of_their_space(workplace):
    assert load_scores("small").cost(workplace.space.largest()) == 0


def test_scores_that_are_not_there_are_an_error_with_the_way_to_make_them(workplace):
    with pytest.raises(InputError, match="did you mean 'small'"):
        load_scores("smal")
    workplace.scores_file.unlink()
    with pytest.raises(InputError, match=r"'small-toy', which are not here; `nas train --space small`"):
        load_scores("small")
    with pytest.raises(InputError, match=r"nowhere/scores.*cannot be read"):
        load_scores("nowhere/scores.csv")


def test_scores_of_another_space_are_refused(space, scores, small_space):
    with pytest.raises(InputError, match="scores of space 'other', not of 'small'"):
        replace(scores, space="other").check(space)
    wider = replace(scores.stages[1], widths=(16, 24, 32))
    with pytest.raises(
        InputError, match=r"another space 'small': stage 2 has widths \(16, 24, 32\) there and \(16, 24\)"
    ):
        replace(scores, stages=(scores.stages[0], wider, *scores.stages[2:])).check(space)
    with pytest.raises(InputError, match="3 stages were scored"):
        replace(scores, stages=scores.stages[:3]).cost(space.largest())


@pytest.mark.parametrize(
    ("move", "stage", "place", "reason"),
    [("drop", 3, 2, "position 2"), ("localise", 4, 1, "position 1"), ("narrow", 4, 32, "width 32")],
)
def test_a_missing_row_is_named(space, scores, move, stage, place, reason):
    less = replace(scores, rows=tuple(row for row in scores.rows if row.key != (move, stage, place)))
    with pytest.raises(InputError, match=f"no row for move '{move}', stage {stage}, {reason}"):
        less.check(space)


def test_an_architecture_of_another_space_has_no_cost(space, scores):
    foreign = space.largest().with_stage(0, space.largest().stages[0].with_width(4))
    with pytest.raises(InputError, match="stage 1: width 4 is none"):
        scores.cost(foreign)
    foreign = space.largest().with_stage(0, space.largest().stages[0].with_block(0, space.stages[2].global_))
    with pytest.raises(InputError, match="stage 1: mb3d"):
        scores.cost(foreign)


BAD_CSV = [
    ("drop,1,1,,1.0,,,0.5,", "drop,1,1,,1.0,,,nan,", r":2: cost: 'nan' is no finite number"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,1,,inf,,,0.5,", r":2: importance: 'inf' is no finite number"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,1,,1.0,,,,", r":2: cost: '' is no finite number"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,9,,1.0,,,0.5,", r":2: position: 9 is outside 1\.\.2"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,x,,1.0,,,0.5,", r":2: position: 'x' is no whole number"),
    ("drop,1,1,,1.0,,,0.5,", "drop,7,1,,1.0,,,0.5,", r":2: stage: 7 is outside 1\.\.4"),
    ("drop,1,1,,1.0,,,0.5,", "lose,1,1,,1.0,,,0.5,", r":2: move: 'lose' is none of"),
    ("drop,1,1,,1.0,,,0.5,", "localise,1,1,,1.0,,,0.5,", r":2: move: stage 1 has no global block"),
    ("drop,1,1,,1.0,,,0.5,", "narrow,1,,9,,,,0.5,", r":2: width: 9 is no width of stage 1"),
    ("drop,1,1,,1.0,,,0.5,", "narrow,1,,16,,,,0.5,", r":2: cost: 0.5 for the largest width"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,1,,1.0,,,0.5", r":2: 8 fields, expected 9"),
    ("drop,1,1,,1.0,,,0.5,", "drop,1,1,,1.0,,,0.5,\ndrop,1,1,,1.0,,,0.6,", r":3: this move stands twice"),
    ("drop,1,1,,1.0,,,0.5,", '"drop,1,1', r":2: malformed CSV"),
    (",cost,", ",price,", r":1: column 'cost' is missing"),
]


@pytest.mark.parametrize(("good", "bad", "reason"), BAD_CSV)
def test_a_bad_csv_is_refused_by_line_and_column(scores, tmp_path, good, bad, reason):
    scores.save(tmp_path)
    text = ",".join(HEADER) + "\ndrop,1,1,,1.0,,,0.5,\n"
    (tmp_path / "scores.csv").write_text(text)
    assert load_scores(tmp_path).rows == (Score("drop", 1, 0.5, 1, importance=1.0),)
    (tmp_path / "scores.csv").write_text(text.replace(good, bad))
    with pytest.raises(InputError, match=r"scores\.csv" + reason) as error:
        load_scores(tmp_path)
    assert "\n" not in str(error.value)


HEADER = (
    "move",
    "stage",
    "position",
    "width",
    "importance",
    "accuracy_drop",
    "standard_error",
    "cost",
    "loss_increase",
)

BAD_YAML = [
    ("format: nas-scores-1", "format: nas-scores-9", r"scores\.yaml:1: format"),
    ("depth: 3", "depth: -3", r"scores\.yaml:\d+: stages\[2\]\.depth"),
    ("depth: 3", "depth: [3", r"scores\.yaml:\d+: malformed YAML"),
    (
        "kind: mb3d",
        "kind: mb5d",
        r"scores\.yaml:\d+: stages\[2\]\.global: unknown block kind 'mb5d', did you mean 'mb4d'",
    ),
    ("space: small", "", r"scores\.yaml:1: space: is missing"),
    ("widths: [8, 16]", "widths: [16, 8]", r"scores\.yaml:\d+: stages\[0\]\.widths: widths must ascend"),
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


def test_scores_made_from_a_space_know_it(space):
    scores = Scores.of(space.at(96, 7), [], ["note"], images=10)
    assert (scores.space, scores.classes, scores.resolution, scores.images) == ("small", 7, (96, 96), 10)
