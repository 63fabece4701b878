"""Options of `nas report`: the runs and the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Options of `nas report`."""

    run: tuple[Path, ...] = option(
        help="Run folder that `nas search` wrote; several are compared on one page.", argument=True
    )
    out: Path | None = option(
        None,
        help="HTML file to write.",
        metavar="FILE",
        shown="report.html or compare.html in the first run's folder",
    )
