"""The benchmark of a GPU runs, here on the CPU with small sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_it_prints_every_row() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--device", "cpu"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["device"] == "cpu" and result["versions"]["torch"]
    for kind in ("plain", "supernet"):
        # Two trainings on the CPU are one and the same.
        row = result["equality"][kind]
        assert row == {"loss": 0.0, "weights": 0.0, "within": True}
        settings = {
            (row["precision"], row["channels_last"])
            for row in result["training"]
            if row["kind"] == kind
        }
        assert settings == {("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False)}
    for row in result["training"]:
        assert row["images_per_second"] > 0 and 0 < row["loading_share"] < 1
    assert {row["precision"] for row in result["scoring"]} == {"fp32", "bf16"}
    assert all(row["members"] == 3 and row["images_per_second"] > 0 for row in result["scoring"])


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="torch has no Python devices",
)
def test_its_rows_run_on_a_device_that_refuses_the_cpu(tmp_path: Path) -> None:
    """All but autocast, which that device does not know."""
    script = """\
import json
import fake_device, gpu

fake_device.install()
space = gpu.load_space(gpu.TINY.space).at(gpu.TINY.resolution, gpu.CLASSES)
print(json.dumps({
    "equality": gpu.equality("fake"),
    "training": [gpu.training_row(space, kind, "fake", gpu.TINY, gpu.SETTINGS[0]) for kind in gpu.KINDS],
    "scoring": gpu.scoring_row(space, "fake", gpu.TINY, bf16=False),
}))
"""
    folders = [ROOT, ROOT / "tests", ROOT / "benchmarks"]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert all(result["equality"][kind]["within"] for kind in ("plain", "supernet"))
    assert len(result["training"]) == 2 and result["scoring"]["members"] == 3
