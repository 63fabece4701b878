"""`nas check RUN`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from nas.devices import Chain
from nas.network import build
from nas.space import load_architecture
from nas.testing.devices import FakeDevice


@pytest.fixture
def run(nas, workplace, monkeypatch):
    """The folder of a search for a device that is profiled, and the devices that the commands open."""
    monkeypatch.setattr("nas.devices.host.device.Host", lambda threads: FakeDevice(threads))
    assert nas("profile", "--space", "small", "--device", "host")[0] == 0
    code, _, err = nas(
        "search", "--space", "small", "--device", "host", "--out", "runs/one", "--json"
    )
    assert code == 0, err
    return Path("runs/one")


def inherit(run: Path, name: str = "weights.safetensors") -> None:
    torch.manual_seed(0)
    arch = load_architecture(run / "architecture.yaml")
    (run / name).parent.mkdir(exist_ok=True)
    save_file(
        build(arch).state_dict(), run / name, {"format": "nas-weights-1", "architecture": arch.name}
    )


def test_a_run_is_measured_and_keeps_what_was_found(nas, run):
    inherit(run)
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert code == 0, err
    document = json.loads(out)
    file = yaml.safe_load((run / "check-host.yaml").read_text())
    assert file.items() <= document.items() and file["format"] == "nas-run-check-1"
    assert document["weights"] == "runs/one/weights.safetensors" and document["run"] == "runs/one"
    assert abs(document["error_percent"]) < 3 and document["file"] == "runs/one/check-host.yaml"
    assert (
        document["next"] == "nas report runs/one"
        and err.splitlines()[-1] == "next: nas report runs/one"
    )


def test_the_text_names_the_error_and_every_operation(nas, run):
    code, out, err = nas("check", "runs/one", "--device", "host")
    assert code == 0 and "has no weights; random ones" in err
    arch = load_architecture(run / "architecture.yaml")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(arch.operations()) + 2]] == [
        "intercept",
        *(operation.name for operation in arch.operations()),
    ]
    assert "an error of" in out and "measured" in out and "saved in runs/one/check-host.yaml" in out


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


def test_the_published_member_is_measured_beside_it(nas, run, workplace):
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert code == 0, err
    document = json.loads(out)
    file = yaml.safe_load((run / "check-host.yaml").read_text())
    assert set(file["rival"]) == {
        "name",
        "reason",
        "predicted_ms",
        "measured_ms",
        "error_percent",
        "failure",
    }
    assert file["rival"]["name"] == "small_s" and "within" in file["rival"]["reason"]
    assert document["ratio"] == pytest.approx(
        file["measured_ms"] / file["rival"]["measured_ms"], abs=1e-3
    )
    assert document["predicted_ratio"] == pytest.approx(
        file["predicted_ms"] / file["rival"]["predicted_ms"], abs=1e-3
    )
    text = nas("check", "runs/one", "--device", "host")[1]
    line = (
        f"found takes {file['ratio']:.2f} of the latency of small_s, predicted"
        f" {file['predicted_ratio']:.2f}"
    )
    assert line in text.splitlines()
    assert (
        sum(line.startswith("small_s (") and "measured" in line for line in text.splitlines()) == 1
    )


def test_the_rival_has_the_runs_size_and_classes(nas, workplace, monkeypatch):
    devices = []
    monkeypatch.setattr(
        "nas.devices.host.device.Host",
        lambda threads: devices.append(FakeDevice(threads)) or devices[-1],
    )
    sizes = ["--resolution", "96", "--classes", "3"]
    assert nas("profile", "--space", "small", "--device", "host", *sizes)[0] == 0
    assert (
        nas("search", "--space", "small", "--device", "host", "--out", "runs/one", *sizes)[0] == 0
    )
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert code == 0, err
    rival = workplace.space.at(96, 3).published[json.loads(out)["rival"]["name"]]
    assert Chain.network(rival.operations()) in devices[-1].measured


@pytest.mark.parametrize("without", ["--no-rival", "no published members", "no run.yaml"])
def test_without_a_rival_the_network_stands_alone(nas, run, workplace, without):
    options = ["--no-rival"] if without == "--no-rival" else []
    if without == "no published members":
        space = workplace.space_file
        space.write_text(space.read_text().partition("published:")[0])
        assert nas("search", "--space", "small", "--device", "host", "--out", "runs/two")[0] == 0
        run = Path("runs/two")
    elif without == "no run.yaml":
        (run / "run.yaml").unlink()
    code, out, err = nas("check", str(run), "--device", "host", *options, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["rival"], document["ratio"], document["predicted_ratio"]) == (None, None, None)
    assert "published member" not in err
    assert "takes" not in nas("check", str(run), "--device", "host", *options)[1]


def test_what_changed_since_the_search_leaves_the_rival_out_and_says_so(nas, run, workplace):
    workplace.space_file.write_text(workplace.space_file.read_text() + "# changed\n")
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert code == 0 and json.loads(out)["rival"] is None
    assert (
        "note: no published member is measured for comparison: the space" in err
        and "has changed since" in err
    )


def test_a_found_network_that_is_published_has_no_rival(nas, run, workplace):
    workplace.space.published["small_s"].save(run / "architecture.yaml")
    code, out, err = nas("check", "runs/one", "--device", "host", "--json")
    assert (
        code == 0
        and json.loads(out)["rival"] is None
        and "the found network is small_s itself" in err
    )


def test_a_rival_that_does_not_run_fails_nothing(nas, run, workplace, monkeypatch):
    wrong = Chain.network(workplace.space.published["small_s"].operations())

    def host(threads):
        device = FakeDevice(threads)
        device.fails = lambda chain: chain == wrong
        return device

    monkeypatch.setattr("nas.devices.host.device.Host", host)
    code, out, err = nas("check", "runs/one", "--device", "host")
    assert code == 0, err
    assert "could not be measured: RuntimeError: unsupported" in out and "found takes" not in out
    file = yaml.safe_load((run / "check-host.yaml").read_text())
    assert (
        file["measured_ms"] > 0 and file["rival"]["measured_ms"] is None and file["ratio"] is None
    )


def test_reports_read_checks_with_and_without_a_rival(nas, run):
    from nas.report.run import load_runs

    assert nas("check", "runs/one", "--device", "host")[0] == 0
    path = run / "check-host.yaml"
    file = yaml.safe_load(path.read_text())
    new = load_runs(run)[0].breakdown
    path.write_text(
        yaml.safe_dump(
            {k: v for k, v in file.items() if k not in ("rival", "ratio", "predicted_ratio")}
        )
    )
    old = load_runs(run)[0].breakdown
    assert new is not None and old is not None
    assert old.rival is None and new.rival is not None and new.rival.ratio == file["ratio"]
    assert replace(new, rival=None) == old and new.measured_ms == file["measured_ms"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--no-rival"], "--no-rival: has no effect here (requires RUN). Fix: leave it out"),
        (
            ["runs/one", "--nets", "5"],
            "--nets 5: has no effect here (it is for random networks; runs/one is measured",
        ),
        (
            ["runs/one", "--resolution", "96"],
            "--resolution 96: has no effect here (it is for random networks",
        ),
        (["runs/two"], "runs/two: there is no such run folder or architecture file"),
        (["runs"], "runs: is not a run folder (architecture.yaml is missing)"),
        (
            ["latency_tables/host/device.yaml"],
            "expected 'nas-architecture-1', the format of an architecture file",
        ),
    ],
)
def test_what_cannot_be_checked_gets_one_line(nas, run, arguments, reason):
    code, out, err = nas("check", *arguments, "--device", "host")
    assert code == 2 and out == "" and err.count("\n") == 1 and reason in err


def test_a_table_that_lacks_the_network_names_the_command_with_its_size(nas, run, workplace):
    workplace.space.published["small_s"].at(96).save("large.yaml")
    code, _, err = nas("check", "large.yaml", "--device", "host")
    assert code == 2 and "nas profile --space small --device host --resolution 96" in err
