"""Latency tables: files that round-trip, predictions that add up, and bad input in one line with
file, line and key."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas import resources
from nas.blocks import Operation
from nas.errors import InputError
from nas.latency import (
    Calibration,
    Check,
    DeviceInfo,
    EstimateInfo,
    LatencyTable,
    MissingRows,
    Row,
    load_device_info,
    load_table,
    make_table,
)
from nas.latency.rows import COLUMNS, format_rows, read_rows
from nas.space import load_space
from nas.space.operations import space_operations

SHIPPED = resources.shipped(resources.TABLES)
SPACE = load_space("efficientformer").at(64, 10)
OPERATIONS = space_operations(SPACE)
DEVICE = DeviceInfo(
    name="phone",
    kind="coreml",
    soc="A14",
    os="iOS 16",
    runtime="Core ML",
    runtime_version="5",
    compute_unit="all",
    precision="float16",
    provenance="measured",
    date="2026-11-21",
    intercept_ms=0.25,
)
GOOD = (
    "mb4d,expansion=4;pool=3;activation=gelu,48x56x56,48x56x56,0.2,0.1,0.3,50,measured,2026-11-21"
)


def row_of(operation: Operation, ms: float = 0.5, provenance: str = "measured") -> Row:
    return Row(*operation.key, str(operation.output), ms, ms, ms, 10, provenance, "2026-11-21")  # type: ignore[arg-type]


def whole_table(**device: object) -> LatencyTable:
    rng = random.Random(0)
    rows = [row_of(operation, rng.random()) for operation in OPERATIONS]
    return make_table(replace(DEVICE, **device), rows)  # type: ignore[arg-type]


CALIBRATED = whole_table(calibration={"scale": 1.25, "weights_ms": 0.02, "weights_from": 3})


@st.composite
def rows(draw: st.DrawFn) -> Row:
    operation = draw(st.sampled_from(OPERATIONS))
    p10, median, p90 = sorted(draw(st.tuples(*[st.floats(0, 1e6)] * 3)))
    extra = draw(
        st.dictionaries(
            st.sampled_from(["error_ms", "placement"]), st.text("ab ,\"'é\n", min_size=1)
        )
    )
    return Row(
        *operation.key,
        str(operation.output),
        median,
        p10,
        p90,
        draw(st.integers(0, 10**6)),
        draw(st.sampled_from(["measured", "interpolated", "estimated"])),
        draw(st.dates()).isoformat(),
        tuple(extra.items()),
    )


devices = st.builds(
    replace,
    st.just(DEVICE),
    description=st.text("abc: é#'\"", max_size=9),
    threads=st.none() | st.integers(1, 64),
    intercept_ms=st.floats(0, 10),
    tools=st.dictionaries(st.text("ab"), st.text("1."), max_size=3),
    calibration=st.fixed_dictionaries(
        {
            "scale": st.floats(0.1, 2),
            "weights_ms": st.floats(0, 1),
            "weights_from": st.floats(0, 9),
            "nets": st.integers(0, 9),
        }
    ),
    check=st.none()
    | st.fixed_dictionaries(
        {
            "nets": st.integers(1, 50),
            "mape": st.floats(0, 50),
            "bias": st.floats(-50, 50),
            "within_5": st.floats(0, 100),
            "within_10": st.floats(0, 100),
            "spearman": st.none() | st.floats(-1, 1),
            "date": st.just("2026-01-02"),
        }
    ),
)


@settings(max_examples=40)
@given(st.lists(rows(), max_size=8), devices)
def test_saving_and_loading_gives_the_same_table(rows: list[Row], device: DeviceInfo) -> None:
    columns = sorted({name for row in rows for name, _ in row.extra})
    rows = [
        replace(row, extra=tuple((c, dict(row.extra).get(c, "")) for c in columns)) for row in rows
    ]
    table = make_table(device, rows)
    with tempfile.TemporaryDirectory() as folder:
        table.save(folder)
        loaded = load_table(folder)
    assert dict(loaded.rows) == dict(table.rows)
    assert loaded.device == device


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_a_prediction_is_the_sum_of_its_bars_and_the_fast_path_agrees(seed: int) -> None:
    arch = SPACE.sample(seed)
    table = CALIBRATED
    estimate = table.predict(arch)
    rows = sum(table.rows[op.key].median_ms for op in arch.operations())
    by_hand = 0.25 + 1.25 * rows + 0.02 * (arch.params / 1e6 - 3)
    assert estimate.ms == pytest.approx(by_hand)
    assert sum(bar.ms for bar in estimate.breakdown) == pytest.approx(by_hand)
    assert table.total_ms(arch) == pytest.approx(by_hand)
    assert table.total_ms(arch) == table.total_ms(arch)
    assert [bar.name for bar in estimate.breakdown] == [
        "intercept",
        *(op.name for op in arch.operations()),
    ]
    assert estimate.missing == ()


def test_another_calibration_forgets_what_the_fast_path_remembered() -> None:
    table = whole_table()
    arch = SPACE.smallest()
    sum_ms = table.total_ms(arch) - 0.25
    doubled = replace(table, device=replace(table.device, calibration=Calibration(scale=2.0)))
    assert doubled.total_ms(arch) == pytest.approx(0.25 + 2 * sum_ms)


def test_the_operations_of_a_space_are_those_of_its_members() -> None:
    keys = {operation.key for operation in OPERATIONS}
    assert len(keys) == len(OPERATIONS)
    used = {op.key for seed in range(400) for op in SPACE.sample(seed).operations()}
    members = [SPACE.largest(), SPACE.smallest(), *SPACE.published.values()]
    used |= {op.key for arch in members for op in arch.operations()}
    assert used <= keys
    assert len(keys - used) < len(keys) / 3


@pytest.mark.parametrize("provenance", ["interpolated", "estimated"])
def test_the_worst_row_names_the_provenance(provenance: str) -> None:
    arch = SPACE.published["efficientformer_l1"]
    first, *others = arch.operations()
    table = make_table(DEVICE, [row_of(first, provenance=provenance), *map(row_of, others)])
    assert table.predict(arch).provenance == table.provenance == provenance
    assert table.predict(arch).breakdown[2].provenance == "measured"


def test_the_expected_error_is_the_check_before_the_estimate() -> None:
    table = make_table(DEVICE, [])
    assert table.expected_error is None
    assert "nas check --device phone" in table.expected_error_source
    table = make_table(
        replace(DEVICE, estimate=EstimateInfo(method="fit", leave_one_out_mape=12.5)), []
    )
    assert table.expected_error == 12.5
    check = Check(
        nets=20,
        mape=1.5,
        bias=0.1,
        within_5=95.0,
        within_10=100.0,
        spearman=0.99,
        date="2026-11-21",
    )
    table = make_table(replace(table.device, check=check), [])
    assert table.expected_error == 1.5
    assert table.predict(SPACE.smallest()).expected_error == 1.5


def test_missing_rows_are_named_with_the_command_that_measures_them() -> None:
    arch = SPACE.published["efficientformer_l1"]
    table = make_table(DEVICE, map(row_of, arch.operations()[1:]))
    assert [op.name for op in table.predict(arch).missing] == ["stem"]
    with pytest.raises(MissingRows) as raised:
        table.total_ms(arch)
    message = str(raised.value)
    assert "conv_stem(width=48;activation=relu) on 3x64x64" in message
    assert "nas profile --space efficientformer --device phone" in message
    assert "\n" not in message
    assert [op.name for op in raised.value.operations] == ["stem"]


def test_many_missing_rows_make_one_short_line() -> None:
    with pytest.raises(InputError, match=r"and \d+ more\. Fix: nas profile") as raised:
        make_table(DEVICE, []).total_ms(SPACE.largest())
    assert len(str(raised.value)) < 500


HEADER = ",".join(COLUMNS)
BAD_TABLES = {
    "empty file": ("", 1, "empty"),
    "a header of another file": (
        "move,stage\ndrop,1\n",
        1,
        "unknown columns (got move,stage; expected",
    ),
    "too few values": (f"{HEADER}\nmb4d,expansion=4\n", 2, "has 2 values (expected 10, "),
    "unbalanced quotes": (f'{HEADER}\n{GOOD}\n"mb4d,expansion\n', 3, "malformed CSV"),
    "NaN": (f"{HEADER}\n{GOOD.replace('0.2', 'nan')}\n", 2, "median_ms: nan is not a latency"),
    "infinite": (f"{HEADER}\n{GOOD.replace('0.3', 'inf')}\n", 2, "p90_ms: inf is not a latency"),
    "negative": (f"{HEADER}\n{GOOD.replace('0.1', '-0.1')}\n", 2, "p10_ms: -0.1 is not a latency"),
    "no number": (f"{HEADER}\n{GOOD.replace('0.2', 'fast')}\n", 2, "median_ms: could not convert"),
    "percentiles out of order": (
        f"{HEADER}\n{GOOD.replace('0.1', '0.25')}\n",
        2,
        "median_ms: p10, median and p90 do not ascend",
    ),
    "twice": (f"{HEADER}\n{GOOD}\n{GOOD}\n", 3, "duplicates line 2"),
    "unknown kind": (
        f"{HEADER}\n{GOOD.replace('mb4d', 'mb5d')}\n",
        2,
        "unknown block kind 'mb5d', did you mean",
    ),
    "unknown hyperparameter": (
        f"{HEADER}\n{GOOD.replace('pool', 'poll')}\n",
        2,
        "hyperparameters: mb4d: ",
    ),
    "hyperparameters left out": (
        f"{HEADER}\n{GOOD.replace(';activation=gelu', '')}\n",
        2,
        "hyperparameters: is not in full and in order (got 'expansion=",
    ),
    "a value that its rule refuses": (
        f"{HEADER}\n{GOOD.replace('pool=3', 'pool=2')}\n",
        2,
        "must be odd",
    ),
    "no shape": (
        f"{HEADER}\n{GOOD.replace('48x56x56', '48by56')}\n",
        2,
        "input: '48by56' is not a shape",
    ),
    "an empty activation": (
        f"{HEADER}\n{GOOD.replace('48x56x56', '0x56x56')}\n",
        2,
        "is not a shape",
    ),
    "another layout": (
        f"{HEADER}\n{GOOD.replace('48x56', 'tokens:48x56')}\n",
        2,
        "is not an input of mb4d (got layout tokens, expected map)",
    ),
    "output that contradicts": (
        f"{HEADER}\n{GOOD.replace(',48x56x56,0', ',96x56x56,0')}\n",
        2,
        "input: the column output does not follow from input 48x56x56",
    ),
    "runs": (f"{HEADER}\n{GOOD.replace(',50,', ',-5,')}\n", 2, "runs: '-5' is not a whole number"),
    "provenance": (
        f"{HEADER}\n{GOOD.replace('measured', 'guessed')}\n",
        2,
        "provenance: is unknown (got 'guessed', expected one of",
    ),
    "date": (
        f"{HEADER}\n{GOOD.replace('2026-11-21', 'today')}\n",
        2,
        "date: 'today' is not an ISO date",
    ),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_one_line_with_file_line_and_reason(name: str, tmp_path: Path) -> None:
    text, line, reason = BAD_TABLES[name]
    DEVICE.save(tmp_path / "device.yaml")
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        load_table(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/table.csv:{line}: ")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_that_was_changed_in_memory_or_on_the_disk_is_read_as_it_stands(
    tmp_path: Path,
) -> None:
    DEVICE.save(tmp_path / "device.yaml")
    (tmp_path / "table.csv").write_text(f"{HEADER}\n{GOOD}\n")
    load_table(tmp_path).rows.clear()
    assert len(load_table(tmp_path).rows) == 1
    (tmp_path / "table.csv").write_text(f"{HEADER}\n")
    assert not load_table(tmp_path).rows


def test_the_good_row_is_good(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"{HEADER}\n{GOOD.replace('0.1,0.3', '0.2,0.2')}\n")
    (row,) = read_rows(tmp_path / "table.csv").values()
    assert (row.median_ms, row.runs, row.key[2]) == (0.2, 50, "48x56x56")
    assert format_rows([row]) == (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize("delimiter", [", ", ";", "; ", "\t"])
def test_a_table_that_went_through_a_spreadsheet_is_read(tmp_path: Path, delimiter: str) -> None:
    table = whole_table()
    table.save(tmp_path)
    path = tmp_path / "table.csv"
    lines = []
    for line in path.read_text().splitlines():
        values = line.split(",")
        if delimiter[0] == ";":  # then hyperparameters are quoted, and numbers have a comma
            values = [f'"{value}"' if ";" in value else value for value in values]
            values = [value.replace(".", ",") if value[:2] == "0." else value for value in values]
        lines.append((delimiter if '"' not in line else delimiter[0]).join(values))
    if delimiter == "; ":
        lines = [line.replace('; "', ';"') for line in lines]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8-sig")
    assert read_rows(path) == dict(table.rows)


BAD_DEVICES = {
    "unknown key": ("chip: A14\n", r"device.yaml:11: chip: unknown key; known:"),
    "wrong type": ("threads: two\n", r"device.yaml:11: threads: .*integer.*'two'"),
    "negative intercept": ("intercept_ms: -1\n", r"device.yaml:11: intercept_ms: .*\(got -1\)"),
    "negative weights": ("calibration: {weights_ms: -1}\n", r"device.yaml:11: calibration.weights_ms: .*\(got -1\)"),
    "NaN": ("intercept_ms: .nan\n", r"device.yaml:11: intercept_ms: .*finite"),
    "no scale": ("calibration:\n  scale: 0\n", r"device.yaml:12: calibration.scale: .*greater than 0"),
    "a check without its error": ("check: {nets: 3}\n", r"device.yaml:11: check.mape: is missing"),
    "an estimate without its error": ("estimate: {method: a}\n", r"yaml:11: estimate.leave_one_out_mape: is missing"),
    "malformed": ("tools: {a: b\n", r"device.yaml:\d+: malformed YAML"),
    "twice": ("os: b\n", r"device.yaml:11: os: duplicates the key of line 5\."),
    "no text": ("source: [a]\n", r"device.yaml:11: source: "),
}  # fmt: skip
DEVICE_TEXT = """format: nas-device-1
name: phone
kind: coreml
soc: A14
os: iOS 16
runtime: Core ML
runtime_version: '5'
compute_unit: all
precision: float16
provenance: measured
"""


@pytest.mark.parametrize("name", BAD_DEVICES)
def test_a_bad_device_file_is_one_line_with_file_line_and_key(name: str, tmp_path: Path) -> None:
    text, reason = BAD_DEVICES[name]
    path = tmp_path / "device.yaml"
    path.write_text(f"{DEVICE_TEXT}{text}date: 2026-11-21\n")
    with pytest.raises(InputError, match=reason) as raised:
        load_device_info(path)
    assert "\n" not in str(raised.value)


def test_a_device_file_needs_its_keys_and_takes_an_unquoted_date(tmp_path: Path) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(DEVICE_TEXT)
    with pytest.raises(InputError, match=r"device.yaml:1: date: is missing"):
        load_device_info(path)
    path.write_text(f"{DEVICE_TEXT}date: 2026-11-21\n")
    assert load_device_info(path) == replace(DEVICE, intercept_ms=0.0)
    path.write_text(f"{DEVICE_TEXT}date: soon\n")
    with pytest.raises(InputError, match=r"device.yaml:11: date: .*ISO date"):
        load_device_info(path)
    path.write_text("format: nas-space-1\n")
    with pytest.raises(InputError, match="is not a device file"):
        load_device_info(path)


def test_a_table_is_found_by_name_and_the_users_own_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = make_table(replace(DEVICE, name="iphone12"), [row_of(OPERATIONS[0])])
    own.save(tmp_path / "latency_tables" / "iphone12")
    assert nas.load_table("iphone12").device.soc == "A14"
    assert len(nas.load_table("iphone12").rows) == 1
    assert nas.load_table("latency_tables/iphone12").rows == own.rows
    assert nas.load_table("latency_tables/iphone12/table.csv").rows == own.rows


@pytest.mark.parametrize("left_out", [{}, {"efficientformer --resolution 64 --classes 10": 7}])
def test_an_incomplete_table_does_not_hide_a_shipped_one(
    left_out: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("iphone12", "phone"):
        own = make_table(replace(DEVICE, name=name, left_out=left_out), [row_of(OPERATIONS[0])])
        own.save(tmp_path / "latency_tables" / name)
    assert len(load_table("iphone12").rows) == (
        1 if not left_out else len(load_table(SHIPPED / "iphone12").rows)
    )
    assert len(caplog.records) == bool(left_out)
    if left_out:
        said = caplog.records[0].getMessage()
        assert said.startswith("latency_tables/iphone12: ") or "/latency_tables/iphone12: " in said
        assert "left 7 operations out, so the shipped table of iphone12 is used" in said
        command = (
            "nas profile --device iphone12 --space efficientformer --resolution 64 --classes 10"
        )
        assert said.endswith(f"Fix: {command}")
    # A path names the very table, and a device without a shipped one has no other.
    assert len(load_table("latency_tables/iphone12").rows) == len(load_table("phone").rows) == 1


def test_an_unknown_device_gets_the_nearest_name_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_table(DEVICE, []).save(tmp_path / "latency_tables" / "phone")
    with pytest.raises(
        InputError,
        match=r"'fone', did you mean 'phone'\? .*nas profile --space SPACE --device fone",
    ):
        load_table("fone")
    with pytest.raises(InputError, match=r"table.csv is missing in this folder"):
        load_table("latency_tables")
    (tmp_path / "latency_tables" / "phone" / "device.yaml").unlink()
    with pytest.raises(InputError, match=r"device.yaml: cannot be read"):
        load_table("phone")
