"""What Android says of itself: battery, temperature. Pure parsers of `dumpsys`."""

from __future__ import annotations

import re

_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal states by number (`PowerManager.THERMAL_STATUS_*`)."""
MODERATE = 2
"""From here on the chip is clocked down noticeably."""


def battery_percent(text: str) -> int | None:
    """The charge by `dumpsys battery`; None where it does not say."""
    level, scale = (re.search(rf"^\s*{name}: (\d+)\s*$", text, re.MULTILINE) for name in ("level", "scale"))
    if level is None:
        return None
    whole = int(scale.group(1)) if scale else 100
    return round(100 * int(level.group(1)) / whole) if whole else None


def thermal_status(text: str) -> int | None:
    """The state by `dumpsys thermalservice`, which Android has from version 10 on; None where it does not say."""
    found = re.search(r"^\s*Thermal Status: (\d+)\s*$", text, re.MULTILINE)
    return int(found.group(1)) if found else None


def thermal_name(status: int) -> str:
    return _THERMAL[status] if status < len(_THERMAL) else str(status)
