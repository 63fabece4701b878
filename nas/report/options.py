"""Options of `nas report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Options of `nas report`."""

    run: tuple[Path, ...] = option(
        help="A run folder that `nas search` wrote; several are compared.", argument=True
    )
    out: Path | None = option(
        None,
        help="File of the page.",
        metavar="FILE",
        shown="report.html or compare.html in the first run's folder",
    )
