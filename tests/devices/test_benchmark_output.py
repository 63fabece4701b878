"""The parsers of what `benchmark_model` and `dumpsys` print: the tool's own text, other texts, and
damage."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from fake_phone.tool import result, statistics
from hypothesis import given
from hypothesis import strategies as st

from nas.devices.android.adb import battery_percent, thermal_name, thermal_status
from nas.devices.android.benchmark_tool import (
    Statistics,
    delegated,
    first_error,
    read_log,
    read_result,
    read_start,
)

LOG = """\
INFO: STARTING!
INFO: The input model file size (MB): 13.12
INFO: Initialized session in 5.33ms.
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=12 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930 p5=32825 median=33000 p95=49060

INFO: Running benchmark for at least 100 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=100 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450 p5=32650 median=33200 p95=33990

INFO: [benchmark_litert_model.h:88]
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:98] Inference (avg):      33.21 ms (100 runs)
"""
RUNS = (
    "count=100 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450 p5=32650 median=33200"
    " p95=33990"
)
TIMES = st.lists(st.integers(0, 10**7), min_size=1, max_size=60)


def test_second_line_counts() -> None:
    assert read_log(LOG) == Statistics(100, 32650, 33200, 33990)
    assert read_log(LOG.replace("INFO: count", "count")) == read_log(LOG)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("count=1 curr=123 p5=123 median=123 p95=123", Statistics(1, 123, 123, 123)),
        ("count=50 curr=123(all same) p5=123 median=123 p95=123", Statistics(50, 123, 123, 123)),
        ("count=50 curr=123(all same)", Statistics(50, 123, 123, 123)),
        ("count=50 first=9 curr=8 min=7 max=12 avg=8.25 std=1", Statistics(50, 7, 8.25, 12)),
        (
            "count=9 first=1 curr=2 min=1 max=2000000 avg=1.5e+06 std=1",
            Statistics(9, 1, 1.5e6, 2e6),
        ),
    ],
)
def test_other_forms(line: str, expected: Statistics) -> None:
    assert read_log(LOG.replace(RUNS, line)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "INFO: STARTING!\n",
        LOG.replace(f"INFO: {RUNS}", ""),
        LOG.replace(RUNS, "count=0"),
        LOG.replace(RUNS, "count=5 curr=nan"),
        LOG.replace("median=33200", "median=3"),
        LOG.replace("p5=32650", "p5=-1"),
    ],
)
def test_log_without_figures(text: str) -> None:
    with pytest.raises(ValueError):
        read_log(text)


@given(TIMES, TIMES)
def test_log_and_result_file_agree(warm_up: list[int], runs: list[int]) -> None:
    log = read_log("\n".join((statistics(warm_up), "noise", statistics(runs))))
    file = read_result(result(warm_up, runs))
    assert (log.runs, file.runs) == (len(runs), len(runs))
    for name in ("p5_us", "median_us", "p95_us"):
        assert getattr(file, name) == pytest.approx(getattr(log, name), rel=1e-6)
        assert getattr(log, name) in runs
    assert sum(time < log.median_us for time in runs) <= len(runs) / 2


@given(st.binary(max_size=80))
def test_any_bytes_are_figures_or_damage(data: bytes) -> None:
    with suppress(ValueError):
        assert read_result(data).runs > 0


@given(TIMES, st.data())
def test_torn_result_file(runs: list[int], data: st.DataObject) -> None:
    whole = result([5], runs)
    with pytest.raises(ValueError):
        read_result(whole[: data.draw(st.integers(0, len(whole) - 3))])


@given(
    st.text() | st.from_regex(r"(count=[0-9]+ (median|p5|curr)=[0-9.e+]+ *\n){2}", fullmatch=True)
)
def test_any_text_is_read(text: str) -> None:
    for parse in (delegated, first_error, battery_percent, thermal_status):
        parse(text)  # type: ignore[operator]
    with suppress(ValueError):
        read_log(text)


def test_unknown_fields_are_skipped() -> None:
    """A name, a fixed64 and a varint that later versions of the tool may write."""
    more = b"\x0a\x03abc" + b"\x99\x06" + bytes(8) + b"\x98\x06\xff\x01"
    assert read_result(more + result([5], [7])) == Statistics(1, 7, 7, 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_figures_that_cannot_be(value: float) -> None:
    good = result([5], [7, 8, 9])
    assert read_result(good).median_us == 8
    packed = struct.pack("<f", 8 / 1e3)
    assert packed in good
    with pytest.raises(ValueError):
        read_result(good.replace(packed, struct.pack("<f", value)))


def test_delegation() -> None:
    gpu = (
        "INFO: Replacing 366 out of 370 node(s) with delegate (LITERT_CL) node, yielding 1"
        " partitions for subgraph 0."
    )
    cpu = (
        "INFO: Replacing 4 out of 371 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding"
        " 1 partitions."
    )
    assert delegated(f"{gpu}\n{cpu}") == (366, 370)
    assert delegated(cpu) is None and delegated("") is None


def test_errors() -> None:
    text = "INFO: a\nERROR: [model.cc:12] Failed to compile.\nERROR: Benchmarking failed.\n"
    assert first_error(text) == "Failed to compile."
    assert first_error("FATAL: no\n") == "no"
    assert first_error("INFO: a\nCANNOT LINK EXECUTABLE \n\n") == "CANNOT LINK EXECUTABLE"
    assert first_error(" \n") is None


def test_battery() -> None:
    text = (
        "Current Battery Service state:\n  USB powered: true\n  level: 43\n  scale: 50\n  voltage:"
        " 4123\n"
    )
    assert battery_percent(text) == 86
    assert battery_percent(text.replace("  scale: 50\n", "")) == 43
    assert battery_percent(text.replace("scale: 50", "scale: 0")) is None
    assert battery_percent("Can't find service: battery") is None


def test_thermal() -> None:
    text = (
        "IsStatusOverride: false\nThermal Status: 3\nCached"
        " temperatures:\n\tTemperature{mValue=38.1, mStatus=5}\n"
    )
    assert thermal_status(text) == 3 and thermal_name(3) == "severe" and thermal_name(99) == "99"
    assert thermal_status("Can't find service: thermalservice") is None


RECORDED = bytes.fromhex(
    "12320d612ad83d15f4fd543c1d2731c14125d7a3a03f2dbc74933c358fc2753c3dbc74933c45df4f9d3f4dec51b83d"
    "55cb0b0d3e1a0608d41f10d42022100d897bac3d109f1718d30625530dde40"
)
"""The result file that LiteRT's tool wrote for a small stack (load 1.229 ms, first run 0.09 ms)."""


def test_the_start_is_read_from_the_tools_own_result_file() -> None:
    start = read_start(RECORDED)
    assert (start.load_ms, start.first_ms) == pytest.approx((1.229, 0.09), abs=1e-4)
    assert start.memory_mb == pytest.approx(4180 / 1024), "4.08 MB, as its log rounds it"
    assert read_result(RECORDED).runs == 2975


def test_a_sampled_peak_is_preferred_to_what_stays_in_use() -> None:
    # Field 3 of the message in field 3, a float: the peak in MB.
    peak = b"\x1d" + struct.pack("<f", 9.5)
    at = RECORDED.index(bytes.fromhex("1a06"))
    memory = RECORDED[at + 2 : at + 8] + peak
    data = RECORDED[:at] + b"\x1a" + bytes([len(memory)]) + memory + RECORDED[at + 8 :]
    assert read_start(data).memory_mb == 9.5


@given(st.integers(0, len(RECORDED) - 1), st.integers(0, 255))
def test_a_damaged_start_is_an_error_or_numbers(place: int, value: int) -> None:
    damaged = RECORDED[:place] + bytes([value]) + RECORDED[place + 1 :]
    with suppress(ValueError):
        start = read_start(damaged)
        assert start.load_ms >= 0
        assert start.first_ms >= 0
