"""What is measured next: a few of every group, then where doubt weighs most, until the table is
good enough."""

from __future__ import annotations

from collections import Counter

import pytest

import nas
from nas.blocks import Operation
from nas.devices import Chain
from nas.latency.profile.acquisition import FIRST, GOAL, Chooser
from nas.latency.profile.width_groups import MOST_RESHAPES, groups, spread
from nas.space.operations import space_operations
from nas.testing.devices import true_ms


def ms(operation: Operation) -> float:
    return true_ms(Chain.stack(operation))


def run(chooser: Chooser, ahead: int = 1) -> list[Operation]:
    """What it names when `ahead` operations are under way at any time."""
    named: list[Operation] = []
    line: list[Operation] = []
    while True:
        while len(line) < ahead and (operation := chooser.next()) is not None:
            line.append(operation)
            named.append(operation)
        if not line:
            return named
        done = line.pop(0)
        chooser.found(done, ms(done))


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("name", ["efficientformer", "emo"])
def test_every_group_gets_its_first_and_no_more_than_its_most(name: str, ahead: int) -> None:
    space = nas.load_space(name)
    operations = space_operations(space)
    chooser = Chooser(space, operations, {})
    named = run(chooser, ahead)
    assert len(set(named)) == len(named) < len(operations) / 2
    assert chooser.doubt() <= GOAL or chooser.most() == 0
    counts = Counter(operation.key for operation in named)
    for group in groups(operations):
        count = sum(counts[operation.key] for operation in group.operations)
        most = len(group.chosen()) if group.operations[0].macs else MOST_RESHAPES
        assert min(FIRST[group.varying()], most, len(group.operations)) <= count <= most


def test_all_groups_have_two_before_any_has_three() -> None:
    space = nas.load_space("efficientformer")
    operations = space_operations(space)
    several = [group for group in groups(operations) if group.varying()]
    group_of = {
        operation.key: index
        for index, group in enumerate(several)
        for operation in group.operations
    }
    seen: Counter[int] = Counter()
    for operation in run(Chooser(space, operations, {})):
        if operation.key in group_of:
            seen[group_of[operation.key]] += 1
        if 3 in seen.values():
            break
    assert len(seen) == len(several) and min(seen.values()) == 2


def test_goes_where_the_doubt_is() -> None:
    """A kind whose rows lie off any roofline gets more measurements than when they do not."""
    space = nas.load_space("efficientvit")
    operations = space_operations(space)

    several = [group.operations for group in groups(operations) if len(group.operations) > 4]
    fours = [spread(members, 4) for members in several]

    def count(kind: str, off: float) -> int:
        known = {each.key: ms(each) for four in fours for each in four}
        known |= {
            each.key: off * ms(each)
            for four in fours
            for each in four[::2]
            if each.spec.kind == kind
        }
        chooser = Chooser(space, operations, known)
        return sum(operation.spec.kind == kind for operation in run(chooser))

    assert count("mbconv", off=1.5) > count("mbconv", off=1.0)


def test_one_that_fails_is_made_up_for() -> None:
    """A group whose first operation cannot run has as many rows as another."""
    space = nas.load_space("efficientformer")
    operations = space_operations(space)
    chooser = Chooser(space, operations, {})
    group_of = {
        operation.key: group.operations
        for group in groups(operations)
        for operation in group.operations
    }
    failed = next(each for each in iter(chooser.next, None) if len(group_of[each.key]) > 4)
    chooser.found(failed, None)
    named = [failed, *iter(chooser.next, None)]
    assert len({each.key for each in named} & {each.key for each in group_of[failed.key]}) > 2


def test_what_is_known_is_not_named_and_what_failed_is_left_out() -> None:
    space = nas.load_space("efficientformer")
    operations = space_operations(space)
    named = run(Chooser(space, operations, {}))
    known = {operation.key: ms(operation) for operation in named}
    assert run(Chooser(space, operations, known)) == []
    again = run(Chooser(space, operations, {}, failed=[named[0].key]))
    assert named[0] not in again and len(again) > len(named) / 2


def test_what_one_device_gives_back_another_gets() -> None:
    space = nas.load_space("efficientformer")
    chooser = Chooser(space, space_operations(space), {})
    first = chooser.next()
    assert first is not None
    chooser.back(first)
    assert chooser.next() == first


@pytest.mark.parametrize("name", ["efficientformer", "efficientformer_small", "swiftformer", "emo"])
def test_expansions_add_no_groups(name: str) -> None:
    """Rows are interpolated between hidden widths, so a profile hardly grows by their number."""
    operations = space_operations(nas.load_space(name))
    first: dict[object, object] = {}
    one_each = []
    for operation in operations:
        values = operation.spec.hyperparameters()
        expansion = values.pop("expansion", None)
        kept = first.setdefault((operation.spec.kind, str(values), operation.input), expansion)
        if kept == expansion:
            one_each.append(operation)
    assert len(one_each) < 0.8 * len(operations)
    assert len(groups(one_each)) == len(groups(operations))
    few = sum(len(group.chosen()) for group in groups(one_each))
    assert sum(len(group.chosen()) for group in groups(operations)) < 2 * few
