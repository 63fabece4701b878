"""Figures of a supernet's training: each position's shares of its candidates over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from nas.csv_files import read_columns
from nas.display import printable
from nas.errors import InputError
from nas.figures import Figure, Spec, layer, lines
from nas.space.place import Place

COLUMNS = 120
"""Maximum number of steps shown; more are thinned evenly."""

_TICKS = 10
"""Approximate number of step labels below the cells."""
_RED = "#c8503c"
_BLUE = "#2f86c6"
_ORANGE = "#cf7a22"

_LEAST = 1e-4
"""Lower bound of a share, so that ratios stay finite."""


@dataclass(frozen=True)
class Alpha:
    """Architecture parameters over training: one row per position, one column per step.

    Attributes:
        positions: names, in network order.
        dropped: the positions without a block in the found network.
        steps: steps of the supernet's training.
        kept: how strongly a position prefers a block over identity: log2 of the ratio of the
            blocks' mean share to identity's. The paper's importance (arXiv:2206.01191, Sec. 4.2) is
            the ratio of their sum.
        attention: the global block's share of the sum over both blocks; None without a choice.
        shares: local, global and identity share in percent, as text.
        note: the source file.
    """

    positions: tuple[str, ...]
    dropped: frozenset[str]
    steps: tuple[int, ...]
    kept: tuple[tuple[float, ...], ...]
    attention: tuple[tuple[float | None, ...], ...]
    shares: tuple[tuple[str, ...], ...]
    note: str

    @property
    def mixed(self) -> tuple[int, ...]:
        """Return the rows in which local and global blocks are candidates."""
        return tuple(index for index, row in enumerate(self.attention) if row[-1] is not None)

    @property
    def kept_ends(self) -> tuple[float, float]:
        """Return the range of `kept`, symmetric about 0."""
        most = max(abs(value) for row in self.kept for value in row) or 1.0
        return -most, most

    @property
    def attention_ends(self) -> tuple[float, float]:
        """Return the range of `attention`, symmetric about one half."""
        far = (
            max(abs((share or 0.0) - 0.5) for row in self.mixed for share in self.attention[row])
            or 0.5
        )
        return 0.5 - far, 0.5 + far


def read_alpha(path: Path, dropped: frozenset[str]) -> Alpha | None:
    """Return the shares in a training's `alpha.csv`; None where it has no row.

    Raises:
        InputError: for a damaged file, naming line, column and reason.
    """
    rows = read_columns(path, ("step", "local", "identity"), ("position",), ("global",))
    by_position: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_position.setdefault(row["position"], {})[int(row["step"])] = row
    if not rows:
        return None
    # Older files have 0 where a position has no global block, today's have nothing there. A share
    # that training has pushed down to 0 is a share all the same.
    for known in by_position.values():
        if not any(row["global"] for row in known.values()):
            for row in known.values():
                row["global"] = None
    steps = sorted(next(iter(by_position.values())))
    # A heatmap needs every cell; a file that was cut off lacks the last ones.
    odd = next((name for name, known in by_position.items() if sorted(known) != steps), None)
    if odd:
        raise InputError(
            f"{path}: {odd} has other steps than the other positions, so the file is damaged."
            " Fix: delete the file, and the report leaves out its figures"
        )
    shown = _thinned(steps)
    table = [[known[step] for step in shown] for known in by_position.values()]
    return Alpha(
        positions=tuple(by_position),
        dropped=dropped,
        steps=tuple(shown),
        kept=tuple(tuple(map(_kept, line)) for line in table),
        attention=tuple(tuple(map(_attention, line)) for line in table),
        shares=tuple(tuple(map(_words, line)) for line in table),
        note=f"From {path}.",
    )


def _thinned(steps: list[int]) -> list[int]:
    """Return every n-th step, counted from the last one, which always stays."""
    # Ceiling division: at most COLUMNS steps remain.
    every = -(-len(steps) // COLUMNS)
    return steps[::-1][::every][::-1]


def _kept(row: dict[str, Any]) -> float:
    """Return log2 of the blocks' mean share over identity's share.

    The mean instead of the sum: a position with more candidates would otherwise prefer its blocks
    before any training.
    """
    blocks = [row["local"]] + ([row["global"]] if row["global"] is not None else [])
    return round(log2(max(sum(blocks) / len(blocks), _LEAST) / max(row["identity"], _LEAST)), 4)


def _attention(row: dict[str, Any]) -> float | None:
    return (
        round(row["global"] / max(row["global"] + row["local"], _LEAST), 4)
        if row["global"] is not None
        else None
    )


def _words(row: dict[str, Any]) -> str:
    global_ = f", attention {100 * row['global']:.1f} %" if row["global"] is not None else ""
    return f"local {100 * row['local']:.1f} %{global_}, identity {100 * row['identity']:.1f} %"


def position_label(name: str, dropped: frozenset[str]) -> str:
    """Return the axis label of a position: 3.5 for block 5 of stage 3, with an x if dropped."""
    try:
        place = Place.parse(name)
    # Names that do not parse, of files from elsewhere, are shown unchanged.
    except InputError:
        place = None
    label = name
    if place is not None and place.stage is not None and place.position is not None:
        label = f"{place.stage + 1}.{place.position + 1}"
    return label + (" x" if name in dropped else "")


def alpha_figures(data: Alpha) -> dict[str, Figure]:
    """Return the figures by file name: block against identity, and attention against local block.

    The second figure has the positions that may hold attention. Without any it is left out.
    """
    every = range(len(data.positions))
    kept = _heatmap(data, every, data.kept, data.kept_ends, "log2 of the ratio", (_RED, _BLUE))
    figures = {
        "alpha": Figure(
            "Alpha over training: prefers its block (blue) or identity (red)", kept, data.note
        ),
    }
    if data.mixed:
        ends = data.attention_ends
        colours = (_BLUE, _ORANGE)
        share = _heatmap(data, data.mixed, data.attention, ends, "share of attention", colours)
        title = "Alpha over training: prefers attention (orange) or its local block (blue)"
        figures["alpha-attention"] = Figure(title, share, data.note)
    return figures


def _heatmap(
    data: Alpha,
    rows: Sequence[int],
    values: Sequence[Sequence[float | None]],
    ends: tuple[float, float],
    title: str,
    colours: tuple[str, str],
) -> Spec:
    """Return the cells of some positions as a spec.

    The middle between both ends is transparent, whatever the background.
    """
    labels = {row: position_label(data.positions[row], data.dropped) for row in rows}
    cells = [
        {
            "step": step,
            "name": labels[row],
            "value": values[row][column],
            "about": lines((data.positions[row], f"step {step}", data.shares[row][column])),
        }
        for row in rows
        for column, step in enumerate(data.steps)
    ]
    shown = data.steps[:: -(-len(data.steps) // _TICKS)]
    x = {
        "field": "step",
        "type": "ordinal",
        "title": "step of the supernet's training",
        "axis": {"values": list(shown), "labelAngle": 0},
    }
    names = [printable(label) for label in labels.values()]
    y = {
        "field": "name",
        "type": "nominal",
        "title": "stage.block (x: dropped by the search)",
        "scale": {"domain": names},
    }
    middle = sum(ends) / 2
    # Three colours: the middle value (no preference) is nearly transparent.
    scale = {
        "domain": [ends[0], middle, ends[1]],
        "range": [colours[0], "rgba(128,128,128,0.06)", colours[1]],
    }
    legend = {"gradientLength": 240, "gradientThickness": 9}
    fill = {
        "field": "value",
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "legend": legend,
    }
    return {
        "height": 14 * len(names),
        "layer": [layer({"type": "rect"}, cells, x=x, y=y, fill=fill)],
    }
