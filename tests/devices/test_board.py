"""`run.py` on a board: which runtime it takes, whose fault a failure is, and what the board is called.

The runtimes are stand-ins in a folder on the module path; they fail as the real ones do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.devices import board
from nas.devices.board.runner import litert, machine
from nas.devices.board.runner.errors import BundleError, CannotRun, Ended
from nas.devices.board.runner.litert import Timer
from nas.devices.board.runner.plan import FORMAT, check_file, read_plan, sha256
from nas.devices.board.runner.results import Results, os_major

WELL = """
import time
class Interpreter:
    def __init__(self, path, num_threads): pass
    def allocate_tensors(self): pass
    def get_input_details(self): return []
    def invoke(self): time.sleep(1e-4)
"""
ILLEGAL = """
import os, signal
class CompiledModel:
    def __init__(self): pass
    @classmethod
    def from_file(cls, *a, **k):
        os.write(2, b"INFO: loading\\nERROR: compiled with lse enabled\\n")
        os.kill(os.getpid(), signal.SIGILL)
"""
BROKEN = """
class Interpreter:
    def __init__(self, *a, **k): raise SystemError("numpy.core.multiarray failed to import")
"""
OPTIONS = (
    "class CpuOptions:\\n    def __init__(self, **k): pass\\nclass Options(CpuOptions): pass\\n"
)
OPTIONS = OPTIONS.replace("\\n", "\n")


@pytest.fixture
def runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that installs stand-ins: the text of each module, none where it is empty."""
    site = tmp_path / "site"

    def install(compiled: str, interpreter: str, tflite: str) -> None:
        for module, text in (
            ("ai_edge_litert/options.py", OPTIONS),
            ("ai_edge_litert/compiled_model.py", compiled),
            ("ai_edge_litert/interpreter.py", interpreter),
            ("tflite_runtime/interpreter.py", tflite),
        ):
            path = site / module
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text or "raise ImportError('not installed')")
        monkeypatch.setenv("PYTHONPATH", str(site))

    return install


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer(1)
    yield made
    made.close()


def test_runtime_that_crashes_is_stepped_over(
    runtimes: Callable[..., None], timer: Timer, tmp_path: Path
) -> None:
    """As ai-edge-litert 2.3.0 on a Raspberry Pi 4: one class ends the process, the next one runs."""
    runtimes(ILLEGAL, WELL, "")
    timer.choose(tmp_path / "empty.tflite")
    assert timer.measure(tmp_path / "empty.tflite")["median_ms"] > 0
    plan = {"device": {"name": "board", "kind": "litert-board"}, "tools": {}}
    assert timer.describe(plan)["runtime"] == "LiteRT Interpreter"


def test_without_a_runtime_that_runs_all_reasons_are_told(
    runtimes: Callable[..., None], timer: Timer, tmp_path: Path
) -> None:
    runtimes(ILLEGAL, BROKEN, "")
    with pytest.raises(BundleError) as raised:
        timer.choose(tmp_path / "empty.tflite")
    text = str(raised.value)
    for part in ("exit code -4", "compiled with lse enabled", "numpy.core.multiarray", "Fix: pip"):
        assert part in text
    assert "\n" not in text


def test_process_that_is_ended_is_no_failure(
    runtimes: Callable[..., None], timer: Timer, tmp_path: Path
) -> None:
    runtimes(ILLEGAL.replace("SIGILL", "SIGKILL"), "", "")
    with pytest.raises(Ended, match="signal 9, as the kernel does when memory is out"):
        timer.measure(tmp_path / "model.tflite")


def test_half_an_answer_is_a_crash(
    runtimes: Callable[..., None], timer: Timer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = tmp_path / "half.py"
    half.write_text(
        "import sys\nsys.stdin.readline()\nprint('{\"median', end='', flush=True)\nsys.exit(3)\n"
    )
    monkeypatch.setattr(litert, "__file__", str(tmp_path / "run.py"))
    monkeypatch.setattr(litert, "TIMER_FILE", half.name)
    with pytest.raises(CannotRun, match="exit code 3"):
        timer.measure(tmp_path / "model.tflite")


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_more_threads_than_cores_are_refused(threads: int) -> None:
    with pytest.raises(BundleError, match=r"--threads: .*expected 1 to \d+"):
        Timer(threads)


CPUINFO = {
    "Raspberry Pi 5 Model B Rev 1.0": (
        "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nModel\t\t: Raspberry Pi 5"
        " Model B Rev 1.0\n"
    ),
    "Cortex-A53 + Cortex-A73": "CPU part\t: 0xd03\n\nCPU part\t: 0xd09\n\nCPU part\t: 0xd09\n",
    "CPU part 0xfff": "CPU part\t: 0xfff\n",
    "AMD EPYC 7B13": "model name\t: AMD EPYC 7B13\nmodel\t\t: 1\n",
    "BCM2711": "CPU part\t: 0xd08\nHardware\t: BCM2711\n",
}


@pytest.mark.parametrize("name", CPUINFO)
def test_processor_is_named_without_a_device_tree(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"/proc/cpuinfo": CPUINFO[name]}
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(path, ""))
    assert machine.processor() == name


def test_device_tree_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/device-tree/model": "ODROID-N2\0", "/proc/cpuinfo": "Hardware: x\n"}
    monkeypatch.setattr(machine, "_text", lambda path: texts.get(path, ""))
    assert machine.processor() == "ODROID-N2"


def test_hybrid_processors_get_their_fast_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an RK3399 the last two are the large ones, of an Intel hybrid the first eight."""
    folder = "/sys/devices/system/cpu/cpu"
    capacities = {f"{folder}{core}/cpu_capacity": "485\n" for core in range(4)}
    capacities |= {f"{folder}{core}/cpu_capacity": "1024\n" for core in (4, 5)}
    monkeypatch.setattr(machine, "_text", lambda path: capacities.get(path, ""))
    assert machine.fast_cores(list(range(6)), 2) == [4, 5]
    assert machine.fast_cores([0, 1, 4], 1) == [4]
    hertz = {f"{folder}{core}/cpufreq/cpuinfo_max_freq": "5100000" for core in range(8)}
    hertz |= {f"{folder}{core}/cpufreq/cpuinfo_max_freq": "3900000" for core in range(8, 16)}
    monkeypatch.setattr(machine, "_text", lambda path: hertz.get(path, ""))
    assert machine.fast_cores(list(range(16)), 2) == [6, 7]
    monkeypatch.setattr(machine, "_text", lambda path: "")
    assert machine.fast_cores([0, 1, 2, 3], 2) == [2, 3]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Linux-6.6.20+rpt-rpi-2712-aarch64", "Linux-6.12.1+rpt-rpi-2712-aarch64", True),
        ("macOS-14.5-arm64", "macOS-14.6-arm64", True),
        ("macOS-14.5-arm64", "macOS-15.0-arm64", False),
        ("Windows-10-10.0.19045", "Windows-11-10.0.22631", False),
    ],
)
def test_only_the_major_version_of_a_system_counts(one: str, other: str, same: bool) -> None:
    assert (os_major(one) == os_major(other)) is same


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle whose files are any text, with its programs."""
    folder = tmp_path / "bundle"
    (folder / "files").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for role in ("empty", "operation", "operation"):
        file = folder / "files" / f"{len(entries)}.tflite"
        file.write_text(role)
        entries.append(
            {
                "digest": str(len(entries)),
                "role": role,
                "label": role,
                "file": f"files/{file.name}",
                "sha256": sha256(file),
            }
        )
    plan = {
        "format": FORMAT,
        "id": "1",
        "device": {"name": "board", "kind": "litert-board", "threads": 1},
        "space": "x",
        "resolution": "32x32/10",
        "copies": 3,
        "check": {"nets": 0, "seed": 0},
        "tools": {},
        "files": entries,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / board.RUNNER).mkdir()
    for name, text in board.programs().items():
        (folder / name).write_text(text)
    return folder


def run_py(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(bundle / "run.py"), *arguments], capture_output=True, text=True
    )


def test_run_py_that_runs_nothing_fails_with_the_reason(
    runtimes: Callable[..., None], bundle: Path
) -> None:
    runtimes("", BROKEN, BROKEN)
    done = run_py(bundle)
    assert done.returncode == 1 and "numpy.core.multiarray" in done.stderr
    assert "take this folder home" not in done.stdout
    assert not (bundle / "results.jsonl").exists()


def test_run_py_measures_and_tries_again_what_failed(
    runtimes: Callable[..., None], bundle: Path
) -> None:
    picky = WELL.replace(
        "num_threads): pass",
        "num_threads):\n        if path.endswith('2.tflite'): raise ValueError('no such operator')",
    )
    runtimes("", picky, "")
    first = run_py(bundle)
    assert first.returncode == 0 and "2 measured now, 0 before, 1 cannot run" in first.stdout
    again = run_py(bundle)
    assert "0 measured now, 2 before, 1 cannot run" in again.stdout
    runtimes("", WELL, "")
    mended = run_py(bundle)
    assert "1 measured now, 2 before, 0 cannot run" in mended.stdout
    results = [json.loads(line) for line in (bundle / "results.jsonl").read_text().splitlines()]
    assert "timing" in [each for each in results if each.get("digest") == "2"][-1]


def test_killed_timer_costs_nothing(
    runtimes: Callable[..., None], bundle: Path, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    killed = WELL.replace(
        "num_threads): pass",
        "num_threads):\n        import os\n        if path.endswith('1.tflite') and not"
        f" os.path.exists({str(once)!r}):\n            open({str(once)!r}, 'w').close();"
        f" os.kill(os.getpid(), {int(signal.SIGKILL)})",
    )
    runtimes("", killed, "")
    done = run_py(bundle)
    assert once.exists() and done.returncode == 0
    assert "3 measured now, 0 before, 0 cannot run" in done.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"device": {"name": "../../../escaped", "kind": "litert-board"}},
        {"device": {"name": 3, "kind": "litert-board"}},
        {"file": "../../secret"},
        {"file": ".."},
        {"file": "/etc/passwd"},
        {"file": "files/../../x"},
        {"file": "C:\\x"},
    ],
)
def test_plan_that_leads_elsewhere_is_refused(bundle: Path, change: dict[str, Any]) -> None:
    plan = json.loads((bundle / "plan.json").read_text())
    if "file" in change:
        plan["files"][0] |= change
    else:
        plan |= change
    (bundle / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(BundleError, match=r"plan\.json: .*Fix: write the bundle again"):
        read_plan(bundle)


def test_links_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear to me")
    plan = read_plan(bundle)
    for name in (".lock", "results.jsonl"):
        (bundle / name).symlink_to(victim)
        with pytest.raises(BundleError, match="is a link"):
            Results(bundle, plan, {})
        (bundle / name).unlink()
    file = bundle / plan["files"][0]["file"]
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(BundleError, match="is not a file of this bundle"):
        check_file(bundle, plan["files"][0])
    assert victim.read_text() == "dear to me" and os.path.getsize(victim) == 10


def test_finders_files_do_not_count(tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data" / "model").write_text("model")
    before = sha256(package)
    for name in (".DS_Store", "._model", "Data/.DS_Store"):
        (package / name).write_bytes(b"\0\1")
    assert sha256(package) == before
    (package / "Data" / "model").write_text("mode")
    assert sha256(package) != before


def test_runtime_whose_process_is_ended_once_is_kept(
    runtimes: Callable[..., None], timer: Timer, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    killed = WELL.replace(
        "num_threads): pass",
        f"num_threads):\n        import os\n        if not os.path.exists({str(once)!r}):\n"
        f"            open({str(once)!r}, 'w').close(); os.kill(os.getpid(), {int(signal.SIGKILL)})",
    )
    runtimes("", killed, WELL)
    timer.choose(tmp_path / "empty.tflite")
    plan = {"device": {"name": "board", "kind": "litert-board"}, "tools": {}}
    assert once.exists() and timer.describe(plan)["runtime"] == "LiteRT Interpreter"
