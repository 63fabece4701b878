"""One case of every kind of fault that `make faults` found once, for the fast suite."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.accuracy.evaluations import _read as read_evaluations
from nas.csv_files import MOST_DIGITS, Writer, count_in, read_strict, strict_records
from nas.devices.board.runner.errors import BundleError
from nas.devices.board.runner.plan import check_file, read_plan
from nas.devices.board.runner.results import read_results
from nas.devices.info import DeviceInfo
from nas.errors import MOST_LETTERS, InputError, NasError
from nas.files import MOST_MS, YamlFile, number_in, read_bytes, read_text
from nas.journals import read_entries
from nas.latency.importing import import_table
from nas.latency.importing.once_for_all import holds
from nas.latency.network_times import network_from, read_networks
from nas.latency.profile.journal import Journal
from nas.latency.rows import COLUMNS, read_rows, read_unsupported, row_from
from nas.locks import sole_writer
from nas.runs.schema import SupernetFile, read_trained
from nas.space import load_architecture
from nas.space.architecture import check_resolution
from nas.weight_files import kind_of, read_header

READERS: dict[str, Callable[[Path], object]] = {
    "text": read_text,
    "bytes": read_bytes,
    "YAML": YamlFile,
    "journal": read_entries,
    "CSV": lambda path: list(read_strict(path, ("a",))),
    "rows": read_rows,
    "checkpoint": kind_of,
    "header": read_header,
    "imported file": import_table,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_instead_of_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"a\.csv: is not a file"):
        READERS[name](tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["text", "bytes", "YAML", "journal", "CSV", "rows"])
def test_a_huge_file_is_refused_before_it_is_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"a\.csv: is too large"):
        READERS[name](tmp_path / "a.csv")


@pytest.mark.parametrize("kind", [NasError, InputError])
def test_a_message_that_quotes_a_whole_file_keeps_its_beginning_and_its_remedy(kind) -> None:
    message = str(kind(f"a.yaml: {'9' * 9_000} is wrong. Fix: give another"))
    assert len(message) < MOST_LETTERS + 10
    assert message.startswith("a.yaml: 9") and message.endswith("Fix: give another")
    assert str(kind("short. Fix: x")) == "short. Fix: x"


@pytest.mark.parametrize(
    "text", ["9" * 5_000, "-1", "1.5", "\uff11\uff12", " 1", "1_000", "", "nan"]
)
def test_what_is_not_a_count_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^a\.csv:2: n: '.*' is not a whole number, at least 0"):
        count_in("a.csv:2", "n", text)
    assert count_in("a.csv:2", "n", "9" * MOST_DIGITS) == int("9" * MOST_DIGITS)


@pytest.mark.parametrize("text", ["1e308", "-1e31", "inf", "nan", "x"])
def test_a_number_by_which_sums_overflow_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a finite number"):
        number_in("a.csv:2", "loss", text)


@pytest.mark.parametrize("cell", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "=cmd|' /C x'!A0"])
def test_no_cell_is_a_formula(cell: str) -> None:
    file = io.StringIO()
    Writer(file).row([cell, -1.5, "-1.5", "a=1", None])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert row == [f"'{cell}", "-1.5", "-1.5", "a=1", ""]


@given(st.text("'=+-@\t\n ab1", min_size=1))
def test_a_cell_comes_back(cell: str) -> None:
    file = io.StringIO()
    writer = Writer(file)
    writer.row(["text"])
    writer.row([cell])
    [(_, record)] = strict_records(Path("a.csv"), file.getvalue(), ("text",))
    assert record == {"text": cell}


def test_a_carriage_return_does_not_end_a_row() -> None:
    file = io.StringIO()
    Writer(file).row(["a\r=1+1", "b"])
    assert list(csv.reader(io.StringIO(file.getvalue(), newline=""))) == [["a\n=1+1", "b"]]


HEADER = ",".join(COLUMNS)
ROW = (
    "mb4d,expansion=2;pool=3;activation=gelu,8x8x8,8x8x8,{ms},{ms},{ms},{runs},measured,2026-01-31"
)


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ({"ms": MOST_MS * 2}, "p10_ms"),
        ({"ms": "1e308"}, "p10_ms"),
        ({"runs": "9" * 5_000}, "runs"),
        ({"runs": "\uff11\uff12"}, "runs"),
    ],
)
def test_a_row_of_an_impossible_latency_is_refused(
    given: dict[str, object], column: str, tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text(f"{HEADER}\n{ROW.format(**{'ms': 1, 'runs': 5} | given)}\n")
    with pytest.raises(InputError, match=rf"table\.csv:2: {column}: "):
        read_rows(tmp_path / "table.csv")


def test_the_format_of_a_long_line_is_told_at_once(tmp_path: Path) -> None:
    # The search for a key of once-for-all took time that grew as the square of a word's length.
    assert not holds("x" * 100_000 + "-input:1x1")
    assert holds("expanded_conv-input:14x14x96-output:14x14x96-expand:6")


def test_a_header_of_many_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a," + ",".join(f"c{i}" for i in range(100_000)) + "\n1\n")
    with pytest.raises(InputError, match=r"a\.csv:1: 100001 columns"):
        list(read_strict(tmp_path / "a.csv", ("a",)))


@pytest.mark.parametrize(
    ("file", "text", "read"),
    [
        ("networks.csv", "role,measured_ms\nx,1\n", lambda path: read_networks(path.parent)),
        ("networks.csv", "role,measured_ms\ncheck,nan\n", lambda path: read_networks(path.parent)),
        ("unsupported.csv", 'kind,"\n', lambda path: read_unsupported(path.parent)),
        (
            "evaluations.csv",
            'member,accuracy,loss\n"a,1,1\n',
            lambda path: read_evaluations(path, 9),
        ),
    ],
)
def test_a_damaged_file_of_nas_is_named(
    file: str, text: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=rf"{file}:\d"):
        read(tmp_path / file)


FIELDS = {
    **{"kind": "mb4d", "hyperparameters": "expansion=2;pool=3;activation=gelu", "input": "8x8x8"},
    **{"output": "8x8x8", "median_ms": 1.0, "p10_ms": 1.0, "p90_ms": 1.0, "runs": 5},
    **{"provenance": "measured", "date": "2026-01-31", "extra": [["note", "x"]]},
}


@pytest.mark.parametrize(
    "change",
    [
        {"median_ms": float("nan")},
        {"median_ms": "1.0"},
        {"runs": True},
        {"kind": ["mb4d"]},
        {"hyperparameters": None},
        {"extra": {"a": 1}},
        {"date": 3},
    ],
)
def test_an_entry_of_a_journal_is_checked_as_a_row_is(change: dict[str, object]) -> None:
    assert row_from(FIELDS).extra == (("note", "x"),)
    with pytest.raises(
        ValueError, match=next(iter(change)) if "median_ms" not in change else "_ms"
    ):
        row_from({**FIELDS, **change})


@pytest.mark.parametrize(
    "change", [{"measured_ms": 0}, {"measured_ms": None}, {"role": "x"}, {"params": -1}, {"zzz": 1}]
)
def test_a_network_of_a_journal_is_checked(change: dict[str, object]) -> None:
    data = {
        "role": "check",
        "space": "s",
        "resolution": "32x32",
        "network": "n",
        "measured_ms": 1.0,
    }
    assert network_from(data).measured_ms == 1.0
    with pytest.raises(InputError):
        network_from({**data, **change})


@pytest.mark.parametrize("line", ['{"row": [1]}', '{"failed": 3}', "{}", '{"network": {"a": []}}'])
def test_a_wrong_line_of_a_journal_is_named(line: str, tmp_path: Path) -> None:
    words = ("toy", "toy", "chip", "OS", "none", "0", "cpu", "fp32", "measured", "2026-01-31")
    names = ("name", "kind", "soc", "os", "runtime", "runtime_version", "compute_unit")
    device = DeviceInfo(
        **dict(zip((*names, "precision", "provenance", "date"), words, strict=True))
    )
    Journal(tmp_path / "journal.jsonl", device)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=r"journal\.jsonl:2: .* Fix: remove this line"):
        Journal(tmp_path / "journal.jsonl", device)


PLAN = {
    **{"format": "nas-bundle-1", "id": "1", "device": {"name": "board", "kind": "litert-board"}},
    **{"space": "small", "resolution": "32x32/10", "copies": 9, "check": {"nets": 2, "seed": 0}},
    "tools": {"nas": "0"},
    "files": [{"digest": "ab", "role": "empty", "label": "a", "file": "files/a", "sha256": "0"}],
}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"copies": -1}, "copies"),
        ({"copies": True}, "copies"),
        ({"check": {"nets": 2}}, "check.seed"),
        ({"files": 3}, "files"),
        ({"files": [3]}, r"files\[0\].digest"),
        ({"files": [{**PLAN["files"][0], "digest": "../../a"}]}, r"files\[0\].digest"),
        ({"device": {"name": "board", "kind": None}}, "device.kind"),
        ({"device": {"name": "board", "kind": "litert-board", "threads": "x"}}, "device.threads"),
        ({"space": "a\x1b[31m"}, "space"),
        ({"tools": {"nas": 1}}, "tools"),
    ],
)
def test_a_damaged_plan_names_its_key(change: dict[str, object], key: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    assert read_plan(tmp_path)["copies"] == 9
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(BundleError, match=rf"plan\.json: {key}: is missing or damaged"):
        read_plan(tmp_path)


TIMING = {"median_ms": 1.0, "p10_ms": 1.0, "p90_ms": 1.0, "runs": 5, "notes": []}


@pytest.mark.parametrize(
    "change",
    [
        {"median_ms": float("inf")},
        {"median_ms": -1},
        {"median_ms": []},
        {"p90_ms": 0.5},
        {"runs": "5"},
        {"notes": [["a"]]},
    ],
)
def test_a_damaged_result_of_a_bundle_names_its_line(
    change: dict[str, object], tmp_path: Path
) -> None:
    def written(timing: dict[str, object]) -> None:
        lines = [{"format": "nas-bundle-results-1", "bundle": "1", "device": {}}]
        lines.append({"digest": "ab", "timing": timing})
        (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    written(TIMING)
    assert len(read_results(tmp_path, PLAN)) == 2
    written({**TIMING, **change})
    with pytest.raises(BundleError, match=r"results\.jsonl:2: this line is not a result"):
        read_results(tmp_path, PLAN)


@pytest.mark.parametrize(
    "line",
    [
        {"reference": 3, "first_ms": 1.0},
        {"reference": {**PLAN["files"][0], "digest": "../ab"}, "first_ms": 1.0},
        {"reference": PLAN["files"][0]},
        {"reference": PLAN["files"][0], "first_ms": 0},
        {"reference": PLAN["files"][0], "first_ms": "1"},
    ],
)
def test_a_damaged_reference_of_a_bundle_names_its_line(
    line: dict[str, object], tmp_path: Path
) -> None:
    header = {"format": "nas-bundle-results-1", "bundle": "1", "device": {}}
    whole = {"reference": PLAN["files"][0], "first_ms": 1.0}
    path = tmp_path / "results.jsonl"
    path.write_text(f"{json.dumps(header)}\n{json.dumps(whole)}\n")
    assert len(read_results(tmp_path, PLAN)) == 2
    path.write_text(f"{json.dumps(header)}\n{json.dumps(line)}\n")
    with pytest.raises(BundleError, match=r"results\.jsonl:2: this line is not a result"):
        read_results(tmp_path, PLAN)


def test_a_sparse_file_of_a_bundle_is_damaged_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with (tmp_path / "files" / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=r"files/a: is damaged"):
        check_file(tmp_path, PLAN["files"][0])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("resolution: [-.inf, 32]\nclasses: 10\nrecipe: {}\n", "resolution"),
        ("resolution: [32, 33]\nclasses: 10\nrecipe: {}\n", "resolution"),
        ("resolution: [32, 32]\nclasses: -1\nrecipe: {}\n", "classes"),
        ("resolution: [32, 32]\nclasses: 10\nrecipe: {seed: x}\n", "recipe.seed"),
        ("resolution: [32, 32]\nclasses: 10\nrecipe: {}\ndata: {total: .nan}\n", "data.total"),
        ("resolution: [32, 32]\nclasses: 10\nrecipe: {}\ndata: {total: 1, held_out: 2}\n", "data"),
        (
            "resolution: [32, 32]\nclasses: 10\nrecipe: {}\ndata: {background: plaid}\n",
            "data.background: is not a colour",
        ),
    ],
)
def test_a_damaged_description_of_a_training_names_its_key(
    text: str, key: str, tmp_path: Path
) -> None:
    (tmp_path / "supernet.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"supernet\.yaml:\d: {key}"):
        read_trained(tmp_path / "supernet.yaml", SupernetFile)


@pytest.mark.parametrize("size", [(32, 1 << 20), (0, 32), (32,), (float("nan"), 32)])
def test_an_input_size_has_bounds(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="both sides must be multiples of 32"):
        check_resolution(size)


def test_a_torn_journal_is_read_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, size: int) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "truncate", refused)
    (tmp_path / "journal.jsonl").write_text('{"a": 1}\n{"a": ')
    assert read_entries(tmp_path / "journal.jsonl") == [{"a": 1}]


@pytest.mark.parametrize("name", ["null", ".nan", "[a]", "{a: 1}", "true"])
@pytest.mark.parametrize("key", ["name", "space"])
def test_a_name_is_a_text(key: str, name: str, tmp_path: Path) -> None:
    text = (
        f"format: nas-architecture-1\n{key}: {name}\nresolution: [32, 32]\n"
        "stages: [{entry: {kind: conv_stem, width: 8}, blocks: []}]\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml:2: {key}: is not a name"):
        load_architecture(tmp_path / "a.yaml")


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(NasError, match=r"\.lock: is a link"), sole_writer(tmp_path / "run", "x"):
        raise AssertionError
    assert (tmp_path / "mine").read_text() == "kept"
