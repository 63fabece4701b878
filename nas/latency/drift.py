"""Watches for throttling: a reference operation measured again every so often must take what it took at first."""

from __future__ import annotations

import time
from pathlib import Path

from nas.devices.base import Device

EVERY = 10
"""Rows between two looks at the reference."""
BOUND = 0.05
"""How far the reference may be from its first time, relative."""
PAUSES_S = (5.0, 15.0, 30.0)
"""How long a drifting device is left alone before each new look."""


class DriftWatch:
    """A reference that is measured at the start and then with every EVERY-th call of `check`."""

    def __init__(self, device: Device, reference: Path) -> None:
        self._device, self._reference = device, reference
        self.first_ms = device.measure(reference).median_ms
        self._calls = 0
        self.last = 0.0
        """The drift at the last look, relative; positive when the device became slower."""

    def due(self) -> bool:
        """Counts a row; whether it is time to look."""
        self._calls += 1
        return self._calls % EVERY == 0

    def look(self) -> tuple[bool, bool]:
        """Measures the reference. Returns whether it had drifted, and whether it is within bounds now.

        A drifting device is left alone for a while, PAUSES_S at most.
        """
        self._measure()
        drifted = abs(self.last) > BOUND
        for pause in PAUSES_S:
            if abs(self.last) <= BOUND:
                break
            time.sleep(pause)
            self._measure()
        return drifted, abs(self.last) <= BOUND

    def _measure(self) -> None:
        self.last = self._device.measure(self._reference).median_ms / self.first_ms - 1
