"""Watch a device for throttling; the bench holds one watch per device.

A reference, measured again after every few rows, must take what it took at first.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from nas.devices.base import Device

EVERY = 10
"""Number of rows between two looks at the reference."""
BOUND = 0.05
"""Maximum relative distance of the reference from its first time."""
PAUSES_S = (5.0, 15.0, 30.0)
"""Pauses in seconds for a device that became slower, each followed by a new look."""
MOST_PAUSED_S = 20.0
"""Maximum sum of pauses in seconds on a device that repeats.

Its repeats deal with passing disturbances. Where it stays slow, its rows are flagged.
"""


class DriftWatch:
    """A reference, measured at the start and at every `look`.

    Args:
        device: what is watched.
        reference: file of the stack that is measured.
    """

    def __init__(self, device: Device, reference: Path) -> None:
        self._device = device
        self._reference = reference
        # A start that was disturbed would make every later look a drift: the fastest of the
        # repeats counts.
        self.first_ms = min(self._time() for _ in range(device.repeats))
        self._calls = 0
        self._left_s = MOST_PAUSED_S if device.repeats > 1 else math.inf
        self.last = 0.0
        """Relative drift at the last look; positive when the device became slower."""

    def due(self) -> bool:
        """Count a row and return whether it is time to look."""
        self._calls += 1
        return self._calls % EVERY == 0

    def look(self) -> tuple[bool, bool]:
        """Measure the reference, and wait for a device that drifted.

        A device that became slower pauses for PAUSES_S at most. One that became faster was
        disturbed when the reference was first measured; the new time is the reference from now on.

        Returns:
            Whether the device had drifted, and whether it is within bounds now.
        """
        self._measure()
        drifted = abs(self.last) > BOUND
        if drifted and self.last < 0:
            # first_ms becomes the time of this look.
            self.first_ms *= 1 + self.last
            return True, True
        for pause in PAUSES_S:
            if self.last <= BOUND or pause > self._left_s:
                break
            time.sleep(pause)
            self._left_s -= pause
            self._measure()
        return drifted, self.last <= BOUND

    def _measure(self) -> None:
        """Set `last` from the first of the device's repeats within bounds, else from the last."""
        for _ in range(self._device.repeats):
            self.last = self._time() / self.first_ms - 1
            if self.last <= BOUND:
                return

    def _time(self) -> float:
        return self._device.measure(self._reference).median_ms
