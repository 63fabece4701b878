"""Several devices on one table, devices that go away, budgets of time, and operations that cannot
run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.convert.chain import EMPTY
from nas.devices import Chain, DeviceLost, Timing
from nas.errors import InputError
from nas.latency import load_table
from nas.latency.network_times import CALIBRATION_NETWORKS
from nas.latency.profile import operation_timing
from nas.latency.profile.run import JOURNAL_FILE, profile
from nas.latency.profile.width_groups import groups
from nas.latency.rows import UNSUPPORTED_FILE, read_unsupported, write_unsupported
from nas.space import Space
from nas.space.operations import space_operations
from nas.testing.devices import FakeDevice, true_ms


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "latency_tables" / "host"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_timing, "PAUSES_S", (0.0, 0.0))


def units(count: int, delay_s: float = 0.002) -> list[FakeDevice]:
    return [FakeDevice(delay_s=delay_s, unit=f"unit{number}") for number in range(count)]


def test_units_of_one_model_share_the_work(space: Space, folder: Path) -> None:
    devices = units(3)
    table, report = profile(space, devices, folder)
    measured = [row for row in table.rows.values() if row.runs]
    assert len(measured) == report.measured
    assert {dict(row.extra)["unit"] for row in measured} == {"unit0", "unit1", "unit2"}
    assert not report.missing and not report.lost
    member = space.sample(3)
    assert load_table(folder).total_ms(member) == pytest.approx(
        true_ms(Chain.network(member.operations())), rel=0.01
    )


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("lost_after", [0, 1, 7])
def test_unit_that_goes_away_leaves_its_work_to_the_others(
    space: Space, folder: Path, lost_after: int, which: int
) -> None:
    """Be it the first one, which measures the networks of the calibration too."""
    devices = units(2)
    devices[which].lost_after = lost_after
    table, report = profile(space, devices, folder)
    reason = f"unit{which} was unplugged. Fix: connect it; the same command resumes"
    assert report.lost == [reason]
    assert table.device.calibration.nets == CALIBRATION_NETWORKS
    assert not report.missing and len(table.rows) == len(space_operations(space))


def test_unit_that_goes_away_between_networks(space: Space, folder: Path) -> None:
    _, alone = profile(space, FakeDevice(), folder.with_name("alone"))
    devices = units(2, delay_s=0.0)
    networks = 0

    def count(chain: Chain) -> bool:
        nonlocal networks
        networks += len(chain.blocks) > 4
        if networks == 3:
            devices[0].lost_after = 0
        return False

    devices[0].fails = count
    table, report = profile(space, devices, folder)
    assert len(report.lost) == 1 and alone.missing == report.missing == 0
    assert table.device.calibration.nets == CALIBRATION_NETWORKS


@pytest.mark.parametrize("count", [1, 2])
def test_when_all_go_away_what_was_measured_stays(space: Space, folder: Path, count: int) -> None:
    devices = units(count)
    for device in devices:
        device.lost_after = 12
    with pytest.raises(DeviceLost, match=r"was unplugged\. Fix: connect it"):
        profile(space, devices, folder)
    assert (folder / JOURNAL_FILE).is_file()
    _, report = profile(space, units(count), folder)
    assert report.reused > 0 and not report.missing


def test_interrupt_stops_all_units(space: Space, folder: Path) -> None:
    devices = units(2)
    devices[0].stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        profile(space, devices, folder)
    assert (folder / JOURNAL_FILE).is_file()


def test_budget_measures_what_is_worth_most_first(space: Space, folder: Path) -> None:
    """A part of the operations, and what was measured counts when there is more time."""
    slow = FakeDevice(delay_s=0.06)
    table, report = profile(space, slow, folder, budget_s=2.0)
    whole = len([op for group in groups(space_operations(space)) for op in group.chosen()])
    assert 0 < report.measured < whole
    assert table.path == folder and table.device.calibration.nets < 5
    _, again = profile(space, FakeDevice(), folder)
    assert again.reused == report.measured and not again.missing


def test_what_cannot_run_is_recorded_and_not_tried_again(space: Space, folder: Path) -> None:
    bad = max(
        (op for op in space_operations(space) if op.output == op.input), key=lambda op: op.macs
    )
    device = FakeDevice()
    device.fails = lambda chain: (
        chain.blocks[0] == bad.spec and chain.input == bad.input and len(chain.blocks) < 4
    )
    table, report = profile(space, device, folder, chosen=[*space_operations(space)])
    assert report.failed == {str(bad): "RuntimeError: unsupported"} and report.missing == 1
    assert (
        read_unsupported(folder)
        == {bad.key: "RuntimeError: unsupported"}
        == load_table(folder).unsupported
    )
    with pytest.raises(InputError, match="the device cannot run it: RuntimeError: unsupported"):
        raise table.missing_rows([bad], space.name)
    well = FakeDevice()
    _, second = profile(space, well, folder, chosen=[*space_operations(space)])
    # Its reason is told again at every run.
    assert second.failed == report.failed and second.missing == 1
    assert all(chain in (EMPTY,) or len(chain.blocks) > 3 for chain in well.measured)
    _, third = profile(space, well, folder, chosen=[*space_operations(space)], retry=True)
    assert third.missing == 0 and third.measured == 1
    assert not (folder / UNSUPPORTED_FILE).exists()


def test_messages_with_commas_and_quotes_come_back(tmp_path: Path) -> None:
    failed = {("mb4d", "a=1,b=2", "8x4x4"): 'line "one", and more'}
    write_unsupported(tmp_path, failed)
    assert read_unsupported(tmp_path) == failed
    (tmp_path / UNSUPPORTED_FILE).write_text("kind,other\n")
    with pytest.raises(
        InputError, match=r"unsupported\.csv:1: column 'hyperparameters' is missing"
    ):
        read_unsupported(tmp_path)


class Overlapping(FakeDevice):
    """Runs whole networks in nine tenths of the time of their parts."""

    def measure(self, artifact: Path) -> Timing:
        timing = super().measure(artifact)
        return (
            replace(timing, median_ms=0.9 * timing.median_ms)
            if len(self.measured[-1].blocks) > 4
            else timing
        )


def test_each_space_keeps_its_own_calibration(
    small_space: Callable[..., Space], choices_space: Callable[..., Space], folder: Path
) -> None:
    """Networks of the second overlap, those of the first do not: one scale for both would be off by
    five percent."""
    spaces = small_space(), choices_space()
    for space, device in zip(spaces, (FakeDevice(), Overlapping()), strict=True):
        profile(space, device, folder)
    table = load_table(folder)
    assert [entry.name for entry in table.device.spaces] == [space.name for space in spaces]
    for space, share in zip(spaces, (1.0, 0.9), strict=True):
        own = table.calibrated(space.name, space.resolution)
        for seed in range(5):
            member = space.sample(seed)
            truth = share * true_ms(Chain.network(member.operations()))
            assert own.total_ms(member) == table.total_ms(member) == pytest.approx(truth, rel=0.02)
            assert table.predict(member).ms == pytest.approx(own.total_ms(member))
    assert table.calibrated(spaces[0].name, (32, 32)) is table
