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
    (*SEARCH, "--supernet", "supernet", "--front", "--out", "run"),
    (*SEARCH, "--device", "toy2", "--out", "several"),
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
        _later_files()
        _posterior()
        _checkpoint()
        _data()
        _write_lines("lut.json", [EMBEDDING, *BOTTLENECK])
        _bundle()
        _written()
        _models()
        _carried()
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
    second = DeviceInfo("toy2", *words[1:], intercept_ms=0.2)
    make_table(second, rows).save(Path("latency_tables/toy2"))
    failed = {("mb4d", "expansion=2;pool=3;activation=gelu", "40x8x8"): "no kernel"}
    write_unsupported(Path("latency_tables/toy"), failed)


def _later_files() -> None:
    """Write what later commands add to a run, and the mark of a search that was killed."""
    from subjects import BEGUN

    import nas
    from nas.files import write_yaml

    operations = nas.load_architecture("net.yaml").operations()
    rows = [
        {"name": each.name, "kind": each.spec.kind, "predicted_ms": 0.01, "measured_ms": 0.011}
        for each in operations
    ]
    about = {"format": "nas-run-check-1", "device": "toy", "date": "2026-01-31", "operations": rows}
    times = {"measured_ms": 0.5, "predicted_ms": 0.48, "error_percent": -4.0}
    write_yaml("run/check-toy.yaml", about | times)
    Path("run/export").mkdir()
    shutil.copy("exports/export.yaml", "run/export/export.yaml")
    Path("begun").mkdir()
    write_yaml("begun/begun.yaml", {"command": "nas " + " ".join(BEGUN)})


def _posterior() -> None:
    """Write scores of the accuracy law that a supernet corrected."""
    import nas
    from nas.accuracy import RecordedScores, default_scores
    from nas.accuracy.evidence import corrected
    from nas.accuracy.law_scores import LawScores

    space = nas.load_space("./search_spaces/small.yaml")
    law, recorded = default_scores(space), nas.load_scores("supernet")
    assert isinstance(law, LawScores) and isinstance(recorded, RecordedScores)
    corrected(law, recorded).save(Path("posterior"))


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


def planned_files() -> list[dict[str, Any]]:
    """Return the entries of a bundle's plan for the space, for files that are not written."""
    import nas
    from nas.latency.bundle.write import _items

    space = nas.load_space("./search_spaces/small.yaml")
    return [
        {
            "digest": item.chain.digest(),
            "role": item.role,
            "label": item.label,
            "file": f"files/{number}.tflite",
            "sha256": "0" * 64,
        }
        for number, item in enumerate(_items(space, 9, 2, 0))
    ]


def _plan(folder: str, device: dict[str, Any], files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write the plan of a bundle into a new folder and return it."""
    import nas
    from nas.latency.network_times import resolution_id

    plan = {
        "format": "nas-bundle-1",
        "id": "0" * 32,
        "device": device,
        "space": "search_spaces/small.yaml",
        "resolution": resolution_id(nas.load_space("./search_spaces/small.yaml")),
        "copies": 9,
        "check": {"nets": 2, "seed": 0},
        "tools": {"nas": "0"},
        "files": files,
    }
    Path(folder).mkdir()
    Path(folder, "plan.json").write_text(json.dumps(plan, indent=1))
    return plan


BOARD = {"name": "board", "kind": "litert-board", "description": "a board", "threads": 1}


def _bundle() -> None:
    """Write the plan of a bundle and its results, without the converted files, which no reader of
    results looks at."""
    files = planned_files()
    plan = _plan("bundle", BOARD, files)
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


def _written() -> None:
    """Write a bundle that lacks all files but one, as a stopped command leaves it."""
    from subjects import write_again

    from nas.devices.board.runner.plan import sha256

    write_again()
    path = Path("written/plan.json")
    plan = json.loads(path.read_text())
    Path("written/files").mkdir(exist_ok=True)
    shutil.copy("exports/model.tflite", "written/files/first.tflite")
    del plan["files"][0]["failed"]
    plan["files"][0] |= {
        "file": "files/first.tflite",
        "sha256": sha256(Path("written/files/first.tflite")),
    }
    path.write_text(json.dumps(plan, indent=1))


def _models() -> None:
    """Write a bundle with real files and the results of all but the last, for `--run`."""
    from run import called

    from nas.devices.board.runner.plan import sha256

    empty = Path(__file__).parents[1] / "devices" / "empty.tflite"
    model = Path("exports/model.tflite")
    origins = {"empty": empty, "stack": model, "operation": model}
    files = [
        _entry(number, role, sha256(path)) for number, (role, path) in enumerate(origins.items())
    ]
    _plan("models", BOARD, files)
    Path("models/files").mkdir()
    for entry in files:
        shutil.copy(origins[entry["role"]], Path("models", entry["file"]))
    code, out, err, _ = called(("profile", "--run", "models"))
    assert code == 0, err or out
    # The last file is still to be measured, as after a stop.
    path = Path("models/results.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    last = files[-1]["digest"]
    kept = [line for line in lines if line.get("digest") != last and "reference_ms" not in line]
    assert len(kept) < len(lines)
    _write_lines(str(path), kept)


def _entry(number: int, role: str, digest: str = "0" * 64) -> dict[str, Any]:
    """Return the entry of a file in a plan."""
    return {
        "digest": f"{number:032x}",
        "role": role,
        "label": role,
        "file": f"files/{number}.tflite",
        "sha256": digest,
    }


PHONE = {
    **{"name": "phone", "kind": "litert-android", "description": "a phone", "soc": "A2"},
    **{"match": {"soc_model": [], "model": []}, "unit": "cpu", "threads": 1, "affinity": "f0"},
    **{"precision": "float32"},
    "tool": {"version": "2.1", "sha256": "0" * 64, "libraries": []},
}
LOG = (
    "INFO: count=851 first=90 curr=20 min=13 max=257 avg=37.74 std=5 p5=15 median=17 p95=18",
    "INFO: count={} first=43 curr=15 min=13 max=241 avg=15.55 std=5 p5={} median={} p95={}",
)
"""What benchmark_model prints of the warm-up and of the runs."""


def _carried() -> None:
    """Write the bundle of a phone that is elsewhere, with what its run.sh brings home."""
    from subjects import results as results_of

    files = [_entry(number, role) for number, role in enumerate(("empty", "operation", "stack"))]
    plan = _plan("carried", PHONE, files)
    results = Path("carried/results")
    results.mkdir()
    about = {
        **{"bundle": plan["id"], "model": "Phone 9", "chip": "A2", "android": "14"},
        **{"build": "UQ1A", "cores": "4-7", "date": "2026-01-31"},
    }
    (results / "device.txt").write_text(
        "nas-phone-1\n" + "".join(f"{key} {value}\n" for key, value in about.items())
    )
    for entry, us in zip(files, (10, 50, 400), strict=True):
        log = "".join(f"| {line}\n" for line in LOG).format(50, us - 1, us, us + 2)
        (results / f"{entry['digest']}.txt").write_text(
            f"nas-phone-result-1 {entry['digest']}\ncores 4-7\nthermal 0\nload 0\n{log}state ok\n"
        )
    # Whole, it is read; otherwise every damage would be refused for another reason.
    assert len(results_of("carried")()) == len(files)


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
