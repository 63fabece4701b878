"""`nas profile`, `nas check` and `nas devices`: the JSON that they promise, the next command, and
what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from nas.cli.options import run_command
from nas.devices import ConnectedPhone
from nas.errors import InputError
from nas.latency.known_devices import Known
from nas.testing.devices import FakeDevice

Capture = pytest.CaptureFixture[str]
check = partial(run_command, "check")
devices = partial(run_command, "devices")
profile = partial(run_command, "profile")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[FakeDevice]:
    """The devices that the commands opened, none of them real."""
    found: list[FakeDevice] = []

    def host(threads: int) -> FakeDevice:
        found.append(FakeDevice(threads))
        return found[-1]

    monkeypatch.setattr("nas.devices.host.device.Host", host)
    return found


def document(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_profile_then_check(
    workplace: SimpleNamespace, opened: list[FakeDevice], capsys: Capture
) -> None:
    profile(space="small", device=["host"], resolution=96, classes=4, json=True)
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert {
        "operations",
        "measured",
        "reused",
        "interpolated",
        "failed",
        "seconds",
        "table",
    } <= set(made)
    assert made["operations"] == made["measured"] + made["interpolated"] and made["failed"] == {}
    assert (
        made["table"] == "latency_tables/host"
        and (workplace.folder / made["table"] / "table.csv").is_file()
    )
    assert made["next"] == "nas check --device host --space small --resolution 96 --classes 4"
    assert made["next"] in said.err

    check(device="host", nets=6, json=True)
    found = document(capsys)
    assert {"nets", "mape", "bias", "within_5", "within_10", "spearman"} <= set(found)
    assert found["nets"] == len(found["networks"]) == 6 and found["within_5"] == 100
    assert found["resolution"] == "96x96/4"
    assert found["next"] == "nas search --space small --device host --resolution 96 --classes 4"
    assert all(device.closed for device in opened)

    devices(json=True)
    host = next(device for device in document(capsys) if device["name"] == "host")
    assert host["connected"] and host["table"]["provenance"] == "interpolated"
    assert host["table"]["expected_error"] == found["mape"]


def test_text_names_the_calibration_and_the_errors(
    workplace: SimpleNamespace, opened: list[FakeDevice], capsys: Capture
) -> None:
    profile(space=str(workplace.space_file), device=["host"], out=workplace.folder / "mine")
    assert "from 8 whole networks" in capsys.readouterr().out
    check(device=str(workplace.folder / "mine"), nets=4)
    said = capsys.readouterr()
    assert "4 networks: mean error" in said.out and "Spearman" in said.out
    assert "% of measured rows, each predicted from the others\n" in said.out
    assert "next: nas search" in said.err


def test_failed_operations_are_said(
    workplace: SimpleNamespace,
    opened: list[FakeDevice],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = FakeDevice()
    broken.fails = lambda chain: chain.blocks[0].kind == "mb3d"
    monkeypatch.setattr("nas.devices.host.device.Host", lambda threads: broken)
    profile(space="small", device=["host"], json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["failed"]
    assert "could not be measured: mb3d" in said.err and "RuntimeError: unsupported" in said.err
    assert broken.closed


def test_what_cannot_be_measured(
    workplace: SimpleNamespace, opened: list[FakeDevice], capsys: Capture
) -> None:
    with pytest.raises(
        InputError,
        match=r"no latency table for device 'host'.*nas profile --space SPACE --device host",
    ):
        check(device="host")
    with pytest.raises(InputError, match="--resolution 50"):
        profile(space="small", device=["host"], resolution=50)
    profile(space="small", device=["host"], json=True)
    with pytest.raises(InputError, match="no row for"):
        check(device="host", resolution=128)


def test_only_connected_devices_are_measured(workplace: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="toy: is not connected"):
        profile(space="small", device=["toy"])
    with pytest.raises(InputError, match="toy: is not connected"):
        check(device="toy", space="small")


def test_devices_text(workplace: SimpleNamespace, capsys: Capture) -> None:
    devices()
    said = capsys.readouterr()
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    assert "connected" in lines["host"] and "no table" in lines["host"]
    assert "not connected" in lines["toy"] and "estimated" in lines["toy"]
    assert "next: nas profile --space efficientformer --device host" in said.err


def test_the_next_step_is_for_a_phone_that_can_be_used(
    workplace: SimpleNamespace, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Known(
        "R5 1", "litert-android", True, None, (ConnectedPhone("R5 1", problem="locked"),)
    )
    ready = Known("R5 2", "litert-android", True, None, (ConnectedPhone("R5 2"),))
    monkeypatch.setattr("nas.latency.known_devices.known_devices", lambda: [locked, ready])
    devices()
    assert "next: nas profile --space efficientformer --device 'R5 2'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["profile", "check", "devices"])
def test_command_modules_import_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, nas.cli.{module}; print([m for m in ('torch', 'numpy', 'scipy', 'rich') if m"
        " in sys.modules])"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert not set(json.loads(heavy.replace("'", '"'))) & {"torch", "scipy"}


def test_search_without_a_table_names_the_command(workplace: SimpleNamespace) -> None:
    from nas.latency import load_table

    with pytest.raises(InputError, match="nas profile --space SPACE --device host"):
        load_table("host")
