"""Times that a user gives: 90s, 5m, 1.5h."""

from __future__ import annotations

import math
import re

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(option: str, text: str | None) -> float:
    """`text` in seconds; infinite where it is None.

    Raises:
        InputError: when it is no time; `option` is named.
    """
    from nas.errors import InputError

    if text is None:
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise InputError(f"{option} {text}: expected a time, as 90s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]
