"""Watches for throttling: a reference operation measured again every so often must take what it
took at first."""

from __future__ import annotations

import math
import time
from pathlib import Path

from nas.devices.base import Device

EVERY = 10
"""Rows between two looks at the reference."""
BOUND = 0.05
"""How far the reference may be from its first time, relative."""
PAUSES_S = (5.0, 15.0, 30.0)
"""How long a drifting device is left alone before each new look."""
MOST_PAUSED_S = 20.0
"""In all, for a device whose repeats see to what disturbs it for a while; where it stays slow, its
rows are flagged."""


class DriftWatch:
    """A reference that is measured at the start and then with every EVERY-th call of `check`."""

    def __init__(self, device: Device, reference: Path) -> None:
        self._device = device
        self._reference = reference
        self.first_ms = min(self._time() for _ in range(device.repeats))
        self._calls = 0
        self._left_s = MOST_PAUSED_S if device.repeats > 1 else math.inf
        self.last = 0.0
        """The drift at the last look, relative; positive when the device became slower."""

    def due(self) -> bool:
        """Count a row; whether it is time to look."""
        self._calls += 1
        return self._calls % EVERY == 0

    def look(self) -> tuple[bool, bool]:
        """Measure the reference. Returns whether it had drifted, and whether it is within bounds
        now.

        A device that became slower is left alone for a while, PAUSES_S at most. One that became
        faster was disturbed when it was first looked at; from then on this look is what others must
        be near.
        """
        self._measure()
        drifted = abs(self.last) > BOUND
        if drifted and self.last < 0:
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
        for _ in range(self._device.repeats):
            self.last = self._time() / self.first_ms - 1
            if self.last <= BOUND:
                return

    def _time(self) -> float:
        return self._device.measure(self._reference).median_ms
