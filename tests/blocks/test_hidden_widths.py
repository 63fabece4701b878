"""Hidden widths: any fraction of the channels, whole ones exactly and others in steps of 8."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.blocks import SPECS, BlockSpec, Shape
from nas.blocks.spec import LEAST_EXPANSION, hidden_width
from nas.testing.blocks import check_formulas, check_slice, check_text, examples

EXPANDING = [
    pytest.param(spec, shape, id=f"{spec.kind}({spec})")
    for kind in SPECS.values()
    if "expansion" in {field.name for field in fields(kind)} and "expansion" in kind.elastic
    for spec, shape in examples(kind)
    if shape.layout != "pyramid"
]


@given(channels=st.integers(8, 2048), expansion=st.floats(LEAST_EXPANSION, 8))
def test_hidden_widths_are_whole_multiples_or_steps_of_8(channels: int, expansion: float) -> None:
    hidden = hidden_width(expansion, channels)
    if expansion == int(expansion):
        assert hidden == expansion * channels
    else:
        assert hidden % 8 == 0 and abs(hidden - max(expansion * channels, 8)) <= 4


@pytest.mark.parametrize(
    ("expansion", "channels", "hidden"),
    [(4, 220, 880), (4.0, 48, 192), (1.5, 48, 72), (0.5, 16, 8), (0.5, 40, 24), (1.5, 220, 328)],
)
def test_the_hidden_width_of(expansion: float, channels: int, hidden: int) -> None:
    assert hidden_width(expansion, channels) == hidden


def test_there_are_blocks_to_look_at() -> None:
    assert len({parameters.values[0].kind for parameters in EXPANDING}) >= 14  # type: ignore[attr-defined]


@pytest.mark.parametrize("expansion", [0.5, 1.5])
@pytest.mark.parametrize(("spec", "shape"), EXPANDING)
def test_a_fraction_is_built_counted_and_sliced_as_a_whole_expansion_is(
    spec: BlockSpec, shape: Shape, expansion: float
) -> None:
    # At 16 channels both expansions have hidden widths of their own.
    shape = replace(shape, channels=16)
    narrow = replace(spec, expansion=expansion)
    check_text(narrow, shape)
    check_formulas(narrow, shape)
    check_slice(replace(spec, expansion=4), shape, narrow, shape)


@pytest.mark.parametrize(("spec", "shape"), EXPANDING)
@pytest.mark.parametrize("expansion", [0, LEAST_EXPANSION / 2, float("inf"), float("nan")])
def test_expansions_out_of_range_are_refused(
    spec: BlockSpec, shape: Shape, expansion: float
) -> None:
    with pytest.raises(ValueError, match=r"expansion .* must be at least 0\.25, and finite"):
        replace(spec, expansion=expansion)
