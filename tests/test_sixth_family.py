"""A family is added by its folder, its YAML and one name in `FAMILIES`: a sixth one passes every
conformance test, and none of the three can be left out.

The family lies in `tests/sixth_family/`. It is tried in a copy of the package, whose `FAMILIES` gets
the one name, from a working directory that has the YAML.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nas

ROOT = Path(nas.__file__).parents[1]
FAMILY = Path(__file__).parent / "sixth_family"
NAMED = '"nas.blocks.swiftformer",\n'

SPACE = """\
from nas.space import load_space
space = load_space("sixth")
"""
BLOCKS = """\
from nas.blocks import SPECS
from nas.testing.blocks import check_kind
for kind in ("sixth_local", "sixth_global"):
    check_kind(SPECS[kind])
"""
CHECKPOINT = f"""{SPACE}
from nas.testing.spaces import check_checkpoints
layouts = check_checkpoints(space)
assert layouts == {{"sixth/official"}}, f"layouts: {{sorted(layouts)}}"
"""
EVERYTHING = f"""{BLOCKS}{CHECKPOINT}
from nas.accuracy import default_scores
from nas.testing.spaces import check_space
check_space(space)
accuracy = default_scores(space).accuracy(space.published["sixth_s"])
assert accuracy.standard_error > 2, accuracy
"""


class Workplace:
    """A copy of the package with the family beside it, and a working directory with its YAML.

    Attributes:
        package: what PYTHONPATH names.
        directory: where programs run.
    """

    def __init__(self, folder: Path, named: bool = True) -> None:
        self.package = folder / "package"
        self.directory = folder / "work"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "nas", self.package / "nas", ignore=ignored)
        shutil.copytree(FAMILY / "sixth", self.package / "sixth", ignore=ignored)
        shutil.copytree(FAMILY / "search_spaces", self.directory / "search_spaces")
        for shipped in ("search_spaces", "latency_tables", "experiments"):
            (self.package / shipped).symlink_to(ROOT / shipped)
        registry = self.package / "nas" / "blocks" / "__init__.py"
        text = registry.read_text(encoding="utf-8")
        assert text.count(NAMED) == 1
        if named:
            registry.write_text(text.replace(NAMED, f'{NAMED}    "sixth",\n'), encoding="utf-8")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Plugins of the caller's pytest may not be importable from here.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment = own | {
            "PYTHONPATH": str(self.package),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True
        )


@pytest.mark.slow(seconds=60)
def test_a_sixth_family_conforms(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path)
    done = workplace.run("-c", EVERYTHING)
    assert done.returncode == 0, done.stderr
    for command in (["spaces", "sixth"], ["spaces", "--schema"]):
        said = workplace.run("-m", "nas", *command)
        assert said.returncode == 0, said.stderr
        assert "sixth_global" in said.stdout


@pytest.mark.slow(seconds=60)
def test_the_tests_of_all_kinds_and_spaces_find_it(tmp_path: Path) -> None:
    """No test is touched for it."""
    workplace = Workplace(tmp_path)
    tests = workplace.directory / "tests"
    # What conftest.py imports too: the modules beside it that are no tests.
    own = [path.name for path in (ROOT / "tests").glob("*.py") if not path.match("test_*")]
    for name in (*own, "blocks/test_blocks.py", "test_every_space.py", "test_dense.py"):
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tests / name)
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    done = workplace.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "sixth", str(tests))
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    # Six tests for each of two kinds, twelve or more for the space.
    assert passed and int(passed[1]) >= 24, done.stdout


@pytest.mark.parametrize(
    "missing, program, message",
    [
        ("name", SPACE, "sixth.yaml:6: defaults.sixth_local: unknown block kind 'sixth_local'"),
        ("search_spaces/sixth.yaml", SPACE, "unknown space 'sixth'"),
        ("SPECS", SPACE, "has no attribute 'SPECS'"),
        ("examples", BLOCKS, "sixth_local: has no examples"),
        ("module.py", BLOCKS, "No module named 'sixth.module'"),
        ("LAYOUTS", CHECKPOINT, "layouts: []"),
        ("shared", CHECKPOINT, "layouts: []"),
    ],
)
def test_each_part_is_needed(missing: str, program: str, message: str, tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, named=missing != "name")
    family = workplace.package / "sixth"
    for path in (family / missing, workplace.directory / missing):
        path.unlink(missing_ok=True)
    for path in family.glob("*.py"):
        text = path.read_text(encoding="utf-8").replace(f"{missing}={{", f"{missing}={{}} and {{")
        text = re.sub(rf"\b{missing}(?=: ClassVar| = )", f"_{missing}", text)
        path.write_text(text, encoding="utf-8")
    done = workplace.run("-c", program)
    assert done.returncode != 0 and message in done.stderr, done.stderr
