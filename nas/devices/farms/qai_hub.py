"""Qualcomm AI Hub as a farm: real phones with Snapdragon chips, on CPU, GPU or NPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nas.devices.farms import Entry, Farm, FarmDevice


class QaiHub(Farm):
    """Runs .tflite files as profile jobs, which report where each layer ran."""

    name = "qai-hub"
    title = "Qualcomm AI Hub"
    module = "qai_hub"
    requirement = "qai-hub"
    variable = "NAS_QAI_HUB_PYTHON"
    worker = "on_qai_hub.py"
    kinds = ("litert-android", "litert-board")
    units: ClassVar[Mapping[str, str]] = {"cpu": "cpu", "gpu": "gpu", "npu": "npu"}
    terms = "costs and quotas are those of your account: https://workbench.aihub.qualcomm.com"
    account = (
        "put the API token of https://workbench.aihub.qualcomm.com/account into"
        " ~/.qai_hub/client.ini: qai-hub configure --api_token TOKEN"
    )

    def device(self, data: Entry) -> FarmDevice:
        # Attributes are words as "chipset:qualcomm-snapdragon-8gen3" and "os:android".
        attributes = dict(
            (key, value) for key, _, value in (each.partition(":") for each in data["attributes"])
        )
        chips = [
            each.partition(":")[2]
            for each in data["attributes"]
            if each.startswith("chipset:") and "snapdragon" in each
        ]
        system = attributes.get("os", "").capitalize()
        return FarmDevice(
            name=data["name"],
            os=f"{system} {data['os']}".strip(),
            chip=(chips or [attributes.get("chipset", "")])[0],
            handle={"name": data["name"], "os": data["os"]},
        )

    def runtime(self, unit: str, client_version: str) -> Entry:
        return {
            "runtime": "TensorFlow Lite (Qualcomm AI Hub)",
            # The service does not tell the version of its runtime before a job; the client's
            # version is the nearest.
            "runtime_version": f"qai-hub {client_version}",
            # The delegates of GPU and NPU compute float32 files in float16.
            "precision": "float32" if unit == "cpu" else "float16",
        }

    def missed(self, unit: str, placement: Mapping[str, int]) -> bool:
        # A CPU figure needs no proof. Any other unit has to be named by at least one layer.
        return placement.get(unit, 0) == 0 and (unit != "cpu" or bool(placement))


FARM = QaiHub()
