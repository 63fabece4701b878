"""From `nas profile --device NAME` to a table: a real adb, a phone of our own making, and models
that really run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_phone.adb import adb_server, connect, disconnect
from fake_phone.phone import FakePhone
from fake_phone.shell import ELF_ARM64

from nas.cli.options import run_command
from nas.devices import DeviceLost
from nas.devices.android import device as android
from nas.devices.android.device import ROOT
from nas.latency import load_table
from nas.latency.network_times import calibration_members, read_networks
from nas.space import load_space
from nas.space.operations import space_operations

pytestmark = pytest.mark.slow

NAME = "snapdragon-8gen2"
devices = partial(run_command, "devices")
profile = partial(run_command, "profile")
SPACE = """\
format: nas-space-1
name: tiny
resolution: [32, 32]
attention: network_suffix
stages:
- {entry: {kind: conv_stem, activation: relu}, width: [8], depth: {min: 1, max: 2}, local: {kind: mb4d, expansion: 2}}
- {entry: {kind: conv_embedding}, width: [16], depth: {min: 1, max: 2}, local: {kind: mb4d, expansion: 2}}
- {entry: {kind: conv_embedding}, width: [16], depth: {min: 1, max: 2}, local: {kind: mb4d, expansion: 2}}
- entry: {kind: conv_embedding}
  width: [16, 24]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
  global: {kind: mb3d, heads: 2, key_dim: 8, value_ratio: 2, expansion: 2}
head: {kind: token_head, classes: 10, distillation: true}
published:
  tiny_s: {widths: [8, 16, 16, 16], depths: [1, 1, 1, 1], attention: [0, 0, 0, 1]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with adb_server(tmp_path_factory.mktemp("adb")):
        yield


@pytest.fixture
def plug_in(server: None, tmp_path: Path) -> Iterator[Any]:
    """A function that connects another phone."""
    with ExitStack() as stack:

        def connected(serial: str) -> FakePhone:
            phone = stack.enter_context(FakePhone(tmp_path / serial))
            phone.shell.properties["ro.serialno"] = serial
            connect(phone)
            stack.callback(disconnect, phone)
            return phone

        yield connected


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs."""
    for name, value in {"WARM_UP_S": 0.02, "RUN_S": 0.05, "LOADS": 1, "MOST_LOADS": 1}.items():
        monkeypatch.setattr(android, name, value)
    monkeypatch.setattr(
        "nas.latency.profile.run.calibration_members", lambda space: calibration_members(space, 2)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "benchmark_model").write_bytes(ELF_ARM64)


def unplug_at(phone: FakePhone, run: int) -> None:
    """Pulls the cable while the tool runs for this number of times."""
    lock = threading.Lock()
    runs = 0

    def before(service: str) -> None:
        nonlocal runs
        with lock:
            runs += "--graph=" in service
            if runs == run:
                phone.unplug()

    phone.before = before


def run(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    profile(space="tiny.yaml", device=[NAME], benchmark_model=Path("benchmark_model"), json=True)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_unplugged_half_way_and_gone_on(plug_in: Any, capsys: pytest.CaptureFixture[str]) -> None:
    phone = plug_in("R0001")
    unplug_at(phone, 16)
    with pytest.raises(
        DeviceLost, match=rf"{phone.address}: .*plug it in again.*run the same command again"
    ):
        run(capsys)
    phone.before = lambda service: None
    phone.plug_in()
    connect(phone)
    report = run(capsys)
    space = load_space("tiny.yaml")
    table = load_table(NAME)
    assert not report["failed"] and report["reused"] > 0 < report["measured"]
    assert {operation.key for operation in space_operations(space)} <= set(table.rows)
    measured = [dict(row.extra) for row in table.rows.values() if row.runs]
    assert {(extra["unit"], extra["placement"]) for extra in measured} == {(phone.address, "cpu")}
    assert table.device.kind == "litert-android" and table.device.affinity == "mask 80"
    nets = read_networks(Path("latency_tables") / NAME)
    assert nets and all(0 < net.measured_ms < 50 for net in nets)
    assert table.total_ms(space.largest()) > 0
    assert [path.name.partition("-")[0] for path in phone.shell.path(ROOT).iterdir()] == [
        "benchmark_model"
    ]
    devices(json=True)
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed[NAME]["connected"] and listed[NAME]["table"]["rows"] == len(table.rows)


def test_two_phones_share_the_work_and_one_goes_away(
    plug_in: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    staying = plug_in("R0001")
    leaving = plug_in("R0002")
    unplug_at(leaving, 6)
    report = run(capsys)
    assert not report["failed"] and report["measured"] > 0
    table = load_table(NAME)
    assert {operation.key for operation in space_operations(load_space("tiny.yaml"))} <= set(
        table.rows
    )
    units = {dict(row.extra)["unit"] for row in table.rows.values() if row.runs}
    assert units == {staying.address, leaving.address}
