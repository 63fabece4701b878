"""Places: text to Place to text, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import InputError
from nas.space import load_space, space_names
from nas.space.place import HEAD, STEM, Place

COUNTS = st.integers(min_value=0, max_value=200)
PLACES = st.one_of(
    st.sampled_from([STEM, HEAD]),
    st.builds(Place.whole, COUNTS),
    st.builds(Place.entry, COUNTS),
    st.builds(Place.block, COUNTS, COUNTS),
    st.builds(Place.reshape, COUNTS, st.sampled_from(["flatten", "unflatten"])),
)


@given(PLACES)
def test_a_place_is_read_back_from_its_text(place):
    assert Place.parse(str(place)) == place


@given(st.text(alphabet="stageblockentrymhdfu_0123456789 ", max_size=16))
def test_a_text_is_refused_in_one_line_or_is_the_text_of_its_place(text):
    try:
        place = Place.parse(text)
    except InputError as error:
        assert "\n" not in str(error) and f"'{text}'" in str(error)
    else:
        assert str(place) == text


@pytest.mark.parametrize("name", space_names())
def test_every_operation_is_named_by_its_place(name):
    space = load_space(name)
    for arch in (space.largest(), space.smallest(), *space.published.values()):
        for operation in arch.operations():
            place = Place.parse(operation.name)
            assert str(place) == operation.name
            if place.part not in ("flatten", "unflatten"):
                assert arch.block(place) == operation.spec
                assert arch.with_block(place, operation.spec) == arch


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Stem",
        "stage0",
        "stage01_entry",
        "stage1_",
        "stage1_block",
        "stage1_block0",
        "stage1_block01",
        "stage-1_entry",
        "stage1_entry ",
        "stage1_entry\n",
        "stage1_head",
        "stage1_block1_rank",
        "block1",
        "stage\N{ARABIC-INDIC DIGIT ONE}_entry",
    ],
)
def test_what_is_not_a_place_is_refused(text):
    with pytest.raises(InputError, match="is not a place of a network") as caught:
        Place.parse(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("part", "stage", "position"),
    [
        ("stem", 0, None),
        ("entry", None, None),
        ("block", 1, None),
        ("entry", 1, 1),
        ("block", -1, 0),
        ("block", 0, -1),
    ],
)
def test_a_place_cannot_be_made_of_what_does_not_belong_together(part, stage, position):
    with pytest.raises(ValueError, match="Place: "):
        Place(part, stage, position)


def test_a_network_without_a_stem_of_its_own_enters_stage_1_by_its_stem():
    assert Place.entry(0, has_stem=False) == STEM
    assert Place.entry(1, has_stem=False) == Place.parse("stage2_entry")
    assert Place.entry(0, has_stem=True) == Place.parse("stage1_entry")


@pytest.mark.parametrize(
    ("text", "words", "stream"),
    [
        ("stem", "stem", "stem"),
        ("head", "head", "head"),
        ("stage2_entry", "stage 2 entry", "stage2"),
        ("stage3_block5", "stage 3 block 5", "stage3"),
        ("stage4_flatten", "stage 4 flatten", "stage4"),
        ("stage4", "stage 4", "stage4"),
    ],
)
def test_a_place_in_words_and_its_stream(text, words, stream):
    place = Place.parse(text)
    assert (place.words, str(place.stream)) == (words, stream)
