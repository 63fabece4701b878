"""Record the CPU time of every test in tests/times.csv, by which `make quick` chooses.

    PYTHONPATH=scripts pytest -p case_times --times tests/times.csv [--times-share 5]

A plugin of pytest for one process (without -n). A row is a test function: its number of cases, and
the CPU seconds of one case with its processes, the mean over those that ran. `--times-share N` runs
every N-th case of each function. Rows of tests that did not run are kept, those of tests that are
gone are dropped. `tests/conftest.py` reads the file.
"""

from __future__ import annotations

import csv
import resource
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

COLUMNS = ("test", "cases", "cpu_s")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=Path, help="File to write.")
    parser.addoption("--times-share", type=int, default=1, help="Run every N-th case.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("times"):
        config.pluginmanager.register(_Times(config), "nas-test-times")


class _Times:
    """The times of one run."""

    def __init__(self, config: pytest.Config) -> None:
        self.file: Path = config.getoption("times").absolute()
        self.share: int = config.getoption("times_share")
        # Also of tests that an option leaves out.
        self.cases: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.root = config.rootpath

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.cases[function_of(item.nodeid)] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_function: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_function[function_of(item.nodeid)].append(item)
        items[:] = [
            item
            for cases in by_function.values()
            # From the middle: the first cases of many tests are the smallest.
            for item in cases[min(self.share, len(cases)) // 2 :: self.share]
        ]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        before = cpu_s()
        try:
            return (yield)
        finally:
            self.seconds[function_of(item.nodeid)].append(cpu_s() - before)
            # Written as it goes, so that a stopped run is not lost.
            if len(self.seconds) % 50 == 0:
                self.write()

    def pytest_sessionfinish(self) -> None:
        self.write()

    def write(self) -> None:
        rows = {name: (row["cases"], row["cpu_s"]) for name, row in read(self.file).items()}
        rows |= {
            name: (str(self.cases[name]), f"{sum(times) / len(times):.2f}")
            for name, times in self.seconds.items()
        }
        kept = {name: row for name, row in rows.items() if self._exists(name)}
        with self.file.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows((name, *kept[name]) for name in sorted(kept))

    def _exists(self, name: str) -> bool:
        """Return whether a test was collected, or is in a file that was not."""
        files = {each.partition("::")[0] for each in self.cases}
        file = name.partition("::")[0]
        return name in self.cases or (file not in files and (self.root / file).is_file())


def function_of(nodeid: str) -> str:
    """Return the test function of a case, as in tests/test_files.py::test_names."""
    return nodeid.partition("[")[0]


def read(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a file of times by their test; empty where there is none."""
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        return {row["test"]: row for row in csv.DictReader(lines)}


def cpu_s() -> float:
    """Return the CPU seconds of this process, and of its processes that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
