"""The notebooks of docs run from top to bottom and print what they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
VARIES = "varies"
"""The tag of a cell whose output depends on the machine: a training's."""


def printed(cell: Any) -> list[str]:
    """Return what a cell prints and returns as text, without pictures and HTML."""
    texts = [
        output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]
    # The kernel sends a stream in pieces of any size.
    return re.split(r"\n+", "\n".join(texts).strip())


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_prints_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = nbformat.read(path, as_version=4)
    nbformat.validate(shown)
    run = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(run, timeout=900, kernel_name="python3", resources=resources).execute()
    compared = 0
    for before, after in zip(shown.cells, run.cells, strict=True):
        if before.cell_type != "code" or VARIES in before.metadata.get("tags", ()):
            continue
        assert printed(after) == printed(before), before.source
        compared += 1
    assert compared >= 5
