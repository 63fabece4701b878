"""Parsers of values for command-line options: 4M parameters, 1.2ms, 5m, the colour #ffffff."""

from __future__ import annotations

import re
from typing import Any

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_MILLISECONDS = {"": 1.0, "ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_COLOURS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}
_NUMBER = r"\s*([0-9.eE+-]+?)\s*"


def count(text: Any) -> float:
    """Return a count, from text like 4000000, 4M or 1.2G."""
    return _with_unit(text, _COUNTS, "a number, as 4000000 or 4M")


def milliseconds(text: Any) -> float:
    """Return a latency in ms, from text like 1.2, 1.2ms or 900us."""
    return _with_unit(text, _MILLISECONDS, "a positive number of milliseconds, as 1.2 or 1.2ms")


def seconds(text: Any) -> float:
    """Return a duration in seconds, from text like 90s, 5m or 1.5h.

    The unit is required: users meant a bare 5 as minutes, and it was read as seconds.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(text).lower())
    if match is None or float(match[1]) == 0:
        raise ValueError("is not a duration (expected a time, as 90s, 5m or 1h). Fix: --budget 5m")
    if not match[2]:
        raise ValueError(
            f"the unit is missing (expected a time, as 90s, 5m or 1h). Fix: --budget {match[1]}m"
        )
    return float(match[1]) * _SECONDS[match[2]]


def colour(text: Any) -> str:
    """Return a colour in lower case, from white, grey, black, or red, green and blue as #rrggbb."""
    name = str(text).strip().lower().replace("gray", "grey")
    if name not in _COLOURS and not re.fullmatch("#[0-9a-f]{6}", name):
        raise ValueError("is not a colour (expected white, grey, black or #rrggbb). Fix: '#ffffff'")
    return name


def colour_rgb(name: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour of `colour`, each from 0 to 255."""
    if name in _COLOURS:
        return _COLOURS[name]
    return int(name[1:3], 16), int(name[3:5], 16), int(name[5:7], 16)


def _with_unit(text: Any, units: dict[str, float], expected: str) -> float:
    """Return a number times its unit's factor; raise ValueError for other text."""
    # `_NUMBER` matches lazily and includes "e" of exponents; float() refuses what is not a number.
    match = re.fullmatch(_NUMBER + "(" + "|".join(filter(None, units)) + r")?\s*", str(text))
    try:
        if match is not None:
            return float(match[1]) * units[match[2] or ""]
    except ValueError:
        pass
    raise ValueError(f"is not a quantity (expected {expected})")
