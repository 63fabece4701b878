"""Freezing parts of a space, and the engines in what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest

from nas.accuracy import Scores, default_scores
from nas.errors import InputError
from nas.latency import load_table
from nas.search import ENGINES, Evaluated, Evaluations, StudySettings
from nas.search.solver import search
from nas.space import Architecture, load_space
from nas.space.freezing import freezable, freeze

SMALL = {
    "efficientformer": ("efficientformer_l1", ("stem", "stage1")),
    "efficientformerv2": ("efficientformerv2_s1", ("stage4", "head")),
    "swiftformer": ("swiftformer_s", ("stage3",)),
}


class Judge:
    """Evaluates members by the scores."""

    of: ClassVar[dict[str, str]] = {"scores": "default"}
    words = "made up"

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def evaluate(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> Iterator[tuple[Architecture, Evaluated]]:
        for member in members:
            yield member, Evaluated(self.scores.accuracy(member).value, 1.0)


@pytest.mark.parametrize("name", SMALL)
def test_members_are_those_with_the_parts_of_the_start(name: str) -> None:
    member, parts = SMALL[name]
    space = load_space(name)
    frozen, start = freeze(space, parts, space.published[member])
    assert frozen.contains(start) and 1 < frozen.count() < space.count()
    for arch in (frozen.largest(), frozen.smallest(), *(frozen.sample(seed) for seed in range(20))):
        assert space.contains(arch) and frozen.contains(arch)
        for index in range(len(space.stages)):
            if f"stage{index + 1}" in parts:
                assert arch.stages[index].equals(start.stages[index])
    assert not frozen.contains(space.largest())


def test_a_space_that_is_frozen_whole_has_one_member() -> None:
    space = load_space("efficientformer")
    frozen, start = freeze(space, freezable(space), space.published["efficientformer_l1"])
    assert frozen.count() == 1
    assert [arch.compact().stages for arch in frozen.enumerate()] == [start.compact().stages]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SMALL)
def test_every_engine_keeps_frozen_parts(name: str, engine: str) -> None:
    member, parts = SMALL[name]
    space = load_space(name)
    start = space.published[member]
    table = load_table("iphone12")
    scores = default_scores(space)
    found = search(
        space,
        table,
        scores,
        engine=engine,
        study=StudySettings(trials=12),
        evaluations=Evaluations(Judge(scores)) if engine == "learned" else None,
        freeze=parts,
        start=start,
    )
    assert freeze(space, parts, start)[0].contains(found.architecture)
    # Without a limit, the start's own latency is the target.
    assert found.ms <= table.calibrated(name, space.resolution).total_ms(start) + 1e-9


def test_mistakes_are_named() -> None:
    space = load_space("efficientformer")
    start = space.published["efficientformer_l1"]
    with pytest.raises(
        InputError, match=r"--freeze stage7: .*it has stem, stage1, .*, head\).*Fix"
    ):
        freeze(space, ["stage7"], start)
    other = load_space("emo").published["emo_1m"]
    with pytest.raises(InputError, match=r"--start emo_1m: is not a member .*efficientformer_l1"):
        freeze(space, ["stage1"], other)
    table = load_table("iphone12")
    scores = default_scores(space)
    with pytest.raises(InputError, match="--start: has no effect without frozen parts"):
        search(space, table, scores, start=start)
