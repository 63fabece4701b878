"""Figures as Vega-Lite specs, drawn to PNG or SVG here and by a script on a page.

A figure is plain data (https://vega.github.io/vega-lite). vl-convert draws it without a browser and
without a network. `Found.plot`, the pictures of a run and its report page use this module.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nas import resources
from nas.display import printable, shortened
from nas.errors import InputError, NasError
from nas.files import replacing, write_text
from nas.processes import start_python

Spec = dict[str, Any]
"""A Vega-Lite spec, or a part of one."""

_WIDTH = 760
"""Width of a picture in pixels. On a page a figure is as wide as its column."""
_SCALE = 1.6
"""Pixels of a PNG file per pixel of the figure."""


@dataclass(frozen=True)
class Theme:
    """The colours of everything that is not data.

    On a page they are CSS variables, so that they follow the reader's light or dark theme.
    """

    text: str
    soft: str
    line: str
    page: str


PAPER = Theme(text="#1c2024", soft="#5b6470", line="#e3e6ea", page="#ffffff")
PAGE = Theme(text="var(--text)", soft="var(--soft)", line="var(--line)", page="var(--page)")


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
        title: what it shows.
        spec: layers, height and scales, without title, width and the colours of text and grid.
        note: the source of its numbers, shown below the title of a picture.
    """

    title: str
    spec: Spec
    note: str = ""

    def document(self) -> Spec:
        """Return the spec for a page, whose script sets width and title."""
        spec: Spec = _clean({**self.spec, **_frame(PAGE), "width": "container", "background": None})
        return spec

    def picture(self) -> Spec:
        """Return the complete spec of a picture file."""
        title = {"text": self.title, "subtitle": _wrapped(self.note)}
        spec: Spec = _clean({"width": _WIDTH, **self.spec, **_frame(PAPER), "title": title})
        return spec

    def svg(self) -> str:
        """Return the figure as SVG."""
        import vl_convert

        text: str = vl_convert.vegalite_to_svg(self.picture())
        return text

    def save(self, path: str | Path) -> None:
        """Write the figure as SVG where the name ends in .svg, as its spec for .json, else as PNG.

        Raises:
            NasError: when the file could not be written; an existing file is unchanged.
        """
        path = Path(path)
        if path.suffix == ".svg":
            write_text(path, self.svg())
        elif path.suffix == ".json":
            write_text(path, json.dumps(self.picture(), indent=2))
        else:
            write_bytes(path, _png(self.picture()))

    def __repr__(self) -> str:
        return f"Figure({shortened(self.title)!r})"

    def _repr_svg_(self) -> str:
        """Return what a notebook shows."""
        return self.svg()


def svg_to_png(svg: str) -> bytes:
    """Return an SVG drawing as PNG bytes."""
    import vl_convert

    data: bytes = vl_convert.svg_to_png(svg, scale=_SCALE)
    return data


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


_ENGINE = """\
import json
import vl_convert
vl_convert.vegalite_to_svg({"data": {"values": []}, "mark": "point"})
for line in sys.stdin.buffer:
    spec, scale = json.loads(line)
    data = vl_convert.vegalite_to_png(spec, scale=scale)
    sys.stdout.buffer.write(len(data).to_bytes(8, "big") + data)
    sys.stdout.buffer.flush()
"""
"""Draws PNG files of requests on stdin, until that closes: it ends with its parent."""
_engine: subprocess.Popen[bytes] | None = None


def warm_up() -> None:
    """Start the drawing engine in a process of its own, beside what this one does.

    The start takes much longer than drawing a picture. In a thread it would stop this process, as
    vl-convert holds the interpreter's lock meanwhile.
    """
    global _engine
    if _engine is None:
        _engine = start_python(_ENGINE, errors=subprocess.DEVNULL)
        # Without it, one that still starts would outlive a command that fails at once.
        atexit.register(_engine.kill)


def _png(spec: Spec) -> bytes:
    """Return a figure as PNG, from the engine that runs already where there is one.

    Raises:
        ValueError: for a spec that cannot be drawn.
    """
    data = _asked(spec) if _engine is not None else b""
    if not data:
        import vl_convert

        data = vl_convert.vegalite_to_png(spec, scale=_SCALE)
    return data


def _asked(spec: Spec) -> bytes:
    """Return the PNG that the engine's process draws; empty where it has ended, as at a bad spec."""
    global _engine
    assert _engine is not None and _engine.stdin is not None and _engine.stdout is not None
    try:
        _engine.stdin.write(json.dumps([spec, _SCALE]).encode() + b"\n")
        _engine.stdin.flush()
        length = int.from_bytes(_engine.stdout.read(8), "big")
        data = _engine.stdout.read(length)
        if length and len(data) == length:
            return data
    except OSError:
        pass
    _engine.kill()
    _engine.communicate()
    _engine = None
    return b""


def script() -> str:
    """Return the JavaScript that draws figures on a page.

    It bundles Vega, Vega-Lite and Vega-Embed (BSD licence). Bundling takes seconds, so the bundle
    is cached under $XDG_CACHE_HOME/nas/figures (~/.cache by default).
    """
    name = f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, InputError):
        cached = resources.cache_folder("figures") / name
        if cached.is_file():
            return cached.read_text(encoding="utf-8")
    import vl_convert

    # The script is inside a <script> element of the page, which the first "</script" would end.
    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", r"<\/script"
    )
    # Without a writable home folder each report only takes some seconds longer.
    with suppress(NasError):
        write_text(resources.cache_folder("figures") / name, text)
    return text


def x_axis(title: str, **more: Any) -> Spec:
    """Return the encoding of the quantitative field `x`."""
    return {"field": "x", "type": "quantitative", "title": title, **more}


def y_axis(title: str, **more: Any) -> Spec:
    """Return the encoding of the quantitative field `y`."""
    return {"field": "y", "type": "quantitative", "title": title, **more}


def layer(mark: Spec, rows: Sequence[Mapping[str, Any]], **encoding: Any) -> Spec:
    """Return one layer with `rows` as its data.

    The rows' field `about` is the tooltip of their marks.
    """
    tooltip = {"tooltip": {"field": "about"}} if any("about" in row for row in rows) else {}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": {**encoding, **tooltip}}


@dataclass(frozen=True)
class Series:
    """The style of all marks of one name.

    Attributes:
        symbol: Vega's name of the symbol; "stroke" is a line.
        filled: whether the symbol is filled or an outline.
        shown: whether the legend names it.
    """

    name: str
    colour: str
    symbol: str = "circle"
    filled: bool = True
    shown: bool = True


def series_encoding(series: Sequence[Series]) -> dict[str, Spec]:
    """Return the encodings of the field `series`: stroke, fill and shape, with a shared legend."""
    names = [printable(each.name) for each in series]
    shown = [printable(each.name) for each in series if each.shown]
    strokes = [each.colour for each in series]
    fills = [each.colour if each.filled else "transparent" for each in series]
    shapes = [each.symbol for each in series]
    # Vega merges legends of one field only where title and values are equal, so all channels get
    # the same.
    legend = {"title": None, "values": shown} if shown else None
    return {
        channel: {
            "field": "series",
            "type": "nominal",
            "legend": legend,
            "scale": {"domain": names, "range": values},
        }
        for channel, values in (("stroke", strokes), ("fill", fills), ("shape", shapes))
    }


def clear(colour: str, share: float) -> str:
    """Return the colour #rrggbb with the opacity `share` (0 to 1), as rgba()."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def lines(texts: Sequence[str]) -> str:
    """Return texts as the lines of a tooltip."""
    return "\n".join(printable(text) for text in texts)


def renamed(figure: Figure, title: str) -> Figure:
    """Return the figure with another title."""
    return replace(figure, title=title)


def _wrapped(text: str, width: int = 144) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(line, width)]


def _clean(value: Any) -> Any:
    """Return the spec with control characters escaped; names from files may contain any."""
    if isinstance(value, str):
        return "\n".join(map(printable, value.split("\n")))
    if isinstance(value, Mapping):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(each) for each in value]
    return value


def _frame(theme: Theme) -> Spec:
    """Return the part of a spec that all figures share: fonts, grid, legend, colours of a theme."""
    axis = {
        "labelColor": theme.text,
        "titleColor": theme.text,
        "gridColor": theme.line,
        "domainColor": theme.line,
        "tickColor": theme.line,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 0,
        "titlePadding": 8,
        "tickCount": 9,
    }
    legend = {
        "orient": "top",
        "labelColor": theme.text,
        "labelFontSize": 11,
        "labelLimit": 0,
        "symbolStrokeWidth": 1.5,
        "symbolSize": 90,
        "columns": 4,
        "columnPadding": 14,
        "rowPadding": 3,
        "titleColor": theme.text,
        "titleFontWeight": "normal",
        "titleLimit": 0,
    }
    title = {
        "anchor": "start",
        "color": theme.text,
        "subtitleColor": theme.soft,
        "fontSize": 14,
        "offset": 12,
        "subtitleFontSize": 10,
        "subtitlePadding": 5,
        "fontWeight": "bold",
        "limit": 0,
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 8,
        "background": theme.page,
        "config": {
            "font": "system-ui, 'DejaVu Sans', Arial, sans-serif",
            "axis": axis,
            "legend": legend,
            "title": title,
            "view": {"stroke": None},
            "text": {"fill": theme.text},
            "style": {
                "halo": {"stroke": theme.page, "strokeWidth": 3, "strokeJoin": "round"},
                "edge": {"stroke": theme.page, "strokeWidth": 1.5},
            },
        },
    }
