"""The house stands: no import from a lower floor to a higher one, no circle between packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from floors import FLOORS, NAMED_ARROWS, Import, arrows_up, circles, floor_of, imports

import nas

PACKAGE = Path(nas.__file__).parent


def test_every_package_stands_on_a_floor() -> None:
    packages = {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    packages |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    listed = [name for floor in FLOORS for name in floor]
    assert packages <= set(listed)
    assert len(listed) == len(set(listed))


def test_no_import_goes_to_a_higher_floor() -> None:
    assert arrows_up(imports(PACKAGE)) == []


def test_no_packages_import_each_other() -> None:
    assert circles(imports(PACKAGE)) == []


def test_every_named_arrow_is_needed() -> None:
    drawn = {one.packages for one in imports(PACKAGE)}
    assert drawn >= NAMED_ARROWS
    assert all(floor_of(source) == floor_of(target) for source, target in NAMED_ARROWS)


def test_an_arrow_up_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    """Inside a function, for types only, and under another name."""
    package = tmp_path / "nas"
    for name in ("blocks", "search"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "search" / "problem.py").write_text("class Found: ...\n")
    (package / "blocks" / "spec.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from nas.search.problem import Found\n"
        "def late():\n"
        "    from nas import search as other\n"
    )
    expected = ["nas/blocks/spec.py:3", "nas/blocks/spec.py:5"]
    assert [line.split()[0] for line in arrows_up(imports(package))] == expected


def test_a_circle_is_seen_through_a_third_package() -> None:
    chain = [
        Import(("space",), ("files",), "a"),
        Import(("files",), ("blocks",), "b"),
        Import(("blocks",), ("space",), "c"),
        Import(("cli",), ("space",), "d"),
    ]
    assert circles(chain) == [("blocks", "files", "space")]


IMPORT_EACH = """
import importlib, os, sys

def imported(name):
    importlib.import_module(name)
    return [each for each in sys.modules if each.partition(".")[0] not in ("nas", "__main__")]

# Packages of others take most of the time, so they are imported once, before the first fork.
read, write = os.pipe()
if os.fork() == 0:
    others = [each for name in sys.argv[1:] for each in imported(name)]
    os.write(write, " ".join(dict.fromkeys(others)).encode())
    os._exit(0)
os.close(write)
with open(read) as names:
    for each in names.read().split():
        importlib.import_module(each)
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(" ".join(failed))
"""
"""Imports each module in a process where no other module of nas is imported; prints what failed."""


@pytest.mark.slow(seconds=60)
def test_every_module_can_be_imported_first() -> None:
    """A circle between modules of one package shows only to who imports the wrong one first."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        names.append(".".join(parts))
    outsiders = ("nas.devices.board", "nas.devices.farms.workers", "nas.__main__")
    chosen = [name for name in names if not name.startswith(outsiders)]
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *chosen], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [], result.stderr[-2000:]


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their names alone, and leaves the second one out with an error."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
