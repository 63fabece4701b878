"""A new user's path: the commands that the README and the pages of docs show, in their order, in an
empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/install.md",
    "docs/search.md",
    "docs/pipeline.md",
    "docs/many-gpus.md",
    "docs/data.md",
    "docs/devices.md",
    "docs/dense-prediction.md",
    "docs/detection.md",
    "docs/tutorial.md",
    "docs/extending.md",
    "docs/formats.md",
    "docs/scores-and-estimates.md",
)
"""In the order in which a new user reads them; later commands need what earlier ones made."""


def commands(file: str) -> list[str]:
    """Every line that starts with `nas ` in a shell block of a document, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith("nas ")]


def run(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "nas", *shlex.split(command)[1:], *more]
    # A user has all cores; the rest of the suite runs beside this test, so it takes one thread and
    # more time. What other tests converted need not be converted again.
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, env=environment, timeout=900
    )


@pytest.mark.slow(seconds=460)
def test_every_command_of_readme_and_tutorial_works_in_its_order(tmp_path: Path) -> None:
    take_photos(tmp_path / "photos")
    listed = [command for page in PAGES for command in commands(page)]
    assert set(PAGES) == {
        "README.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    }
    for name in (
        "spaces",
        "devices",
        "search",
        "predict",
        "profile",
        "check",
        "train",
        "finetune",
        "export",
        "report",
    ):
        assert any(line.startswith(f"nas {name}") for line in listed), (
            f"the README shows no `nas {name}`"
        )
    seconds = {}
    for command in dict.fromkeys(listed):
        start = time.monotonic()
        result = run(command, tmp_path)
        seconds[command] = round(time.monotonic() - start, 1)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        assert "next: nas " in result.stderr, f"{command} does not name the next command"
    print(json.dumps(seconds, indent=2))

    found = tmp_path / "runs" / "digits"
    for file in (
        "run.yaml",
        "trace.csv",
        "architecture.yaml",
        "trajectory.png",
        "weights.safetensors",
        "report.html",
        "finetune/weights.safetensors",
        "export/model.tflite",
        "check-host.yaml",
    ):
        assert (found / file).stat().st_size > 0
    for file in (
        "front.csv",
        "finetune/finetune.yaml",
        "export/model-int8.tflite",
        "check-host.yaml",
        "report.html",
    ):
        assert (tmp_path / "runs" / "found" / file).stat().st_size > 0

    import nas
    from nas.weights import load_state_dict

    net = nas.build(nas.load_architecture(found / "architecture.yaml"))
    net.load_state_dict(load_state_dict(found / "weights.safetensors"))
    assert accuracy_on_digits(net.eval()) > 50, "the found network keeps what its supernet learned"


def take_photos(folder: Path) -> None:
    """Three classes of pictures, of another colour each."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("bicycle", "tram", "bus")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


def accuracy_on_digits(net: object) -> float:
    """Top-1 in percent on held-out digits, batch norms recalibrated on training images."""
    import torch

    from nas.data import load_data
    from nas.training.batches import normalise
    from nas.training.evaluate import recalibrate

    splits = load_data("digits", (32, 32))
    with torch.no_grad():
        calibration = normalise(torch.from_numpy(splits.train.images[:256].copy()))
        x = normalise(torch.from_numpy(splits.held_out.images.copy()))
        for block in net.children():  # type: ignore[attr-defined]
            calibration = recalibrate(block, calibration)
            x = block(x)
    right = x.argmax(dim=1) == torch.from_numpy(splits.held_out.labels.copy())
    return 100 * float(right.double().mean())


@pytest.mark.parametrize(
    "command", ["spaces", "devices", "predict efficientformer_l1 --device iphone12"]
)
def test_json_is_the_only_thing_on_stdout(command: str, tmp_path: Path) -> None:
    result = run(f"nas {command}", tmp_path, "--json")
    assert result.returncode == 0
    json.loads(result.stdout)
