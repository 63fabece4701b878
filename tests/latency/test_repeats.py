"""A device that repeats: what disturbs it makes runs slower for a while, and must not show in rows
and networks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.blocks import MB4D, Shape
from nas.convert.chain import EMPTY
from nas.devices import Chain, Timing
from nas.latency.check.table import check
from nas.latency.network_times import (
    CALIBRATION_NETWORKS,
    NETWORKS_FILE,
    calibration_members,
    read_networks,
)
from nas.latency.profile import operation_timing
from nas.latency.profile.network_timing import KEPT_BYTES, release
from nas.latency.profile.operation_timing import AGREE, MOST_REPEATS, settled
from nas.latency.profile.run import profile
from nas.space import Space
from nas.space.operations import space_operations
from nas.testing.devices import FakeDevice, true_ms

TIMES = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


class Disturbed(FakeDevice):
    """Every other five measurements take 1.3 times as long."""

    slope = False
    repeats: ClassVar[int] = 4

    def __init__(self) -> None:
        super().__init__()
        self.factor = lambda count: 1.3 if count // 5 % 2 else 1.0


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_timing, "PAUSES_S", (0.0, 0.0))


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@given(TIMES)
def test_one_measurement_is_enough_without_repeats(times: list[float]) -> None:
    assert settled(times, 1)


@given(TIMES, st.integers(2, 4))
def test_settled_means_two_low_ones_that_agree_or_many(times: list[float], repeats: int) -> None:
    lowest, second = (sorted(times) * 2)[:2] if len(times) == 1 else sorted(times)[:2]
    agree = len(times) >= repeats and second <= lowest * (1 + AGREE)
    assert settled(times, repeats) == (agree or len(times) >= MOST_REPEATS * repeats)


def test_disturbances_do_not_show(space: Space, tmp_path: Path) -> None:
    disturbed, _ = profile(space, Disturbed(), tmp_path / "disturbed")
    quiet, _ = profile(space, FakeDevice(), tmp_path / "quiet")
    for seed in range(5):
        member = space.sample(seed)
        assert disturbed.total_ms(member) == pytest.approx(quiet.total_ms(member), rel=0.02)


def test_without_repeats_they_would(space: Space, tmp_path: Path) -> None:
    device = Disturbed()
    device.repeats = 1  # type: ignore[misc]
    disturbed, _ = profile(space, device, tmp_path / "disturbed")
    quiet, _ = profile(space, FakeDevice(), tmp_path / "quiet")
    ratios = [
        row.median_ms / quiet.rows[key].median_ms
        for key, row in disturbed.rows.items()
        if row.median_ms > 0.01
    ]
    assert max(ratios) > 1.2


class SlowToConvert(FakeDevice):
    """One network after the other, 0.1 s each; notes what was measured while one was being
    converted."""

    repeats: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self._queue = ThreadPoolExecutor(1)
        self.under_way: list[Future[Path]] = []
        self.beside = self.hurried = 0

    @contextmanager
    def borrow_cores(self) -> Iterator[None]:
        before = len(self.measured)
        yield
        assert len(self.measured) == before
        self.hurried += 1

    def prepare(self, chain: Chain) -> Future[Path]:
        artifact = super().prepare(chain)
        if chain.tied or chain == EMPTY:
            return artifact
        self.under_way.append(self._queue.submit(self._convert, artifact.result()))
        return self.under_way[-1]

    def measure(self, artifact: Path) -> Timing:
        network = any(
            each.done() and not each.cancelled() and each.result() == artifact
            for each in self.under_way
        )
        self.beside += network and not all(each.done() for each in self.under_way)
        return super().measure(artifact)

    @staticmethod
    def _convert(artifact: Path) -> Path:
        time.sleep(0.1)
        return artifact


@pytest.mark.parametrize(("budget_s", "least", "most"), [(math.inf, 8, 8), (0.6, 1, 7)])
def test_networks_are_measured_when_none_is_being_converted(
    space: Space, tmp_path: Path, budget_s: float, least: int, most: int
) -> None:
    """As many of them as there is time for; the next run measures the others."""
    profile(space, FakeDevice(), tmp_path)
    (tmp_path / NETWORKS_FILE).unlink()
    device = SlowToConvert()
    table, _ = profile(space, device, tmp_path, budget_s=budget_s)
    assert least <= table.device.calibration.nets <= most
    assert len(device.under_way) == CALIBRATION_NETWORKS and device.beside == 0
    assert device.hurried == 1
    table, _ = profile(space, SlowToConvert(), tmp_path)
    assert table.device.calibration.nets == CALIBRATION_NETWORKS


def test_networks_of_a_check_are_measured_until_they_settle(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path / "table")
    device = Disturbed()
    told: list[tuple[object, ...]] = []
    _, times = check(
        replace(table, path=tmp_path / "table"),
        space,
        device,
        nets=8,
        progress=lambda *each: told.append(each),
    )
    phases = ["networks (check, being converted)", "networks (check)"]
    phases.append("networks (check, repeated until times agree)")
    assert [each for each in dict.fromkeys(what for what, *_ in told) if each in phases] == phases
    chains = list(dict.fromkeys(device.measured))[len(calibration_members(space)) :]
    assert [time.measured_ms for time in times] == pytest.approx(
        [true_ms(chain) for chain in chains], rel=1e-4
    )
    assert all(device.measured.count(chain) >= 4 for chain in device.measured)


def test_networks_are_converted_ahead_but_not_those_that_are_known(
    space: Space, tmp_path: Path
) -> None:
    networks = {Chain.network(member.operations()) for member in calibration_members(space)}
    first = FakeDevice()
    second = FakeDevice()
    profile(space, first, tmp_path / "table", chosen=space_operations(space)[:4])
    profile(space, second, tmp_path / "table")
    assert networks <= set(first._chains.values()) and len(
        read_networks(tmp_path / "table")
    ) == len(networks)
    third = FakeDevice()
    profile(space, third, tmp_path / "table", chosen=space_operations(space))
    assert third.measured and not set(third._chains.values()) & networks


def test_mean_of_the_stack_takes_one_file(space: Space, tmp_path: Path) -> None:
    device = Disturbed()
    table, _ = profile(space, device, tmp_path / "table")
    stacked = {
        chain
        for chain in device.measured
        if len(set(chain.blocks)) == 1 and len(chain.blocks) == device.copies
    }
    assert stacked
    assert not any(
        Chain(chain.blocks[:1], chain.input, tied=True) in device.measured for chain in stacked
    )
    assert table.device.calibration.scale == pytest.approx(1.0, abs=0.02)


def test_a_device_that_stays_slow_is_not_waited_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(operation_timing, "PAUSES_S", (5.0, 15.0, 30.0))
    monkeypatch.setattr(operation_timing.time, "sleep", slept.append)
    device = FakeDevice()
    device.repeats = 2  # type: ignore[misc]
    watch = operation_timing.DriftWatch(
        device, device.prepare(Chain((MB4D(2),), Shape(8, 8, 8))).result()
    )
    device.factor = lambda count: 1.2
    assert [watch.look() for _ in range(5)] == [(True, False)] * 5
    assert sum(slept) <= operation_timing.MOST_PAUSED_S
    device.repeats = 1  # type: ignore[misc]
    other = operation_timing.DriftWatch(
        device, device.prepare(Chain((MB4D(2),), Shape(8, 8, 8))).result()
    )
    slept.clear()
    device.factor = lambda count: 1.5
    assert [other.look() for _ in range(2)] == [(True, False)] * 2
    assert sum(slept) == 100.0


@pytest.mark.parametrize("size, kept", [(KEPT_BYTES, True), (KEPT_BYTES + 1, False)])
def test_small_networks_stay_in_the_cache(size: int, kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "network.tflite"
    with file.open("wb") as opened:
        opened.truncate(size)
    release(file)
    assert file.exists() is kept


def test_a_network_that_is_a_folder_leaves_the_cache(tmp_path: Path) -> None:
    (tmp_path / "network.mlpackage").mkdir()
    (tmp_path / "network.mlpackage" / "Manifest.json").write_text("{}")
    release(tmp_path / "network.mlpackage")
    release(tmp_path / "was-never-there.tflite")
    assert not list(tmp_path.iterdir())
