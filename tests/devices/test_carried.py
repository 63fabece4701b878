"""Bundles for phones that are elsewhere: `run.sh` in real shells, with what the real tool printed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_converter import FakeConverter
from fake_phone.shell import ELF_ARM64

from nas.devices import Chain, OperationFailed, Timing
from nas.devices.android.carried import PROGRAMS
from nas.devices.board.replay import Replay
from nas.devices.kinds import Settings
from nas.errors import InputError, NasError
from nas.latency.bundle import merge_bundle, write, write_bundle
from nas.space import Space
from nas.space.operations import space_operations
from nas.testing.devices import true_ms

FAKE = Path(__file__).parents[1] / "fake_phone"
SHELLS = {
    name: command
    for name, *command in (("dash",), ("busybox", "sh"), ("mksh",), ("sh",))
    if shutil.which(name)
}
"""mksh is Android's own shell; dash, busybox and the system's `sh` are as strict."""
COMMANDS = {
    "getprop": 'sed -n "s/^$1=//p" "$PHONE/properties"',
    "dumpsys": 'cat "$PHONE/thermal"',
    "taskset": 'shift; [ ! -f "$PHONE/asleep" ] || exit 1; exec "$@"',
    # Nothing waits in a test.
    "sleep": "exit 0",
}
PROPERTIES = {
    "ro.product.model": "Pixel 8",
    "ro.soc.model": "Tensor G3",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
    "ro.build.display.id": "UQ1A.240205.004",
}
THERMAL = "Thermal Status: 0\n"


class Phone:
    """A folder of commands that stand in for a phone's, and a bundle that was pushed to it."""

    def __init__(self, folder: Path, bundle: Path, shell: str, loads: int, most: int) -> None:
        self.folder = folder
        self.bundle = bundle
        self.shell = [shutil.which(shell), *SHELLS[shell]]
        self.properties = dict(PROPERTIES)
        self.thermal = THERMAL
        commands = folder / "bin"
        commands.mkdir(parents=True)
        for name, text in COMMANDS.items():
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o755)
        tool = bundle / "benchmark_model"
        shutil.copyfile(FAKE / "benchmark_model.sh", tool)
        shutil.copytree(FAKE / "recorded", bundle / "recorded")
        plan = json.loads((bundle / "plan.json").read_text())
        # A few files are enough where no table is made of them, and take less time.
        plan["files"] = plan["files"][:most]
        (bundle / "plan.json").write_text(json.dumps(plan))
        lines = (bundle / "files.txt").read_text().splitlines()[:most]
        (bundle / "files.txt").write_text("".join(f"{line}\n" for line in lines))
        self.times = {}
        for entry in plan["files"]:
            if entry["file"]:
                chain = Chain.from_dict(json.loads((bundle / entry["file"]).read_text()))
                # Longer than real ones: the tool counts whole microseconds.
                self.times[Path(entry["file"]).name] = round(1e5 * true_ms(chain))
        lines = "".join(f"{name} {us}\n" for name, us in self.times.items())
        (bundle / "times.txt").write_text(lines)
        self.faults()
        digest = subprocess.run(["sha256sum", tool], capture_output=True, text=True, check=True)
        settings = bundle / "settings.txt"
        kept = [
            line
            for line in settings.read_text().splitlines()
            if not line.startswith(("sha256 ", "pauses_s ", "loads "))
        ]
        kept += [f"loads {loads}"]
        kept += [f"sha256 {digest.stdout.split()[0]}", "pauses_s 0 0"]
        settings.write_text("\n".join(kept) + "\n")

    def faults(self, *lines: str) -> None:
        """Set which files fail: `FILE EXIT_CODE TIMES`."""
        (self.bundle / "faults.txt").write_text("".join(f"{line}\n" for line in lines))
        (self.bundle / "faulty.txt").unlink(missing_ok=True)

    def run(self, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        lines = "".join(f"{name}={value}\n" for name, value in self.properties.items())
        (self.folder / "properties").write_text(lines)
        (self.folder / "thermal").write_text(self.thermal)
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PHONE": str(self.folder),
        }
        return subprocess.run(
            [*self.shell, str(self.bundle / "run.sh")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> int:
        path = self.bundle / "calls.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def digest(self, name: str) -> str:
        plan = json.loads((self.bundle / "plan.json").read_text())
        return str(next(each["digest"] for each in plan["files"] if each["file"].endswith(name)))

    def outcomes(self) -> dict[str, Timing | str]:
        """Return the timing or the reason of failure of each file, by its name."""
        replay = Replay(self.bundle)
        outcomes: dict[str, Timing | str] = {}
        for name in self.times:
            try:
                outcomes[name] = replay.measure(Path(self.digest(name)))
            except OperationFailed as error:
                outcomes[name] = str(error)
        return outcomes

    def failed(self) -> list[str]:
        return [outcome for outcome in self.outcomes().values() if isinstance(outcome, str)]

    def notes(self) -> list[str | None]:
        timings = [each for each in self.outcomes().values() if isinstance(each, Timing)]
        return [dict(timing.notes).get("note") for timing in timings]

    def names(self, role: str) -> list[str]:
        """Return the files of a role, in their order."""
        plan = json.loads((self.bundle / "plan.json").read_text())
        return [Path(each["file"]).name for each in plan["files"] if each["role"] == role]


@pytest.fixture(params=SHELLS)
def every_shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def phone(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Phone]:
    """Return a function that writes a bundle and pushes it to a phone."""
    monkeypatch.setattr(write, "Converter", FakeConverter)
    monkeypatch.setattr(FakeConverter, "stop_after", None)
    monkeypatch.setattr(FakeConverter, "fails", staticmethod(lambda chain: False))
    tool = tmp_path / "tool" / "benchmark_model"
    tool.parent.mkdir()
    tool.write_bytes(ELF_ARM64)

    def made(
        shell: str = next(iter(SHELLS)),
        *,
        name: str = "pixel-8",
        kind: str | None = None,
        loads: int = 1,
        most: int = 14,
        **given: Any,
    ) -> Phone:
        write_bundle(
            space,
            name,
            tmp_path / "bundle",
            settings=Settings(tool=tool, **given),
            kind_name=kind,
            check_nets=2,
        )
        return Phone(tmp_path / "phone", tmp_path / "bundle", shell, loads, most)

    return made


def test_bundle_is_measured_and_merged(
    phone: Callable[..., Phone], space: Space, tmp_path: Path
) -> None:
    there = phone(most=999)
    done = there.run()
    assert done.returncode == 0, done.stderr
    assert not (there.bundle / "results" / ".lock").exists()
    table, report, times = merge_bundle(there.bundle, tmp_path / "table")
    device = table.device
    assert (device.name, device.kind, device.os) == (
        "pixel-8",
        "litert-android",
        "Android 14 (UQ1A.240205.004)",
    )
    # The mask of the phone.yaml, 100, is not what this computer's cores are: what was observed is
    # written down.
    assert device.affinity.startswith("cores ")
    assert not report.failed and len(times) == 2
    for operation in space_operations(space):
        row = table.rows[operation.key]
        if row.runs:
            assert row.median_ms == pytest.approx(
                100 * (true_ms(Chain.stack(operation)) - 0.002), abs=0.1
            )
            assert dict(row.extra)["placement"] == "cpu"
    before = there.calls()
    again = there.run()
    assert again.returncode == 0 and " 0 measured now" in again.stdout
    assert there.calls() == before


def test_every_shell_measures_and_resumes(phone: Callable[..., Phone], every_shell: str) -> None:
    there = phone(every_shell, loads=3)
    (there.bundle / "dead_from").write_text("20")
    done = there.run()
    assert done.returncode == 1 and "the phone does not measure any more" in done.stderr
    results = list((there.bundle / "results").glob("*.txt"))
    assert results and not any("state failed" in path.read_text() for path in results)
    with pytest.raises(NasError, match=r"files are not measured\. Fix: .*adb shell sh .*run\.sh"):
        Replay(there.bundle)
    (there.bundle / "dead_from").unlink()
    done = there.run()
    assert done.returncode == 0, done.stderr
    assert not (there.bundle / "results" / ".lock").exists()
    for name, outcome in there.outcomes().items():
        assert isinstance(outcome, Timing)
        assert outcome.median_ms == pytest.approx(there.times[name] / 1e3)
        assert outcome.runs == 3 * 2975


@pytest.mark.parametrize("code", [1, 137, 139])
def test_a_passing_fault_leaves_no_trace(phone: Callable[..., Phone], code: int) -> None:
    there = phone()
    there.faults(f"{there.names('stack')[1]} {code} 1")
    assert there.run().returncode == 0
    assert not there.failed()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, r"benchmark_model ended with exit code 1: Model provided has model identifier 'age"),
        (139, r"benchmark_model ended by signal 11: no message"),
        (124, r"benchmark_model did not end within 600 s"),
    ],
)
def test_what_cannot_run_is_told_and_tried_again(
    phone: Callable[..., Phone], code: int, reason: str
) -> None:
    there = phone()
    there.faults(f"{there.names('stack')[1]} {code} 99")
    done = there.run()
    assert done.returncode == 0 and "1 cannot run" in done.stdout
    (message,) = there.failed()
    assert re.match(reason, message)
    there.faults()
    assert " 1 measured now" in there.run().stdout
    assert not there.failed()


def test_what_is_killed_is_no_property(phone: Callable[..., Phone]) -> None:
    there = phone()
    there.faults(f"{there.names('stack')[1]} 137 99")
    done = there.run()
    assert done.returncode == 1 and "1 killed" in done.stdout
    with pytest.raises(NasError, match=r"1 of \d+ files are not measured \(1 of them: killed by"):
        Replay(there.bundle)


def test_a_core_that_falls_asleep_is_no_property(phone: Callable[..., Phone]) -> None:
    there = phone()
    (there.folder / "asleep").touch()
    done = there.run()
    assert done.returncode == 1 and "cannot be pinned to the cores of mask 100" in done.stderr
    assert not there.calls()


def test_a_core_that_falls_asleep_later_is_no_property(phone: Callable[..., Phone]) -> None:
    there = phone(most=6)
    assert there.run().returncode == 0
    digest = there.digest(there.names("operation")[0])
    result = there.bundle / "results" / f"{digest}.txt"
    text = result.read_text()
    result.write_text(re.sub(r"^cores .*$", "cores 5-6", text, flags=re.MULTILINE))
    with pytest.raises(NasError, match=r"\(1 of them: measured on cores 5-6, not "):
        Replay(there.bundle)
    # A phone that changes its cores between two runs is not continued.
    result.unlink()
    device = there.bundle / "results" / "device.txt"
    device.write_text(re.sub(r"^cores .*$", "cores 5-6", device.read_text(), flags=re.MULTILINE))
    done = there.run()
    assert done.returncode == 1 and "the cores differ from those of the results" in done.stderr


def test_drift_that_goes_away_is_measured_again(phone: Callable[..., Phone]) -> None:
    there = phone()
    # The reference is an early stack. It is measured again at the 12th call.
    (there.bundle / "slow").write_text("9 12 150\n")
    assert there.run().returncode == 0
    for name, outcome in there.outcomes().items():
        assert isinstance(outcome, Timing)
        assert outcome.median_ms == pytest.approx(there.times[name] / 1e3)
    assert not any(there.notes())


def test_drift_that_stays_is_noted(phone: Callable[..., Phone]) -> None:
    there = phone()
    (there.bundle / "slow").write_text("8 999999 150\n")
    assert there.run().returncode == 0
    assert "drift" in there.notes()


def test_hot_phone_is_flagged(phone: Callable[..., Phone]) -> None:
    there = phone(most=4)
    there.thermal = "Thermal Status: 3\n"
    assert "the phone is hot" in there.run().stdout
    assert set(there.notes()) == {"thermal"}


def test_heat_that_cannot_be_read_is_unknown(phone: Callable[..., Phone]) -> None:
    there = phone(most=4)
    there.thermal = "Can't find service: thermalservice\n"
    assert there.run().returncode == 0
    path = there.bundle / "results" / f"{there.digest(there.names('empty')[0])}.txt"
    assert "thermal unknown\n" in path.read_text()
    assert not any(there.notes())


def test_another_phone_is_refused(phone: Callable[..., Phone]) -> None:
    there = phone(most=4)
    there.properties["ro.soc.model"] = "Tensor G4"
    done = there.run()
    assert done.returncode == 1 and not there.calls()
    assert "another phone (got model 'Pixel 8' with chip 'Tensor G4', expected" in done.stderr


@pytest.mark.parametrize(
    ("key", "value"), [("ro.product.model", "Pixel 8 Pro"), ("ro.build.version.release", "15")]
)
def test_results_of_another_phone_are_not_continued(
    phone: Callable[..., Phone], key: str, value: str
) -> None:
    there = phone(most=4)
    there.run()
    there.properties[key] = value
    done = there.run()
    assert done.returncode == 1 and "is of another phone, system or bundle" in done.stderr


def test_gpu_without_its_library_is_refused(phone: Callable[..., Phone]) -> None:
    there = phone(unit="gpu")
    done = there.run()
    assert done.returncode == 1 and "finds no GPU library" in done.stderr
    assert [path.name for path in (there.bundle / "results").glob("*.txt")] == ["device.txt"]


@pytest.mark.parametrize("delegate", ["TfLiteXNNPackDelegate", "TfLiteNnapiDelegate"])
def test_another_delegate_is_not_the_gpu(phone: Callable[..., Phone], delegate: str) -> None:
    there = phone(unit="gpu")
    (there.bundle / "has_gpu").write_text(delegate)
    done = there.run()
    assert done.returncode == 1 and "names no GPU delegate" in done.stderr


def test_gpu_rows_say_where_they_ran(phone: Callable[..., Phone]) -> None:
    there = phone(unit="gpu")
    (there.bundle / "has_gpu").write_text("LITERT_CL")
    other = there.names("stack")[1]
    (there.bundle / "not_on_gpu.txt").write_text(f"{other}\n")
    assert there.run().returncode == 0
    device = Replay(there.bundle).info()
    assert (device.compute_unit, device.precision) == ("gpu", "float16")
    outcomes = there.outcomes()
    notes = dict(outcomes.pop(other).notes)
    assert notes == {"placement": "cpu", "note": "the GPU takes none of its nodes"}
    del outcomes[there.names("empty")[0]]
    assert all(dict(timing.notes)["placement"] == "gpu" for timing in outcomes.values())


def test_phone_without_a_phone_file(phone: Callable[..., Phone]) -> None:
    there = phone(name="annas-phone", kind="litert-android", most=4)
    there.properties |= {"ro.product.model": "SM-A546B", "ro.soc.model": "s5e8835"}
    assert there.run().returncode == 0
    device = Replay(there.bundle).info()
    assert (device.name, device.soc, device.description) == ("annas-phone", "s5e8835", "SM-A546B")


def test_damaged_files_are_named(phone: Callable[..., Phone]) -> None:
    there = phone(most=4)
    name = there.names("operation")[0]
    (there.bundle / "files" / name).write_text("{}")
    done = there.run()
    assert done.returncode == 1 and f"files/{name}: is damaged" in done.stderr


def test_second_run_is_refused(phone: Callable[..., Phone]) -> None:
    there = phone(most=4)
    lock = there.bundle / "results" / ".lock"
    lock.mkdir(parents=True)
    (lock / "pid").write_text(str(os.getpid()))
    done = there.run()
    assert done.returncode == 1 and "another run.sh measures this bundle" in done.stderr
    # One that a kill left behind is taken over.
    (lock / "pid").write_text("4194303")
    assert there.run().returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:2], "rubbish", *lines[2:]], r"\.txt:3: is not a line of a result"),
        (lambda lines: lines[:-1], r"is cut off"),
        (lambda lines: ["other", *lines[1:]], r"\.txt:1: is not the result of"),
    ],
)
def test_damaged_results_are_named(
    phone: Callable[..., Phone],
    change: Callable[[list[str]], list[str]],
    message: str,
) -> None:
    there = phone(most=4)
    assert there.run().returncode == 0
    path = there.bundle / "results" / f"{there.digest(there.names('empty')[0])}.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=message):
        Replay(there.bundle)


DEVICE = {
    **{"name": "phone", "kind": "litert-android", "description": "", "soc": "", "unit": "cpu"},
    **{"threads": 1, "affinity": "f0", "precision": "float32"},
    "tool": {"version": "2.1", "sha256": "0" * 64, "libraries": []},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("unit", "npu"), ("affinity", "x"), ("affinity", "f" * 999), ("precision", 3)),
        *(("tool", None), ("tool", {"version": "2.1"}), ("soc", [])),
    ],
)
def test_a_damaged_setting_of_the_plan_is_named(tmp_path: Path, key: str, value: object) -> None:
    about = ("bundle 1", "model M", "chip C", "android 14", "build B", "cores 4-7", "date ")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "device.txt").write_text("\n".join(("nas-phone-1", *about)) + "\n")
    plan = {"id": "1", "device": DEVICE, "files": [], "tools": {}}
    (header,) = PROGRAMS.results(tmp_path, plan)
    assert header["device"]["affinity"] == "mask f0"
    with pytest.raises(InputError, match=rf"plan\.json: device\.{key}: is missing or damaged"):
        PROGRAMS.results(tmp_path, {**plan, "device": {**DEVICE, key: value}})


def carried(folder: Path, **changes: str) -> dict[str, Any]:
    """Write what a phone says of itself and the result of a file; return the bundle's plan."""
    about = {
        **{"bundle": "1", "model": "M", "chip": "C", "android": "14", "build": "B"},
        **{"cores": "4-7", "date": "2026-01-31"},
        **changes,
    }
    results = folder / "results"
    results.mkdir()
    lines = ["nas-phone-1", *(f"{key} {value}" for key, value in about.items())]
    (results / "device.txt").write_text("\n".join(lines) + "\n")
    (results / "ab.txt").write_text("nas-phone-result-1 ab\ncores 4-7\nload 1\nstate failed\n")
    return {"id": "1", "device": DEVICE, "files": [{"digest": "ab"}], "tools": {}}


@pytest.mark.parametrize("place", ["device.txt", "ab.txt"])
@pytest.mark.parametrize(
    ("make", "reason"), [(os.mkfifo, "is not a file"), (os.mkdir, "cannot be read")]
)
def test_what_is_no_file_among_the_results_is_refused_instead_of_waited_for(
    tmp_path: Path, place: str, make: Callable[[Path], None], reason: str
) -> None:
    plan = carried(tmp_path)
    assert len(PROGRAMS.results(tmp_path, plan)) == 2
    (tmp_path / "results" / place).unlink()
    make(tmp_path / "results" / place)
    with pytest.raises(InputError, match=rf"{place}: {reason}"):
        PROGRAMS.results(tmp_path, plan)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chip": "\x1b[31m"}, r"is damaged \(chip is not a text\)"),
        ({"date": "yesterday"}, r"does not describe a device \("),
    ],
)
def test_what_a_phone_says_of_itself_is_named_by_its_file(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    plan = carried(tmp_path, **change)
    plan["device"] = {**DEVICE, "soc": ""}
    with pytest.raises(InputError, match=rf"device\.txt: {reason}"):
        PROGRAMS.results(tmp_path, plan)


def test_settings_that_do_not_fit_are_refused(space: Space, tmp_path: Path) -> None:
    for settings, message in (
        (Settings(unit="npu"), r"--unit: is not a unit of litert-android devices \(got npu"),
        (Settings(affinity="x0"), r"--affinity: is not a hexadecimal mask"),
        (Settings(affinity="80", threads=2), r"--threads: the affinity mask 80 has fewer cores"),
    ):
        with pytest.raises(InputError, match=message):
            write_bundle(space, "pixel-8", tmp_path / "bundle", settings=settings)
    with pytest.raises(InputError, match=r"--kind: pixel-8 is of another kind \(got litert-board"):
        write_bundle(space, "pixel-8", tmp_path / "bundle", kind_name="litert-board")
    with pytest.raises(InputError, match=r"--kind: is not a kind of device with bundles"):
        write_bundle(space, "mine", tmp_path / "bundle", kind_name="litert-host")
