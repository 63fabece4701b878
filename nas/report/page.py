"""One HTML page of one or several runs, which needs nothing but itself to open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from nas.files import write_text
from nas.report import charts, words
from nas.report.breakdown import ROLES
from nas.report.run import LeftOut, RunReport

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """A run on one device as the template takes it: its charts are ready, its sentences written."""

    run: RunReport
    front: charts.Chart | None
    trajectory: charts.Chart | None
    breakdowns: tuple[charts.Chart, ...]
    alpha: tuple[charts.Chart, ...]
    fits: charts.Chart | None
    tiles: tuple[words.Tile, ...]
    measurements: tuple[words.Measurement, ...]
    rests_on: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Folder:
    """A run folder as the template takes it: one section, or one a device that was searched for.

    Attributes:
        shared: whether the devices have one network in common.
        left_out: what is missing, of all sections, each once.
    """

    name: str
    sections: tuple[Section, ...]
    tiles: tuple[words.Tile, ...]
    meaning: tuple[str, ...]
    otherwise: words.Otherwise | None
    members: tuple[words.Row, ...]
    shared: bool
    left_out: tuple[LeftOut, ...]

    @property
    def networks(self) -> tuple[Section, ...]:
        """A section for each network that was found."""
        return self.sections[:1] if self.shared else self.sections


def write_page(runs: Sequence[RunReport], command: str, path: Path) -> None:
    """Writes the page of these runs; side by side where there are several.

    `command` is the command line that made the page. Raises NasError when the file cannot be written.
    """
    write_text(path, render(runs, command))


def render(runs: Sequence[RunReport], command: str) -> str:
    """The page's HTML. Whatever comes from a file is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined)  # fmt: skip
    environment.filters["together"] = together
    folders = [_folder(list(group)) for _, group in groupby(runs, key=lambda run: run.folder)]
    several = len(folders) > 1
    fronts = [(run.name, run.front) for run in runs]
    return environment.get_template(TEMPLATE).render(
        title=f"{len(folders)} runs compared" if several else _title(runs),
        folders=folders, runs=runs, command=command, roles=ROLES,
        # The library is the package's own and no input: the one text that goes in as it is.
        plotly=Markup(get_plotlyjs()),
        fronts=charts.fronts_chart(fronts) if several else None,
        comparison=_comparison(runs) if several else (), notes=words.comparing(runs) if several else (),
    )  # fmt: skip


def _title(runs: Sequence[RunReport]) -> str:
    return f"{runs[0].about.space.name} on {' and '.join(run.device for run in runs)}"


def _folder(runs: Sequence[RunReport]) -> Folder:
    sections = tuple(_section(run) for run in runs)
    gaps = dict.fromkeys(gap for run in runs for gap in run.left_out)
    return Folder(
        name=runs[0].folder.resolve().name,
        sections=sections,
        tiles=sections[0].tiles if len(runs) == 1 else words.tiles_of_several(runs),
        meaning=words.meaning(runs),
        otherwise=words.otherwise(runs),
        members=words.members(runs),
        shared=len(runs) == 1 or bool(runs[0].about.common),
        left_out=tuple(gaps),
    )


def together(text: str) -> str:
    """The text with figures and their units on one line."""
    return re.sub(r"(?<=\d) (?=(%|ms|points|M|G)\b|[%±])|(?<=±) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _section(run: RunReport) -> Section:
    measured = [run.breakdown] if run.breakdown else []
    known = run.front.points or run.front.published
    return Section(
        run=run, front=charts.front_chart(run.front, words.measured_point(run)) if known else None,
        trajectory=charts.trajectory_chart(run.trajectory) if run.trajectory else None,
        breakdowns=tuple(charts.breakdown_chart(each) for each in (*measured, *run.others) if each.known),
        alpha=charts.alpha_charts(run.alpha) if run.alpha else (),
        fits=charts.fits_chart(run.fits) if any(fit.epochs for fit in run.fits) else None,
        tiles=words.tiles(run), measurements=words.measurements(run),
        rests_on=words.rests_on(run),
    )  # fmt: skip


def _comparison(runs: Sequence[RunReport]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """A row a property, a value a run."""
    columns = [_column(run) for run in runs]
    return tuple((name, tuple(column[name] for column in columns)) for name in columns[0])


def _column(run: RunReport) -> dict[str, str]:
    about, result, check = run.about, run.about.result, run.breakdown
    measured = check.measured_ms if check else None
    error = about.table.expected_error
    done = [f"{best.accuracy:.2f} % ({fit.name}, {best.part})" for fit in run.fits if (best := fit.best)]
    target = about.target.latency_ms
    return {
        "space": about.space.name, "device": run.device, "engine": about.engine.name,
        "target": "none" if target is None else f"{target:.4g} ms",
        "predicted latency": words.ms_text(result),
        "measured latency": "not measured" if measured is None else f"{measured:.4g} ms",
        "table": about.table.provenance + ("" if error is None else f", ±{error:.1f} %"),
        "expected accuracy": words.accuracy_tile(run).value,
        "below the largest member": f"{result.cost:.2f} points",
        "measured accuracy": "; ".join(done) or "not measured",
        "parameters": f"{result.params / 1e6:.2f} M", "MACs": f"{result.macs / 1e9:.3f} G",
        "widths": "-".join(map(str, result.widths)), "depths": "-".join(map(str, result.depths)),
        "attention blocks": "-".join(map(str, result.attention)),
    }  # fmt: skip
