"""What `nas.runs` may know: nothing of what writes or reads runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nas.runs

FILES = sorted(Path(nas.runs.__file__).parent.glob("*.py"))
HIGHER = {
    "search",
    "finetune",
    "export",
    "report",
    "cli",
    "supernet",
    "latency",
    "training",
    "devices",
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs_import_nothing_of_what_writes_or_reads_them(file: Path) -> None:
    imported = {
        node.module.split(".")[1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nas.")
    }
    assert not imported & HIGHER


def test_the_format_of_weights_is_said_once() -> None:
    root = Path(nas.runs.__file__).parents[1]
    said = [
        path.name
        for path in root.rglob("*.py")
        if '"nas-weights-1"' in path.read_text(encoding="utf-8")
    ]
    assert said == ["schema.py"]
