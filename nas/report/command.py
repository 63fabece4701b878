"""`nas.report`: writes the results of runs as one offline HTML page and as pictures.

The command `nas report` calls `perform`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nas.errors import InputError
from nas.option_values import make, words
from nas.report.options import ReportOptions
from nas.report.page import write_comparison, write_page, write_pictures
from nas.report.run import RunReport, load_runs


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Attributes:
        page: the HTML file.
        pictures: the picture files.
        runs: the runs that it shows, one per run folder and device.
    """

    page: Path
    pictures: tuple[Path, ...] = field(repr=False)
    runs: tuple[RunReport, ...] = field(repr=False)


def report(*run: str | Path, out: str | Path | None = None) -> Report:
    """Write one HTML page and pictures on runs: results, their sources, commands to reproduce them.

    Args:
        run: run folders that `nas search` wrote; several are compared.
        out: file of the page; by default report.html or compare.html in the first run's folder.

    Raises:
        InputError: for a folder that is not a run, or is given twice.
    """
    return perform(make(ReportOptions, {"run": run or None, "out": out}))


def perform(options: ReportOptions) -> Report:
    """Write the page and the pictures that the options of `nas report` ask for."""
    run = options.run
    if len({path.resolve() for path in run}) < len(run):
        raise InputError("RUN: a run folder is given twice. Fix: name each run once")
    runs = [loaded for folder in run for loaded in load_runs(folder)]
    page = options.out or run[0] / ("report.html" if len(run) == 1 else "compare.html")
    if page.is_dir():
        raise InputError(
            f"--out {page}: is a folder (expected a file). Fix: --out {page / 'report.html'}"
        )
    pictures = [picture for loaded in runs for picture in write_pictures(loaded)]
    if len(runs) > 1:
        pictures += write_comparison(runs, run[0] / "pictures")
    write_page(runs, words("report", options), page)
    return Report(page, tuple(pictures), tuple(runs))
