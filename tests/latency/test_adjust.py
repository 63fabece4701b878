"""Adjusting an estimated table to networks of one's own: exact where figures are exact, robust,
clear errors."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import InputError
from nas.latency import LatencyTable, load_table
from nas.latency.adjust import adjust
from nas.space import load_space

NAMES = (
    "efficientformer_l1",
    "efficientformer_l3",
    "swiftformer_xs",
    "swiftformer_l1",
    "efficientformerv2_s1",
)
MEMBERS = {
    name: arch
    for space in ("efficientformer", "swiftformer", "efficientformerv2")
    for name, arch in load_space(space).published.items()
}


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return load_table("iphone12")


def written(folder: Path, figures: dict[str, float]) -> Path:
    path = folder / "nets.csv"
    path.write_text(
        "network,latency_ms\n" + "".join(f"{name},{ms}\n" for name, ms in figures.items())
    )
    return path


def figures(
    table: LatencyTable, scale: float, intercept: float, count: int = len(NAMES)
) -> dict[str, float]:
    """What networks would take on a phone with this scale and this intercept."""
    bare = table.device.intercept_ms
    return {
        name: intercept + scale * (table.predict(MEMBERS[name]).ms - bare) for name in NAMES[:count]
    }


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_networks_give_one_factor(
    table: LatencyTable, tmp_path: Path, count: int
) -> None:
    known = {name: 1.3 * table.predict(MEMBERS[name]).ms for name in NAMES[:count]}
    after = adjust(table, written(tmp_path, known)).device
    assert (
        after.calibration.scale == pytest.approx(1.3, rel=1e-4) and after.calibration.nets == count
    )
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
    assert {name: adjusted.predict(MEMBERS[name]).ms for name in NAMES} == pytest.approx(
        known, rel=0.01
    )
    assert adjusted.device.calibration.scale == pytest.approx(0.8, rel=0.03)
    assert adjusted.device.intercept_ms == pytest.approx(0.6, rel=0.05)
    assert adjusted.expected_error is not None and 0 < adjusted.expected_error < 3
    assert adjusted.rows == table.rows and adjusted.provenance == "estimated"


def test_one_network_that_is_far_off_does_not_spoil_the_others(
    table: LatencyTable, tmp_path: Path
) -> None:
    known = figures(table, 1.2, 0.4)
    known[NAMES[0]] *= 3
    adjusted = adjust(table, written(tmp_path, known))
    for name in NAMES[1:]:
        assert adjusted.predict(MEMBERS[name]).ms == pytest.approx(known[name], rel=0.1)
    note = adjusted.device.calibration.note
    assert note.startswith(f"check these figures: {NAMES[0]} (-") and "," not in note


def test_it_can_be_saved_read_and_adjusted_again(table: LatencyTable, tmp_path: Path) -> None:
    path = written(tmp_path, figures(table, 0.9, 0.3))
    adjust(table, path).save(tmp_path / "mine")
    again = load_table(tmp_path / "mine")
    assert again.device.calibration.scale == pytest.approx(0.9, rel=0.05)
    twice = adjust(again, path).device.calibration
    assert (twice.scale, twice.nets) == (
        pytest.approx(again.device.calibration.scale, rel=0.01),
        len(NAMES),
    )


def test_an_architecture_file_is_a_network_too(table: LatencyTable, tmp_path: Path) -> None:
    arch = load_space("emo").sample(seed=3)
    arch.save(tmp_path / "mine.yaml")
    ms = table.predict(arch).ms
    adjusted = adjust(table, written(tmp_path, {str(tmp_path / "mine.yaml"): 2 * ms}))
    assert adjusted.predict(arch).ms == pytest.approx(2 * ms, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "network,latency_ms\nefficientformer_l2,1.0\n",
            (
                r"nets.csv:2: network: 'efficientformer_l2' is not a published .* YAML file,"
                r" did you mean 'efficientformer_"
            ),
        ),
        (
            "network,latency_ms\nefficientformer_l1,1.0\nefficientformer_l3,fast\n",
            r"nets.csv:3: latency_ms: 'fast' is not a positive number",
        ),
        (
            "network,latency_ms\nefficientformer_l1,-1\n",
            r"nets.csv:2: latency_ms: '-1' is not a positive number",
        ),
        (
            "network,latency_ms\nefficientformer_l1,1.0\nEfficientFormer-L1,1.1\n",
            r"nets.csv:3: network: 'EfficientFormer-L1' duplicates line 2",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,100\n",
            r"nets.csv:2: resolution 100x100: both sides must be",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,0.5\n",
            r"nets.csv:2: resolution: '0.5' is not a side",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,16\n",
            r"nets.csv:2: resolution 16x16: both sides must be",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,1e9\n",
            r"nets.csv:2: resolution: '1e9' is not a side",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,-224\n",
            r"nets.csv:2: resolution: '-224' is not a positive",
        ),
        (
            "network,latency_ms,resolution\nswiftformer_s,1.0,big\n",
            r"nets.csv:2: resolution: 'big' is not a positive number",
        ),
        (
            "network,latency_ms\nefficientformer_l1,1,5\n",
            r"nets.csv:2: too many values \(got 3, expected 2\). Fix: .*1.5",
        ),
        (
            "network,latency_ms,size\nefficientformer_l1,1.0,256\n",
            r"nets.csv:1: unknown column 'size' \(expected network, latency_ms and, where known, res",
        ),
        (
            "network,latency_ms,Latency_ms\nefficientformer_l1,1.0,2.0\n",
            r"nets.csv:1: column 'latency_ms' is a duplicate",
        ),
        (
            'network,latency_ms\n"efficientformer_l1,1.0\nswiftformer_s,1.0\n',
            r"nets.csv:3: malformed CSV",
        ),
        ("network,ms\nefficientformer_l1,1.0\n", r"nets.csv:1: column 'latency_ms' is missing"),
        ("network,latency_ms\n", r"nets.csv: has no networks"),
        ("network,latency_ms\nnowhere.yaml,1.0\n", r"nets.csv:2: .*nowhere.yaml"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(
    table: LatencyTable, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "nets.csv").write_text(text)
    with pytest.raises(InputError, match=reason) as raised:
        adjust(table, tmp_path / "nets.csv")
    assert "\n" not in str(raised.value)


IMPLAUSIBLE = {
    "microseconds": (
        [1000, 1000, 1000],
        r"latency_ms is in microseconds .*Fix: divide latency_ms by 1000",
    ),
    "microseconds of a slower phone": ([2200], r"latency_ms is in microseconds"),
    "seconds": ([0.001, 0.0009], r"latency_ms is in seconds .*Fix: multiply latency_ms by 1000"),
    "66 times": ([66], r"latency_ms is far from the table \(got 66 times"),
    "0.006 times": ([0.006, 0.006], r"latency_ms is far from the table \(got 0.006 times"),
    "1e300 times": ([1e300], r"latency_ms is far from the table"),
    "contradiction": ([0.5, 2.0], r"the networks contradict each other \(got errors of .* %"),
    "contradiction of many": ([0.3, 1.0, 3.0, 0.6, 2.0], r"the networks contradict each other"),
}


@pytest.mark.parametrize("name", IMPLAUSIBLE)
def test_figures_that_cannot_be_are_refused(table: LatencyTable, tmp_path: Path, name: str) -> None:
    ratios, reason = IMPLAUSIBLE[name]
    known = {
        net: ratio * table.predict(MEMBERS[net]).ms
        for net, ratio in zip(NAMES, ratios, strict=False)
    }
    with pytest.raises(InputError, match=rf"nets.csv: {reason}") as raised:
        adjust(table, written(tmp_path, known))
    message = str(raised.value)
    assert (
        "\n" not in message and "(got " in message and "expected" in message and "Fix: " in message
    )


def test_one_ratio_stays_where_scale_and_intercept_do_not_follow(
    table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: 1.2 * table.predict(MEMBERS[name]).ms for name in NAMES}
    monkeypatch.setattr("nas.latency.adjust._fit", lambda lines, before: (0.001, 0.0))
    line = adjust(table, written(tmp_path, known)).device.calibration
    assert line.scale == pytest.approx(1.2, rel=1e-4) and "one ratio for all does" in line.note


@settings(max_examples=25, deadline=None)
@given(ratios=st.lists(st.floats(0.75, 1.3), min_size=1, max_size=len(NAMES)))
def test_the_expected_error_is_never_below_the_misfit(ratios: list[float]) -> None:
    table = load_table("iphone12")
    known = {
        net: ratio * table.predict(MEMBERS[net]).ms
        for net, ratio in zip(NAMES, ratios, strict=False)
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            after = adjust(table, written(Path(folder), known))
        except InputError as error:
            assert "contradict" in str(error)
            return
    misfit = (
        sum(abs(after.predict(MEMBERS[net]).ms / ms - 1) for net, ms in known.items())
        / len(known)
        * 100
    )
    assert after.expected_error is not None and after.expected_error >= misfit - 0.05
    assert after.device.calibration.mape == pytest.approx(misfit, abs=0.05)
    assert after.expected_error == after.calibrated_error
    assert after.leave_one_out_error == table.leave_one_out_error == table.expected_error


SPREADSHEETS = {
    "byte order mark": "\ufeffnetwork,latency_ms\nefficientformer_l1,1.5\n",
    "semicolons and decimal commas": "network;latency_ms\nefficientformer_l1;1,5\n",
    "blanks": "network, latency_ms\n efficientformer_l1 , 1.5 \n\n",
    "line ends of Windows": "network,latency_ms\r\nefficientformer_l1,1.5\r\n",
    "tabs": "network\tlatency_ms\nefficientformer_l1\t1,5\n",
    "pandas": ",Network,latency_ms\n0,efficientformer_l1,1.5\n",
    "height and width": "network,latency_ms,resolution\nefficientformer_l1,1.5,224x224\n",
    "separator stated": "sep=;\r\nnetwork;latency_ms\r\nefficientformer_l1;1,5\r\n",
    "all of them": "\ufeffnetwork; latency_ms;resolution\r\nefficientformer_l1; 1,5; 224\r\n",
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_files_from_a_spreadsheet_are_read(table: LatencyTable, tmp_path: Path, name: str) -> None:
    (tmp_path / "nets.csv").write_text(SPREADSHEETS[name], encoding="utf-8", newline="")
    adjusted = adjust(table, tmp_path / "nets.csv")
    assert adjusted.predict(MEMBERS["efficientformer_l1"]).ms == pytest.approx(1.5, rel=1e-4)


def test_a_measured_table_calibrates_itself(table: LatencyTable, tmp_path: Path) -> None:
    measured = replace(table, device=replace(table.device, estimate=None, provenance="measured"))
    with pytest.raises(
        InputError, match=r"has measured rows.*nas profile --space SPACE --device iphone12"
    ):
        adjust(measured, written(tmp_path, {"efficientformer_l1": 1.0}))


def test_a_line_is_named_once_whatever_the_reason_begins_with(
    table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {"networks/a.yaml": 1.0})

    def refuse(name: str) -> None:
        raise InputError(f"{path}:2 and more: cannot be read")

    monkeypatch.setattr("nas.latency.adjust.load_architecture", refuse)
    with pytest.raises(InputError) as refused:
        adjust(table, path)
    assert str(refused.value) == f"{path}:2: {path}:2 and more: cannot be read"
