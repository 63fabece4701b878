"""RunLocal as a farm: real iPhones, iPads and Macs, with Core ML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nas.devices.farms import Entry, Farm, FarmDevice


class RunLocal(Farm):
    """Runs ML programs as benchmark jobs."""

    name = "runlocal"
    title = "RunLocal"
    module = "runlocal_hub"
    requirement = "runlocal-hub"
    variable = "NAS_RUNLOCAL_PYTHON"
    worker = "on_runlocal.py"
    kinds = ("coreml",)
    units: ClassVar[Mapping[str, str]] = {
        "all": "ALL",
        "cpu_and_ne": "CPU_AND_NE",
        "cpu_and_gpu": "CPU_AND_GPU",
        "cpu_only": "CPU_ONLY",
    }
    terms = "each job counts against the plan of your account: https://edgemeter.runlocal.ai"
    account = "set RUNLOCAL_API_KEY to a key of https://edgemeter.runlocal.ai, User Settings"

    def device(self, data: Entry) -> FarmDevice:
        return FarmDevice(
            name=data["name"],
            os=f"{data['os']} {data['os_version']}".strip(),
            chip=data["soc"],
            handle={"id": data["id"], "name": data["name"]},
        )

    def runtime(self, unit: str, client_version: str) -> Entry:
        return {
            "runtime": "Core ML (RunLocal)",
            "runtime_version": f"runlocal-hub {client_version}",
            "precision": "float16",
        }

    def missed(self, unit: str, placement: Mapping[str, int]) -> bool:
        # RunLocal does not report the unit of single layers. Core ML may leave the Neural Engine,
        # so the placement stays unknown.
        return False


FARM = RunLocal()
