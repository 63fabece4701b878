"""Durations that a user gives, for `nas profile --budget`: 90s, 5m, 1.5h."""

from __future__ import annotations

import math
import re

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(option: str, text: str | None) -> float:
    """Return `text` in seconds; infinite where it is None.

    Raises:
        InputError: when it is not a duration or has no unit; `option` is named.
    """
    from nas.errors import InputError

    if text is None:
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise InputError(f"{option} {text}: not a duration (expected a time, as 90s, 5m or 1h). Fix: {option} 5m")
    if not match[2]:  # 5 has been meant as minutes and taken as seconds
        raise InputError(
            f"{option} {text}: the unit is missing (expected a time, as 90s, 5m or 1h). Fix: {option} {match[1]}m"
        )
    return float(match[1]) * _SECONDS[match[2]]
