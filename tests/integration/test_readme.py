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

import nas
from nas import resources

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
"""In the order in which a new user reads them."""

MADE = {
    "docs/pipeline.md": (
        "digits/run.yaml",
        "digits/trace.csv",
        "digits/architecture.yaml",
        "digits/trajectory.png",
        "digits/weights.safetensors",
        "digits/report.html",
        "digits/finetune/weights.safetensors",
        "digits/export/model.tflite",
        "digits/check-host.yaml",
    ),
    "docs/tutorial.md": (
        "found/front.csv",
        "found/finetune/finetune.yaml",
        "found/export/model-int8.tflite",
        "found/check-host.yaml",
        "found/report.html",
    ),
}
"""Files in `runs` that a page's commands make."""

SPACE = "efficientformer_small"
FEWER = (
    ("expansion: [4, 3, 2, 1.5, 1, 0.5]", "expansion: [4, 1]"),
    ("{min: 32, max: 64, step: 16}", "[32, 64]"),
    ("{min: 48, max: 96, step: 16}", "[48, 96]"),
    ("{min: 64, max: 128, step: 16}", "[64, 128]"),
    ("{min: 1, max: 4}", "{min: 1, max: 2}"),
    ("{min: 1, max: 3}", "{min: 1, max: 2}"),
)
"""The space that the pages train, and what it is cut down to here."""


def commands(file: str) -> list[str]:
    """Every line that starts with `nas ` in a shell block of a document, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith("nas ")]


SHOWING = {page: shown for page in PAGES if (shown := commands(page))}
"""The commands of every page that has some."""

MEASURING = [
    page for page, shown in SHOWING.items() if any("nas profile" in each for each in shown)
]
READ = [MEASURING, *([page] for page in SHOWING if page not in MEASURING)]
"""Pages that are read in one folder: those that measure this machine add to one table of it, which
takes the longest."""


def run(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "nas", *shlex.split(command)[1:], *more]
    # A user has all cores; the rest of the suite runs beside this test, so it takes one thread and
    # more time. What other tests converted need not be converted again.
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, env=environment, timeout=900
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with photos and fewer choices in the space of the pages.

    A table and scores take time in proportion to a space's choices. The commands, and what they
    do with a space, are the same.
    """
    take_photos(tmp_path / "photos")
    text = resources.find("space", resources.SPACES, "*.yaml", SPACE).read_text()
    for many, few in FEWER:
        assert many in text
        text = text.replace(many, few)
    (tmp_path / resources.SPACES).mkdir()
    (tmp_path / resources.SPACES / f"{SPACE}.yaml").write_text(text)
    return tmp_path


@pytest.mark.slow(seconds=400)
@pytest.mark.parametrize("pages", READ, ids=" ".join)
def test_every_command_works_in_its_order(pages: list[str], folder: Path) -> None:
    seconds = {}
    for command in dict.fromkeys(command for page in pages for command in SHOWING[page]):
        start = time.monotonic()
        result = run(command, folder)
        seconds[command] = round(time.monotonic() - start, 1)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        assert "next: nas " in result.stderr, f"{command} does not name the next command"
    print(json.dumps(seconds, indent=2))
    for file in (file for page in pages for file in MADE.get(page, ())):
        assert (folder / "runs" / file).stat().st_size > 0, file
    if "docs/pipeline.md" in pages:
        assert accuracy_on_digits(folder / "runs" / "digits") > 50, (
            "the found network keeps what its supernet learned"
        )


def test_the_pages_show_every_command() -> None:
    assert set(PAGES) == {
        "README.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    }
    assert set(MADE) <= set(SHOWING)
    listed = [command for page in SHOWING.values() for command in page]
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


def take_photos(folder: Path) -> None:
    """Three classes of pictures, of another colour each."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("bicycle", "tram", "bus")):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 120, (48, 64, 3), dtype=np.uint8)
            pixels[:, :, channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


def accuracy_on_digits(found: Path) -> float:
    """Top-1 in percent of a run's network on held-out digits, batch norms recalibrated on training
    images."""
    import torch

    from nas.data import load_data
    from nas.training.batches import normalise
    from nas.training.evaluate import recalibrate
    from nas.weights import load_state_dict

    net = nas.build(nas.load_architecture(found / "architecture.yaml"))
    net.load_state_dict(load_state_dict(found / "weights.safetensors"))
    net.eval()
    splits = load_data("digits", (32, 32))
    with torch.no_grad():
        calibration = normalise(torch.from_numpy(splits.train.images[:256].copy()))
        x = normalise(torch.from_numpy(splits.held_out.images.copy()))
        for block in net.children():
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
