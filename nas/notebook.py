"""Tables for notebooks: rows as a pandas DataFrame, and as the HTML that Jupyter shows.

The classes of the API with `to_frame` or `_repr_html_` use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nas.extras import need

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20
"""Maximum rows of an HTML table; the rest is counted below it."""


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a DataFrame. `columns` come first, and exist even without any row.

    Raises:
        MissingExtra: when pandas is not installed.
    """
    need("to_frame()", "frames")
    import pandas as pd

    made = pd.DataFrame(list(rows))
    further = [name for name in made.columns if name not in columns]
    return made.reindex(columns=[*columns, *further])


def html_table(caption: str, rows: Sequence[Mapping[str, Any]], more: int = 0) -> str:
    """Return an HTML table of the first rows under a caption.

    Args:
        more: rows that exist beside those given, for the count of rows left out.
    """
    shown = rows[:MOST_ROWS]
    # A dict keeps the order of first occurrence: rows may have different columns.
    columns = list(dict.fromkeys(name for row in shown for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = [
        f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in columns)}</tr>"
        for row in shown
    ]
    left_out = len(rows) - len(shown) + more
    foot = f"<p>and {left_out:,} more rows: to_frame() has them all</p>" if left_out else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>" if shown else ""
    return f"<div><table><caption>{escape(caption)}</caption>{body}</table>{foot}</div>"


def shortened(text: str, most: int = 120) -> str:
    """Return a text cut to `most` characters, with an ellipsis where something was cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(shortened(str(value)))
