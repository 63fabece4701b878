"""The parsers of what `benchmark_model` and `dumpsys` print: the tool's own text, other texts, and
damage."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from fake_phone.tool import result, statistics
from hypothesis import given
from hypothesis import strategies as st

from nas.devices.android.adb import (
    battery_percent,
    cannot_link,
    reason_in,
    thermal_name,
    thermal_status,
)
from nas.devices.android.benchmark_tool import (
    Delegated,
    Statistics,
    delegated,
    no_gpu,
    read_log,
    read_result,
    read_start,
)

RECORDED = Path(__file__).with_name("benchmark_model")
"""What the real tool wrote in 14 situations, on Linux: its formats, messages and exit behaviour."""

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
    for parse in (delegated, no_gpu, reason_in, battery_percent, thermal_status):
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
    assert delegated(f"{gpu}\n{cpu}") == Delegated(366, 370)
    assert not delegated(cpu).taken and not delegated("").taken


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("LITERT_CL", True),
        ("LITERT_WEBGPU", True),
        ("TfLiteGpuDelegateV2", True),
        ("TfLiteXNNPackDelegate", False),
        ("YNNPackDelegate", False),
        ("NeuronStableDelegate", False),
        ("", False),
    ],
)
def test_only_known_delegates_are_a_gpu(name: str, gpu: bool) -> None:
    line = f"VERBOSE: Replacing 14 out of 14 node(s) with delegate ({name}) node, yielding 1 partitions"
    assert delegated(f"{line} for subgraph 0 (main).") == Delegated(14 if gpu else 0, 14)


def test_subgraphs_count_whole() -> None:
    line = (
        "VERBOSE: Replacing {} out of {} node(s) with delegate ({}) node, yielding 1 partitions for"
        " subgraph {} (main).\n"
    )
    first = line.format(12, 14, "LITERT_CL", 0) + line.format(2, 3, "TfLiteXNNPackDelegate", 0)
    second = line.format(3, 5, "LITERT_CL", 1)
    assert delegated(first + second) == Delegated(15, 19)
    unnamed = (first + second).replace(" for subgraph 0 (main)", "")
    assert delegated(unnamed.replace(" for subgraph 1 (main)", "")) == Delegated(15, 19)


def test_errors() -> None:
    text = "INFO: a\nERROR: [model.cc:12] Failed to compile.\nERROR: Benchmarking failed.\n"
    assert reason_in(text) == "Failed to compile."
    assert reason_in("FATAL: no\n") == "no"
    assert reason_in("INFO: a\nCANNOT LINK EXECUTABLE \n\n") == "CANNOT LINK EXECUTABLE"
    assert reason_in(" \n") == ""
    warning = "WARNING: linker: Warning: failed to find generated linker configuration\n"
    assert reason_in(f"{warning}mkdir: 'x': Permission denied\n") == "mkdir: 'x': Permission denied"
    assert reason_in(f"{warning}Segmentation fault\n") == "Segmentation fault"
    unlinked = f'{warning}CANNOT LINK EXECUTABLE "x": cannot locate symbol\nAborted\n'
    assert cannot_link(unlinked) and reason_in(unlinked).endswith("cannot locate symbol")


def recorded(name: str) -> str:
    """Both streams of the real tool, as adb gives them."""
    return "".join((RECORDED / f"{name}.{stream}").read_text() for stream in ("stdout", "stderr"))


@pytest.mark.parametrize(
    "name",
    ["cpu", "cpu-2threads", "gpu-no-accelerator", "one-run", "profiler", "unknown-flag"],
)
def test_recorded_figures(name: str) -> None:
    log = read_log(recorded(name))
    file = read_result((RECORDED / f"{name}.pb").read_bytes())
    assert log == file and log.runs >= 1
    assert not delegated(recorded(name)).taken


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad-precision", "Invalid gpu-precision: fp64"),
        ("full-delegation", "Failed to compile model"),
        ("garbage-graph", "Model provided has model identifier"),
        ("gpu-webgpu-lib", "Failed to initialize WebGPU environment"),
        ("missing-graph", "Could not open"),
        ("cut-graph", ""),
    ],
)
def test_recorded_failures(name: str, reason: str) -> None:
    assert reason in reason_in(recorded(name)) and "\n" not in reason_in(recorded(name))
    with pytest.raises(ValueError):
        read_log(recorded(name))


def test_recorded_dry_run_is_no_measurement() -> None:
    with pytest.raises(ValueError):
        read_log(recorded("dry"))
    with pytest.raises(ValueError):
        read_result((RECORDED / "dry.pb").read_bytes())


def test_recorded_figures_without_a_result_file() -> None:
    assert read_log(recorded("unwritable-result")).runs > 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpu-no-accelerator", "GPU accelerator could not be loaded"),
        ("gpu-webgpu-lib", "Failed to initialize WebGPU environment"),
        ("cpu", ""),
    ],
)
def test_recorded_reason_for_no_gpu(name: str, reason: str) -> None:
    found = no_gpu(recorded(name))
    assert reason in found and bool(found) == bool(reason)


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


START_RECORDED = bytes.fromhex(
    "12320d612ad83d15f4fd543c1d2731c14125d7a3a03f2dbc74933c358fc2753c3dbc74933c45df4f9d3f4dec51b83d"
    "55cb0b0d3e1a0608d41f10d42022100d897bac3d109f1718d30625530dde40"
)
"""The result file that LiteRT's tool wrote for a small stack (load 1.229 ms, first run 0.09 ms)."""


def test_the_start_is_read_from_the_tools_own_result_file() -> None:
    start = read_start(START_RECORDED)
    assert (start.load_ms, start.first_ms) == pytest.approx((1.229, 0.09), abs=1e-4)
    assert start.memory_mb == pytest.approx(4180 / 1024), "4.08 MB, as its log rounds it"
    assert read_result(START_RECORDED).runs == 2975


def test_a_sampled_peak_is_preferred_to_what_stays_in_use() -> None:
    # Field 3 of the message in field 3, a float: the peak in MB.
    peak = b"\x1d" + struct.pack("<f", 9.5)
    at = START_RECORDED.index(bytes.fromhex("1a06"))
    memory = START_RECORDED[at + 2 : at + 8] + peak
    data = START_RECORDED[:at] + b"\x1a" + bytes([len(memory)]) + memory + START_RECORDED[at + 8 :]
    assert read_start(data).memory_mb == 9.5


@given(st.integers(0, len(START_RECORDED) - 1), st.integers(0, 255))
def test_a_damaged_start_is_an_error_or_numbers(place: int, value: int) -> None:
    damaged = START_RECORDED[:place] + bytes([value]) + START_RECORDED[place + 1 :]
    with suppress(ValueError):
        start = read_start(damaged)
        assert start.load_ms >= 0
        assert start.first_ms >= 0
