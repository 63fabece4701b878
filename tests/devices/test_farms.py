"""Bundles through device farms: the services' own client libraries, unpatched, against stand-ins.

The client libraries live in an environment of their own, which `make farms` makes. Without it their
tests are skipped, and a farm of this project's own stands for all of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_converter import FakeConverter
from fake_farms import Scenario, serving
from fake_phone.shell import ELF_ARM64

from nas.devices.board.replay import Replay
from nas.devices.farms import FARMS, OverQuota, farm_of
from nas.devices.farms import batch as batch_module
from nas.devices.kinds import Settings
from nas.errors import InputError, NasError
from nas.latency.bundle import merge_bundle, run_bundle, write, write_bundle
from nas.latency.command import profile
from nas.space import Space
from nas.testing.devices import true_ms

PLACES = {
    "qai-hub": ("galaxy-s24", "Samsung Galaxy S24"),
    "runlocal": ("iphone12", "iPhone 12"),
    "fake": ("galaxy-s24", "Samsung Galaxy S24"),
}
CLIENTS = Path(__file__).parents[2] / ".venv-farms" / "bin" / "python"
"""The environment of `make farms`, unless the farm's variable names another."""
RUNLOCAL_PORT = 8000
"""The port of the client's own option `local_server`, which it does not let one choose."""


def has_client(name: str) -> str:
    """Return the Python that has the client library of a farm, or "" without one."""
    python = os.environ.get(FARMS[name].variable) or (str(CLIENTS) if CLIENTS.exists() else "")
    code = f"import {FARMS[name].module}"
    found = python and subprocess.run([python, "-I", "-c", code], capture_output=True)
    return python if found and found.returncode == 0 else ""


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass
class Place:
    """A bundle, and the farm that runs it.

    Attributes:
        farm: name of the farm.
        folder: of the bundle.
        scenario: of the stand-in server.
        said: what the user was told.
    """

    farm: str
    folder: Path
    scenario: Scenario
    said: list[str] = field(default_factory=list)

    def run(self, unit: str | None = None, device: str = "") -> dict[str, int]:
        through = f"{self.farm}:{device}" if device else self.farm
        return run_bundle(self.folder, through=through, unit=unit, say=self.said.append)

    def digests(self, role: str) -> list[str]:
        plan = json.loads((self.folder / "plan.json").read_text())
        return [each["digest"] for each in plan["files"] if each["role"] == role]

    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "results.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def jobs(self) -> Path:
        return self.folder / f"jobs-{self.farm}.jsonl"


@pytest.fixture(params=PLACES)
def whole_place(
    request: pytest.FixtureRequest,
    small_space: Callable[..., Space],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    """A bundle of a space and its farm."""
    farm = str(request.param)
    if farm == "fake":
        monkeypatch.setitem(FARMS.ours, farm, "fake_farms.fake:FARM")
    python = sys.executable if farm == "fake" else has_client(farm)
    if not python:
        pytest.skip(f"{FARMS[farm].requirement} is not installed. Fix: make farms")
    monkeypatch.setenv(FARMS[farm].variable, python)
    if farm == "runlocal" and not port_is_free(RUNLOCAL_PORT):
        pytest.skip(f"port {RUNLOCAL_PORT} is taken")
    monkeypatch.setattr(write, "Converter", FakeConverter)
    monkeypatch.setattr(FakeConverter, "stop_after", None)
    monkeypatch.setattr(FakeConverter, "fails", staticmethod(lambda chain: False))
    monkeypatch.setattr(batch_module, "POLL_S", 0.01)
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(ELF_ARM64)
    folder = tmp_path / "bundle"
    android = farm != "runlocal"
    write_bundle(
        small_space(),
        PLACES[farm][0],
        folder,
        settings=Settings(tool=tool) if android else None,
        check_nets=1,
    )
    scenario = Scenario(tmp_path / "scenario.json")
    times = {chain.digest(): round(1e5 * true_ms(chain)) for chain in FakeConverter.converted}
    scenario.set(times=times)
    if farm == "fake":
        monkeypatch.setenv("FAKE_FARM", str(scenario.path))
        yield Place(farm, folder, scenario)
        return
    port = RUNLOCAL_PORT if farm == "runlocal" else 0
    with serving(farm.replace("-", "_"), python, scenario, port) as port:
        if android:
            account = tmp_path / "client.ini"
            url = f"http://127.0.0.1:{port}"
            account.write_text(
                f"[api]\napi_token = stand-in\napi_url = {url}\nweb_url = {url}\nverbose = False\n"
            )
            monkeypatch.setenv("QAIHUB_CLIENT_INI", str(account))
        else:
            monkeypatch.setenv("RUNLOCAL_API_KEY", "stand-in")
            monkeypatch.setenv("NAS_RUNLOCAL_LOCAL_SERVER", "1")
        yield Place(farm, folder, scenario)


@pytest.fixture
def place(whole_place: Place) -> Place:
    """The same with a few files, which are enough where no table is made of them."""
    path = whole_place.folder / "plan.json"
    plan = json.loads(path.read_text())
    plan["files"] = plan["files"][:14]
    path.write_text(json.dumps(plan))
    return whole_place


def test_all_files_are_jobs_at_once_and_become_a_table(whole_place: Place, tmp_path: Path) -> None:
    place = whole_place
    counts = place.run()
    assert counts["measured"] == counts["files"] == len(place.scenario.submitted())
    (said,) = place.said
    assert PLACES[place.farm][1] in said and f"{counts['files']} files" in said
    assert "your account: https://" in said
    table, report, _ = merge_bundle(place.folder, tmp_path / "table")
    device = table.device
    assert (device.name, report.failed) == (PLACES[place.farm][0], {})
    assert FARMS[place.farm].title in device.runtime
    assert not place.jobs().exists()
    # The middle one of three runs counts.
    digest = place.digests("stack")[0]
    times = json.loads(place.scenario.path.read_text())["times"]
    timing = Replay(place.folder).measure(Path(digest))
    assert (timing.median_ms, timing.runs) == (pytest.approx(times[digest] / 1e3), 3)
    # Load time and peak memory are kept beside it.
    line = next(each for each in place.lines() if each.get("digest") == digest)
    assert line["load_ms"] and line["peak_mb"] and line["job"]


def test_a_failed_job_that_passes_leaves_no_trace(place: Place) -> None:
    place.scenario.set(fails={place.digests("stack")[1]: ["Timed out waiting for a device", 1]})
    counts = place.run()
    assert (counts["measured"], counts["failed"]) == (counts["files"], 0)
    # The file again, beside the control.
    assert len(place.scenario.submitted()) == counts["files"] + 2


def test_the_control_itself_may_fail_once(place: Place) -> None:
    place.scenario.set(fails={place.digests("empty")[0]: ["Timed out", 1]})
    counts = place.run()
    assert (counts["measured"], counts["failed"]) == (counts["files"], 0)


def test_a_job_that_fails_beside_a_control_that_runs_is_a_property(place: Place) -> None:
    digest = place.digests("stack")[1]
    reason = "Failed to compile the model: unsupported op"
    place.scenario.set(fails={digest: [reason, 9]})
    counts = place.run()
    assert (counts["measured"], counts["failed"]) == (counts["files"] - 1, 1)
    assert [each["failed"] for each in place.lines() if "failed" in each] == [reason]
    # The same command tries it again.
    place.scenario.set(fails={})
    assert place.run()["measured"] == 1


def test_a_farm_that_lost_the_device_says_nothing_about_files(place: Place) -> None:
    reason = "The device went away"
    failing = [place.digests("stack")[1], place.digests("empty")[0]]
    place.scenario.set(fails={digest: [reason, 9] for digest in failing})
    with pytest.raises(NasError, match=r"2 files are left without a result \(The device went"):
        place.run()
    assert not any("failed" in each for each in place.lines())
    place.scenario.set(fails={})
    assert place.run()["measured"] == 2


def test_a_job_without_figures_is_no_timing(place: Place) -> None:
    place.scenario.set(empty=[place.digests("stack")[1]])
    counts = place.run()
    assert counts["failed"] == 1
    (line,) = [each for each in place.lines() if "failed" in each]
    assert line["failed"] in ("the job ended without figures", "no reason given")


def test_a_quota_is_filled_again_and_again(place: Place) -> None:
    place.scenario.set(quota=7)
    counts = place.run()
    assert counts["measured"] == counts["files"]


def test_a_quota_of_nothing_keeps_what_there_is(place: Place) -> None:
    place.scenario.set(quota=0)
    with pytest.raises(OverQuota, match=r"takes no more jobs now .* Fix: run the same command"):
        place.run()
    place.scenario.set(quota=10**6)
    assert place.run()["measured"] == len(place.scenario.submitted())


def test_what_was_submitted_is_not_submitted_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = batch_module._Batch._look
    monkeypatch.setattr(
        batch_module._Batch, "_look", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        place.run()
    submitted = place.scenario.submitted()
    assert submitted and place.jobs().exists()
    monkeypatch.setattr(batch_module._Batch, "_look", looks)
    counts = place.run()
    assert counts["measured"] == counts["files"]
    assert place.scenario.submitted() == submitted
    assert "0 files (0 MB)" in place.said[-1] and f"{len(submitted)} jobs were" in place.said[-1]


def write_jobs(place: Place, *lines: dict[str, Any]) -> None:
    """Write a journal of these jobs for the bundle."""
    plan = json.loads((place.folder / "plan.json").read_text())
    device = {"name": "Samsung Galaxy S24", "os": "14"}
    if place.farm == "runlocal":
        device = {"id": "id-iPhone 12", "name": "iPhone 12"}
    header = {
        "format": batch_module.JOBS_FORMAT,
        "bundle": plan["id"],
        "device": device,
        "unit": "all" if place.farm == "runlocal" else "cpu",
    }
    place.jobs().write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))


@pytest.mark.parametrize("line", [{}, {"round": 1}, {"round": "1", "digest": "a", "job": "b"}])
def test_a_line_of_the_journal_that_is_no_job_is_named(place: Place, line: dict[str, Any]) -> None:
    write_jobs(place, line)
    with pytest.raises(InputError, match=r"jobs-.*\.jsonl:2: is not a job .*Fix: remove this line"):
        place.run()


def test_a_plan_without_the_empty_file_is_no_traceback(place: Place) -> None:
    path = place.folder / "plan.json"
    plan = json.loads(path.read_text())
    plan["files"] = [each for each in plan["files"] if each["role"] != "empty"]
    path.write_text(json.dumps(plan))
    place.scenario.set(fails={place.digests("stack")[0]: ["Timed out", 1]})
    counts = place.run()
    assert counts["measured"] == counts["files"]


def test_jobs_that_the_service_deleted_are_submitted_again(place: Place) -> None:
    digest = place.digests("stack")[0]
    write_jobs(place, {"round": 1, "digest": digest, "job": "jgone"})
    counts = place.run()
    assert counts["measured"] == counts["files"] and digest in place.scenario.submitted()


def test_an_account_that_is_refused_is_told(place: Place) -> None:
    place.scenario.set(unknown_key=True)
    with pytest.raises(InputError, match=r"does not accept the account .* Fix: (put|set)"):
        place.run()


def test_an_account_that_is_missing_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.scenario.set(no_key=True)
    monkeypatch.setenv("QAIHUB_CLIENT_INI", "/nowhere/client.ini")
    monkeypatch.delenv("RUNLOCAL_API_KEY", raising=False)
    with pytest.raises(InputError, match=r"does not accept the account .* Fix: (put|set)"):
        place.run()


def test_no_secret_is_in_the_bundle(place: Place) -> None:
    place.run()
    for path in place.folder.rglob("*"):
        assert not path.is_file() or b"stand-in" not in path.read_bytes()


def test_devices_that_the_farm_lacks_are_told(place: Place) -> None:
    with pytest.raises(InputError, match=r"has no device 'Nokia 3310'.*known: "):
        place.run(device="Nokia 3310")
    other = "iPhone 13" if place.farm == "runlocal" else "Samsung Galaxy S25"
    with pytest.raises(InputError, match=rf"{other} has another chip than"):
        place.run(device=other)
    assert not place.scenario.submitted()


def test_npu_rows_ran_on_the_npu(whole_place: Place, tmp_path: Path) -> None:
    place = whole_place
    if place.farm == "runlocal":
        pytest.skip("Core ML through RunLocal does not tell the unit of a layer")
    files = json.loads(place.scenario.path.read_text())["times"]
    missed, partly = place.digests("stack")[:2]
    layers = {digest: {"NPU": 12} for digest in files}
    layers[missed] = {"CPU": 12}
    layers[partly] = {"NPU": 10, "CPU": 2}
    place.scenario.set(layers=layers)
    counts = place.run(unit="npu")
    assert counts["failed"] == 1
    lines = {each["digest"]: each for each in place.lines() if "digest" in each}
    assert lines[missed]["failed"] == "no layer is known to have run on the npu"
    assert lines[partly]["timing"]["notes"] == [
        ["placement", "npu 10/12, cpu 2/12"],
        ["note", "partly off the npu"],
    ]
    assert "options --compute_unit npu" in place.scenario.log.read_text()
    table, _, _ = merge_bundle(place.folder, tmp_path / "table")
    assert (table.device.compute_unit, table.device.precision) == ("npu", "float16")


@pytest.mark.parametrize("name", FARMS)
def test_a_missing_client_library_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    farm = FARMS[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(farm.variable, str(tmp_path / "python"))
    with pytest.raises(InputError, match=rf"{farm.variable}: .* Fix: python -m venv .*pip install"):
        farm.python()
    monkeypatch.delenv(farm.variable)
    with pytest.raises(InputError, match=rf"needs {farm.requirement}, .* Fix: python -m venv"):
        farm.python()


def test_farms_have_what_the_registry_needs() -> None:
    for name, farm in FARMS.items():
        assert farm.name == name and farm.units and farm.kinds
        assert farm_of(f"{name}:A Phone") == (farm, "A Phone")
    with pytest.raises(InputError, match=r"--through: unknown farm 'quai-hub', did you mean"):
        farm_of("quai-hub")


def test_a_bundle_of_another_kind_is_refused(
    small_space: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "Converter", FakeConverter)
    write_bundle(small_space(), "my-pi", tmp_path / "bundle")
    with pytest.raises(InputError, match=r"runlocal does not run bundles .*expected coreml"):
        run_bundle(tmp_path / "bundle", through="runlocal")
    with pytest.raises(InputError, match=r"--unit: is not a unit of Qualcomm AI Hub \(got ne"):
        run_bundle(tmp_path / "bundle", through="qai-hub", unit="ne")


def test_options_of_the_command_reach_the_bundle(
    small_space: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "Converter", FakeConverter)
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(ELF_ARM64)
    folder = tmp_path / "bundle"
    (made,) = profile(
        small_space().path,
        "annas-phone",
        bundle=folder,
        kind="litert-android",
        unit="gpu",
        threads=2,
        affinity="f0",
        benchmark_model=tool,
        check_nets=0,
    )
    device = json.loads((folder / "plan.json").read_text())["device"]
    expected = {"kind": "litert-android", "unit": "gpu", "threads": 2, "affinity": "f0"}
    assert made.counts["files"] and {**device, **expected} == device
    settings = (folder / "settings.txt").read_text().splitlines()
    assert {"unit gpu", "threads 2", "mask f0", "precision fp16"} <= set(settings)
    with pytest.raises(InputError, match=r"--through: unknown farm 'farm'"):
        profile(run=folder, through="farm")
    with pytest.raises(InputError, match=r"--through .*--run"):
        profile(small_space().path, "annas-phone", through="qai-hub")
