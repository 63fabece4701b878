"""`nas check RUN`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nas.network import build
from nas.space import load_architecture
from nas.testing.fake_device import FakeDevice


@pytest.fixture
def run(nas, workplace, monkeypatch):
    """The folder of a search for a device that is profiled, and the devices that the commands open."""
    monkeypatch.setattr("nas.devices.host.Host", lambda threads: FakeDevice(threads))
    assert nas("profile", "--space", "small", "--device", "host")[0] == 0
    code, _, err = nas("search", "--space", "small", "--device", "host", "--out", "runs/one", "--json")
    assert code == 0, err
    return Path("runs/one")


def inherit(run: Path, name: str = "weights.safetensors") -> None:
    torch.manual_seed(0)
    arch = load_architecture(run / "architecture.yaml")
    (run / name).parent.mkdir(exist_ok=True)
    save_file(build(arch).state_dict(), run / name, {"format": "nas-weights-1", "architecture": arch.name})


def test_a_run_is_measured_and_keeps_what_was_found(nas, run):
    inherit(run)
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert code == 0, err
    document = json.loads(out)
    file = yaml.safe_load((run / "check-host.yaml").read_text())
    assert file.items() <= document.items() and file["format"] == "nas-run-check-1"
    assert document["weights"] == "runs/one/weights.safetensors" and document["run"] == "runs/one"
    assert abs(document["error_percent"]) < 3 and document["file"] == "runs/one/check-host.yaml"
    assert document["next"] == "nas report runs/one" and err.splitlines()[-1] == "next: nas report runs/one"


def test_the_text_names_the_error_and_every_operation(nas, run):
    code, out, err = nas("check", "runs/one", "--device", "host")
    assert code == 0 and "has no weights; random ones" in err
    arch = load_architecture(run / "architecture.yaml")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(arch.operations()) + 2]] == [
        "intercept", *(operation.name for operation in arch.operations())
    ]  # fmt: skip
    assert "an error of" in out and "measured" in out and "kept in  runs/one/check-host.yaml" in out


def test_fine_tuned_weights_come_first(nas, run):
    inherit(run)
    inherit(run, "finetune/weights.safetensors")
    document = json.loads(nas("check", "runs/one", "--device", "host", "--json")[1])
    assert document["weights"] == "runs/one/finetune/weights.safetensors"


def test_an_architecture_file_is_measured_and_nothing_written(nas, run):
    before = set(run.iterdir())
    code, out, _ = nas("check", "runs/one/architecture.yaml", "--device", "host", "--json")
    document = json.loads(out)
    assert code == 0 and document["run"] is None and document["file"] is None
    assert document["next"] == "nas export runs/one/architecture.yaml --to litert"
    assert set(run.iterdir()) == before


@pytest.mark.parametrize(("arguments", "reason"), [
    (["runs/one", "--nets", "5"], "--nets: is for random networks; runs/one is measured as it is"),
    (["runs/one", "--resolution", "96"], "--resolution: is for random networks"),
    (["runs/two"], "runs/two: there is no such run folder or architecture file"),
    (["runs"], "runs: no run here"),
    (["latency_tables/host/device.yaml"], "this is no architecture file"),
])  # fmt: skip
def test_what_cannot_be_checked_gets_one_line(nas, run, arguments, reason):
    code, out, err = nas("check", *arguments, "--device", "host")
    assert code == 2 and out == "" and err.count("\n") == 1 and reason in err


def test_a_table_that_lacks_the_network_names_the_command_with_its_size(nas, run, workplace):
    workplace.space.published["small_s"].at(96).save("large.yaml")
    code, _, err = nas("check", "large.yaml", "--device", "host")
    assert code == 2 and "nas profile --space small --device host --resolution 96" in err
