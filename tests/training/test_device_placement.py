"""Training and scoring on a device that refuses operands on the CPU, as a GPU does (`fake_device`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.utils import backend_registration

import nas
from nas.space import Space, space_names

# torch has Python devices for tests of its own; the function is not in every version.
MISSING = not hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING, reason="torch has no Python devices")]

PROGRAM = Path(__file__).with_name("placement_program.py")
FILES = (
    "finetuned/state.safetensors",
    "finetuned/weights.safetensors",
    "one/state.safetensors",
    "one/supernet.safetensors",
    "soft/state.safetensors",
    "sandwich/state.safetensors",
)


def results(device: str, folder: Path) -> dict[str, Any]:
    out = folder / device
    out.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder),
        "PYTHONPATH": str(Path(nas.__file__).parents[1]),
    }
    command = [sys.executable, str(PROGRAM), device, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_tensor_is_moved_and_numbers_are_those_of_the_cpu(
    choices_space: Callable[..., Space], tmp_path: Path
) -> None:
    """Fine-tuning with a teacher, supernets by every way of sampling, resumed, evaluated, scored."""
    Path(choices_space("stage_suffix").path).replace(tmp_path / "space.yaml")
    fake, cpu = (results(device, tmp_path) for device in ("fake", "cpu"))
    for name in FILES:
        ours, theirs = (load_file(tmp_path / device / name) for device in ("fake", "cpu"))
        assert ours.keys() == theirs.keys()
        far = {
            key: difference
            for key in ours
            if (difference := float((ours[key].double() - theirs[key].double()).abs().max())) > 2e-5
        }
        assert far == {}, name
    losses = [[loss for loss, _ in each["scores"]] for each in (fake, cpu)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == 6
    # A host waits once in a forward pass: for the weights of all positions.
    assert len(fake["waits"]) == 2 * len(space_names())
    assert {name: count for name, count in fake["waits"].items() if sum(count.values()) != 1} == {}


def test_the_fake_device_refuses_operands_of_the_cpu(tmp_path: Path) -> None:
    """In a process of its own: torch keeps a device for ever."""
    script = """\
import torch, fake_device
fake_device.install()
x = torch.ones(3, device="fake")
refused = 0
for operation in (
    lambda: x + torch.ones(3),
    lambda: torch.nn.Linear(3, 2)(x),
    lambda: x.gather(0, torch.tensor([1])),
    lambda: torch.cat([x, torch.ones(1)]),
    lambda: torch._foreach_add_([x], [torch.tensor(1.0)]),
):
    try:
        operation()
    except fake_device.MixedDevices:
        refused += 1
x[torch.tensor([0])], x * torch.tensor(2.0), x.copy_(torch.ones(3)), x.to("cpu")  # as on a GPU
print(refused, (x + x).tolist(), dict(fake_device.transfers))
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "5 [2.0, 2.0, 2.0] {'to device': 1, 'to host': 2}", done.stderr
