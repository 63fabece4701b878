"""Two processes that write the same folder: no row is lost, and what lies there is of one of them
or of both."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from run import alone, called
from subjects import SPACE

SEARCH = ("search", "--space", SPACE, "--device", "toy")
Use = Sequence[str] | Callable[[], object]


def together(folder: Path, *uses: Use, apart_s: float = 0.0) -> list[tuple[int, str]]:
    """Run commands in processes of their own at once; return exit code and error line of each."""
    children = []
    for number, use in enumerate(uses):
        log = folder.with_name(f"{folder.name}-{number}.log")
        child = os.fork()
        if not child:
            code = 99
            try:
                alone()
                os.chdir(folder)
                code, _, err, trace = called(use)
                log.write_text(f"{trace or err}")
                code = 98 if trace or code is None else code
            finally:
                os._exit(code)
        children.append((child, log))
        time.sleep(apart_s)
    found = []
    for child, log in children:
        _, status = os.waitpid(child, 0)
        lines = [line for line in log.read_text().splitlines() if line.startswith("nas:")]
        found.append(
            (os.waitstatus_to_exitcode(status), lines[-1] if lines else log.read_text()[-300:])
        )
    return found


@pytest.fixture
def copy(template: Path, place: Path) -> Path:
    shutil.copytree(template, place, symlinks=True)
    return place


def one_gives_way(found: list[tuple[int, str]], folder: str) -> None:
    """Check that the first or both are done, and that who is refused says which folder it is."""
    codes = [code for code, _ in found]
    assert 0 in codes, found
    assert set(codes) <= {0, 1, 2}, found
    for code, line in found:
        assert not code or folder in line, found


@pytest.mark.parametrize("apart_s", [0.0, 0.05, 0.3, 1.0])
def test_two_searches_into_one_folder(copy: Path, apart_s: float) -> None:
    words = (*SEARCH, "--latency-ms", "0.21", "--out", "o")
    one_gives_way(together(copy, words, words, apart_s=apart_s), "o")
    assert (copy / "o" / "run.yaml").is_file()
    assert not [path for path in (copy / "o").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("apart_s", [0.0, 0.1])
def test_two_other_searches_into_one_folder(copy: Path, apart_s: float) -> None:
    first = (*SEARCH, "--latency-ms", "0.21", "--out", "o")
    second = (*SEARCH, "--latency-ms", "0.24", "--out", "o")
    found = together(copy, first, second, apart_s=apart_s)
    one_gives_way(found, "o")
    assert [code for code, _ in found].count(0) == 1
    about = yaml.safe_load((copy / "o" / "run.yaml").read_text())
    assert about["target"]["latency_ms"] == (0.21 if found[0][0] == 0 else 0.24)


@pytest.mark.parametrize("apart_s", [0.0, 0.2])
def test_two_exports_into_one_folder(copy: Path, apart_s: float) -> None:
    config, torch = (("export", "run", "--to", name, "--out", "x") for name in ("config", "torch"))
    found = together(copy, config, torch, apart_s=apart_s)
    one_gives_way(found, "x")
    recorded = yaml.safe_load((copy / "x" / "export.yaml").read_text())["targets"]
    done = [name for name, (code, _) in zip(("config", "torch"), found, strict=True) if code == 0]
    assert sorted(recorded) == sorted(done)


@pytest.mark.parametrize("apart_s", [0.0, 0.05])
def test_two_imports_into_one_table(copy: Path, apart_s: float) -> None:
    (copy / "other.csv").write_text(
        (copy / "mine.csv").read_text().replace("16x8x8", "32x8x8").replace("24x8x8", "40x8x8")
    )
    words = [
        ("profile", "--import", name, "--device", "new", "--out", "x")
        for name in ("mine.csv", "other.csv")
    ]
    found = together(copy, *words, apart_s=apart_s)
    one_gives_way(found, "x")
    rows = (copy / "x" / "table.csv").read_text().splitlines()[1:]
    assert len(rows) == 2 * [code for code, _ in found].count(0)


def test_two_profiles_into_one_table(copy: Path) -> None:
    def profiled() -> object:
        import nas
        from nas.latency.profile.run import profile
        from nas.testing.devices import FakeDevice

        return profile(nas.load_space(SPACE), FakeDevice(delay_s=0.01), Path("p"))[1].operations

    found = together(copy, profiled, profiled, apart_s=0.1)
    one_gives_way(found, "p")
    assert not (copy / "p" / "journal.jsonl").exists()


def test_two_scorings_of_one_supernet(copy: Path) -> None:
    words = ("score", "supernet", "--data", "digits", "--images", "50", "--widths", "2")
    one_gives_way(together(copy, words, words), "supernet")
    alone = copy.with_name("alone")
    scores = (copy / "supernet" / "scores.csv").read_text()
    shutil.rmtree(copy / "supernet")
    shutil.copytree(
        Path(os.environ["XDG_CACHE_HOME"]).parent / "template" / "supernet", copy / "supernet"
    )
    assert together(copy, words)[0][0] == 0, alone
    assert scores == (copy / "supernet" / "scores.csv").read_text()


def test_two_searches_in_one_study(copy: Path) -> None:
    words = (
        *SEARCH,
        "--engine",
        "tpe",
        "--trials",
        "6",
        "--storage",
        "sqlite:///two.db",
        "--study",
        "s",
    )
    found = together(copy, (*words, "--out", "a"), (*words, "--out", "b"))
    assert [code for code, _ in found] == [0, 0], found


def test_two_merges_of_one_bundle(copy: Path) -> None:
    words = ("profile", "--merge", "bundle", "--out", "x")
    one_gives_way(together(copy, words, words), "x")
    assert (copy / "x" / "table.csv").is_file()
