"""Lets the tests import `seeded`, which makes the weights that the references were recorded with."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "references"))
