"""The pictures of a report as PNG files in the run's folder `pictures/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas.report.alpha import draw_alpha, draw_attention
from nas.report.breakdown import draw_breakdown
from nas.report.front import draw_front, draw_fronts
from nas.report.network import draw_network
from nas.report.plane import note_of
from nas.report.run import RunReport
from nas.report.training import draw_fits
from nas.report.trajectory import draw


def write_comparison(runs: Sequence[RunReport], folder: Path) -> list[Path]:
    """Write the picture of several runs beside one another into a folder, and return the files.

    A search on several devices is one run, whose fronts are pictures of their own.
    """
    if len({run.folder for run in runs}) < 2:
        return []
    path = folder / "fronts.png"
    draw_fronts({run.name: run.front for run in runs}, path)
    return [path]


def write_pictures(run: RunReport) -> list[Path]:
    """Writes what there is data for, and returns the files. Of several devices' runs each has a folder of its own."""
    folder = run.folder / "pictures"
    if run.name != run.folder.name:
        folder /= run.device
    title, written = f"{run.name}: {run.about.result.latency_ms:.4g} ms on {run.device}", []

    def path(name: str) -> Path:
        written.append(folder / f"{name}.png")
        return written[-1]

    if run.front.points or run.front.published:
        draw_front(run.front, path("front"))
    if run.trajectory:
        draw(run.trajectory, path("trajectory"))
    draw_network(run.drawing, title, path("network"))
    if run.breakdown and run.breakdown.known:
        draw_breakdown(run.breakdown, note_of(run.about), path("breakdown"))
    for other in run.others:
        if other.known:
            draw_breakdown(other, f"Measured: {other.measured}.", path(f"breakdown-{other.device}"))
    if run.alpha:
        draw_alpha(run.alpha, path("alpha"))
        if run.alpha.mixed:
            draw_attention(run.alpha, path("alpha-attention"))
    if any(fit.epochs for fit in run.fits):
        draw_fits([fit for fit in run.fits if fit.epochs], f"{run.name}: fine-tuning", path("finetune"))
    return written
