"""Segmentation from the command line: train, search and fine-tune on scenes of digits."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nas.blocks import FPNHead
from nas.files import YamlFile
from nas.space import load_architecture

DATA = "--data digit-scenes --limit 240"
SIZE = "--space efficientformer_small --resolution 64"


def run(folder: Path, command: str, code: int = 0) -> str:
    """Return the output of a command: stdout where it succeeds, else stderr."""
    result = subprocess.run(
        [sys.executable, "-m", "nas", *shlex.split(command)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "120"},
        timeout=600,
        check=False,
    )
    assert result.returncode == code, result.stderr[-2000:]
    return result.stdout if code == 0 else result.stderr


def document(folder: Path, command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(folder, f"{command} --json"))
    return found


@pytest.mark.slow(seconds=120)
def test_train_search_and_finetune_on_scenes_of_digits(tmp_path: Path) -> None:
    head = "--segment --head-width 16,32 --head-depth 1,2"
    trained = document(
        tmp_path,
        f"train {SIZE} {DATA} {head} --epochs 4 --learning-rate 3e-3 --score-widths 2"
        " --score-images 12 --out super",
    )
    assert trained["metric"] == "miou" and trained["classes"] == 11
    assert 0 <= trained["baseline_accuracy"] <= 100
    heads = YamlFile(tmp_path / "super/supernet.yaml").data["head"]
    assert [(each["width"], each["depth"]) for each in heads] == [
        (16, 1),
        (16, 2),
        (32, 1),
        (32, 2),
    ]

    found = document(
        tmp_path,
        "search --space efficientformer_small --device iphone12 --supernet super --out run",
    )
    assert found["accuracy"]["metric"] == "miou" and "miou" in found["accuracy"]
    (chosen,) = (row for row in found["heads"] if row["chosen"])
    kept = FPNHead(11, width=chosen["width"], depth=chosen["depth"])
    assert load_architecture(tmp_path / "run").head == kept
    refused = run(
        tmp_path,
        "search --space efficientformer_small --device iphone12 --supernet super --segment 11",
        code=2,
    )
    assert "--segment 11: the supernet has a head of its own" in refused

    tuned = document(tmp_path, f"finetune run {DATA} --epochs 8 --learning-rate 3e-3")
    accuracy = tuned["accuracy"]
    figure = accuracy["test"][accuracy["weights"]]
    assert accuracy["metric"] == "miou" and figure["standard_error"] > 0
    assert set(figure["by_class"]) == {"background", *"0123456789"}
    # All background would have 7.
    assert figure["accuracy"] > accuracy["held_out"]["start"]["accuracy"] - 5
    assert figure["accuracy"] > 8.5
    exported = document(tmp_path, f"export run {DATA} --to onnx --output labels")
    files = exported["targets"]["onnx"]
    assert files["differences"]["real"]["top1_agreement"] > 99
    assert files["accuracy"]["metric"] == "miou"
    assert files["accuracy"]["before"] == pytest.approx(figure["accuracy"], abs=0.1)
    assert files["accuracy"]["after"] == pytest.approx(figure["accuracy"], abs=0.5)
    run(tmp_path, "report run")
    page = (tmp_path / "run/report.html").read_text()
    assert "IoU of each class" in page and page.count("data:image/png;base64,") == 4
    # Evidence of another metric is refused where it would be mixed with top-1.
    refused = run(
        tmp_path,
        "search --space efficientformer_small --device iphone12 --resolution 64 --evidence run",
        code=2,
    )
    assert "metric" in refused and refused.count("\n") == 1


@pytest.mark.slow(seconds=60)
def test_a_classifier_becomes_a_segmentation_network(tmp_path: Path) -> None:
    """All of its weights are kept but the head; classes come from the data."""
    import torch
    from safetensors.torch import load_file

    import nas

    space = nas.load_space("efficientformer_small")
    space.sample(seed=0).save(tmp_path / "a.yaml")
    run(tmp_path, "finetune a.yaml --data digits --limit 60 --epochs 1 --from-scratch --out digits")
    tuned = document(
        tmp_path,
        f"finetune a.yaml --init digits/weights.safetensors --segment {DATA} --resolution 64"
        " --head-depth 2 --epochs 1 --learning-rate 1e-9 --ema 0 --out scenes",
    )
    assert tuned["accuracy"]["metric"] == "miou"
    assert load_architecture(tmp_path / "scenes").head == FPNHead(11, depth=2)
    before = load_file(tmp_path / "digits/weights.safetensors")
    after = load_file(tmp_path / "scenes/weights.safetensors")
    kept = [
        name
        for name, tensor in after.items()
        if not name.startswith("head.")
        and before[name].shape == tensor.shape
        # Batch norms are recalibrated on the new images.
        and "running" not in name
        and "num_batches" not in name
    ]
    assert len(kept) > 50
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in kept)
    refused = run(tmp_path, f"finetune a.yaml --from-scratch --segment {DATA} --mixup 0.5", code=2)
    assert "--mixup 0.5: has no effect on segmentation" in refused
