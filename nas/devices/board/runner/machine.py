"""The processor of this machine: its name and its fastest cores."""

from __future__ import annotations

import platform
from pathlib import Path

PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
"""Arm's cores by the `CPU part` of /proc/cpuinfo, for implementer 0x41."""


def processor() -> str:
    """Return the name of the board, else of its processor."""
    # Boards have a device tree, whose text has no key and ends with a zero byte.
    model = _text("/proc/device-tree/model").replace("\0", "").strip()
    if model:
        return model
    values = {}  # type: dict[str, list[str]]
    for line in _text("/proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip() and value.strip() not in values.setdefault(key.strip(), []):
            values[key.strip()].append(value.strip())
    # x86 has `model name`. Arm's kernels write `Model` for the board and `Hardware` for the chip,
    # and always the number of each kind of core.
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if values.get(key):
            return values[key][0]
    parts = [PARTS.get(part, "CPU part " + part) for part in values.get("CPU part", [])]
    names = " + ".join(parts)
    return names or platform.processor() or platform.machine()


def fast_cores(cores: list[int], count: int) -> list[int]:
    """Return the `count` fastest of these cores; of equal ones the last."""
    return sorted(sorted(cores, key=lambda core: (_speed(core), core))[-count:])


def _speed(core: int) -> float:
    """Return a core's speed relative to others of its processor; 0 where the system does not say."""
    folder = f"/sys/devices/system/cpu/cpu{core}"
    # Arm's kernels know a capacity, which counts the kind of core; others a frequency alone.
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        text = _text(f"{folder}/{name}").strip()
        if text.isdigit():
            # The frequencies of equal cores differ by some per cent with their quality.
            return float(text) if name == "cpu_capacity" else round(float(text) / 5e5)
    return 0.0


def _text(name: str) -> str:
    """Return the text of a file of the system; empty where there is none."""
    try:
        return Path(name).read_text(errors="replace")
    except OSError:
        return ""
