"""MES, the mobile efficiency score of EfficientFormerV2 (arXiv:2212.08059, Eq. 7): size and speed in one number."""

from __future__ import annotations

SCORE = 100.0
UNIT_PARAMS, UNIT_MS = 3e6, 1.0
PARAMS_POWER, MS_POWER = 0.5, 1.0


def mes(params: int, ms: float) -> float:
    """100 (params / 3 M)^-0.5 (ms / 1 ms)^-1; more is better. MobileNetV2 (3.5 M, 0.9 ms on an iPhone 12) has 102.9."""
    return float(SCORE * (params / UNIT_PARAMS) ** -PARAMS_POWER * (ms / UNIT_MS) ** -MS_POWER)
