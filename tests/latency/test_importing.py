"""Latency files of other frameworks: what becomes a row, what is skipped and why, and malformed
files."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fbnet_records import BOTTLENECK, EMBEDDING, record
from hypothesis import given
from hypothesis import strategies as st

from nas.blocks import MBConv, Shape
from nas.errors import InputError
from nas.latency import LatencyTable, Row, load_table
from nas.latency.importing import import_into, import_table
from nas.space import load_space
from nas.space.operations import space_operations

OPERATIONS = space_operations(load_space("efficientvit").at(64, 10))
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.tuples(*[st.floats(0, 1e6)] * 3),
        st.integers(0, 1000),
        st.dates(),
    ),
    min_size=1,
    unique_by=lambda entry: entry[0].key,
)
PROXYLESS = "expanded_conv-input:14x14x96-output:14x14x96-expand:6-kernel:5-stride:1-idskip:1"


def ofa(tmp_path: Path, entries: dict[str, str]) -> Path:
    path = tmp_path / "pixel.yaml"
    path.write_text(
        "".join(f"{key}: {value}\n" for key, value in entries.items()), encoding="utf-8"
    )
    return path


def fbnet(tmp_path: Path, records: list[dict[str, Any]], form: str = "lines") -> Path:
    path = tmp_path / "SM-X-op_lut_database.json"
    texts = [json.dumps(entry) for entry in records]
    forms = {
        "lines": "\n".join(texts),
        "strings": "\n".join(map(json.dumps, texts)) + "\n",
        "list": json.dumps(records, indent=1),
    }
    path.write_text(forms[form], encoding="utf-8")
    return path


def csv_text(rows: list[Row], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    return text.getvalue()


def written(tmp_path: Path, text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


class TestOnceForAll:
    def test_an_inverted_bottleneck_becomes_a_row(self, tmp_path: Path) -> None:
        rows, skipped = import_table(
            ofa(tmp_path, {PROXYLESS: "{count: 100, mean: 2.0, var: 0.01}"})
        )
        (row,) = rows
        assert row.key == (
            "mbconv",
            "expansion=6;kernel=5;fewer_norm=false;activation=relu",
            "96x14x14",
        )
        assert (row.output, row.median_ms, row.runs, row.provenance) == (
            "96x14x14",
            2.0,
            100,
            "measured",
        )
        assert (row.p10_ms, row.p90_ms) == pytest.approx((2 - 1.2816 * 0.1, 2 + 1.2816 * 0.1))
        assert dict(row.extra) == {
            "source": "pixel.yaml (once-for-all)",
            "note": "ReLU6 where this row says relu",
        }
        assert not skipped

    @pytest.mark.parametrize(
        ("key", "kind", "hyperparameters"),
        [
            (
                "expanded_conv-input:28x28x32-output:14x14x96-expand:3-kernel:7-stride:2-idskip:0",
                "mbconv_down",
                "width=96;expansion=3;kernel=7;fewer_norm=false;activation=relu",
            ),
            (
                "expanded_conv-input:28x28x32-output:28x28x32-expand:1-kernel:3-stride:1-idskip:1",
                "dsconv",
                "kernel=3;activation=relu",
            ),
            (
                "expanded_conv-input:28x28x40-output:28x28x40-expand:120-kernel:5-stride:1-idskip:1-se:0-hs:1",
                "mbconv",
                "expansion=3;kernel=5;fewer_norm=false;activation=hardswish",
            ),
            (
                "expanded_conv-input:29x29x40-output:15x15x48-expand:160-kernel:5-stride:2-idskip:0-se:0-hs:0",
                "mbconv_down",
                "width=48;expansion=4;kernel=5;fewer_norm=false;activation=relu",
            ),
        ],
    )
    def test_every_kind_that_we_have(
        self, tmp_path: Path, key: str, kind: str, hyperparameters: str
    ) -> None:
        rows, skipped = import_table(ofa(tmp_path, {key: "{mean: 1}"}))
        assert [(row.kind, row.hyperparameters, row.provenance) for row in rows] == [
            (kind, hyperparameters, "estimated")
        ]
        assert not skipped

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("Conv-input:224x224x3-output:112x112x32", "'Conv' alone"),
            ("Logits-input:7x7x1280-output:1000", "'Logits' alone"),
            (
                "expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0",
                "without a shortcut",
            ),
            (
                "expanded_conv-input:7x7x192-output:7x7x192-expand:6-kernel:4-stride:1-idskip:1",
                "kernel 4 must be odd",
            ),
            (
                "expanded_conv-input:14x14x40-output:14x14x40-expand:100-kernel:3-stride:1-idskip:1-se:0-hs:1",
                "is not a multiple of",
            ),
            (
                "expanded_conv-input:14x14x40-output:14x14x40-expand:80-kernel:3-stride:1-idskip:1-se:1-hs:1",
                "squeeze-and-excitation",
            ),
            (
                "expanded_conv-input:14x14x40-output:8x8x40-expand:2-kernel:3-stride:2-idskip:0",
                "(got 8x8x40, expected 7x7x40)",
            ),
            (
                "expanded_conv-input:14x14-output:7x7x40-expand:2-kernel:3-stride:2-idskip:0",
                "is not a shape",
            ),
            (
                "expanded_conv-input:14x14x40-output:14x14x40-kernel:3-stride:1-idskip:1",
                "expand is missing",
            ),
            ("a comment", "does not name an operation"),
        ],
    )
    def test_others_are_skipped_with_the_reason(
        self, tmp_path: Path, key: str, reason: str
    ) -> None:
        rows, skipped = import_table(ofa(tmp_path, {PROXYLESS: "{mean: 2.0}", key: "{mean: 2.0}"}))
        assert len(rows) == 1
        assert [entry.where for entry in skipped] == [key]
        assert reason in skipped[0].reason

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("2.0", "expected {count, mean, var}"),
            ("{count: 3}", "expected {count, mean, var}"),
            ("{mean: fast}", "mean: 'fast' is not a number"),
            ("{mean: .nan}", "mean: nan is not a number"),
            ("{mean: 1, var: -1}", "var: -1 is not a number"),
            ("{mean: 1, count: 2.5}", "count: 2.5 is not a whole number"),
        ],
    )
    def test_malformed_values_name_line_and_key(
        self, tmp_path: Path, value: str, reason: str
    ) -> None:
        path = ofa(tmp_path, {"Conv-input:8x8x3-output:4x4x8": "{mean: 1}", PROXYLESS: value})
        with pytest.raises(InputError) as error:
            import_table(path)
        assert str(error.value).startswith(f"{path}:2: {PROXYLESS}: {reason}")

    def test_no_python_objects_and_no_other_yaml(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"pixel\.yaml:1: malformed YAML"):
            import_table(ofa(tmp_path, {PROXYLESS: "!!python/object/apply:os.getcwd []"}))
        with pytest.raises(InputError, match="no key names an operation as once-for-all does"):
            import_table(ofa(tmp_path, {"stages": "[]"}))


class TestFBNet:
    @pytest.mark.parametrize("form", ["lines", "strings", "list"])
    def test_operators_add_up_to_a_block(self, tmp_path: Path, form: str) -> None:
        rows, skipped = import_table(fbnet(tmp_path, BOTTLENECK, form))
        (row,) = rows
        assert row.key == ("mbconv", str(MBConv(4, 3, activation="relu")), "8x16x16")
        assert (row.p10_ms, row.median_ms, row.p90_ms) == pytest.approx((0.325, 0.65, 1.3))
        assert (row.provenance, dict(row.extra)["note"]) == ("estimated", "sum of 4 operators")
        assert not skipped

    def test_an_operator_that_is_a_block_is_measured(self, tmp_path: Path) -> None:
        rows, skipped = import_table(fbnet(tmp_path, [EMBEDDING]))
        (row,) = rows
        assert (*row.key, row.output) == ("conv_embedding", "width=48", "24x56x56", "48x28x28")
        assert (row.p10_ms, row.median_ms, row.p90_ms, row.provenance) == (
            0.35,
            0.7,
            1.4,
            "measured",
        )
        assert not skipped

    def test_without_the_sum_there_is_no_residual_block(self, tmp_path: Path) -> None:
        rows, skipped = import_table(fbnet(tmp_path, BOTTLENECK[:3]))
        assert not rows
        assert [entry.where for entry in skipped] == ["line 1", "line 2", "line 3"]
        assert "belongs to no block here that the file has all operators of" in skipped[0].reason

    def test_stride_two_needs_none(self, tmp_path: Path) -> None:
        down = record(
            "Int8ConvRelu",
            [[1, 16, 16, 32], [32, 5, 5, 1], [32]],
            kernel=5,
            stride=2,
            pad=2,
            group=32,
        )
        project = record("Int8Conv", [[1, 8, 8, 32], [24, 1, 1, 32], [24]], kernel=1)
        rows, skipped = import_table(fbnet(tmp_path, [BOTTLENECK[0], down, project]))
        assert [(row.kind, row.input, row.output) for row in rows] == [
            ("mbconv_down", "8x16x16", "24x8x8")
        ]
        assert not skipped

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            (record("Softmax", [[1, 1000]]), "Softmax on [[1, 1000]] is not a part"),
            (record("Conv", [[1, 3, 64, 64], [8, 3, 3, 3]], kernel=3, stride=2), "pad 0"),
            (
                record("Conv", [[1, 3, 64, 64], [8, 3, 3, 5]], kernel_h=3, stride=2, pad=1),
                "square kernel",
            ),
            (record("Conv", [[4, 3, 64, 64], [8, 3, 3, 3]], kernel=3, stride=2, pad=1), "batch 1"),
            (
                record("Conv", [[1, 3, 64, 64], [8, 3, 3, 3]], kernel=3, stride=1, pad=1),
                "belongs to no block",
            ),
            (EMBEDDING, "duplicates line 1"),
            (
                EMBEDDING | {"device": "iPhone"},
                "is of iPhone float32; most of the file is of SM-X float32",
            ),
        ],
    )
    def test_others_are_skipped_with_the_reason(
        self, tmp_path: Path, entry: dict[str, Any], reason: str
    ) -> None:
        rows, skipped = import_table(fbnet(tmp_path, [EMBEDDING, entry]))
        assert [row.kind for row in rows] == ["conv_embedding"]
        assert [skip.where for skip in skipped] == ["line 2"]
        assert reason in skipped[0].reason

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"runtime_us_p50": "fast"}, "line 2: runtime_us_p50: 'fast' is not a number"),
            ({"runtime_us_p10": 9e9}, "line 2: p10, median and p90 do not ascend"),
            ({"runtime_us_p90": float("inf")}, "line 2: p10, median and p90 are not latencies"),
            ({"input_shapes": [[1, 2.5]]}, "line 2: input_shapes: [1, 2.5] is not a list of sizes"),
            ({"op_args": ["kernel is 3"]}, "line 2: op_args: 'kernel is 3' is not an argument"),
            (
                {"op_args": ['name: "pads"\nints: 1\nints: 0\n']},
                "line 2: op_args: pads differ (got 0, 1;",
            ),
            (
                {"op_args": ['name: "stride"\nf: 1.5\n']},
                "line 2: op_args: stride: '1.5' is not a whole number",
            ),
        ],
    )
    def test_malformed_records_name_line_and_key(
        self, tmp_path: Path, change: dict[str, Any], reason: str
    ) -> None:
        path = fbnet(tmp_path, [EMBEDDING, EMBEDDING | change])
        with pytest.raises(InputError) as error:
            import_table(path)
        assert str(error.value).startswith(f"{path}: {reason}")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", ": is empty"),
            ("{}\n", ": line 1: is not a record"),
            ('{"op_type": "Conv"}', ": line 1: runtime_us_p10: is missing"),
            (json.dumps(EMBEDDING) + "\n{", ":2: malformed JSON"),
            ("[\n1,\n", ":3: malformed JSON"),
            ("[[1]]", ": entry 1: is not a record"),
            ("[" * 100_000, ":1: malformed JSON"),
        ],
    )
    def test_malformed_files(self, tmp_path: Path, text: str, reason: str) -> None:
        path = written(tmp_path, text, "lut.json")
        with pytest.raises(InputError) as error:
            import_table(path)
        assert str(error.value).startswith(f"{path}{reason}")
        assert "\n" not in str(error.value)


class TestCSV:
    @given(ENTRIES)
    def test_rows_come_back(self, entries: list[Any]) -> None:
        source = (("source", "mine.csv (CSV)"),)
        rows = []
        for operation, times, runs, date in entries:
            p10, median, p90 = sorted(times)
            rows.append(
                Row(
                    *operation.key,
                    str(operation.output),
                    median,
                    p10,
                    p90,
                    runs,
                    "measured" if runs else "estimated",
                    date.isoformat(),
                    source,
                )
            )
        text = csv_text(
            rows,
            ("kind", "hyperparameters", "input", "median_ms", "p10_ms", "p90_ms", "runs", "date"),
        )
        with tempfile.TemporaryDirectory() as folder:
            assert import_table(written(Path(folder), text)) == (rows, [])

    def test_a_file_from_a_spreadsheet_is_read(self, tmp_path: Path) -> None:
        text = (
            '\ufeffkind; hyperparameters;input;median_ms\r\nmbconv;"expansion=6;kernel=5";'
            " 96x14x14;1,5\r\n"
        )
        (row,), skipped = import_table(written(tmp_path, text))
        assert (row.median_ms, row.input, row.hyperparameters[:20]) == (
            1.5,
            "96x14x14",
            "expansion=6;kernel=5",
        )
        assert not skipped

    @pytest.mark.parametrize(
        "text",
        [
            "kind\thyperparameters\tinput\tmedian_ms\nmbconv\t\t96x14x14\t1,5\n",
            "sep=;\nkind;hyperparameters;input;median_ms\nmbconv;;96x14x14;1,5\n",
            "kind,hyperparameters,input,median_ms\nmbconv,,96x14x14,1.5\n,,,\n\n",
            "\r\nkind,hyperparameters,input,median_ms\r\nmbconv,,96x14x14,1.5\r\n",
            ",kind,hyperparameters,input,median_ms,runs\n0,mbconv,,96x14x14,1.5,50.0\n",
            "Kind,Hyperparameters,Input,Median_ms,,\nmbconv,,96x14x14,1.5,,,,\n",
        ],
        ids=["tabs", "separator stated", "empty lines", "empty first line", "pandas", "capitals"],
    )
    @pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.txt"])
    def test_forms_that_spreadsheets_and_pandas_write(
        self, tmp_path: Path, text: str, name: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(text.encode())
        (row,), skipped = import_table(path)
        assert (row.kind, row.input, row.median_ms) == ("mbconv", "96x14x14", 1.5)
        assert not skipped

    def test_defaults_are_filled_in_and_columns_may_be_left_out(self, tmp_path: Path) -> None:
        text = "\ufeffmedian_ms,kind,input,hyperparameters\n1.5,mbconv,96x14x14,expansion=6\n"
        (row,), skipped = import_table(written(tmp_path, text))
        assert row.key == (
            "mbconv",
            "expansion=6;kernel=3;fewer_norm=false;activation=hardswish",
            "96x14x14",
        )
        assert (row.p10_ms, row.median_ms, row.p90_ms, row.runs, row.provenance) == (
            1.5,
            1.5,
            1.5,
            0,
            "estimated",
        )
        assert not skipped

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("ghost,width=3,8x8x8,1", "unknown block kind 'ghost'"),
            ("mbconv,width=3,8x8x8,1", "width: unknown key"),
            ("mbconv,expansion=0,8x8x8,1", "expansion 0 must be at least 0.25"),
            ("mbconv,,tokens:8x8x8,1", "is not an input of mbconv (expected layout map)"),
            ("irmb,head_dim=3;attention=true,8x8x8,1", "not divisible"),
            ("mbconv,expansion=4,96x14x14,2", "duplicates line 2"),
        ],
    )
    def test_others_are_skipped_with_the_reason(
        self, tmp_path: Path, line: str, reason: str
    ) -> None:
        path = written(
            tmp_path, f"kind,hyperparameters,input,median_ms\nmbconv,,96x14x14,1\n{line}\n"
        )
        rows, skipped = import_table(path)
        assert [row.median_ms for row in rows] == [1]
        assert [entry.where for entry in skipped] == ["line 3"]
        assert reason in skipped[0].reason

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "1: column 'kind' is missing"),
            ("kind,hyperparameters,input\n", "1: column 'median_ms' is missing"),
            ("kind,hyperparameters,input,median_ms,p95\n", "1: unknown column 'p95'"),
            ("kind,hyperparameters,input,median_ms,input\n", "1: column 'input' is a duplicate"),
            (
                "kind,hyperparameters,input,median_ms\nmbconv,,8x8x8\n",
                "2: median_ms: '' is not a number",
            ),
            (
                "kind;hyperparameters;input;median_ms\nmbconv;expansion=4;kernel=5;8x8x8;1\n",
                "2: too many values (got 5, expected 4). Fix: put values that have a ';' into",
            ),
            (
                "kind,hyperparameters,input,median_ms\nmbconv,,8x8x8,quick\n",
                "2: median_ms: 'quick' is not a number",
            ),
            (
                "kind,hyperparameters,input,median_ms\nmbconv,,8x8x8,nan\n",
                "2: p10, median and p90 are not latencies (got nan",
            ),
            (
                "kind,hyperparameters,input,median_ms\nmbconv,,8x8,1\n",
                "2: input: '8x8' is not a shape",
            ),
            (
                "kind,hyperparameters,input,median_ms,p90_ms\nmbconv,,8x8x8,2,1\n",
                "2: p10, median and p90 do not ascend (got 2.0, 2.0, 1.0)",
            ),
            (
                "kind,hyperparameters,input,median_ms,runs\nmbconv,,8x8x8,2,-1\n",
                "2: runs: '-1' is not a whole number",
            ),
            (
                "kind,hyperparameters,input,median_ms,date\nmbconv,,8x8x8,2,May\n",
                "2: date: 'May' is not an ISO date",
            ),
            ('kind,hyperparameters,input,median_ms\nmbconv,"x"y,8x8x8,2\n', "2: malformed CSV"),
        ],
    )
    def test_malformed_files_name_line_and_column(
        self, tmp_path: Path, text: str, reason: str
    ) -> None:
        path = written(tmp_path, text)
        with pytest.raises(InputError) as error:
            import_table(path)
        assert str(error.value).startswith(f"{path}:{reason}")

    @given(st.text(max_size=300))
    def test_any_text_gives_rows_or_one_line(self, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for ending in ("csv", "json", "yaml"):
                path = Path(folder) / f"any.{ending}"
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
                try:
                    import_table(path)
                except InputError as error:
                    assert str(error).startswith(str(path))


class TestIntoATable:
    LINE = (
        "kind,hyperparameters,input,median_ms,runs,date\n"
        "mbconv,,96x14x14,1,50,2026-01-02\n"
        "ghost,,8x8x8,1,1,2026-01-02\n"
    )

    def test_a_new_table_says_where_it_is_from(self, tmp_path: Path) -> None:
        imported = import_into(written(tmp_path, self.LINE), "board", tmp_path / "board")
        imported.table.save(tmp_path / "board")
        table = load_table(tmp_path / "board")
        assert table.rows == imported.table.rows
        assert (table.device.name, table.device.kind, table.provenance) == (
            "board",
            "imported",
            "measured",
        )
        assert table.device.source == "imported: mine.csv (CSV)"
        assert table.device.runtime == "not stated"
        assert (imported.added, imported.kept, len(imported.skipped)) == (1, 0, 1)

    def test_what_an_fbnet_file_states_stands_in_the_device(self, tmp_path: Path) -> None:
        device = import_into(fbnet(tmp_path, BOTTLENECK), "s8", tmp_path / "s8").table.device
        assert (device.description, device.runtime, device.precision) == ("SM-X", "Caffe2", "int8")
        assert device.provenance == "estimated"

    @pytest.mark.parametrize(
        ("there", "extra", "stays"),
        [
            ("measured", (), True),
            ("interpolated", (), False),
            ("estimated", (), False),
            ("measured", (("source", "older.csv (CSV)"),), False),
        ],
    )
    def test_rows_measured_here_stay(
        self, tmp_path: Path, there: Any, extra: Any, stays: bool
    ) -> None:
        table = self._table(tmp_path, there, extra)
        imported = import_into(written(tmp_path, self.LINE), "board", tmp_path / "board")
        row = imported.table.rows[next(iter(table.rows))]
        assert row.median_ms == (9.0 if stays else 1.0)
        assert (imported.added, imported.kept) == ((0, 1) if stays else (1, 0))

    def test_estimated_rows_of_a_file_do_not_replace_estimates_of_ours(
        self, tmp_path: Path
    ) -> None:
        self._table(tmp_path, "estimated", ())
        text = "kind,hyperparameters,input,median_ms\nmbconv,,96x14x14,1\n"
        assert import_into(written(tmp_path, text), "board", tmp_path / "board").kept == 1

    def test_importing_twice_changes_nothing(self, tmp_path: Path) -> None:
        path = written(tmp_path, self.LINE)
        for _ in range(2):
            table = import_into(path, "board", tmp_path / "board").table
            table.save(tmp_path / "board")
        assert len(table.rows) == 1
        assert table.device.source == "imported: mine.csv (CSV)"

    def test_the_table_of_another_device_is_refused(self, tmp_path: Path) -> None:
        self._table(tmp_path, "measured", ())
        reason = (
            r"board/device\.yaml: is the table of another device \(got pixel-8, expected board\)"
        )
        with pytest.raises(InputError, match=reason):
            import_into(written(tmp_path, self.LINE), "pixel-8", tmp_path / "board")

    @pytest.mark.parametrize(
        ("factor", "reason"),
        [(1000, r"is in microseconds .*Fix: divide latency by 1000"), (0.001, "is in seconds")],
    )
    def test_figures_in_another_unit_than_those_of_the_table_are_refused(
        self, tmp_path: Path, factor: float, reason: str
    ) -> None:
        shipped = load_table("iphone12")
        rows = list(shipped.rows.values())[:3]
        text = "kind,hyperparameters,input,median_ms\n" + "".join(
            f'{row.kind},"{row.hyperparameters}",{row.input},{factor * row.median_ms}\n'
            for row in rows
        )
        shipped.save(tmp_path / "iphone12")
        with pytest.raises(InputError, match=rf"mine\.csv: latency {reason}"):
            import_into(written(tmp_path, text), "iphone12", tmp_path / "iphone12")

    def test_a_file_corrects_the_unit_of_an_earlier_one(self, tmp_path: Path) -> None:
        for ms in (1000, 1):
            text = f"kind,hyperparameters,input,median_ms\nmbconv,,96x14x14,{ms}\n"
            table = import_into(written(tmp_path, text), "board", tmp_path / "board").table
            table.save(tmp_path / "board")
        assert [row.median_ms for row in table.rows.values()] == [1]

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError,
            match=r"none of its operations can be imported \(the first of 1 skipped entries: line 2",
        ):
            import_into(
                written(tmp_path, "kind,hyperparameters,input,median_ms\nx,,1x1x1,1\n"),
                "b",
                tmp_path / "b",
            )
        with pytest.raises(
            InputError, match=r"lut\.txt: unknown ending \(got '\.txt', expected one of \.yaml"
        ):
            import_into(written(tmp_path, "", "lut.txt"), "b", tmp_path / "b")
        with pytest.raises(InputError, match="missing\\.csv: cannot be read"):
            import_into(tmp_path / "missing.csv", "b", tmp_path / "b")
        with pytest.raises(InputError, match="--device: name: "):
            import_into(written(tmp_path, self.LINE), "a/b", tmp_path / "b")
        self._table(tmp_path, "measured", ())
        with pytest.raises(
            InputError, match=r"precision differs .*board \(got float32, expected float16\)"
        ):
            import_into(fbnet(tmp_path, [EMBEDDING]), "board", tmp_path / "board")

    def _table(self, tmp_path: Path, provenance: Any, extra: Any) -> LatencyTable:
        """A table of one row of 9 ms for the operation of `LINE`."""
        shape = Shape(96, 14, 14)
        row = Row(
            "mbconv",
            str(MBConv()),
            str(shape),
            str(shape),
            9.0,
            9.0,
            9.0,
            30,
            provenance,
            "2026-01-01",
            extra,
        )
        fresh = import_into(written(tmp_path, self.LINE), "board", tmp_path / "board").table
        table = replace(
            fresh, rows={row.key: row}, device=replace(fresh.device, precision="float16")
        )
        table.save(tmp_path / "board")
        return table
