"""Android phones: a real adb and its server on one side, a phone made of a folder on the other, and
each fault."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from adbutils import AdbError
from fake_phone.adb import adb, adb_server, connect, disconnect, start_server
from fake_phone.phone import FakePhone
from fake_phone.shell import ELF_ARM64
from fake_phone.tool import WORKER, Run

from nas.convert.chain import Interrupted
from nas.convert.converter import Converter
from nas.convert.worker import Worker
from nas.devices import Device, DeviceLost, OperationFailed
from nas.devices.android import KIND
from nas.devices.android import adb as adb_module
from nas.devices.android import device as android
from nas.devices.android.adb import TEMPORARY, Adb, listing, server_runs, why_not
from nas.devices.android.device import ROOT, Android
from nas.devices.android.discovery import connected_phones, open_android
from nas.devices.info import check_device_name, device_name
from nas.errors import InputError, NasError

NONSENSE = b"\x01\x09\x00\x00\x00\x00\xff?(%]\n<_\x03\x01\x00\x00\x00\x00"
"""As the output of a command: nine bytes that mean nothing, and exit code 0."""
RESUMES = "then run the same command again"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("adb")
    with adb_server(home):
        yield home


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    worker = Worker(WORKER)
    yield worker
    worker.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that does next to nothing: what `Converter.prepare` makes of
    nas.latency.profile.operation_timing.EMPTY."""
    return Path(shutil.copy(Path(__file__).with_name("empty.tflite"), tmp_path / "model.tflite"))


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark_model"
    path.write_bytes(ELF_ARM64)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "WARM_UP_S": 0.001,
        "RUN_S": 0.01,
        "LOADS": 1,
        "MOST_LOADS": 1,
        "LOOK_S": 0.0,
    }.items():
        monkeypatch.setattr(android, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def phones(server: Path, worker: Worker, tmp_path: Path) -> Iterator[Callable[..., FakePhone]]:
    """A function that connects another phone; its arguments are properties."""
    with ExitStack() as stack:
        count = 0

        def plug_in(**properties: str) -> FakePhone:
            nonlocal count
            count += 1
            phone = FakePhone(tmp_path / f"phone{count}", worker)
            phone.shell.properties["ro.serialno"] = f"R0{count}"
            phone.shell.properties |= {
                name.replace("_", "."): value for name, value in properties.items()
            }
            stack.enter_context(phone)
            connect(phone)
            stack.callback(disconnect, phone)
            return phone

        yield plug_in


@pytest.fixture
def phone(phones: Callable[..., FakePhone]) -> FakePhone:
    return phones()


@pytest.fixture
def opened(tool: Path, tmp_path: Path) -> Iterator[Callable[..., list[Device]]]:
    """`open_android` with the tool of this test; what it opened is closed at the end."""
    converter = Converter()
    with ExitStack() as stack:

        def open_(wanted: str = "snapdragon-8gen2", **more: Any) -> list[Device]:
            devices = open_android(wanted, converter, tool=tool, **more)
            for device in devices:
                stack.callback(device.close)
            return devices

        yield open_
    converter.close()


def left_on(phone: FakePhone) -> list[str]:
    """What is in our folder on the phone, apart from the tool."""
    root = phone.shell.path(ROOT)
    names = [str(path.relative_to(root)) for path in root.rglob("*")] if root.exists() else []
    return sorted(name for name in names if not name.startswith("benchmark_model-"))


def commands(phone: FakePhone, name: str) -> list[list[str]]:
    """The commands of this name that the phone got."""
    lines = [service.partition(":")[2] for service in phone.services if service.startswith("shell")]
    return [
        shlex.split(line)
        for line in lines
        if any(word.endswith(name) for word in shlex.split(line)[:3])
    ]


def runs(phone: FakePhone) -> list[list[str]]:
    """The runs of the tool that the phone was asked for."""
    return [
        words
        for words in map(list, commands(phone, ""))
        if any(word.startswith("--graph=") for word in words)
    ]


def test_connected_phones_say_what_they_are(phones: Callable[..., FakePhone]) -> None:
    known = phones()
    other = phones(ro_soc_model="MT6985", ro_product_model="Phone (3) $(reboot)")
    other.shell.battery = 12
    other.shell.thermal = 3
    found = {phone.serial: phone for phone in connected_phones()}
    one = found[known.address]
    two = found[other.address]
    assert (one.model, one.soc, one.os) == ("Test Phone", "SM8550", "Android 14 (UQ1A.240205.004)")
    assert (one.battery, one.thermal, one.device, one.name, one.problem) == (
        87,
        "none",
        "snapdragon-8gen2",
        "snapdragon-8gen2",
        "",
    )
    assert (two.battery, two.thermal, two.device, two.name) == (
        12,
        "severe",
        None,
        "phone-3-reboot",
    )


def test_without_server_nothing_is_connected_and_nothing_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nas.devices.android.adb._phone_is_plugged_in", lambda: False)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "9")
    assert connected_phones() == [] and not server_runs()


def test_without_phone(server: Path, opened: Callable[..., list[Device]]) -> None:
    assert connected_phones() == []
    for wanted in ("galaxy-s24", "nobody; touch pwned", "$(touch pwned)"):
        with pytest.raises(
            InputError, match=r"is not connected \(connected: none\).*USB debugging"
        ):
            opened(wanted)


def test_measures_and_leaves_nothing_but_the_tool(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    [device] = opened()
    for _ in range(2):
        timing = device.measure(model)
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < 5 and timing.runs >= 20
        assert timing.notes == (("unit", phone.address), ("placement", "cpu"))
    assert len(left_on(phone)) == 1, "the folder of the run, empty"
    device.close()
    assert left_on(phone) == []
    assert all(
        words[:2] == ["taskset", "80"] and "--num_threads=1" in words for words in runs(phone)
    )
    info = device.info()
    assert (info.name, info.kind, info.soc) == (
        "snapdragon-8gen2",
        "litert-android",
        "Snapdragon 8 Gen 2 (SM8550)",
    )
    assert (info.compute_unit, info.precision, info.threads, info.affinity) == (
        "cpu",
        "float32",
        1,
        "mask 80",
    )
    assert info.os == "Android 14 (UQ1A.240205.004)" and info.tools["benchmark_model"]


def test_tool_is_pushed_once(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    for _ in range(2):
        [device] = opened()
        device.measure(model)
        device.close()
    assert len(commands(phone, "mv")) == 1
    [there] = phone.shell.path(ROOT).iterdir()
    there.write_bytes(ELF_ARM64 + b"damaged")
    [device] = opened()
    device.measure(model)
    assert there.read_bytes() == ELF_ARM64 and len(commands(phone, "mv")) == 2


def test_names_are_words_and_never_commands(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    """The phone refuses every line that is more than words, so that one quote too few fails here."""
    odd = model.rename(model.with_name("a b;touch pwned $(reboot) `id` 'q' \"d\" * é.tflite"))
    [device] = opened()
    assert device.measure(odd).runs and left_on(phone)[1:] == []
    assert any(f"/{odd.name}" in word for words in runs(phone) for word in words)
    assert Adb(phone.address).run("ls", "/; true").code == 1


@pytest.mark.parametrize(
    ("nodes", "placement", "note"), [((14, 14), "gpu", ""), ((9, 14), "gpu 9/14 nodes", "partly")]
)
def test_gpu_says_what_it_took(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    probe: None,
    nodes: tuple[int, int],
    placement: str,
    note: str,
) -> None:
    phone.shell.bench.gpu_nodes = nodes
    [device] = opened(unit="gpu")
    notes = dict(device.measure(model).notes)
    assert (
        notes["placement"] == placement
        and notes.get("note", "").startswith(note)
        and bool(note) == ("note" in notes)
    )
    assert {"--use_gpu=true", "--gpu-precision=fp16"} < set(runs(phone)[0])
    assert (device.info().compute_unit, device.info().precision) == ("gpu", "float16")


def test_threads_and_cores_as_asked(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    [device] = opened(threads=4, affinity="f0")
    device.measure(model)
    device.close()
    [free] = opened(affinity="")
    free.measure(model)
    pinned, loose = runs(phone)
    assert (
        pinned[:2] == ["taskset", "f0"] and "--num_threads=4" in pinned and loose[0].startswith("/")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"threads": 2},
            r"--threads: the affinity mask 80 has .*\(got 2, expected at most 1\)\. Fix: a mask",
        ),
        ({"affinity": "0xf0"}, r"--affinity: is not a .* mask of cores \(got '0xf0', expected"),
        ({"affinity": "1; reboot"}, r"--affinity: .*\(got '1; reboot', expected"),
        ({"unit": "npu"}, r"--unit: .* Android phones \(got npu, expected cpu or gpu\)"),
    ],
)
def test_settings_that_do_not_fit(
    phone: FakePhone, opened: Callable[..., list[Device]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        opened(**settings)


@pytest.mark.parametrize("mask", ["f0", "F0", "00f0"])
def test_one_mask_has_one_spelling(
    phone: FakePhone, opened: Callable[..., list[Device]], mask: str
) -> None:
    [device] = opened(threads=4, affinity=mask)
    assert device.info().affinity == "mask f0"


def test_cores_that_are_not_there(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    [device] = opened(affinity="f00")
    with pytest.raises(
        InputError, match=r"mask f00 \(taskset: failed to set.*Fix: --affinity .*--affinity ''"
    ):
        device.measure(model)
    device.close()
    assert left_on(phone) == []


def test_other_processors_are_refused(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]]
) -> None:
    phones(ro_product_cpu_abi="x86_64")
    with pytest.raises(InputError, match=r"its processor \(got x86_64, expected arm64-v8a\)"):
        opened()


def test_older_tool_without_result_file(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    phone.shell.writes_results = False
    phone.shell.bench.all_same = True
    [device] = opened()
    timing = device.measure(model)
    assert timing.p10_ms == timing.median_ms == timing.p90_ms > 0 and timing.runs >= 20


def test_loads_that_disagree_are_followed_by_more(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(android, "LOADS", 3)
    monkeypatch.setattr(android, "MOST_LOADS", 5)
    medians = iter([100.0, 150.0, 100.0, 100.0, 90.0, 100.0, 101.0, 102.0])
    monkeypatch.setattr(
        android, "read_result", lambda data: android.Statistics(20, 80, next(medians), 200)
    )
    [device] = opened()
    first = device.measure(model)
    second = device.measure(model)
    assert (first.median_ms, first.runs) == (0.1, 100)
    assert (second.median_ms, second.runs) == (0.101, 60)
    assert len(left_on(phone)) == 1


def test_crash_costs_one_operation(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, tmp_path: Path
) -> None:
    phone.shell.crashes = lambda file: file.name.startswith("big")
    [device] = opened()
    big = tmp_path / "big.tflite"
    garbage = tmp_path / "garbage.tflite"
    big.write_bytes(model.read_bytes())
    garbage.write_bytes(b"garbage")
    with pytest.raises(OperationFailed, match=r"ended by signal 11: Node 3 is not supported$"):
        device.measure(big)
    with pytest.raises(OperationFailed, match=r"ended with exit code 1: Failed to load model"):
        device.measure(garbage)
    assert device.measure(model).runs and len(left_on(phone)) == 1


def in_run(service: str) -> bool:
    return "--graph=" in service


@pytest.mark.parametrize(
    "when", ["getprop", "mkdir", "sync SEND", "taskset", "--graph=", "sync RECV"]
)
def test_unplugged_and_plugged_in_again(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, when: str
) -> None:
    def unplug(service: str) -> None:
        if when in service:
            phone.unplug()

    phone.before = unplug
    with pytest.raises(DeviceLost, match=f"^phone {phone.address}: .*{RESUMES}$") as lost:
        [device] = opened(phone.address)
        try:
            device.measure(model)
        finally:
            device.close()
    assert "plug it in again" in str(lost.value) and "\n" not in str(lost.value)
    phone.before = lambda service: None
    phone.plug_in()
    connect(phone)
    [device] = opened(phone.address)
    assert device.measure(model).runs and len(left_on(phone)) == 1, (
        "what the first run left is gone"
    )


def test_server_ends(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, server: Path
) -> None:
    [device] = opened()
    phone.before = lambda service: adb("kill-server") if in_run(service) else None
    with pytest.raises(DeviceLost, match=rf"the adb server has ended\. Fix: .*{RESUMES}$"):
        device.measure(model)
    with pytest.raises(DeviceLost, match="the adb server has ended"):
        device.measure(model)
    device.close()
    phone.before = lambda service: None
    start_server(server)
    connect(phone)
    [device] = opened()
    assert device.measure(model).runs and len(left_on(phone)) == 1


def test_a_server_that_ends_within_an_answer_is_named(phone: FakePhone, server: Path) -> None:
    """What adbutils says then depends on where the answer was cut off."""
    try:
        with (
            pytest.raises(DeviceLost, match="the adb server has ended"),
            Adb(phone.address)._talking(),
        ):
            adb("kill-server")
            raise AdbError("Unknown data: b''")
    finally:
        start_server(server)


def test_files_there_and_back(phone: FakePhone, model: Path) -> None:
    adb = Adb(phone.address)
    adb.push(model, f"{TEMPORARY}/copy", 0o755)
    assert adb.pull(f"{TEMPORARY}/copy") == model.read_bytes()
    assert phone.shell.path(f"{TEMPORARY}/copy").stat().st_mode & 0o777 == 0o755
    assert adb.pull(f"{TEMPORARY}/another") is None


def test_a_file_that_the_phone_refuses_comes_with_its_reason(phone: FakePhone, model: Path) -> None:
    with pytest.raises(
        DeviceLost, match=r"/data/\.\./root could not be written .*Permission denied"
    ):
        Adb(phone.address).push(model, "/data/../root")


@pytest.mark.parametrize("where", ["sync SEND", "sync RECV", "getprop"])
def test_a_silent_phone_is_not_waited_for(
    phone: FakePhone, model: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("nas.devices.android.adb.ANSWER_S", 0.5)
    adb = Adb(phone.address)
    remote = f"{TEMPORARY}/model"
    adb.push(model, remote)
    phone.before = lambda service: time.sleep(3) if where in service else None
    actions = {
        "sync SEND": lambda: adb.push(model, remote),
        "sync RECV": lambda: adb.pull(remote),
        "getprop": lambda: adb.run("getprop", timeout_s=0.5),
    }
    with pytest.raises(DeviceLost, match="no answer in"):
        actions[where]()


@pytest.mark.parametrize("free", [0, 10, len(ELF_ARM64)])
def test_storage_is_full(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, free: int
) -> None:
    """For nothing at all, for the tool, for the model."""
    phone.shell.free_bytes = free
    [device] = opened()
    with pytest.raises(
        DeviceLost, match=rf"its storage is full\. Fix: delete something on it, {RESUMES}$"
    ):
        device.measure(model)
    device.close()
    assert left_on(phone) == []
    phone.shell.free_bytes = None
    assert opened()[0].measure(model).runs


@pytest.mark.parametrize(
    ("where", "garbage"),
    [
        *((where, NONSENSE) for where in ("getprop", "sync SEND", "sync RECV", "--graph=")),
        *((where, b"\xde\xad\xbe\xef\xff\xff\xff\x7f") for where in ("sync RECV", "--graph=")),
        *((where, b"\x00") for where in ("getprop", "sync SEND")),
    ],
)
def test_garbage(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, where: str, garbage: bytes
) -> None:
    phone.garbage = lambda service: garbage if where in service else b""
    with pytest.raises(DeviceLost, match=rf"^phone {phone.address}: .*{RESUMES}$") as lost:
        [device] = opened(phone.address)
        try:
            device.measure(model)
        finally:
            device.close()
    assert "\n" not in str(lost.value)
    phone.garbage = lambda service: b""
    assert opened()[0].measure(model).runs


def test_tool_disappears(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    [device] = opened()
    device.measure(model)
    for path in phone.shell.path(ROOT).glob("benchmark_model-*"):
        path.unlink()
    with pytest.raises(
        DeviceLost, match=rf"benchmark_model is gone.*inaccessible or not found.*{RESUMES}$"
    ):
        device.measure(model)
    device.close()
    assert opened()[0].measure(model).runs


def test_phone_that_does_not_trust(
    server: Path, tmp_path: Path, opened: Callable[..., list[Device]]
) -> None:
    with FakePhone(tmp_path / "phone") as phone:
        phone.trusts = False
        connect(phone, "unauthorized")
        [found] = connected_phones()
        assert "tap Allow" in found.problem and found.name == ""
        with pytest.raises(
            NasError, match=r"does not trust this computer; unlock it and tap Allow"
        ):
            opened(phone.address)
        with pytest.raises(
            InputError,
            match=r"snapdragon-8gen2: is not connected.*, not usable: .*tap Allow",
        ):
            opened()
        disconnect(phone)


def test_phones_of_one_model(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]], model: Path
) -> None:
    first = phones()
    second = phones()
    phones(ro_soc_model="SM8450")
    devices = opened()
    assert {dict(device.measure(model).notes)["unit"] for device in devices} == {
        first.address,
        second.address,
    }
    [one] = opened(second.address)
    assert isinstance(one, Android) and one.adb.serial == second.address
    [slower] = opened("snapdragon-8gen1")
    assert slower.info().name == "snapdragon-8gen1"


def test_phone_that_is_connected_twice_is_one(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]]
) -> None:
    phones(ro_serialno="SAME"), phones(ro_serialno="SAME")
    assert len(opened()) == 1


def test_one_broken_phone_does_not_keep_another_from_working(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]], model: Path
) -> None:
    broken = phones()
    good = phones()
    broken.garbage = lambda service: NONSENSE
    [device] = opened()
    assert dict(device.measure(model).notes)["unit"] == good.address
    assert {phone.serial: bool(phone.problem) for phone in connected_phones()}[broken.address]


def test_hot_phone_is_waited_for(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    phone.shell.thermal = 3
    monkeypatch.setattr(android, "COOL_DOWN_S", 0.3)
    [device] = opened(warn=told.append)
    assert dict(device.measure(model).notes)["note"] == "thermal"
    assert "thermal state is severe" in told[0] and "still hot" in told[1]
    assert dict(device.measure(model).notes)["note"] == "thermal" and len(told) == 2, (
        "one wait is enough"
    )
    phone.shell.thermal = 1
    assert "note" not in dict(device.measure(model).notes)
    phone.shell.thermal = 2
    calls = len(commands(phone, "thermalservice"))

    def cool(service: str) -> None:
        if len(commands(phone, "thermalservice")) > calls + 2:
            phone.shell.thermal = 0

    phone.before = cool
    assert "note" not in dict(device.measure(model).notes) and "it is cool" in told[-1]


def test_two_processes_do_not_share_a_phone(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    [first], [second] = opened(), opened()
    first.measure(model)
    with pytest.raises(NasError, match=r"another nas process is measuring on it\. Fix: wait for"):
        second.measure(model)
    assert len(left_on(phone)) == 1
    first.close()
    assert second.measure(model).runs


def test_leftovers_of_a_killed_run_are_deleted(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    old = phone.shell.path(f"{ROOT}/run-0123abcd")
    old.mkdir(parents=True)
    (old / "model.tflite").write_bytes(b"left")
    [device] = opened()
    device.measure(model)
    assert not old.exists()


def test_phone_speaks_to_the_adb_program(phone: FakePhone, tmp_path: Path) -> None:
    """The phone is of use to others, too: adb's own push, pull and shell work with it."""
    content = tmp_path / "content"
    back = tmp_path / "back"
    content.write_bytes(bytes(range(256)) * 3000)
    serial = ("-s", phone.address)
    assert "1 file pushed" in adb(*serial, "push", str(content), "/data/local/tmp/a b")
    assert "1 file pulled" in adb(*serial, "pull", "/data/local/tmp/a b", str(back))
    assert back.read_bytes() == content.read_bytes()
    assert "inaccessible or not found" in adb(*serial, "shell", "reboot")
    assert "takes one command" in adb(*serial, "shell", "true; reboot")
    assert "[ro.soc.model]: [SM8550]" in adb(*serial, "shell", "getprop")


def answers(phone: FakePhone, pattern: str, *said: Run | None) -> None:
    """Let the phone answer lines that match with these, in turn, the last one from then on.

    None stands for its own answer.
    """
    own = phone.shell.run
    left = list(said)

    def run(line: str) -> Run:
        if not re.search(pattern, line):
            return own(line)
        answer = left.pop(0) if len(left) > 1 else left[0]
        return own(line) if answer is None else answer

    phone.shell.run = run  # type: ignore[method-assign]


@pytest.fixture
def probe(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of a GPU without the seconds of its conversion."""
    future: Future[Path] = Future()
    future.set_result(model)
    monkeypatch.setattr(Converter, "prepare", lambda self, chain: future)


RECORDED = Path(__file__).with_name("benchmark_model")
REPLACED = (
    "VERBOSE: Replacing {} out of 14 node(s) with delegate ({}) node, yielding 1 partitions for"
    " subgraph 0 (main).\n"
)


@pytest.mark.parametrize(
    "log",
    [
        (RECORDED / "gpu-no-accelerator.stderr").read_text(),
        "Can not open OpenCL library on this device\n"
        + REPLACED.format(14, "TfLiteXNNPackDelegate"),
        REPLACED.format(14, "YNNPackDelegate"),
        "",
    ],
)
def test_gpu_that_takes_nothing_is_refused_before_the_first_file(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    probe: None,
    log: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phone.shell.bench, "_delegates", lambda flags: log)
    [device] = opened(unit="gpu")
    with pytest.raises(
        InputError, match=r"the GPU accelerator does not run here .*Fix: set NAS_GPU_ACCELERATOR"
    ):
        device.measure(model)
    assert len(runs(phone)) == 1, "the probe alone"


def test_gpu_gets_the_accelerator_beside_the_tool(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path, probe: None, tool: Path
) -> None:
    name = "libLiteRtClGlAccelerator.so"
    tool.with_name(name).write_bytes(ELF_ARM64 + b"gpu")
    [device] = opened(unit="gpu")
    device.measure(model)
    [there] = [word for word in runs(phone)[0] if word.startswith("LD_LIBRARY_PATH=")]
    folder = phone.shell.path(there.partition("=")[2])
    assert (folder / name).read_bytes() == ELF_ARM64 + b"gpu"


def test_file_that_the_gpu_leaves_says_cpu(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    tmp_path: Path,
    probe: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a reshape, which the GPU's delegate leaves: the row says where it ran."""
    shares = iter([14, 0, 14])  # the probe, the file, the probe again
    monkeypatch.setattr(
        phone.shell.bench, "_delegates", lambda flags: REPLACED.format(next(shares), "LITERT_CL")
    )
    [device] = opened(unit="gpu")
    notes = dict(device.measure(model).notes)
    assert notes["placement"] == "cpu" and "takes none of its nodes" in notes["note"]


def test_tool_that_the_phone_ends_is_started_again(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    killed = Run(137, "INFO: STARTING!\n", "Killed\n")
    answers(phone, "--graph=", killed, None)
    [device] = opened()
    assert device.measure(model).runs
    answers(phone, "--graph=", killed)
    with pytest.raises(Interrupted, match=r"signal 9 twice, as when the phone is out of memory"):
        device.measure(model)


def test_slow_file_fails_and_the_phone_is_well(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [device] = opened()
    assert device.measure(model).runs
    monkeypatch.setattr(android, "PATIENCE_S", 0.3)
    phone.before = lambda service: time.sleep(1) if in_run(service) else None
    with pytest.raises(OperationFailed, match="no answer in 0 s"):
        device.measure(model)
    phone.before = lambda service: None
    assert device.measure(model).runs


@pytest.mark.parametrize(
    ("pattern", "answer", "message"),
    [
        (
            "^mkdir",
            Run(1, "", "WARNING: linker: Warning: x\nmkdir: 'x': Permission denied\n"),
            r"\(mkdir: 'x': Permission denied\)\. Fix: lift what locks /data/local/tmp",
        ),
        (
            "^mkdir",
            Run(1, "", "mkdir: 'x': Read-only file system\n"),
            r"Read-only file system\)\. Fix: lift what locks",
        ),
        (
            "--graph=",
            Run(126, "", "/system/bin/sh: x: can't execute: Permission denied\n"),
            r"may not be executed .*noexec or forbidden by SELinux",
        ),
        (
            "--graph=",
            Run(1, "", 'CANNOT LINK EXECUTABLE "x": cannot locate symbol "y"\nAborted\n'),
            r"does not start on this version of Android .*cannot locate symbol.*NAS_BENCHMARK_MODEL",
        ),
        (
            "^taskset",
            Run(127, "", "/system/bin/sh: taskset: inaccessible or not found\n"),
            r"taskset: inaccessible.*Fix: --affinity '' for threads that are not pinned$",
        ),
    ],
)
def test_refusals_have_the_phones_reason_and_a_remedy_that_fits(
    phone: FakePhone,
    opened: Callable[..., list[Device]],
    model: Path,
    pattern: str,
    answer: Run,
    message: str,
) -> None:
    answers(phone, pattern, answer)
    [device] = opened()
    with pytest.raises(NasError, match=message) as refused:
        device.measure(model)
    assert not isinstance(refused.value, OperationFailed)
    assert "plug it in" not in str(refused.value) and "\n" not in str(refused.value)


def test_heat_that_cannot_be_read_is_unknown(
    phone: FakePhone, opened: Callable[..., list[Device]], model: Path
) -> None:
    answers(phone, "thermalservice", Run(0, "", "Can't find service: thermalservice\n"))
    [device] = opened()
    assert dict(device.measure(model).notes)["note"] == "thermal state unknown"


def test_phone_by_its_serial_is_a_device_of_its_own(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]]
) -> None:
    first = phones()
    phones()
    [one] = opened(first.address)
    info = one.info()
    assert info.serial == first.address and info.name == device_name(first.address)
    assert ":" not in info.name and info.name != "snapdragon-8gen2"
    assert [each.info().serial for each in opened()] == ["", ""]


def test_different_phones_of_one_name_are_told_apart(
    phones: Callable[..., FakePhone], opened: Callable[..., list[Device]]
) -> None:
    """Two makers build one chip into phones that cool differently."""
    one = phones(ro_product_model="SM-S911B")
    two = phones(ro_product_model="2211133G")
    with pytest.raises(InputError, match=r"different phones .*SM-S911B.*Fix: --device") as refused:
        opened()
    assert one.address in str(refused.value) and two.address in str(refused.value)
    assert len(opened(one.address)) == 1


def test_models_have_names_of_their_own(phones: Callable[..., FakePhone]) -> None:
    models = ("Redmi 13", "Redmi 13+", "手机", "電話", "Host", "Galaxy S24", "AUX")
    for model in models:
        phones(ro_soc_model="MT0000", ro_product_model=model)
    names = [phone.name for phone in connected_phones()]
    assert len(set(names)) == len(models)
    for name in names:
        assert check_device_name(name) == name
    assert not {"host", "galaxy-s24", "aux"} & set(names)


def test_list_of_phones_is_read_by_tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "A 1\tdevice\n0123\tno permissions (missing udev rules?); see [http://x]\n????\toffline\n"
    )
    with answering(text) as port:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{port}")
        states = listing()
    assert list(states) == ["A 1", "0123", "????"] and states["A 1"] == "device"
    assert "udev rules" in why_not(states["0123"]) and "sudo apt install" in why_not(states["0123"])


def test_silent_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.devices.android.adb.LIST_S", 0.2)
    with answering(None) as port:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        with pytest.raises(
            NasError, match=rf"the adb server at 127\.0\.0\.1:{port} does not answer"
        ):
            listing()
        assert "does not answer" in KIND.unlisted()


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ("127.0.0.1", 5037)),
        ({"ADB_SERVER_SOCKET": "tcp:5038"}, ("127.0.0.1", 5038)),
        ({"ADB_SERVER_SOCKET": "tcp:10.0.0.2:5039"}, ("10.0.0.2", 5039)),
        ({"ADB_SERVER_SOCKET": "tcp:[::1]:5039"}, ("::1", 5039)),
        ({"ANDROID_ADB_SERVER_ADDRESS": "10.0.0.3"}, ("10.0.0.3", 5037)),
        ({"ANDROID_ADB_SERVER_HOST": "10.0.0.4", "ANDROID_ADB_SERVER_PORT": "1"}, ("10.0.0.4", 1)),
        ({"ADB_SERVER_SOCKET": "tcp:1", "ANDROID_ADB_SERVER_PORT": "2"}, ("127.0.0.1", 1)),
    ],
)
def test_address_of_the_server_is_adbs_own(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: tuple[str, int]
) -> None:
    for name in (
        "ADB_SERVER_SOCKET",
        *(f"ANDROID_ADB_SERVER_{each}" for each in ("ADDRESS", "HOST", "PORT")),
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert adb_module._address() == address


@pytest.mark.parametrize("value", ["localfilesystem:/tmp/adb", "tcp:host:port", "tcp:99999", "x"])
def test_other_sockets_of_a_server_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", value)
    with pytest.raises(InputError, match="ADB_SERVER_SOCKET: is not supported"):
        listing()


def test_no_adb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise AdbError("No adb exe could be found")

    monkeypatch.setattr("adbutils.adb_path", none)
    adb_module.adb_program.cache_clear()
    with pytest.raises(NasError, match=r"adb: is not on the PATH.*Fix: install .*platform-tools"):
        adb_module.adb_program()
    adb_module.adb_program.cache_clear()


@contextmanager
def answering(text: str | None) -> Iterator[int]:
    """An adb server that has this list of phones, or is silent; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link:
                        size = link.recv(4)
                        if size and text is not None:
                            link.recv(int(size, 16))
                            link.sendall(b"OKAY%04x" % len(text.encode()) + text.encode())
                        elif size:
                            time.sleep(0.5)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_int8_is_of_the_cpu_and_has_a_table_of_its_own(
    phone: FakePhone, opened: Callable[..., list[Device]]
) -> None:
    [device] = opened(precision="int8")
    info = device.info()
    assert (info.name, info.precision) == ("snapdragon-8gen2-int8", "int8")
    for unit, precision, expected in (
        ("gpu", "int8", "the gpu of Android phones (got int8, expected float16 or float32)"),
        ("cpu", "float16", "the cpu of Android phones (got float16, expected float32 or int8)"),
    ):
        with pytest.raises(InputError) as refused:
            opened(unit=unit, precision=precision)
        assert f"--precision: is not available on {expected}" in str(refused.value)


def test_an_npu_is_refused_with_the_two_ways_to_its_figures(
    phone: FakePhone, opened: Callable[..., list[Device]]
) -> None:
    with pytest.raises(
        InputError,
        match=r"--unit: .*measures the CPU and the GPU.*--through qai-hub.*nas profile --import",
    ):
        opened(unit="npu")
