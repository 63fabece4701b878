"""Builds a folder with one file of every format that a user hands to nas, by its own commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fbnet_records import BOTTLENECK, EMBEDDING

SPACE = """\
format: nas-space-1
name: small
resolution: [32, 32]
attention: network_suffix
recipe: EfficientFormer
stages:
- entry: {kind: conv_stem, activation: relu}
  width: [8, 16]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [16]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [16]
  depth: {min: 1, max: 1}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [16, 24]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
  global: {kind: mb3d, heads: 2, key_dim: 4, value_ratio: 2, expansion: 2}
head: {kind: token_head, classes: 10, distillation: false}
published:
  small_s: {widths: [8, 16, 16, 16], depths: [1, 1, 1, 1], attention: [0, 0, 0, 1]}
"""
TEXTS = {
    "search_spaces/small.yaml": SPACE,
    "options.yaml": 'device: toy\nresolution: "32"\n',
    "mine.csv": (
        "kind,hyperparameters,input,median_ms,p10_ms,p90_ms,runs,date\n"
        "mb4d,expansion=2,16x8x8,0.5,0.4,0.6,10,2026-01-01\n"
        "mb4d,expansion=2,24x8x8,0.7,0.6,0.8,10,2026-01-01\n"
    ),
    "times.csv": (
        "network,latency_ms,resolution\n"
        "efficientformer_l1,1.5,\nefficientformer_l3,2.8,\nefficientformer_l7,6.5,224\n"
    ),
    "pixel.yaml": (
        "expanded_conv-input:14x14x96-output:14x14x96-expand:6-kernel:5-stride:1-idskip:1:"
        " {count: 100, mean: 2.0, var: 0.01}\n"
        "expanded_conv-input:28x28x40-output:14x14x80-expand:4-kernel:3-stride:2-idskip:0:"
        " {count: 100, mean: 3.0, var: 0.01}\n"
    ),
}
IMAGES = 30
DATA = ("--data", "digits")
SEARCH = ("search", "--space", "./search_spaces/small.yaml", "--device", "toy")
COMMANDS = (
    (
        *("train", "--space", "./search_spaces/small.yaml", *DATA, "--limit", "200"),
        *("--epochs", "1", "--batch", "32", "--held-out", "60", "--score-images", "60"),
        *("--score-widths", "1", "--out", "supernet"),
    ),
    (*SEARCH, "--supernet", "supernet", "--out", "run"),
    (
        *SEARCH,
        "--engine",
        "nsga2",
        "--trials",
        "8",
        "--storage",
        "sqlite:///study.db",
        "--study",
        "s1",
    ),
    (
        *(*SEARCH, "--engine", "slimming", "--score-by", "evaluate", "--supernet", "supernet"),
        *(*DATA, "--evaluate-images", "60", "--out", "run3"),
    ),
    ("finetune", "run", *DATA, "--limit", "100", "--batch", "32", "--epochs", "1"),
    ("export", "run", "--to", "config,torch,onnx,litert", "--out", "exports"),
)


def build(folder: Path) -> Path:
    """Fill a new folder and return it."""
    from run import called

    before = Path.cwd()
    os.chdir(folder)
    try:
        for name, text in TEXTS.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text, encoding="utf-8")
        _table()
        for words in COMMANDS:
            code, out, err, _ = called(words)
            assert code == 0, f"nas {' '.join(words)}: {err or out}"
        shutil.copy("run/architecture.yaml", "net.yaml")
        shutil.copy("run/finetune/weights.safetensors", "w.safetensors")
        _checkpoint()
        _data()
        _write_lines("lut.json", [EMBEDDING, *BOTTLENECK])
        _bundle()
        _journal()
    finally:
        os.chdir(before)
    return folder


def _table() -> None:
    from nas.latency import DeviceInfo, Row
    from nas.latency.rows import write_unsupported
    from nas.latency.table import make_table
    from nas.space import load_space
    from nas.space.operations import space_operations

    rows = []
    for operation in space_operations(load_space("./search_spaces/small.yaml")):
        ms = 0.01 + operation.macs / 1e9 + operation.params / 1e7
        rows.append(
            Row(*operation.key, str(operation.output), ms, ms, ms, 0, "estimated", "2026-01-31")
        )
    words = (
        "toy",
        "toy",
        "no chip",
        "no OS",
        "none",
        "0",
        "none",
        "fp32",
        "estimated",
        "2026-01-31",
    )
    make_table(DeviceInfo(*words, intercept_ms=0.1), rows).save(Path("latency_tables/toy"))
    failed = {("mb4d", "expansion=2;pool=3;activation=gelu", "40x8x8"): "no kernel"}
    write_unsupported(Path("latency_tables/toy"), failed)


def _checkpoint() -> None:
    import torch

    import nas

    network = nas.build(nas.load_architecture("net.yaml"))
    torch.save(network.state_dict(), "weights.pth")


def _data() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = []
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        for folder in ("photos", "lines"):
            Path(folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(f"{folder}/{number}.png")
        pictures.append(Path(f"photos/{number}.png").read_bytes())
    labels = ["ab"[number % 2] for number in range(IMAGES)]
    rows = [f"{number}.png,{label},train\n" for number, label in enumerate(labels)]
    Path("photos/metadata.csv").write_text("file_name,label,split\n" + "".join(rows))
    entries = [
        {"file_name": f"{number}.png", "label": label} for number, label in enumerate(labels)
    ]
    _write_lines("lines/metadata.jsonl", entries)
    pq.write_table(pa.table({"image": pictures, "label": labels}), "rows.parquet")


def _bundle() -> None:
    """Write the plan of a bundle and its results, without the converted files, which no reader of
    results looks at."""
    import nas
    from nas.latency.bundle.write import _items
    from nas.latency.network_times import resolution_id

    space = nas.load_space("./search_spaces/small.yaml")
    files = [
        {
            "digest": item.chain.digest(),
            "role": item.role,
            "label": item.label,
            "file": f"files/{number}.tflite",
            "sha256": "0" * 64,
        }
        for number, item in enumerate(_items(space, 9, 2, 0))
    ]
    Path("bundle").mkdir()
    plan = {
        "format": "nas-bundle-1",
        "id": "0" * 32,
        "device": {"name": "board", "kind": "litert-board", "description": "a board", "threads": 1},
        "space": "search_spaces/small.yaml",
        "resolution": resolution_id(space),
        "copies": 9,
        "check": {"nets": 2, "seed": 0},
        "tools": {"nas": "0"},
        "files": files,
    }
    Path("bundle/plan.json").write_text(json.dumps(plan, indent=1))
    device = {
        **{"name": "board", "kind": "litert-board", "soc": "A1", "os": "Linux 6.1"},
        **{"runtime": "LiteRT", "runtime_version": "2.0", "compute_unit": "cpu"},
        **{"precision": "float32", "provenance": "measured", "date": "2026-01-31", "threads": 1},
    }
    lines = [{"format": "nas-bundle-results-1", "bundle": plan["id"], "device": device}]
    for number, entry in enumerate(files):
        ms = {"empty": 0.01, "operation": 0.05 + 0.001 * number}.get(
            str(entry["role"]), 1 + 0.01 * number
        )
        timing = {
            "median_ms": ms,
            "p10_ms": 0.98 * ms,
            "p90_ms": 1.03 * ms,
            "runs": 50,
            "notes": [],
        }
        lines.append({"digest": entry["digest"], "timing": timing})
    _write_lines("bundle/results.jsonl", lines)


def _journal() -> None:
    """Leave the journal of a profile that was interrupted."""
    import nas
    from nas.latency.profile.run import profile
    from nas.testing.devices import FakeDevice

    device = FakeDevice()
    device.stop_after = 30
    with contextlib.suppress(KeyboardInterrupt), contextlib.redirect_stderr(io.StringIO()):
        profile(nas.load_space("./search_spaces/small.yaml"), device, Path("latency_tables/host"))


def _write_lines(path: str, entries: Sequence[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
