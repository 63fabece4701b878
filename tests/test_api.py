"""The public API: what `nas` shows, that its functions are functions in whatever order things are imported, types."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nas

ROOT = Path(nas.__file__).parent.parent
PACKAGES = sorted(name for name in nas.__all__ if (ROOT / "nas" / name).is_dir())
"""Functions of the API that have the name of a package."""


def run_python(*lines: str) -> str:
    """Return what a fresh Python process prints that runs these lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_shows_the_api_and_nothing_else() -> None:
    assert dir(nas) == sorted(nas.__all__)
    public = [getattr(nas, name) for name in dir(nas) if name != "__version__"]
    assert not [each for each in public if isinstance(each, ModuleType)]
    assert all(inspect.isfunction(each) or inspect.isclass(each) for each in public)
    # A package that was imported afterwards does not show up in it, and neither does a module.
    lines = "import nas.search.exact, nas.latency.table, nas.cli, nas", "print(dir(nas) == sorted(nas.__all__))"
    assert run_python(*lines) == "True\n"


def test_every_public_name_is_documented() -> None:
    for name in dir(nas):
        assert getattr(nas, name).__doc__, name


@pytest.mark.parametrize("name", [name for name in nas.__all__ if inspect.isfunction(getattr(nas, name))])
def test_functions_are_functions(name: str) -> None:
    function = getattr(nas, name)
    assert type(function).__name__ == "function"
    assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301 (our own)
    assert inspect.signature(function).parameters


STATEMENTS = (
    "import nas.search.engines",
    "import nas.search.exact as exact; assert exact.__name__ == 'nas.search.exact'",
    "from nas import search; assert type(search).__name__ == 'function'",
    "from nas.search import search, pose; assert type(search).__name__ == 'function'",
    "import nas.search; assert type(nas.search).__name__ == 'function'",
    "from nas.search import engines; assert set(engines.ENGINES) >= {'exact'}",
    "import sys, importlib; assert importlib.import_module('nas.search') is sys.modules['nas.search']",
)


@pytest.mark.parametrize("first", range(len(STATEMENTS)))
def test_search_is_a_function_whatever_was_imported_before(first: int) -> None:
    out = run_python(
        *STATEMENTS[first:],
        *STATEMENTS[:first],
        "import nas, nas.search.solver",
        "assert nas.search.solver.search is nas.search",
        "print(type(nas.search).__name__, type(nas.search.engines).__name__)",
    )
    assert out == "function module\n"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_function_and_its_package_live_together(name: str) -> None:
    """The function has the attributes of the package: `mock.patch("nas.search.solver.pose")` finds its way."""
    out = run_python(
        "import importlib, sys, nas",
        f"package = importlib.import_module('nas.{name}')",
        f"assert isinstance(package, type(sys)) and package is sys.modules['nas.{name}']",
        f"function = nas.{name}",
        "package.probe = 1",
        "print(type(function).__name__, function.probe, function.__doc__ != package.__doc__)",
    )
    assert out == "function 1 True\n"


def test_importing_nas_imports_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "pandas", "scipy", "optuna", "pydantic", "yaml", "matplotlib", "plotly"}
    out = run_python("import sys, nas", "print(*sorted(name for name in sys.modules if '.' not in name))")
    assert not heavy & set(out.split())


PROGRAM = """
    import nas.search.engines
    import nas

    space, table, scores = nas.load_space("emo"), nas.load_table("iphone12"), nas.load_scores("emo")
    found: nas.Found = nas.search(space, table, scores, latency_ms=1.4)
    print(found.architecture.params + 1, found.ms + 1, nas.build(nas.load_architecture("emo_1m")).forward_features)
"""


@pytest.mark.slow
def test_mypy_in_strict_mode_passes_a_users_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(inspect.cleandoc(PROGRAM) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "program.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "nas" / "py.typed").is_file(), "without it mypy does not look into an installed package"
