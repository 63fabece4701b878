"""A farm of the tests' own, whose worker answers by itself: no server and no client library."""

from __future__ import annotations

from pathlib import Path

from nas.devices.farms.qai_hub import QaiHub


class FakeFarm(QaiHub):
    """Describes devices and jobs as Qualcomm AI Hub does."""

    name = "fake"
    title = "Fake Farm"
    module = "json"
    requirement = "fake-farm"
    variable = "NAS_FAKE_FARM_PYTHON"
    worker = str(Path(__file__).with_name("on_fake.py"))

    def runtime(self, unit: str, client_version: str) -> dict[str, str]:
        return {**super().runtime(unit, client_version), "runtime": "TensorFlow Lite (Fake Farm)"}


FARM = FakeFarm()
