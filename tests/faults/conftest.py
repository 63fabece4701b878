"""The workplace of the suite of faults. `make faults` runs it; `make test` does not collect it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one file of every format, which no test changes."""
    from workplace import build

    root = tmp_path_factory.mktemp("faults")
    settings = {"XDG_CACHE_HOME": str(root / "cache"), "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    (root / "template").mkdir()
    yield build(root / "template")
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder four levels below the test's own, so that a path with `..` stays in that."""
    folder = tmp_path / "a" / "b" / "c" / "d"
    folder.parent.mkdir(parents=True)
    return folder
