"""Text and tables, made safe for a terminal, a page or a notebook.

The command line and reports print names with `printable`. Classes of the API build their `to_frame`
and `_repr_html_` with `frame` and `html_table`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.extras import need

if TYPE_CHECKING:
    import pandas as pd

_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
"""Unicode categories of characters that control a terminal, break a line or turn its direction."""


def printable(text: str) -> str:
    r"""Return one line of text with each control character as an escape like \x1b.

    Names come from files and from other programs. An escape sequence in one would move the cursor
    or change colours.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text
    )


def printable_lines(text: str) -> str:
    """Return text of several lines with control characters escaped; its line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(letter: str) -> str:
    """Return a control character as its escape; a soft hyphen (U+00AD) is harmless and stays."""
    return letter.encode("unicode_escape").decode("ascii") if ord(letter) != 0xAD else letter


MOST_ROWS = 20
"""Maximum rows of an HTML table; the rest is counted below it."""


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a DataFrame. `columns` come first, and exist even without any row.

    Raises:
        MissingExtra: when pandas is not installed.
    """
    need("to_frame()", "frames")
    import pandas as pd

    table = pd.DataFrame(list(rows))
    other_columns = [name for name in table.columns if name not in columns]
    return table.reindex(columns=[*columns, *other_columns])


def html_table(caption: str, rows: Sequence[Mapping[str, Any]], more: int = 0) -> str:
    """Return an HTML table of the first rows under a caption.

    Args:
        more: number of rows that exist beyond `rows`; they count as left out.
    """
    from html import escape

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
    from html import escape

    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(shortened(str(value)))
