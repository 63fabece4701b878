"""The network as boxes and a training's alpha as cells: what a picture of them must not get wrong."""

from __future__ import annotations

from math import log2

import pytest

from nas.blocks import Identity
from nas.errors import InputError
from nas.report.alpha import COLUMNS, alpha_figures, position_label, read_alpha
from nas.report.breakdown import operations
from nas.report.diagram import COLUMN, HIGHEST, drawing


@pytest.fixture
def dropped(small_space):
    """A network with attention at its end, whose stage 3 lost its second position."""
    arch = small_space().largest()
    return arch.with_stage(2, arch.stages[2].with_block(1, Identity()))


def test_boxes_stand_in_the_order_of_the_network_with_gaps_where_blocks_were_dropped(dropped):
    attention = (0, 0, 2, 2)
    data = drawing(dropped, operations(dropped, attention))
    third = [(box.name, box.role) for box in data.stages[2].boxes if box.role != "reshape"]
    assert third == [
        ("stage3_entry", "entry"),
        ("stage3_block1", "global"),
        ("stage3_block2", None),
        ("stage3_block3", "global"),
    ]
    assert data.stages[0].boxes[0].name == "stem" and data.stages[3].boxes[-1].name == "head"
    names = [box.name for stage in data.stages for box in stage.boxes if box.role]
    assert names == [operation.name for operation in dropped.operations()]
    assert data.dropped == 1 and "2 of 3 blocks" in data.stages[2].about


def test_boxes_are_as_high_as_their_stage_is_wide_and_do_not_overlap(dropped):
    data = drawing(dropped, operations(dropped, (0, 0, 2, 2)))
    heights = [stage.boxes[0].height for stage in data.stages]
    assert heights == sorted(heights) and heights[-1] == HIGHEST
    for stage in data.stages:
        assert [box.x for box in stage.boxes] == [COLUMN * i for i in range(len(stage.boxes))]


def test_expansions_are_shown_where_they_differ(choices_space, small_space):
    same = small_space().largest()
    other = choices_space().published["choices_s"]
    assert not drawing(same, operations(same, (0, 0, 3, 2))).expansions
    data = drawing(other, operations(other, (0, 0, 1, 1)))
    assert data.expansions and {box.text for box in data.stages[3].boxes} >= {"1"}


def alpha_file(folder, rows):
    path = folder / "alpha.csv"
    path.write_text("step,position,local,global,identity\n" + "".join(f"{row}\n" for row in rows))
    return path


def test_uniform_shares_prefer_nothing_and_shares_are_compared_by_their_mean(tmp_path):
    rows = [
        "10,stage1_block1,0.5,,0.5",
        "10,stage3_block1,0.333,0.333,0.333",
        "10,stage3_block2,0.2,0.4,0.1",
    ]
    data = read_alpha(alpha_file(tmp_path, rows), frozenset({"stage3_block2"}))
    assert [row[0] for row in data.kept] == [0.0, 0.0, pytest.approx(log2(3), abs=1e-4)]
    assert data.attention[0] == (None,) and data.attention[2][0] == pytest.approx(2 / 3, abs=1e-4)
    assert data.mixed == (1, 2)
    assert (
        position_label("stage3_block2", data.dropped) == "3.2 x"
        and position_label("odd", data.dropped) == "odd"
    )
    figures = alpha_figures(data)
    assert set(figures) == {"alpha", "alpha-attention"}
    (cells,) = figures["alpha-attention"].spec["layer"]
    assert [(row["name"], row["value"]) for row in cells["data"]["values"]] == [
        ("3.1", 0.5),
        ("3.2 x", data.attention[2][0]),
    ]
    assert cells["encoding"]["fill"]["scale"]["domain"][1] == 0.5


def test_a_share_of_attention_that_fell_to_0_is_shown_as_0(tmp_path):
    rows = [
        "10,stage1_block1,0.5,0.0,0.5",  # as older files have a position without attention
        "10,stage3_block1,0.4,0.3,0.3",
        "20,stage1_block1,0.6,0.0,0.4",
        "20,stage3_block1,0.8,0.0,0.2",
    ]
    data = read_alpha(alpha_file(tmp_path, rows), frozenset())
    assert data.mixed == (1,)
    assert data.attention == ((None, None), (pytest.approx(3 / 7, abs=1e-4), 0.0))
    assert data.attention_ends == (0.0, 1.0)
    assert data.kept[1][1] == pytest.approx(log2(0.4 / 0.2))
    assert "attention 0.0 %" in data.shares[1][1]


def test_long_trainings_are_thinned_to_the_last_step(tmp_path):
    rows = [f"{step},stage1_block1,0.6,0.0,0.4" for step in range(10, 5010, 10)]
    data = read_alpha(alpha_file(tmp_path, rows), frozenset())
    assert len(data.steps) <= COLUMNS and data.steps[-1] == 5000 and data.mixed == ()


def test_half_a_row_of_positions_is_a_damaged_file(tmp_path):
    rows = ["10,stage1_block1,0.5,,0.5", "10,stage1_block2,0.5,,0.5", "20,stage1_block1,0.5,,0.5"]
    with pytest.raises(InputError, match=r"alpha\.csv: stage1_block2 has other steps"):
        read_alpha(alpha_file(tmp_path, rows), frozenset())
    assert read_alpha(alpha_file(tmp_path, []), frozenset()) is None
