"""Adjusting an estimated table to networks of one's own: exact where figures are exact, robust, clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nas.errors import InputError
from nas.latency import LatencyTable, load_table
from nas.latency.adjust import adjust
from nas.space import load_space

NAMES = ("efficientformer_l1", "efficientformer_l3", "swiftformer_xs", "swiftformer_l1", "efficientformerv2_s1")
MEMBERS = {name: arch for space in ("efficientformer", "swiftformer", "efficientformerv2")
           for name, arch in load_space(space).published.items()}  # fmt: skip


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return load_table("iphone12")


def written(folder: Path, figures: dict[str, float]) -> Path:
    path = folder / "nets.csv"
    path.write_text("network,latency_ms\n" + "".join(f"{name},{ms}\n" for name, ms in figures.items()))
    return path


def figures(table: LatencyTable, scale: float, intercept: float, count: int = len(NAMES)) -> dict[str, float]:
    """What networks would take on a phone with this scale and this intercept."""
    bare = table.device.intercept_ms
    return {name: intercept + scale * (table.predict(MEMBERS[name]).ms - bare) for name in NAMES[:count]}


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_networks_give_one_factor(table: LatencyTable, tmp_path: Path, count: int) -> None:
    known = {name: 1.3 * table.predict(MEMBERS[name]).ms for name in NAMES[:count]}
    after = adjust(table, written(tmp_path, known)).device
    assert after.calibration.scale == pytest.approx(1.3, rel=1e-4) and after.calibration.nets == count
    assert after.intercept_ms == pytest.approx(1.3 * table.device.intercept_ms, rel=1e-4)
    assert after.estimate is not None and table.device.estimate is not None
    assert after.estimate.leave_one_out_mape == table.device.estimate.leave_one_out_mape
    mape = after.estimate.adjusted["mape"]  # type: ignore[attr-defined]
    assert mape["before"] == pytest.approx(100 * 0.3 / 1.3, abs=0.1) and mape["after"] < 0.1


def test_more_networks_give_scale_and_intercept_and_the_error_of_those_left_out(
    table: LatencyTable, tmp_path: Path
) -> None:
    known = figures(table, 0.8, 0.6)
    adjusted = adjust(table, written(tmp_path, known))
    assert {name: adjusted.predict(MEMBERS[name]).ms for name in NAMES} == pytest.approx(known, rel=0.01)
    assert adjusted.device.calibration.scale == pytest.approx(0.8, rel=0.03)
    assert adjusted.device.intercept_ms == pytest.approx(0.6, rel=0.05)
    assert adjusted.expected_error is not None and 0 < adjusted.expected_error < 3
    assert adjusted.rows == table.rows and adjusted.provenance == "estimated"


def test_one_network_that_is_far_off_does_not_spoil_the_others(table: LatencyTable, tmp_path: Path) -> None:
    known = figures(table, 1.2, 0.4)
    known[NAMES[0]] *= 3
    adjusted = adjust(table, written(tmp_path, known))
    for name in NAMES[1:]:
        assert adjusted.predict(MEMBERS[name]).ms == pytest.approx(known[name], rel=0.1)


def test_it_can_be_saved_read_and_adjusted_again(table: LatencyTable, tmp_path: Path) -> None:
    path = written(tmp_path, figures(table, 0.9, 0.3))
    adjust(table, path).save(tmp_path / "mine")
    again = load_table(tmp_path / "mine")
    assert again.device.calibration.scale == pytest.approx(0.9, rel=0.05)
    twice = adjust(again, path).device.calibration
    assert (twice.scale, twice.nets) == (pytest.approx(again.device.calibration.scale, rel=0.01), len(NAMES))


def test_an_architecture_file_is_a_network_too(table: LatencyTable, tmp_path: Path) -> None:
    arch = load_space("emo").sample(seed=3)
    arch.save(tmp_path / "mine.yaml")
    ms = table.predict(arch).ms
    adjusted = adjust(table, written(tmp_path, {str(tmp_path / "mine.yaml"): 2 * ms}))
    assert adjusted.predict(arch).ms == pytest.approx(2 * ms, rel=1e-4)


@pytest.mark.parametrize(("text", "reason"), [
    ("network,latency_ms\nefficientformer_l2,1.0\n",
     r"nets.csv:2: network: 'efficientformer_l2' is neither published nor a YAML file, did you mean 'efficientformer_"),
    ("network,latency_ms\nefficientformer_l1,1.0\nefficientformer_l3,fast\n",
     r"nets.csv:3: latency_ms: 'fast' is no positive number"),
    ("network,latency_ms\nefficientformer_l1,-1\n", r"nets.csv:2: latency_ms: '-1' is no positive number"),
    ("network,latency_ms\nefficientformer_l1,1.0\nEfficientFormer-L1,1.1\n",
     r"nets.csv:3: network: 'EfficientFormer-L1' is on line 2 already"),
    ("network,latency_ms,resolution\nswiftformer_s,1.0,256\n", r"nets.csv:2: .*no row for"),
    ("network,latency_ms,resolution\nswiftformer_s,1.0,big\n", r"nets.csv:2: resolution: 'big' is no positive number"),
    ("network,ms\nefficientformer_l1,1.0\n", r"nets.csv:1: column 'latency_ms' is missing"),
    ("network,latency_ms\n", r"nets.csv: no networks"),
    ("network,latency_ms\nnowhere.yaml,1.0\n", r"nets.csv:2: .*nowhere.yaml"),
])  # fmt: skip
def test_what_cannot_be_used_is_named_with_its_line(table: LatencyTable, tmp_path: Path, text: str,
                                                    reason: str) -> None:  # fmt: skip
    (tmp_path / "nets.csv").write_text(text)
    with pytest.raises(InputError, match=reason) as raised:
        adjust(table, tmp_path / "nets.csv")
    assert "\n" not in str(raised.value)


def test_a_measured_table_calibrates_itself(table: LatencyTable, tmp_path: Path) -> None:
    measured = replace(table, device=replace(table.device, estimate=None, provenance="measured"))
    with pytest.raises(InputError, match=r"has measured rows.*nas profile --space SPACE --device iphone12"):
        adjust(measured, written(tmp_path, {"efficientformer_l1": 1.0}))
