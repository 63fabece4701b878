"""A bundle of a small space through real environments: written by nas, run where there is no nas,
brought home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import venv
from pathlib import Path

import pytest
from filelock import FileLock

from nas.devices.board.runner import measuring
from nas.devices.board.runner.plan import sha256
from nas.latency.bundle import merge_bundle, run_bundle, write_bundle
from nas.space import Space

ENVIRONMENTS = {
    "tflite-runtime": ["tflite-runtime==2.14.0", "numpy<2"],
    "ai-edge-litert": ["ai-edge-litert", "numpy"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tiny_space: Space, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that all workers copy: whoever comes first writes it, for forty seconds."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    ready = shared / "board-bundle"
    with FileLock(shared / "board-bundle.lock"):
        if not ready.exists():
            folder = tmp_path_factory.mktemp("bundle") / "bundle"
            assert not write_bundle(tiny_space, "board", folder).failed
            shortened(
                folder / "runner" / "timer.py",
                {"ROUND_S = 0.1": "ROUND_S = 0.03", "LOADS = 3": "LOADS = 1"},
            )
            shortened(
                folder / "runner" / "measuring.py",
                {"PAUSES_S = (5.0, 15.0, 30.0)": "PAUSES_S = (0.1,)"},
            )
            folder.rename(ready)
    return ready


def shortened(script: Path, values: dict[str, str]) -> None:
    """Short runs: this is about what is done with times, not about the times."""
    text = script.read_text()
    for shipped, short in values.items():
        assert shipped in text, f"{script.name} says {shipped} no longer"
        text = text.replace(shipped, short)
    script.write_text(text)


def copied(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "carried"))


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def board(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The name of a runtime, and a Python that has it and numpy and nothing of ours."""
    folder = tmp_path_factory.mktemp("board")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[request.param]]
    result = subprocess.run(install, capture_output=True, text=True)
    absent = "No matching distribution" in result.stderr or "connection" in result.stderr.lower()
    if result.returncode and absent and not os.environ.get("CI"):  # there both have to be tried
        pytest.skip(
            f"pip finds no {request.param} for this Python and machine:"
            f" {result.stderr.strip()[-200:]}"
        )
    assert result.returncode == 0, result.stderr
    return request.param, python


def run(python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """As on a board: nothing of this environment is seen there."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, folder / "run.py"], capture_output=True, text=True, env=bare, cwd="/", timeout=600
    )


def test_bundle_runs_without_nas(board: tuple[str, Path], bundle: Path, tmp_path: Path) -> None:
    runtime, python = board
    folder = copied(bundle, tmp_path)
    result = run(python, folder)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert "0 cannot run" in result.stdout and "nas profile --merge" in result.stdout
    table, report, _ = merge_bundle(folder, tmp_path / "table")
    assert not report.failed and not report.missing and table.device.calibration.nets >= 2
    assert (
        runtime in " ".join(table.device.tools)
        and table.device.runtime_version
        and table.device.threads == 1
    )
    assert all(row.p10_ms <= row.median_ms <= row.p90_ms for row in table.rows.values())


def test_killed_run_goes_on_and_a_broken_file_is_one_failure(
    board: tuple[str, Path], bundle: Path, tmp_path: Path
) -> None:
    _, python = board
    folder = copied(bundle, tmp_path)
    process = subprocess.Popen(
        [python, folder / "run.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    results = folder / "results.jsonl"
    deadline = time.monotonic() + 120
    while not (results.exists() and results.read_bytes().count(b"\n") > 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sum(
        b'"digest"' in line for line in results.read_bytes().splitlines() if b'"timing"' in line
    )
    plan = json.loads((folder / "plan.json").read_text())
    last = plan["files"][-1]
    (folder / last["file"]).write_bytes(b"no model")
    last["sha256"] = sha256(folder / last["file"])
    (folder / "plan.json").write_text(json.dumps(plan))
    result = run(python, folder)
    assert result.returncode == 0, result.stderr
    assert f"{done} before, 1 cannot run" in result.stdout, (
        "the half line of the kill at most is measured again"
    )


def test_nas_runs_it_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PAUSES_S", (0.1,))
    folder = copied(bundle, tmp_path)
    counts = run_bundle(folder)
    assert counts["failed"] == 0 and counts["measured"] == counts["files"]
    table, _, _ = merge_bundle(folder, tmp_path / "table")
    assert table.device.runtime == "LiteRT CompiledModel"


def test_without_a_runtime_one_line_says_what_to_install(bundle: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    result = run(tmp_path / "bare" / "bin" / "python", copied(bundle, tmp_path))
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "no runtime for .tflite files runs the empty file here" in result.stderr
    assert "No module named 'numpy'" in result.stderr
    assert "pip install ai-edge-litert numpy" in result.stderr
    assert not (tmp_path / "carried" / "results.jsonl").exists()


def test_files_of_the_bundle_are_python_3_8(bundle: Path) -> None:
    import ast

    programs = [bundle / "run.py", *(bundle / "runner").glob("*.py")]
    assert len(programs) > 5
    for program in programs:
        ast.parse(program.read_text(), feature_version=(3, 8))
