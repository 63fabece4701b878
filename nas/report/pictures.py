"""The frame that all PNG pictures share: size, grid, legend above, and a note on where the figures came from."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from nas.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, and its axes. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_picture(figure: Figure, title: str, note: str, path: str | Path) -> None:
    """Writes the figure as PNG with its legend, title and note."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8.5, title=plain(title),
                      title_fontsize=12)  # fmt: skip
    else:
        figure.suptitle(plain(title), fontsize=12)
    figure.supxlabel(plain(_wrapped(note)), fontsize=7.5, color="#555555", x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def plain(text: str) -> str:
    """The text as it is: without this, matplotlib reads what stands between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def _wrapped(text: str, width: int = 140) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in text.splitlines())
