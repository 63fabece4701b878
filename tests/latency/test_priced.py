"""Prices: what an estimated table says of operations without a row, and what it says of its own
error there."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import resources
from nas.blocks import FPNHead, Operation, Shape, parse
from nas.errors import InputError
from nas.files import YamlFile
from nas.latency import LatencyTable, MissingRows, load_table, table_names
from nas.latency import table as table_module
from nas.latency.rows import PROVENANCES, read_rows, worst
from nas.search.fastest import fastest
from nas.space import Architecture, load_space, space_names

SHIPPED = [
    name
    for name, folder in table_names().items()
    if folder.parent == resources.shipped(resources.TABLES)
]
SPACES = list(space_names())
CHANGES = {
    "own classes": lambda arch: arch.at(classes=3),
    "another size": lambda arch: arch.at(320),
    "segmentation": lambda arch: arch.with_head(FPNHead(19)).at((512, 1024)),
}


@cache
def shipped(device: str) -> LatencyTable:
    return load_table(resources.shipped(resources.TABLES) / device)


def without_rows(table: LatencyTable) -> LatencyTable:
    return replace(table, rows={})


def measured(table: LatencyTable) -> LatencyTable:
    """The same rows, as if somebody had measured them."""
    rows = {key: replace(row, provenance="measured", runs=50) for key, row in table.rows.items()}
    device = replace(table.device, provenance="measured", estimate=None)
    return replace(table, device=device, rows=rows)


@settings(max_examples=200, deadline=None)
@given(device=st.sampled_from(SHIPPED), place=st.integers(0, 10**6))
def test_a_price_is_the_row_that_the_table_would_have(device: str, place: int) -> None:
    table = shipped(device)
    row = list(table.rows.values())[place % len(table.rows)]
    operation = Operation("x", parse(row.kind, row.hyperparameters), Shape.parse(row.input))
    # Rows are rounded to 10^-6 ms.
    assert without_rows(table).ms(operation) == pytest.approx(
        table.ms(operation), rel=1e-6, abs=6e-7
    )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("device", SHIPPED)
@pytest.mark.parametrize("space", SPACES)
def test_every_shipped_table_answers_for_every_space(space: str, device: str, change: str) -> None:
    table = shipped(device)
    whole = load_space(space)
    for member in (*whole.published.values(), whole.smallest(), whole.largest()):
        arch = CHANGES[change](member)
        estimate = table.predict(arch)
        assert estimate.missing == () and 0 < estimate.priced <= 1
        assert estimate.ms == pytest.approx(sum(bar.ms for bar in estimate.breakdown))
        assert estimate.ms == table.total_ms(arch)
        assert estimate.provenance == "estimated"
        priced_ms = sum(bar.ms for bar in estimate.breakdown if bar.provenance == "priced")
        assert estimate.priced == pytest.approx(priced_ms / estimate.ms)
        assert estimate.expected_error is not None and estimate.standard_error is not None
        assert estimate.standard_error >= estimate.ms * estimate.expected_error / 100 - 1e-9


@pytest.mark.parametrize("device", SHIPPED)
@pytest.mark.parametrize("space", SPACES)
def test_members_at_their_own_size_need_no_price(space: str, device: str) -> None:
    table = shipped(device)
    assert table.path is not None
    if space not in YamlFile(table.path / "estimate.yaml").data["spaces"]:
        pytest.skip(f"the table of {device} has no rows of {space}")
    for member in load_space(space).published.values():
        estimate = table.predict(member)
        assert estimate.priced == 0 and {bar.provenance for bar in estimate.breakdown} == {
            "estimated"
        }
        assert estimate.standard_error == pytest.approx(estimate.ms * table.expected_error / 100)


@pytest.mark.parametrize("device", SHIPPED)
def test_a_space_of_other_sizes_is_searched(device: str) -> None:
    table = shipped(device)
    space = load_space(SPACES[0]).at(256, 3)
    ms, member = fastest(space, table)
    assert 0 < ms <= table.total_ms(space.smallest()) and member.resolution == (256, 256)


@pytest.mark.parametrize("device", SHIPPED)
def test_dense_sizes_have_an_error_of_their_own(device: str) -> None:
    """More pixels than the fit has seen, or a head on the pyramid; other classes at the same size
    have none."""
    table = shipped(device)
    info = table.device.estimate
    assert info is not None
    extra = info.dense["extra"]  # type: ignore[attr-defined]
    assert extra > 0
    member = next(iter(load_space(SPACES[0]).published.values()))
    for change, added in (("own classes", 0.0), ("segmentation", extra)):
        estimate = table.predict(CHANGES[change](member))
        assert estimate.standard_error is not None and table.expected_error is not None
        squares = (estimate.ms * table.expected_error) ** 2 + (
            estimate.priced * estimate.ms * added
        ) ** 2
        assert estimate.standard_error == pytest.approx(squares**0.5 / 100)


def test_an_operation_is_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    price = table_module.price
    monkeypatch.setattr(table_module, "price", lambda *given: calls.append(1) or price(*given))
    table = replace(shipped(SHIPPED[0]))
    arch = next(iter(load_space(SPACES[0]).published.values())).at(256)
    first = table.total_ms(arch)
    count = len(calls)
    assert 0 < count <= len({operation.key for operation in arch.operations()})
    for _ in range(3):
        assert table.total_ms(arch) == first
        assert [table.ms(operation) for operation in arch.operations()]
    assert len(calls) == count


def test_a_price_is_calibrated_as_rows_are() -> None:
    table = shipped(SHIPPED[0])
    line = {"scale": 1.5, "weights_ms": 0.02}
    calibrated = replace(table, device=replace(table.device, calibration=line))  # type: ignore[arg-type]
    head = next(iter(load_space(SPACES[0]).published.values())).at(classes=7).operations()[-1]
    by_hand = 1.5 * table.ms(head) + 0.02 * head.params / 1e6  # type: ignore[operator]
    assert calibrated.ms(head) == pytest.approx(by_hand)


def test_a_table_of_measurements_prices_nothing(tmp_path: Path) -> None:
    table = measured(shipped(SHIPPED[0]))
    arch = next(iter(load_space(SPACES[0]).published.values())).at(classes=3)
    assert [operation.name for operation in table.predict(arch).missing] == ["head"]
    with pytest.raises(
        MissingRows, match=rf"nas profile --space {SPACES[0]} --device {table.device.name}$"
    ):
        replace(table, path=None).total_ms(arch)
    # Nor does it where it kept what it was estimated from, or stands in another folder.
    mixed = replace(
        table,
        device=replace(shipped(SHIPPED[0]).device, provenance="interpolated"),
        path=tmp_path / "t",
    )
    with pytest.raises(MissingRows, match=rf"--device {table.device.name} --out {tmp_path}/t$"):
        mixed.total_ms(arch)


def test_what_the_device_cannot_run_has_no_price() -> None:
    arch = next(iter(load_space(SPACES[0]).published.values())).at(classes=3)
    head = arch.operations()[-1]
    table = replace(shipped(SHIPPED[0]), unsupported={head.key: "no kernel"})
    assert table.ms(head) is None
    with pytest.raises(MissingRows, match="the device cannot run it: no kernel"):
        table.total_ms(arch)


def test_a_price_is_never_a_row(tmp_path: Path) -> None:
    table = replace(shipped(SHIPPED[0]))
    arch = next(iter(load_space(SPACES[0]).published.values())).at(classes=3)
    assert table.predict(arch).priced > 0
    table.save(tmp_path)
    assert read_rows(tmp_path / "table.csv") == dict(table.rows)
    assert worst(PROVENANCES) == "priced"
    text = (tmp_path / "table.csv").read_text().replace(",estimated,", ",priced,", 1)
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(
        InputError, match=r"table.csv:2: provenance: .*\(got 'priced', expected one of measured, "
    ):
        load_table(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "compute: ",
            "computing: ",
            r"costs_ms.compute: expected the costs call, compute, .* \(got None\)",
        ),
        ("compute: ", "compute: -", r"costs_ms.compute: .* \(got -"),
        (
            "largest_resolution: ",
            "largest_resolution: -",
            r"largest_resolution: expected a number, 0 or more",
        ),
        ("extra: ", "extra: .nan  # ", r"dense.extra: expected a number, 0 or more"),
    ],
)
def test_costs_that_cannot_be_are_named(tmp_path: Path, old: str, new: str, reason: str) -> None:
    device = next(
        name
        for name in SHIPPED
        if "\n    extra: " in (table_names()[name] / "device.yaml").read_text()
    )
    shipped(device).save(tmp_path)
    path = tmp_path / "device.yaml"
    head, costs, tail = path.read_text().partition("costs_ms")
    if "costs" in reason:
        path.write_text(head + costs + tail.replace(old, new, 1))
    else:
        path.write_text((head + costs + tail).replace(old, new, 1))
    with pytest.raises(InputError, match=rf"device.yaml:\d+: estimate: {reason}") as raised:
        load_table(tmp_path)
    assert "\n" not in str(raised.value)


def test_architectures_of_nobodys_space_are_priced_too() -> None:
    arch: Architecture = replace(load_space(SPACES[0]).sample(1), space="", name="mine").at(320)
    assert shipped(SHIPPED[0]).predict(arch).missing == ()
