"""Files that went through a spreadsheet or a Windows editor have a byte-order mark in front: every
reader takes it."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.accuracy import load_scores
from nas.accuracy.evaluations import COLUMNS as EVALUATIONS
from nas.accuracy.evaluations import _read as read_evaluations
from nas.csv_files import read_columns, read_records, read_strict
from nas.devices.board.runner.results import RESULTS_FILE, RESULTS_FORMAT, read_results
from nas.errors import InputError
from nas.files import YamlFile
from nas.journals import read_entries, read_whole
from nas.latency import load_table
from nas.latency.importing import FORMATS
from nas.latency.importing.common import Format
from nas.latency.network_times import read_networks
from nas.latency.rows import read_unsupported
from nas.resources import TABLES, names
from nas.space import load_architecture, load_space
from nas.supernet.sensitivity import _read as read_sensitivity
from nas.training.metrics import truncate


def marked(path: Path) -> Path:
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().removeprefix(codecs.BOM_UTF8))
    return path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


ROWS = "step,loss\n1,0.5\n2,0.25\n"
EVALUATION = ",".join(EVALUATIONS) + "\nabc,50.0,1.5,8-16-24-32,1-1-1-1,0.5\n"
MEASURED = "move,place,choice,accuracy,loss,standard_error,lost,gained\ndrop,stage1_block1,,50.0,1.5,0.5,3,1\n"
RESULTS = json.dumps({"format": RESULTS_FORMAT, "bundle": "1", "device": {}}) + "\n"
FILES: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "records": ("a.csv", ROWS, lambda path: list(read_records(path, ("step", "loss")))),
    "strict": ("a.csv", ROWS, lambda path: list(read_strict(path, ("step", "loss")))),
    "columns": ("metrics.csv", ROWS, lambda path: read_columns(path, ("step", "loss"))),
    "metrics of a training": (
        "metrics.csv",
        ROWS,
        lambda path: (truncate(path, 1), path.read_text())[1],
    ),
    "evaluations": ("evaluations.csv", EVALUATION, lambda path: read_evaluations(path, 100)),
    "sensitivity": ("sensitivity.csv", MEASURED, read_sensitivity),
    "journal": ("profile.journal", '{"format": "x"}\n{"a": 1}\n', read_entries),
    "unsupported": (
        "unsupported.csv",
        "kind,hyperparameters,input,message,date\nmb4d,,1x1x1,no,2026-01-01\n",
        lambda path: read_unsupported(path.parent),
    ),
    "yaml": ("a.yaml", "format: x\n", lambda path: YamlFile(path).data),
    "results of a board": (
        RESULTS_FILE,
        RESULTS,
        lambda path: read_results(path.parent, {"id": "1"}),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_marked_file_reads_as_one_without_a_mark(name: str, tmp_path: Path) -> None:
    file, text, read = FILES[name]
    plain = read(written(tmp_path / "plain" / file, text))
    assert plain
    assert read(marked(written(tmp_path / "marked" / file, text))) == plain


@pytest.mark.parametrize("device", names(TABLES, "*/table.csv"))
def test_every_file_of_a_table_may_be_marked(device: str, tmp_path: Path) -> None:
    plain = load_table(device)
    assert plain.path is not None
    folder = shutil.copytree(plain.path, tmp_path / device)
    for path in [*folder.glob("*.csv"), *folder.glob("*.yaml")]:
        marked(path)
    table = load_table(folder)
    assert table.rows == plain.rows and table.device == plain.device
    assert read_networks(folder) == read_networks(plain.path)


@pytest.mark.parametrize("known", FORMATS.values(), ids=lambda known: known.title)
def test_every_import_takes_a_marked_file(known: Format, tmp_path: Path) -> None:
    """What is wrong with a file, or what is read of it, is the same with a mark."""
    file = tmp_path / f"a{known.endings[0]}"
    text = (
        "kind,hyperparameters,input_shape,output_shape,latency_ms\nmb4d,expansion=4,1x1x1,1x1x1,1\n"
    )

    def outcome(path: Path) -> str:
        try:
            return repr(known.read(path))
        except InputError as error:
            return str(error)

    assert outcome(marked(written(file, text))) == outcome(written(file, text))


def test_marked_spaces_architectures_and_scores_are_read(tmp_path: Path, made_up_scores) -> None:
    space = load_space("efficientformer_small")
    space.smallest().save(tmp_path / "a.yaml")
    assert load_architecture(marked(tmp_path / "a.yaml")) == space.smallest()
    scores = made_up_scores(space)
    scores.save(tmp_path / "scores")
    for path in (tmp_path / "scores").iterdir():
        marked(path)
    assert load_scores(tmp_path / "scores").cost(space.smallest()) == scores.cost(space.smallest())


def test_a_torn_line_is_cut_off_a_marked_journal_and_the_rest_is_read(tmp_path: Path) -> None:
    path = marked(written(tmp_path / "journal", '{"a": 1}\n{"b"'))
    assert read_entries(path) == [{"a": 1}]
    assert read_whole(path) == '{"a": 1}\n' and path.read_bytes().endswith(b"\n")
