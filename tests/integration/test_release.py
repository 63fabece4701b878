"""The files of a release: what they hold, and that a wheel works in an empty environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from nas.space import space_names
from nas.versions import __version__

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "example_package"

pytestmark = pytest.mark.slow


def run(command: list[str], folder: Path) -> str:
    """Return what a command prints on stdout; it sees nothing of this environment."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution, and of the wheel that was built out of it."""
    folder = tmp_path_factory.mktemp("release")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(release: Path) -> Path:
    (path,) = release.glob("*.whl")
    return path


def test_the_version_is_that_of_the_changelog_and_the_citation(wheel: Path) -> None:
    assert wheel.name.startswith(f"nas_mobile-{__version__}-")
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_source_holds_what_git_does_not_ignore(release: Path) -> None:
    """All of it, and nobody's runs or caches."""
    (path,) = release.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    assert held - {"PKG-INFO"} == set(listed.stdout.splitlines())


def test_the_wheel_holds_all_modules_spaces_tables_and_scores(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nas").rglob("*.py")
        if "estimate" not in path.parts
    }
    shipped = "nas/_shipped"
    data = {
        f"{shipped}/{path.relative_to(ROOT).as_posix()}"
        for pattern in ("search_spaces/*.yaml", "latency_tables/*/table.csv")
        for path in ROOT.glob(pattern)
    }
    assert modules | data | {"nas/py.typed", "nas/accuracy/law.yaml"} <= held


def test_the_wheel_searches_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """With the example package beside it, which brings a space and a device."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    run([*pip, str(wheel), "--constraint", str(ROOT / "constraints.txt")], tmp_path)
    example = tmp_path / "example"
    shutil.copytree(EXAMPLE, example)
    run([*pip, "--no-deps", str(example)], tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def nas(*arguments: str) -> object:
        return json.loads(run([str(programs / "nas"), *arguments, "--json"], elsewhere))

    spaces = nas("spaces")
    assert isinstance(spaces, list)
    assert {*space_names(), "gated"} <= {space["name"] for space in spaces}
    found = nas("search", "--space", "efficientformer", "--device", "iphone12")
    assert isinstance(found, dict)
    assert found["latency_ms"] <= found["target_ms"]
    assert (elsewhere / found["run"] / "architecture.yaml").is_file()
    profiled = nas("profile", "--space", "gated", "--device", "formula")
    assert isinstance(profiled, dict)
    assert profiled["failed"] == {} and profiled["measured"] > 0
