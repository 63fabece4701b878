"""Tables for the screen: columns as wide as what stands in them, the same on a terminal and in a
pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

from nas.display import printable

_WIDEST = 100_000
"""Columns that no table reaches: nothing is cut or wrapped, so that a pipe gets whole lines."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        right: whether its cells stand at its right end, as figures do.
        width: letters that it takes at least; rows that are printed one by one need it to stand
            below one another.
    """

    title: str = ""
    right: bool = False
    width: int = 0


def table_text(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], header: bool = True
) -> str:
    """Return rows as text, a line for each, under the titles of their columns.

    Control characters of cells are written as escapes, and no cell is read as markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(
        box=None, show_header=header, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        grid.add_column(
            Text(printable(column.title)),
            justify="right" if column.right else "left",
            min_width=column.width or None,
            no_wrap=True,
        )
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    screen = StringIO()
    Console(file=screen, width=_WIDEST, color_system=None, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines())


def row_text(columns: Sequence[Column], cells: Sequence[str]) -> str:
    """Return one row of a table whose columns have their widths."""
    return table_text(columns, [cells], header=False)
