"""Writer of reports: one HTML page on one or several runs, and its figures as PNG.

`nas.report.command` calls it. The page is self-contained: it needs no network and no other files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import figures
from nas.display import printable_lines
from nas.figures import Figure
from nas.files import file_name, write_text
from nas.report import summary
from nas.report.alpha import alpha_figures
from nas.report.breakdown import ROLES, breakdown_figure
from nas.report.diagram import caption
from nas.report.front import front_figure, fronts_figure
from nas.report.members import (
    Measurement,
    Otherwise,
    Row,
    measured_point,
    measurements,
    members,
    otherwise,
)
from nas.report.points import note_of
from nas.report.run import LeftOut, RunReport
from nas.report.training import fits_figure
from nas.report.trajectory import trajectory_figure
from nas.report.words import ms_text

if TYPE_CHECKING:
    from jinja2 import Template

PAGE, NETWORK = "page.html.j2", "network.svg.j2"
"""File names of the templates, in this file's folder."""


@dataclass(frozen=True)
class Section:
    """A run on one device, as the template takes it: its figures and its sentences."""

    run: RunReport
    figures: dict[str, Figure]
    tiles: tuple[summary.Tile, ...]
    measurements: tuple[Measurement, ...]
    rests_on: tuple[tuple[str, str], ...]

    def named(self, start: str) -> tuple[Figure, ...]:
        """Return the figures of this name, and those of names such as breakdown-DEVICE."""
        return tuple(
            each
            for name, each in self.figures.items()
            if name == start or name.startswith(f"{start}-")
        )


@dataclass(frozen=True)
class Folder:
    """A run folder, as the template takes it: one section per device of the search.

    Attributes:
        shared: whether the devices share one network.
        left_out: the missing parts of all sections, each once.
    """

    name: str
    sections: tuple[Section, ...]
    tiles: tuple[summary.Tile, ...]
    meaning: tuple[str, ...]
    otherwise: Otherwise | None
    members: tuple[Row, ...]
    shared: bool
    left_out: tuple[LeftOut, ...]

    @property
    def networks(self) -> tuple[Section, ...]:
        """Return one section per network that was found."""
        return self.sections[:1] if self.shared else self.sections


def figures_of(run: RunReport) -> dict[str, Figure]:
    """Return the figures of a run, as far as it has data for them, by file name."""
    drawn: dict[str, Figure] = {}
    if run.front.points or run.front.published:
        drawn["front"] = front_figure(run.front, measured_point(run))
    if run.trajectory:
        drawn["trajectory"] = trajectory_figure(run.trajectory)
    if run.breakdown and run.breakdown.known:
        drawn["breakdown"] = breakdown_figure(run.breakdown, note_of(run.about))
    for other in run.others:
        if other.known:
            drawn[f"breakdown-{other.device}"] = breakdown_figure(
                other, f"Measured: {other.measured}."
            )
    if run.alpha:
        drawn |= alpha_figures(run.alpha)
    fits = [fit for fit in run.fits if fit.epochs]
    if fits:
        drawn["finetune"] = fits_figure(fits)
    return drawn


def write_pictures(run: RunReport) -> list[Path]:
    """Write the figures of a run and the drawing of its network as PNG, and return the files.

    A search on several devices has one folder per device.
    """
    folder = run.folder / "pictures"
    # Devices are named by files that may be of somebody else: their names must not lead elsewhere.
    if run.name != run.folder.name:
        folder /= file_name(run.device)
    title = f"{run.name}: {run.about.result.latency_ms:.4g} ms on {run.device}"
    written = []
    for name, figure in figures_of(run).items():
        path = folder / f"{file_name(name)}.png"
        # The title of the fine-tuning's picture names no device or space, so the run is added.
        replace(
            figure, title=f"{run.name}: {figure.title}" if name == "finetune" else figure.title
        ).save(path)
        written.append(path)
    path = folder / "network.png"
    figures.write_bytes(path, figures.svg_to_png(network_svg(run, title)))
    return [*written, path]


def write_comparison(runs: Sequence[RunReport], folder: Path) -> list[Path]:
    """Write the figure that compares several runs into a folder, and return the files.

    A search on several devices is one run. It has one figure per front and no comparison.
    """
    if len({run.folder for run in runs}) < 2:
        return []
    path = folder / "fronts.png"
    fronts_figure({run.name: run.front for run in runs}).save(path)
    return [path]


def network_svg(run: RunReport, title: str) -> str:
    """Return the drawing of a run's network as SVG."""
    return _template(NETWORK).render(
        run=run, roles=ROLES, title=title, caption=caption(run.drawing), theme=figures.PAPER
    )


def write_page(runs: Sequence[RunReport], command: str, path: Path) -> None:
    """Write the page of these runs; several are compared.

    Args:
        command: the command line that made the page.

    Raises:
        NasError: when the file cannot be written.
    """
    write_text(path, render(runs, command))


def render(runs: Sequence[RunReport], command: str) -> str:
    """Return the page's HTML; all text from files is escaped."""
    from markupsafe import Markup

    # `groupby` needs the devices of one folder next to each other, as `load_runs` returns them.
    folders = [_folder(list(group)) for _, group in groupby(runs, key=lambda run: run.folder)]
    several = len(folders) > 1
    return _template(PAGE).render(
        title=f"{len(folders)} runs compared" if several else _title(runs),
        folders=folders,
        runs=runs,
        command=command,
        roles=ROLES,
        # The drawing library ships with the package: the only text that is not escaped.
        script=Markup(figures.script()),
        fronts=fronts_figure({run.name: run.front for run in runs}) if several else None,
        comparison=_comparison(runs) if several else (),
        notes=summary.comparing(runs) if several else (),
    )


def _template(name: str) -> Template:
    """Return a template beside this file.

    Text is escaped, and an undefined name raises instead of leaving a gap on the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.filters["together"] = together
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    """Return a value as the page shows it, with control characters written as escapes."""
    # Exactly `str`: Markup, a subclass, is text that the page made itself and stays as it is.
    return printable_lines(value) if type(value) is str else value


def _title(runs: Sequence[RunReport]) -> str:
    return f"{runs[0].about.space.name} on {' and '.join(run.device for run in runs)}"


def _folder(runs: Sequence[RunReport]) -> Folder:
    sections = tuple(_section(run) for run in runs)
    gaps = dict.fromkeys(gap for run in runs for gap in run.left_out)
    return Folder(
        name=runs[0].folder.resolve().name,
        sections=sections,
        tiles=sections[0].tiles if len(runs) == 1 else summary.tiles_of_several(runs),
        meaning=summary.meaning(runs),
        otherwise=otherwise(runs),
        members=members(runs),
        shared=len(runs) == 1 or bool(runs[0].about.common),
        left_out=tuple(gaps),
    )


def together(text: str) -> str:
    """Return the text with no-break spaces between numbers and their units."""
    return re.sub(r"(?<=\d) (?=(%|ms|points|M|G)\b|[%±])|(?<=±) (?=\d)", "\N{NO-BREAK SPACE}", text)


def _section(run: RunReport) -> Section:
    return Section(
        run=run,
        figures=figures_of(run),
        tiles=summary.tiles(run),
        measurements=measurements(run),
        rests_on=summary.rests_on(run),
    )


def _comparison(runs: Sequence[RunReport]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Return one row per property with one value per run."""
    columns = [_column(run) for run in runs]
    return tuple((name, tuple(column[name] for column in columns)) for name in columns[0])


def _column(run: RunReport) -> dict[str, str]:
    """Return the values of a run in the comparison, by property."""
    about = run.about
    result = run.about.result
    check = run.breakdown
    measured = check.measured_ms if check else None
    error = about.table.expected_error
    done = [
        f"{best.accuracy:.2f} % ({fit.name}, {best.part})" for fit in run.fits if (best := fit.best)
    ]
    target = about.target.latency_ms
    return {
        "space": about.space.name,
        "device": run.device,
        "engine": about.engine.name,
        "target": "none" if target is None else f"{target:.4g} ms",
        "predicted latency": ms_text(result),
        "measured latency": "not measured" if measured is None else f"{measured:.4g} ms",
        "table": about.table.provenance + ("" if error is None else f", ±{error:.1f} %"),
        "expected accuracy": summary.accuracy_tile(run).value,
        "below the largest member": f"{result.cost:.2f} points",
        "measured accuracy": "; ".join(done) or "not measured",
        "parameters": f"{result.params / 1e6:.2f} M",
        "MACs": f"{result.macs / 1e9:.3f} G",
        "widths": "-".join(map(str, result.widths)),
        "depths": "-".join(map(str, result.depths)),
        "attention blocks": "-".join(map(str, result.attention)),
    }
