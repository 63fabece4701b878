"""Calibration and check against whole networks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from nas.devices import Chain, Timing
from nas.errors import InputError
from nas.latency import LatencyTable, load_table
from nas.latency.calibration import MISFIT, SCALES, calibrate, follow, mape, recalibrated, sums
from nas.latency.check.table import JOURNAL_FILE, check, statistics
from nas.latency.network_times import (
    CALIBRATION_NETWORKS,
    NETWORKS_FILE,
    NetworkTime,
    at_resolution_id,
    calibration_members,
    check_members,
    profiled_spaces,
    read_networks,
    resolution_id,
    write_networks,
)
from nas.latency.profile.run import profile
from nas.latency.rows import Key
from nas.space import Space
from nas.testing.devices import FakeDevice, true_ms


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


def net(measured: float, predicted: float, total: float = 1.0) -> NetworkTime:
    return NetworkTime("check", "small", "64x64/10", "n", measured, total, predicted)


def measured(times: dict[float, float]) -> list[NetworkTime]:
    """Networks by the sums of their rows."""
    return [
        NetworkTime("calibration", "s", "r", str(ms), measured_ms=times[ms], sum_ms=ms)
        for ms in times
    ]


@pytest.mark.parametrize("sums", [(1, 4, 9), (10, 40, 60, 90, 220), (0.05, 0.06, 0.08, 0.09)])
@pytest.mark.parametrize(
    ("scale", "share"), [(1, 0), (1, 0.05), (1.02, 0.3), (0.9, 0), (1.3, 0.1), (0.5, 0.1), (2, 1)]
)
def test_calibration_finds_scale_and_intercept(
    scale: float, share: float, sums: tuple[float, ...]
) -> None:
    """From networks that agree, whatever the scale, within half a percent."""
    times = {ms: share * sums[0] + scale * ms for ms in sums}
    line = calibrate(measured(times))
    for each in measured(times):
        assert each.predicted(line).predicted_ms == pytest.approx(
            each.measured_ms, rel=5e-3, abs=1e-5
        )
    assert line.weights_ms == 0, "nobody said what parameters they have"
    assert calibrate(measured({1: 1.32})) == pytest.approx((1.32, 0.0, 0.0, 0.0))


ONE_TIME = {ms: 0.2 + 0.001 * (place % 2) for place, ms in enumerate((0.004, 0.011, 0.02, 0.06))}
"""Tiny networks on a device whose call takes far longer than what is called."""


@pytest.mark.parametrize("times", [ONE_TIME, {1: 66.0, 2: 131.0}, {100: 0.6, 200: 1.2}, {1: 9.0}])
def test_a_scale_that_carries_nothing_over_is_not_recorded(times: dict[float, float]) -> None:
    networks = measured(times)
    line, note = follow(networks)
    assert SCALES[0] <= line.scale <= SCALES[1]
    assert note.startswith("networks do not follow the sums of rows") and "\n" not in note
    uncalibrated = [100 * abs(each.sum_ms / each.measured_ms - 1) for each in networks]
    assert mape(networks, line) <= max(uncalibrated)


def test_networks_of_one_time_are_predicted_by_the_call() -> None:
    line, _ = follow(measured(ONE_TIME))
    assert 0.1 < line.intercept_ms < 0.25 and mape(measured(ONE_TIME), line) < 20


def test_networks_that_scatter_are_noted_with_their_misfit() -> None:
    networks = measured({1: 1.5, 2: 1.4, 3: 4.8, 4: 2.9, 5: 7.0})
    line, note = follow(networks)
    assert mape(networks, line) > MISFIT and f"off by {mape(networks, line):.0f} %" in note
    agreeing = measured({ms: 1.02 * ms + 0.1 for ms in (1, 2, 3, 4)})
    assert follow(agreeing)[1] == "" and mape(agreeing, follow(agreeing)[0]) < 1


def test_expected_error_is_never_below_the_calibrations_misfit(
    space: Space, tmp_path: Path
) -> None:
    device = FakeDevice()
    true = device.measure

    def scattered(
        artifact: Path,
    ) -> Timing:  # whole networks take 0.6 or 1.4 times what they should
        timing = true(artifact)
        chain = device.measured[-1]
        factor = (
            1.0
            if len({block.kind for block in chain.blocks}) < 4
            else 0.6 + 0.8 * (int(chain.digest(), 16) % 2)
        )
        return replace(
            timing,
            median_ms=timing.median_ms * factor,
            p10_ms=timing.p10_ms * factor,
            p90_ms=timing.p90_ms * factor,
        )

    device.measure = scattered  # type: ignore[method-assign]
    table, _ = profile(space, device, tmp_path)
    misfit = table.device.calibration.mape
    assert (
        misfit is not None
        and table.leave_one_out_error is not None
        and misfit > table.leave_one_out_error
    )
    assert load_table(tmp_path).expected_error == table.expected_error == misfit
    own = table.calibrated(space.name, space.resolution)
    assert own.expected_error == own.device.calibration.mape and own.device.calibration.note


def test_calibration_gives_no_negative_intercept() -> None:
    scale, intercept, *_ = calibrate(measured({ms: ms - 0.5 for ms in (1, 4, 9)}))
    assert 0 <= intercept < 1e-6 and 0 < scale < 1


SIZES = {0.05: 0.2, 0.09: 0.9, 0.1: 0.4, 0.15: 2.0, 0.2: 1.1, 0.21: 3.0, 0.3: 2.2, 0.4: 5.0}
"""Millions of parameters by the sum of the rows."""


def with_sizes(times: dict[float, float]) -> list[NetworkTime]:
    return [replace(each, params=int(1e6 * SIZES[each.sum_ms])) for each in measured(times)]


@pytest.mark.parametrize("weights", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("call", [0, 0.01])
def test_calibration_finds_what_weights_take_beside_the_rows(weights: float, call: float) -> None:
    """Beyond those of the smallest network, which rows have told already."""
    networks = with_sizes({ms: call + ms + weights * (size - 0.2) for ms, size in SIZES.items()})
    line = calibrate(networks)
    assert line.weights_ms == pytest.approx(weights, rel=0.02) and line.scale == pytest.approx(
        1, abs=0.01
    )
    assert line.intercept_ms == pytest.approx(call, abs=0.002) and line.weights_from == 0.2
    assert all(abs(each.predicted(line).error_percent) < 1 for each in networks)


@pytest.mark.parametrize("scale", [1, 1.3])
def test_networks_that_take_their_sums_give_weights_no_time(scale: float) -> None:
    line = calibrate(with_sizes({ms: scale * ms for ms in SIZES}))
    assert line == pytest.approx((scale, 0, 0, 0.2), abs=2e-3)


def test_weights_reach_the_predictions_of_a_space(
    space: Space, made_up_table: Callable[..., LatencyTable], tmp_path: Path
) -> None:
    """Through the files: `device.yaml` and `networks.csv`."""
    made_up_table(space).save(tmp_path)
    table = load_table(tmp_path)
    members = calibration_members(space)
    found = [
        NetworkTime("calibration", "small", resolution_id(space), member.name, 1.0)
        for member in members
    ]
    summed = sums(table, dict(zip(members, found, strict=True)))
    networks = [replace(each, measured_ms=each.sum_ms + 5 * each.params / 1e6) for each in summed]
    recalibrated(table, space.name, networks).device.save(tmp_path / "device.yaml")
    again = load_table(tmp_path)
    assert [each.params for each in read_networks(tmp_path)] == [
        member.params for member in members
    ]
    assert again.device.spaces[0].weights_ms == pytest.approx(5, rel=0.05)
    assert again.device.spaces[0].weights_from == pytest.approx(
        min(member.params for member in members) / 1e6
    )
    for member, network in zip(members, networks, strict=True):
        assert again.total_ms(member) == pytest.approx(network.measured_ms, rel=0.01)
        assert again.predict(member).ms == again.total_ms(member)


def test_networks_of_which_one_is_from_an_old_file_give_weights_no_time() -> None:
    first, *others = with_sizes({ms: ms + 0.1 * size for ms, size in SIZES.items()})
    assert calibrate([replace(first, params=0), *others]).weights_ms == 0


@pytest.mark.parametrize("which", range(1, 5))
def test_one_disturbed_network_does_not_turn_the_line(which: int) -> None:
    """But for the fastest one, which alone tells the intercept."""
    times = {ms: 0.3 + 1.003 * ms for ms in (10, 40, 60, 90, 220)}
    disturbed = dict(times)
    disturbed[list(times)[which]] *= 1.1
    line = calibrate(measured(disturbed))
    for each in measured(times):
        assert each.predicted(line).predicted_ms == pytest.approx(each.measured_ms, rel=0.015)


def test_networks_that_scatter_leave_the_scale_where_physics_has_it() -> None:
    """Rows and networks are times of one device; what a few networks scatter by is no reason to
    scale all others."""
    scatter = (1.037, 0.974, 1.003, 1.003, 0.999)
    scale, *_ = calibrate(
        measured({ms: off * ms for ms, off in zip((13.5, 43, 65, 92, 222), scatter, strict=True)})
    )
    assert scale == pytest.approx(1, abs=0.004)


def test_statistics() -> None:
    found = statistics([net(1.0, 1.04), net(2.0, 1.84), net(4.0, 4.0), net(8.0, 9.6)])
    assert found["mape"] == pytest.approx(8.0)
    assert found["bias"] == pytest.approx(4.0)
    assert (found["within_5"], found["within_10"], found["nets"]) == (50, 75, 4)
    assert found["spearman"] == 1.0


def test_check_draws_others_than_the_calibration(space: Space) -> None:
    used = {member.operations() for member in calibration_members(space)}
    assert len(used) == CALIBRATION_NETWORKS
    for seed in (0, 1, 7):
        drawn = [member.operations() for member in check_members(space, 40, seed)]
        assert len(drawn) == len(set(drawn)) == 40 and not used & set(drawn)
    assert check_members(space, 5, 0) == check_members(space, 5, 0) != check_members(space, 5, 1)


@pytest.mark.parametrize("count", [1, 3, 5, 8, 20])
def test_no_network_is_drawn_twice(tiny_space: Space, count: int) -> None:
    """Where two members differ in which block is gone, and not in what runs; and where there are
    few members."""
    every = {Chain.network(tiny_space.sample(seed).operations()) for seed in range(300)}
    chains = [
        Chain.network(member.operations()) for member in calibration_members(tiny_space, count)
    ]
    assert len(chains) == len(set(chains)) == min(len(every), count)
    chains = [
        Chain.network(m.operations())
        for m in (*calibration_members(tiny_space), *check_members(tiny_space, 20, 0))
    ]
    assert len(chains) == len(set(chains)) == len(every)


def test_check_is_stored_and_believed(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    device = FakeDevice()
    checked, times = check(table, space, device, nets=12)
    anchors = device.measured[:CALIBRATION_NETWORKS]
    measured = device.measured[CALIBRATION_NETWORKS:]
    assert {Chain.network(member.operations()) for member in calibration_members(space)} == set(
        anchors
    )
    assert len(measured) == len(times) == 12
    for time, chain in zip(times, measured, strict=True):
        assert time.measured_ms == pytest.approx(true_ms(chain), rel=1e-4)
    assert checked.device.check is not None and checked.device.check.mape < 1
    assert checked.device.check.within_5 == 100 and checked.device.check.spearman == pytest.approx(
        1, abs=0.01
    )
    loaded = load_table(tmp_path)
    assert loaded.device == checked.device
    assert loaded.expected_error == checked.device.check.mape
    rows = list(csv.DictReader((tmp_path / NETWORKS_FILE).open()))
    assert [row["role"] for row in rows] == CALIBRATION_NETWORKS * ["calibration"] + 12 * ["check"]
    assert read_networks(tmp_path)[CALIBRATION_NETWORKS:] == times


def test_slow_networks_show_as_bias(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    slow = FakeDevice()
    slow.factor = lambda count: 1.25
    checked, _ = check(table, space, slow, nets=8)
    assert checked.device.check is not None
    assert checked.device.check.bias == pytest.approx(-20, abs=1)
    assert checked.device.check.within_10 == 0
    assert checked.device.check.drift == pytest.approx(25, abs=0.5), (
        "the calibration's networks are as slow"
    )
    assert checked.device.check.mape_without_drift == pytest.approx(0, abs=1)


def test_a_device_that_repeats_waits_out_a_slow_spell(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    device = FakeDevice()
    device.repeats = 2
    spell = 36
    device.factor = lambda count: 1.1 if count < spell else 1.0
    checked, _ = check(table, space, device, nets=8)
    assert checked.device.check is not None
    assert spell < len(device.measured) <= 4 * (CALIBRATION_NETWORKS + 8), (
        "two visits, and again until the anchors take what they took"
    )
    assert checked.device.check.drift == pytest.approx(0, abs=0.1) and checked.device.check.mape < 1


def test_a_device_that_stays_slow_is_not_waited_for_for_ever(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    device = FakeDevice()
    device.repeats = 2
    device.factor = lambda count: 1.1
    checked, _ = check(table, space, device, nets=8)
    assert checked.device.check is not None
    assert len(device.measured) == 4 * (CALIBRATION_NETWORKS + 8)
    assert checked.device.check.drift == pytest.approx(10, abs=0.1)


def test_a_disturbed_calibration_is_mended(space: Space, tmp_path: Path) -> None:
    """Its networks were slow when they were measured first; nothing makes them faster than they
    are."""
    device = FakeDevice()
    device.repeats = 2
    table, _ = profile(space, device, tmp_path)
    nets = [replace(net, measured_ms=1.08 * net.measured_ms) for net in read_networks(tmp_path)]
    write_networks(tmp_path, nets)
    checked, _ = check(load_table(tmp_path), space, device, nets=8)
    assert checked.device.check is not None and checked.device.check.mape < 1
    assert checked.device.check.drift == pytest.approx(0, abs=0.1)
    assert checked.device.spaces[0].scale == pytest.approx(table.device.spaces[0].scale, rel=1e-3)
    assert [net.role for net in read_networks(tmp_path)].count(
        "calibration"
    ) == CALIBRATION_NETWORKS
    assert load_table(tmp_path).device == checked.device


def test_mending_leaves_the_order_of_the_spaces(space: Space, tmp_path: Path) -> None:
    """The last one is what `nas check` takes without --space."""
    device = FakeDevice()
    device.repeats = 2
    profile(space, device, tmp_path)
    table, _ = profile(space.at(96), device, tmp_path)
    nets = read_networks(tmp_path)
    write_networks(tmp_path, [replace(net, measured_ms=1.08 * net.measured_ms) for net in nets])
    checked, _ = check(load_table(tmp_path), space, device, nets=4)
    mended = {net.network for net in nets} & {
        net.network for net in read_networks(tmp_path) if net in nets
    }
    assert len(mended) == CALIBRATION_NETWORKS, "those of the space that was checked"
    assert profiled_spaces(checked.device) == profiled_spaces(table.device)


def test_without_the_calibrations_networks_there_is_no_drift(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    (tmp_path / NETWORKS_FILE).unlink()
    checked, _ = check(table, space, FakeDevice(), nets=5)
    assert checked.device.check is not None and checked.device.check.drift is None


def test_check_goes_on_after_an_interruption(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    device = FakeDevice()
    device.stop_after = 7
    with pytest.raises(KeyboardInterrupt):
        check(table, space, device, nets=10)
    again = FakeDevice()
    check(table, space, again, nets=10)
    assert len(again.measured) == CALIBRATION_NETWORKS + 10 - 7
    assert not (tmp_path / JOURNAL_FILE).exists()


def test_new_rows_make_the_check_stale(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    check(table, space, FakeDevice(), nets=5)
    unchanged, _ = profile(space, FakeDevice(), tmp_path)
    assert unchanged.device.check is not None
    changed, _ = profile(space.at(96), FakeDevice(), tmp_path)
    assert changed.device.check is None


def test_other_settings_and_missing_rows_are_refused(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    with pytest.raises(InputError, match="threads"):
        check(table, space, FakeDevice(threads=2), nets=3)
    with pytest.raises(InputError, match="no row for"):
        check(table, space.at(96), FakeDevice(), nets=3)


def test_networks_that_the_device_cannot_run_are_left_out(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space, FakeDevice(), tmp_path)
    members = check_members(space, 12, 0)
    used = [{operation.key for operation in member.operations()} for member in members]
    some = next(key for key in sorted(used[0]) if not all(key in each for each in used))
    left = sum(some not in each for each in used)

    def without(keys: Collection[Key]) -> LatencyTable:
        rows = {key: row for key, row in table.rows.items() if key not in keys}
        return replace(table, rows=rows, unsupported=dict.fromkeys(keys, "no kernel"))

    without([some]).save(tmp_path)
    _, times = check(load_table(tmp_path), space, FakeDevice(), nets=12, beside=False)
    assert 0 < left < 12 and len(times) == left
    without([key for key in table.rows if key[0] == some[0]]).save(tmp_path)
    with pytest.raises(InputError, match=r"unsupported\.csv: has an operation of every network"):
        check(load_table(tmp_path), space, FakeDevice(), nets=12, beside=False)


def test_table_knows_its_spaces(space: Space, tmp_path: Path) -> None:
    table, _ = profile(space.at(96, classes=7), FakeDevice(), tmp_path)
    [(name, resolution)] = profiled_spaces(load_table(tmp_path).device)
    assert (name, resolution) == (space.path, "96x96/7")
    assert resolution_id(at_resolution_id(space, resolution, "device.yaml")) == resolution
    assert table.total_ms(at_resolution_id(space, resolution, "device.yaml").sample(3)) > 0


def test_check_of_a_chain_is_the_network(space: Space) -> None:
    member = space.sample(4)
    chain = Chain.network(member.operations())
    assert Chain.from_dict(chain.to_dict()) == chain
    assert chain.digest() != Chain.network(space.sample(5).operations()).digest()
