"""The table of the found and the published members that `nas search` prints.

`nas.cli.search_output` and `nas.cli.search_multi_device` call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.cli.output import Column, table_text
from nas.tasks import metric_words


def members_table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the table of members as text."""
    known = [each["accuracy"]["metric"] for each in rows.values() if each.get("accuracy")]
    what = f"{metric_words(known[0])} %" if known else "points"
    figures = [Column(title, right=True) for title in ("ms", what)]
    columns = [
        Column(),
        *figures,
        Column(),
        Column(),
        Column("params", right=True),
        Column("MACs", right=True),
    ]
    shapes = [Column(title) for title in ("widths", "depths", "attention")]
    return table_text([*columns, *shapes], [_cells(name, each) for name, each in rows.items()])


def _cells(name: str, each: dict[str, Any]) -> tuple[str, ...]:
    """Return the row of one member."""
    error = each["latency_error"]
    ms = f"{each['latency_ms']:.2f}" + (f" ± {error:.2f}" if error is not None else "")
    macs = f"{each['macs'] / 1e9:.2f} G" if each["macs"] >= 1e8 else f"{each['macs'] / 1e6:.1f} M"
    shape = ("-".join(map(str, each[key])) for key in ("widths", "depths", "attention"))
    return (name, ms, *accuracy_text(each), f"{each['params'] / 1e6:.1f} M", macs, *shape)


def accuracy_text(each: dict[str, Any]) -> tuple[str, str, str]:
    """Return a member's accuracy, its error and a note; in points where only costs are known."""
    known = each.get("accuracy")
    if known is None:
        return f"{-each['cost']:+.2f}", "", ""
    value = known[known["metric"]]
    if known.get("predicted") is not None:
        without = f"{known['predicted']:.1f} ± {known['predicted_error']:.1f}"
        return f"{value:.1f}", "", f"published; without it {without}"
    return f"{value:.1f}", f"± {known['standard_error']:.1f}", ""
