"""Profiling: what is measured, what is kept through kills, torn files, drift and failures, and what
is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from nas.convert.chain import EMPTY
from nas.devices import Chain
from nas.errors import InputError, NasError
from nas.latency import load_table
from nas.latency.network_times import CALIBRATION_NETWORKS
from nas.latency.profile import operation_timing
from nas.latency.profile.acquisition import GOAL
from nas.latency.profile.run import JOURNAL_FILE, profile
from nas.space import Space
from nas.space.operations import space_operations
from nas.testing.devices import FakeDevice, other_settings, true_ms


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "latency_tables" / "host"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_timing, "PAUSES_S", (0.0, 0.0))


def operations_measured(device: FakeDevice) -> int:
    """Distinct operations, the reference and the empty call counted as they come."""
    return len({(chain.blocks[0], chain.input) for chain in device.measured})


def test_table_predicts_networks_that_were_not_measured(space: Space, folder: Path) -> None:
    table, report = profile(space, FakeDevice(), folder)
    assert report.operations == len(space_operations(space)) == len(table.rows)
    assert report.measured + report.interpolated == report.operations
    assert report.interpolated > 0 and not report.failed and not report.flagged
    for seed in range(50):
        member = space.sample(seed)
        truth = true_ms(Chain.network(member.operations()))
        assert table.total_ms(member) == pytest.approx(truth, rel=2 * GOAL)
    assert table.provenance == table.device.provenance == "interpolated"
    assert table.device.estimate is not None and table.device.estimate.leave_one_out_mape < 2


def test_files_hold_the_table(space: Space, folder: Path) -> None:
    table, _ = profile(space, FakeDevice(), folder)
    loaded = load_table(folder)
    assert loaded.rows == table.rows and loaded.device == table.device
    assert not (folder / JOURNAL_FILE).exists()
    assert loaded.device.calibration.nets == CALIBRATION_NETWORKS


def test_what_was_left_out_is_recorded_until_it_is_measured(space: Space, folder: Path) -> None:
    sized = space.at(96, 7)
    slow = FakeDevice(delay_s=0.05)
    table, report = profile(sized, slow, folder, budget_s=1.0)
    assert 0 < report.left_out == report.missing
    assert table.device.left_out == {f"{space.path} --resolution 96 --classes 7": report.left_out}
    assert load_table(folder).device == table.device
    other, _ = profile(space, FakeDevice(), folder)
    assert other.device.left_out == table.device.left_out, (
        "another profile does not complete this one"
    )
    whole, report = profile(sized, FakeDevice(), folder)
    assert not report.left_out and not whole.device.left_out


def test_what_the_device_cannot_run_is_not_left_out(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.fails = lambda chain: any(block.kind == "mb3d" for block in chain.blocks)
    table, report = profile(space, device, folder)
    assert report.failed and report.missing and not report.left_out and not table.device.left_out


def test_slope_takes_the_cost_of_the_call_out(space: Space, folder: Path) -> None:
    table, _ = profile(space, FakeDevice(), folder)
    for operation in space_operations(space):
        row = table.rows[operation.key]
        if row.provenance == "measured":
            alone = true_ms(Chain.stack(operation)) - true_ms(EMPTY)
            assert row.median_ms == pytest.approx(alone, abs=2e-4)
            assert row.p10_ms < row.median_ms < row.p90_ms


def test_second_run_measures_nothing(space: Space, folder: Path) -> None:
    first, _ = profile(space, FakeDevice(), folder)
    again = FakeDevice()
    second, report = profile(space, again, folder)
    assert not again.measured
    assert report.measured == 0 and report.reused > 0
    assert second.rows == first.rows and second.device.calibration == first.device.calibration


@pytest.mark.parametrize("part", [0.1, 0.3, 0.7, 0.99])
def test_goes_on_after_an_interruption(
    space: Space, folder: Path, part: float, tmp_path: Path
) -> None:
    whole = FakeDevice()
    expected, full = profile(space, whole, tmp_path / "other")
    device = FakeDevice()
    device.stop_after = int(part * len(whole.measured))
    with pytest.raises(KeyboardInterrupt):
        profile(space, device, folder)
    again = FakeDevice()
    table, report = profile(space, again, folder)
    assert table.rows == expected.rows
    assert report.measured + report.reused == full.measured
    assert len(again.measured) < len(whole.measured)


def test_survives_kill(space: Space, folder: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom nas.latency.profile.run import profile\n"
        "from nas.space import load_space\nfrom nas.testing.devices import FakeDevice\n"
        "profile(load_space(sys.argv[1]), FakeDevice(delay_s=0.02), Path(sys.argv[2]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, space.path, str(folder)])
    journal = folder / JOURNAL_FILE
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 6):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n") - 1
    table, report = profile(space, FakeDevice(), folder)
    assert report.reused >= done > 5
    assert len(table.rows) == report.operations


def test_torn_last_line_is_dropped(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        profile(space, device, folder)
    journal = folder / JOURNAL_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    _, report = profile(space, FakeDevice(), folder)
    assert report.reused == len(lines) - 2


def test_damaged_line_is_named(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        profile(space, device, folder)
    journal = folder / JOURNAL_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"{garbage\n", *lines[3:]]))
    with pytest.raises(InputError, match=r"journal\.jsonl:3: "):
        profile(space, FakeDevice(), folder)


def test_other_settings_are_refused(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        profile(space, device, folder)
    with pytest.raises(
        InputError, match=r"journal\.jsonl: was measured with another threads \(got 2, expected 1\)"
    ):
        profile(space, FakeDevice(threads=2), folder)
    profile(space, FakeDevice(), folder)
    with pytest.raises(
        InputError, match=r"device\.yaml: .* another runtime_version \(got '.*', expected '1'\)"
    ):
        profile(space, other_settings(device), folder)


def test_second_writer_is_refused(space: Space, folder: Path) -> None:
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(NasError, match="another nas process"):
        profile(space, FakeDevice(), folder)
    profile(space, FakeDevice(), folder)


def test_full_disk_keeps_what_was_measured(
    space: Space, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(NasError, match="No space left"):
            profile(space, FakeDevice(), folder)
    _, report = profile(space, FakeDevice(), folder)
    assert report.reused >= 9


def test_failed_operations_are_named_and_the_rest_goes_on(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.fails = lambda chain: chain.blocks[0].kind == "mb3d" and chain.input.channels == 48
    table, report = profile(space, device, folder)
    assert len(report.failed) == 1
    assert [(name[:4], reason) for name, reason in report.failed.items()] == [
        ("mb3d", "RuntimeError: unsupported")
    ]
    assert [str(operation) for operation in table.predict(space.largest()).missing] == list(
        report.failed
    )
    assert len(table.rows) == report.operations - 1
    assert not table.predict(space.smallest()).missing


def test_network_that_cannot_run_leaves_the_table(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.fails = lambda chain: not chain.tied and chain != EMPTY
    with pytest.raises(
        NasError, match=r"network small-sample\d+ could not be measured: RuntimeError: unsupported"
    ):
        profile(space, device, folder)
    assert len(load_table(folder).rows) == len(space_operations(space))
    table, report = profile(space, FakeDevice(), folder)
    assert report.measured == 0 and table.device.calibration.nets == CALIBRATION_NETWORKS


def test_nothing_runs(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.fails = lambda chain: len(chain.blocks) == 1 and chain != EMPTY
    with pytest.raises(NasError, match=r"no operation could be measured.*unsupported"):
        profile(space, device, folder)


def test_drift_that_goes_away_is_measured_again(
    space: Space, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    device.factor = lambda count: 1.5 if count >= 20 and not pauses else 1.0
    table, report = profile(space, device, folder)
    steady = FakeDevice()
    expected, _ = profile(space, steady, folder.parent / "steady")
    assert report.flagged == 0 and len(pauses) == 1
    assert len(device.measured) > len(steady.measured)
    for key, row in expected.rows.items():
        assert table.rows[key].median_ms == pytest.approx(row.median_ms, rel=0.1, abs=1e-6)


def test_drift_that_stays_is_flagged(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.factor = lambda count: 1.5 if count >= 30 else 1.0
    table, report = profile(space, device, folder)
    noted = [
        row for row in load_table(folder).rows.values() if dict(row.extra).get("note") == "drift"
    ]
    assert report.flagged == len(noted) > 0
    assert {row.key for row in noted} <= set(table.rows)


def test_two_resolutions_in_one_table(space: Space, folder: Path) -> None:
    first, _ = profile(space, FakeDevice(), folder)
    small = space.at(32)
    table, report = profile(small, FakeDevice(), folder)
    assert set(first.rows) < set(table.rows)
    assert {operation.key for operation in space_operations(small)} <= set(table.rows)
    assert report.reused > 0  # a block of stage 3 at 64x64 may be one of stage 2 at 32x32
    assert table.device.calibration.nets == 2 * CALIBRATION_NETWORKS
    for network in (space.sample(1), small.sample(1)):
        assert table.total_ms(network) == pytest.approx(
            true_ms(Chain.network(network.operations())), rel=0.02
        )


def test_journal_is_json_lines(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.stop_after = 30
    with pytest.raises(KeyboardInterrupt):
        profile(space, device, folder)
    header, *entries = map(json.loads, (folder / JOURNAL_FILE).read_text().splitlines())
    assert header["format"] == "nas-journal-1" and header["device"]["threads"] == 1
    assert entries and all("row" in entry for entry in entries)
