"""The house stands: no import from a lower floor to a higher one, no circle between packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from floors import (
    FLOORS,
    NAMED_ARROWS,
    Import,
    arrows_up,
    circle_of_modules,
    circles,
    floor_of,
    imports,
)

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


def test_every_module_can_be_imported_first() -> None:
    """A circle between modules of one package shows only to who imports the wrong one first."""
    assert circle_of_modules(imports(PACKAGE, executed=True)) == []


@pytest.mark.parametrize(
    "files, circle",
    [
        ({"a.py": "import nas.b", "b.py": "from nas.a import x"}, ["nas.a", "nas.b", "nas.a"]),
        # Inside a function, or for types, it can wait.
        ({"a.py": "import nas.b", "b.py": "def f():\n    import nas.a"}, []),
        (
            {"a.py": "import nas.b", "b.py": "class A:\n    import nas.a"},
            ["nas.a", "nas.b", "nas.a"],
        ),
        (
            {
                "a.py": "import nas.b",
                "b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nas.a",
            },
            [],
        ),
        # A package is imported before its modules, unless it is what imports them.
        ({"p/__init__.py": "import nas.p.c", "p/c.py": ""}, []),
        (
            {"p/__init__.py": "import nas.a", "p/c.py": "", "a.py": "import nas.p.c"},
            ["nas.a", "nas.p", "nas.a"],
        ),
    ],
)
def test_a_circle_of_modules_is_seen(
    files: dict[str, str], circle: list[str], tmp_path: Path
) -> None:
    package = tmp_path / "nas"
    for name, text in {"__init__.py": "", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = circle_of_modules(imports(package, executed=True))
    # Where a circle begins does not matter.
    assert set(found) == set(circle)


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their names alone, and leaves the second one out with an error."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
