"""`nas report` as a user meets it: a page, pictures, what is missing, and one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SEARCH = ["search", "--space", "small", "--device", "toy", "--front"]


@pytest.fixture
def searched(nas):
    for name, engine in (("one", "slimming"), ("two", "exact")):
        code, _, err = nas(*SEARCH, "--engine", engine, "--out", f"runs/{name}")
        assert code == 0, err


def test_report_json_is_one_document_with_the_promised_keys(nas, searched):
    code, out, err = nas("report", "runs/one", "--json")
    document = json.loads(out)
    assert code == 0 and set(document) == {"runs", "page", "pictures", "left_out", "next"}
    assert (document["runs"], document["page"]) == (["runs/one"], "runs/one/report.html")
    assert Path(document["page"]).stat().st_size > 8e5
    assert "runs/one/pictures/front.png" in document["pictures"] and all(
        map(Path.is_file, map(Path, document["pictures"]))
    )
    parts = {gap["part"]: gap["command"] for gap in document["left_out"]}
    assert parts["measured latency"] == "nas check runs/one --device toy"
    assert err.splitlines()[-1] == f"next: {document['next']}"


def test_report_compares_runs_on_one_page(nas, searched):
    code, out, _ = nas("report", "runs/one", "runs/two")
    assert code == 0 and "page     runs/one/compare.html" in out and "left out two: exports" in out
    text = Path("runs/one/compare.html").read_text()
    assert 'id="comparison"' in text and 'id="run-2"' in text
    code, out, _ = nas("report", "runs/one", "runs/two", "--out", "both.html", "--json")
    assert code == 0 and json.loads(out)["page"] == "both.html" and Path("both.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["runs/three"], "runs/three: there is no such run folder"),
        (["runs"], "runs: is not a finished run (run.yaml is missing)"),
        (["runs/one", "runs/../runs/one"], "a run folder is given twice"),
        (["runs/one", "--out", "runs/two"], "--out runs/two: is a folder"),
        ([], "Missing argument 'RUN'"),
    ],
)
def test_bad_options_get_one_line(nas, searched, arguments, reason):
    code, out, err = nas("report", *arguments)
    assert (code, out) == (2, "") and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("nas: ") and reason in line


def test_a_damaged_run_leaves_the_old_page(nas, searched):
    assert nas("report", "runs/one")[0] == 0
    page = Path("runs/one/report.html")
    trace = Path("runs/one/trace.csv")
    before = page.read_bytes()
    trace.write_text(trace.read_text()[:-20])
    code, _, err = nas("report", "runs/one")
    assert code == 2 and "runs/one/trace.csv:" in err and page.read_bytes() == before
