"""Faults that pass stay faults that pass: nothing that went wrong once becomes what a device cannot run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nas.convert import converter as conversion
from nas.convert.chain import EMPTY, Chain, DeviceLost, Interrupted, OperationFailed
from nas.convert.converter import Converter, Target
from nas.convert.worker import Worker
from nas.devices.base import Device, Timing
from nas.devices.info import check_device_name, device_name
from nas.devices.kinds import Connected, ConnectedPhone, Settings
from nas.errors import InputError, NasError
from nas.latency import command, known_devices, load_table
from nas.latency.check.table import check
from nas.latency.importing import import_into
from nas.latency.profile import bench
from nas.latency.profile.run import profile
from nas.latency.rows import read_unsupported
from nas.locks import sole_writer
from nas.space import Space
from nas.testing.devices import FakeDevice

KILLS = 20
MOST_RUNS = 12


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CONTROL_PAUSES_S", (0.0,))


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "table"


def has_mb3d(chain: Chain) -> bool:
    return any(block.kind == "mb3d" for block in chain.blocks)


def test_device_that_fails_the_control_is_lost_and_no_operation_failed(
    space: Space, folder: Path
) -> None:
    """As a phone whose core went offline: every file fails from some time on, the empty one too."""
    device = FakeDevice()
    device.fails = lambda chain: len(device.measured) > 6
    with pytest.raises(DeviceLost, match=r"does not run even an empty file .*unsupported"):
        profile(space, device, folder)
    table, report = profile(space, FakeDevice(), folder)
    assert not report.failed and not report.missing and not table.unsupported
    assert report.reused and table.device.calibration.nets


def test_fault_that_passes_at_once_costs_nothing(space: Space, folder: Path) -> None:
    """As a core that is offline for a moment: the operation fails, and the control runs again."""
    device = FakeDevice()
    times: dict[Chain, int] = {}

    def fails(chain: Chain) -> bool:
        times[chain] = times.get(chain, 0) + 1
        return len(chain.blocks) == device.copies and times[chain] == 1

    device.fails = fails
    _, report = profile(space, device, folder)
    assert not report.failed and not report.missing and not read_unsupported(folder)


def test_control_that_recovers_makes_the_operation_fail(space: Space, folder: Path) -> None:
    device = FakeDevice()
    empties = 0

    def fails(chain: Chain) -> bool:
        nonlocal empties
        empties += chain == EMPTY
        # The first empty file is the call's time, the second one is the first control.
        return has_mb3d(chain) or (chain == EMPTY and empties == 2)

    device.fails = fails
    _, report = profile(space, device, folder)
    assert report.failed and empties > 2


def test_empty_file_that_never_ran_stops_before_anything_is_recorded(
    space: Space, folder: Path
) -> None:
    device = FakeDevice()
    device.fails = lambda chain: True
    with pytest.raises(DeviceLost, match="does not run even an empty file"):
        profile(space, device, folder)
    _, report = profile(space, FakeDevice(), folder)
    assert not report.failed and not report.missing


def test_where_nothing_was_measured_nothing_is_recorded(space: Space, folder: Path) -> None:
    device = FakeDevice()
    device.fails = lambda chain: chain != EMPTY
    with pytest.raises(NasError, match="no operation could be measured"):
        profile(space, device, folder)
    _, report = profile(space, FakeDevice(), folder)
    assert not report.failed and not report.missing


class Interrupting(FakeDevice):
    """A device that is interrupted at every file with an mb3d, as for want of memory."""

    def measure(self, artifact: Path) -> Timing:
        if has_mb3d(self._chains[artifact]):
            raise Interrupted("worker: was ended by signal 9")
        return super().measure(artifact)


def test_interrupted_operations_are_left_out_and_told(space: Space, folder: Path) -> None:
    _, first = profile(space, Interrupting(), folder)
    assert first.interrupted and first.incomplete and not first.failed
    assert not read_unsupported(folder)
    _, report = profile(space, FakeDevice(), folder)
    assert not report.failed and not report.missing and not report.incomplete


def test_retry_counts_for_the_journal_of_an_interrupted_run(space: Space, folder: Path) -> None:
    device = FakeDevice()

    def fails(chain: Chain) -> bool:
        if has_mb3d(chain):
            device.lost_after = len(device.measured) + 3
        return has_mb3d(chain)

    device.fails = fails
    with pytest.raises(DeviceLost, match="unplugged"):
        profile(space, device, folder)
    assert '"failed"' in (folder / "journal.jsonl").read_text()
    _, report = profile(space, FakeDevice(), folder, retry=True)
    assert not report.failed and not report.missing


def test_retry_keeps_the_reasons_of_other_spaces(
    space: Space, small_space: Callable[..., Space], folder: Path
) -> None:
    device = FakeDevice()
    device.fails = has_mb3d
    profile(space, device, folder)
    other = small_space().at((96, 96))
    before = read_unsupported(folder)
    profile(other, FakeDevice(), folder, retry=True)
    assert before and read_unsupported(folder) == before


class InProcesses(FakeDevice):
    """The fake device, with processes of its own that convert and time, as the host has them."""

    def __init__(self, cache: Path) -> None:
        super().__init__()
        target = Target("quick", ".json", (), "litert", version=1)
        self.converter = Converter(2, cache=cache, target=target)
        self.runner = Worker("quick_worker")

    def prepare(self, chain: Chain) -> Future[Path]:
        return self.converter.prepare(chain)

    def measure(self, artifact: Path) -> Timing:
        return Timing(**self.runner.ask_again(path=str(artifact)))

    def close(self) -> None:
        self.converter.close()
        self.runner.close()

    def workers(self) -> list[Worker]:
        return [self.runner, *(lane.worker for lane in self.converter._lanes)]


@pytest.fixture
def in_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], InProcesses]]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Converter, "_worker", lambda self: Worker("quick_worker"))
    monkeypatch.setattr(conversion, "_graph", Chain.digest)
    monkeypatch.setattr(conversion, "_versions", lambda target: {})
    made: list[InProcesses] = []

    def make() -> InProcesses:
        made.append(InProcesses(tmp_path / "cache"))
        return made[-1]

    yield make
    for device in made:
        device.close()


def test_workers_killed_at_random_times_cost_no_operation(
    space: Space, folder: Path, in_processes: Callable[[], InProcesses]
) -> None:
    chance = random.Random(0)
    kills = 0
    for _ in range(MOST_RUNS):
        device = in_processes()
        ended = threading.Event()

        def kill(device: InProcesses = device, ended: threading.Event = ended) -> None:
            nonlocal kills
            while not ended.wait(chance.uniform(0.01, 0.4)):
                running = [each._process for each in device.workers() if each._process]
                if running and (process := chance.choice(running)).poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            _, report = profile(space, device, folder)
            assert not report.failed
        except DeviceLost:
            raise
        except NasError as error:
            assert not isinstance(error, OperationFailed) and "signal 9" in str(error)
        finally:
            ended.set()
            killer.join()
            device.close()
        assert not read_unsupported(folder)
        journal = folder / "journal.jsonl"
        assert not journal.exists() or '"failed"' not in journal.read_text()
        if kills >= KILLS:
            break
        for path in (folder / "table.csv", folder / "networks.csv"):
            path.unlink(missing_ok=True)
    assert kills >= KILLS / 2
    device = in_processes()
    table, report = profile(space, device, folder)
    assert not report.failed and not report.missing and not report.incomplete
    assert table.device.calibration.nets and not table.unsupported


def test_killed_worker_is_asked_again(
    in_processes: Callable[[], InProcesses], tmp_path: Path
) -> None:
    worker = in_processes().runner
    path = tmp_path / "empty.json"
    request = {"path": str(path), "chain": EMPTY.to_dict()}
    worker.ask(**request)
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert worker.ask_again(path=str(path))["runs"] == 100
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.1)
    with pytest.raises(Interrupted, match=r"signal 9, as the kernel does .* out of memory\. Fix:"):
        worker.ask(path=str(path))


def with_info(**changes: str) -> FakeDevice:
    device = FakeDevice()
    info = replace(device.info(), **changes)  # type: ignore[arg-type]
    device.info = lambda: info  # type: ignore[method-assign]
    return device


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({"affinity": "mask f"}, {"affinity": "mask 80"}, r"affinity \(cores\)"),
        ({"affinity": "cores 1"}, {"affinity": "cores 0"}, r"affinity \(cores\)"),
        ({"os": "Android 14 (A)"}, {"os": "Android 15 (B)"}, r"os \(version\)"),
        ({"soc": "SM8550"}, {"soc": "SM8650"}, r"soc \(chip\)"),
    ],
)
def test_what_differs_gets_a_table_of_its_own(
    space: Space, folder: Path, before: dict[str, str], after: dict[str, str], name: str
) -> None:
    table, _ = profile(space, with_info(**before), folder)
    with pytest.raises(InputError, match=rf"was measured with another {name} .*--out") as refused:
        profile(space, with_info(**after), folder)
    if "mask" in before.get("affinity", ""):
        assert "--affinity f for the same cores" in str(refused.value)
    with pytest.raises(InputError, match="was measured with another"):
        check(table, space, with_info(**after), nets=2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Android 14 (UQ1A.240205.004)", "Android 14 (AP1A.240505.005)"),
        ("Linux-6.6.20-x86_64", "Linux-6.12.1-x86_64"),
    ],
)
def test_another_build_of_a_system_is_the_same(
    space: Space, folder: Path, before: str, after: str
) -> None:
    profile(space, with_info(os=before), folder)
    _, report = profile(space, with_info(os=after), folder)
    assert report.reused and not report.measured


def test_nothing_to_check_on_is_said_before_anything_is_measured(
    space: Space, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, _ = profile(space, FakeDevice(), folder)
    monkeypatch.setattr("nas.latency.check.table.check_members", lambda *_: [])
    device = FakeDevice()
    with pytest.raises(InputError, match="every member calibrates the table"):
        check(table, space, device)
    assert not device.measured


def test_check_keeps_what_another_command_saved_meanwhile(space: Space, folder: Path) -> None:
    """A check reads the table, its device takes long to open, and a profile adds a size."""
    table, _ = profile(space, FakeDevice(), folder)
    larger = space.at((96, 96))
    profile(larger, FakeDevice(), folder)
    check(table, space, FakeDevice(), nets=3)
    after = load_table(folder)
    assert {entry.resolution for entry in after.device.spaces} == {"64x64/10", "96x96/10"}
    assert after.device.check is not None and after.device.check.nets == 3


@pytest.mark.parametrize("name", ["table.csv", "device.yaml", "networks.csv"])
def test_kill_between_two_files_of_a_table_costs_nothing(
    space: Space, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path.replace

    def replace_until(path: Path, target: str | Path) -> Path:
        if Path(target).name == name:
            raise KeyboardInterrupt
        return own(path, target)

    monkeypatch.setattr(Path, "replace", replace_until)
    with pytest.raises(KeyboardInterrupt):
        profile(space, FakeDevice(), folder)
    monkeypatch.setattr(Path, "replace", own)
    table, report = profile(space, FakeDevice(), folder)
    assert not report.missing and table.device.calibration.nets and report.reused


def test_imported_rows_stay_until_they_are_measured(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.csv"
    file.write_text("kind,hyperparameters,input,median_ms\nconv_embedding,width=32,16x56x56,0.2\n")
    folder = tmp_path / "latency_tables" / "host"
    imported = import_into(file, "host", folder)
    imported.table.save(folder)
    table, report = profile(space, FakeDevice(), folder)
    assert report.measured and table.device.kind == "fake" and "own.csv" in table.device.source
    [row] = [row for row in table.rows.values() if dict(row.extra).get("source")]
    assert row.median_ms == 0.2


def test_imported_rows_of_another_precision_are_refused(space: Space, tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("kind,hyperparameters,input,median_ms\nconv_embedding,width=32,16x56x56,0.2\n")
    folder = tmp_path / "host"
    table = import_into(file, "host", folder).table
    replace(table, device=replace(table.device, precision="int8")).save(folder)
    with pytest.raises(InputError, match=r"of another precision \(got 'float32', expected 'int8'"):
        profile(space, FakeDevice(), folder)


def test_figures_of_another_device_are_not_measured_into(space: Space, tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("kind,hyperparameters,input,median_ms\nconv_embedding,width=32,16x56x56,0.2\n")
    folder = tmp_path / "out"
    import_into(file, "pixel-8", folder).table.save(folder)
    with pytest.raises(InputError, match=r"another device \(got host, expected pixel-8\).*--out"):
        profile(space, FakeDevice(), folder)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("galaxy-s24", r"is the table of another device \(got iphone12, expected galaxy-s24\)"),
        (
            "iphone12",
            r"has \d+ measured rows, which the calibrated table would replace\. Fix: --out",
        ),
    ],
)
def test_calibrating_replaces_no_table_that_cannot_be_made_again(
    tmp_path: Path, device: str, reason: str
) -> None:
    nets = tmp_path / "nets.csv"
    nets.write_text("network,latency_ms\nefficientformer_l1,1.31\n")
    shipped = load_table("iphone12")
    measured = {key: replace(row, provenance="measured") for key, row in shipped.rows.items()}
    folder = tmp_path / "table"
    replace(shipped, device=replace(shipped.device, name=device), rows=measured).save(folder)
    before = (folder / "table.csv").read_bytes()
    with pytest.raises(InputError, match=reason):
        command.calibrate_file(nets, "iphone12", folder)
    assert (folder / "table.csv").read_bytes() == before


def test_calibrating_again_replaces_the_calibrated_table(tmp_path: Path) -> None:
    nets = tmp_path / "nets.csv"
    for ms in (1.31, 1.5):
        nets.write_text(f"network,latency_ms\nefficientformer_l1,{ms}\n")
        _, table = command.calibrate_file(nets, "iphone12", tmp_path / "table")
    assert load_table(tmp_path / "table").device == table.device


@pytest.mark.parametrize(
    ("name", "precision", "folder"),
    [
        ("host", None, "host"),
        ("host", "int8", "host-int8"),
        ("host-int8", "int8", "host-int8"),
        ("host-int8", None, "host-int8"),
    ],
)
def test_the_name_of_a_table_is_that_of_its_folder(
    name: str, precision: str | None, folder: str
) -> None:
    assert command.folder_of(name, None, precision) == Path("latency_tables") / folder


def test_import_for_a_shipped_device_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.csv"
    file.write_text("kind,hyperparameters,input,median_ms\nconv_embedding,width=32,16x56x56,0.2\n")
    shipped = load_table("galaxy-s24")
    command.import_file(file, "galaxy-s24", Path("latency_tables/galaxy-s24"))
    own = load_table("galaxy-s24")
    assert own.path is not None and own.path.resolve() == tmp_path / "latency_tables/galaxy-s24"
    assert shipped.rows.keys() <= own.rows.keys() and own.device.estimate == shipped.device.estimate


def test_import_into_a_table_that_is_measured_is_refused(space: Space, folder: Path) -> None:
    file = folder.parent / "own.csv"
    file.write_text("kind,hyperparameters,input,median_ms\nconv_embedding,width=32,16x56x56,0.2\n")
    with (
        sole_writer(folder, "x"),
        pytest.raises(NasError, match="another nas process is measuring"),
    ):
        command.import_file(file, "host", folder)


def test_table_of_one_phone_is_found_by_its_serial_number(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    serial = "127.0.0.1:5555"
    name = device_name(serial)
    folder = command.folder_of(serial, None)
    profile(space, with_info(name=name, serial=serial), folder)
    assert folder.name == name and ":" not in str(folder)
    assert load_table(serial).path == load_table(name).path
    opened_words: list[str] = []

    @contextmanager
    def opens(word: str, *_: object) -> Iterator[list[Device]]:
        opened_words.append(word)
        yield []

    monkeypatch.setattr("nas.devices.opened", opens)
    for word in (serial, name):
        with known_devices.opened(word, Settings()):
            pass
    assert opened_words == [serial, serial]
    unit = ConnectedPhone(serial, model="x", name="snapdragon-8gen2")
    connected = [Connected("snapdragon-8gen2", "litert-android", (unit,))]
    monkeypatch.setattr(known_devices, "connected_devices", lambda: connected)
    listed = {each.name: each for each in known_devices.known_devices()}
    assert serial not in listed and listed[name].connected


@pytest.mark.parametrize("name", ["CON", "nul.txt", "a.", "a/b", "a:b", "..", "", "a b", "x" * 101])
def test_names_are_file_names_on_every_system(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a device"):
        check_device_name(name)
    assert check_device_name(device_name(name)) == device_name(name)


def test_table_of_a_unit_that_is_not_measured_names_a_way() -> None:
    with pytest.raises(InputError, match=r"the NPU \(npu\).*Fix: .*nas profile .*--unit cpu"):
        known_devices.opening_of(load_table("galaxy-s24"))
