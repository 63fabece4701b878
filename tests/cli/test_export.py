"""`nas export` on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nas as library
from nas.cli.export import measurable
from nas.export.run import Exported
from nas.export.target import save_state

Nas = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(workplace: SimpleNamespace) -> Path:
    """A run's folder with the smallest member of the space and random weights for it."""
    folder: Path = workplace.folder / "run"
    folder.mkdir()
    arch = workplace.space.smallest()
    arch.save(folder / "architecture.yaml")
    torch.manual_seed(0)
    save_state(folder / "weights.safetensors", library.build(arch).state_dict(), arch, ())
    return folder


def test_the_files_and_the_document(nas: Nas, run: Path) -> None:
    code, out, err = nas("export", "run", "--to", "torch", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["run"] == "run" and document["folder"] == "run/export"
    assert document["weights"] == {"provenance": "inherited", "file": "run/weights.safetensors"}
    assert document["targets"].keys() == {"config", "torch"}
    for entry in document["targets"].values():
        assert (run / "export" / entry["file"]).stat().st_size == entry["bytes"] and not entry[
            "skipped"
        ]
    assert document["next"] == "nas check run --device host"
    assert err.rstrip().endswith("next: nas check run --device host") and "warning" not in err
    net = library.build(library.load_architecture(run / "export" / "architecture.yaml"))
    net.load_state_dict(
        library.weights.load_state_dict(run / "export" / "model.safetensors"), strict=True
    )


def test_again_skips(nas: Nas, run: Path) -> None:
    nas("export", "run", "--to", "config,torch")
    code, out, err = nas("export", "run", "--to", "config, torch", "--json")
    assert code == 0 and all(entry["skipped"] for entry in json.loads(out)["targets"].values())
    assert "torch: run/export/model.safetensors exists and is complete" in err


def test_text_says_what_there_is(nas: Nas, run: Path) -> None:
    code, out, _ = nas("export", "run", "--to", "config,torch", "--out", "elsewhere")
    assert code == 0 and "inherited weights: elsewhere" in out
    assert "architecture.yaml" in out and "model.safetensors" in out
    assert (run.parent / "elsewhere" / "export.yaml").is_file()


def test_an_architecture_file_has_random_weights_and_says_so(nas: Nas, run: Path) -> None:
    code, out, err = nas("export", "run/architecture.yaml", "--to", "torch", "--json")
    assert code == 0 and json.loads(out)["weights"] == {"provenance": "random", "file": None}
    assert "warning: run/architecture.yaml has no weights" in err
    code, out, err = nas(
        "export",
        "run/architecture.yaml",
        "--to",
        "torch",
        "--weights",
        "run/weights.safetensors",
        "--json",
    )
    assert (
        code == 0 and json.loads(out)["weights"]["provenance"] == "given" and "warning" not in err
    )


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("nowhere",), 2, "unknown architecture 'nowhere'"),
        (("run", "--to", "onnnx"), 2, "--to onnnx: unknown export target, did you mean 'onnx'?"),
        (("run", "--to", ","), 2, "--to: name at least one of config"),
        (
            ("run", "--to", "litert-int8"),
            2,
            "--to litert-int8: takes activation ranges from images. Fix: give --data",
        ),
        (
            ("run", "--weights", "none.safetensors"),
            2,
            "--weights none.safetensors: there is no such file",
        ),
        (
            ("run", "--to", "torch", "--data", "/nowhere"),
            2,
            "data /nowhere: there is no such file or folder",
        ),
        (
            ("run", "--to", "timm"),
            1,
            "--to timm: cannot express stage4_flatten, flatten() on 32x2x2: timm's",
        ),
    ],
)
def test_mistakes_get_one_line(
    nas: Nas, run: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    found, out, err = nas("export", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("nas: ")]
    assert (found, out, len(lines)) == (code, "", 1)
    assert lines[0].startswith(f"nas: {reason}")


def test_data_with_other_classes_is_refused(
    nas: Nas, run: Path, workplace: SimpleNamespace
) -> None:
    arch = workplace.space.smallest().at(32, 4)
    arch.save(run / "architecture.yaml")
    (run / "weights.safetensors").unlink()
    code, _, err = nas("export", "run", "--to", "torch", "--data", "digits")
    assert code == 2 and "nas: the data has 10 classes (expected 4, as the network)" in err


def test_a_broken_architecture_names_the_line(nas: Nas, run: Path) -> None:
    (run / "architecture.yaml").write_text("format: nas-architecture-1\nresolution: [64, 63]\n")
    code, out, err = nas("export", "run")
    assert code == 2 and out == "" and err.startswith("nas: run/architecture.yaml:2: resolution: ")


def test_the_next_command_measures_the_file_where_this_computer_has_no_table(nas: Nas) -> None:
    exported = Exported({"litert": {"file": "model.tflite"}}, {}, (), Path("a-export"))
    assert measurable("a.yaml", "host", exported) == "a-export/model.tflite"
    assert measurable("a.yaml", "iphone12", exported) == "a.yaml"
    shutil.copytree("latency_tables/toy", "latency_tables/host")
    assert measurable("a.yaml", "host", exported) == "a.yaml"
