"""Exported files and files of others on the command line: `nas predict FILE`, `nas check FILE`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.devices.base import StartUp, Timing
from nas.export import load_target
from nas.export.target import Model
from nas.network import build
from nas.testing.devices import FakeDevice


class FileDevice(FakeDevice):
    """A fake device that runs files too: each takes 4 ms."""

    def measure(self, artifact: Path) -> Timing:
        if artifact in self._chains:
            return super().measure(artifact)
        assert artifact.is_file()
        return Timing(4.0, 4.0, 4.0, runs=9)

    def start_up(self, artifact: Path) -> StartUp | None:
        return StartUp(12.0, 3.0, 40.0)


@pytest.fixture
def host(monkeypatch):
    """The device that `--device host` opens."""
    monkeypatch.setattr("nas.devices.host.device.Host", lambda threads: FileDevice(threads))


def tflite(name: str) -> str:
    Path(name).write_bytes(b"\x1c\0\0\0TFL3" + b"x" * 30)
    return name


def test_a_photo_is_classified_by_an_exported_file(nas, workplace):
    # `nas export` itself starts another process, and is tested in test_export.py.
    arch = workplace.space.published["small_s"]
    about = {
        **{"name": arch.name, "description": "a network", "author": "nas", "version": "1"},
        "weights": "random",
    }
    Path("exported").mkdir()
    model = Model(arch, build(arch).state_dict(), tuple("0123456789"), about)
    load_target("onnx").write(model, Path("exported/model.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.jpg")
    code, out, err = nas(
        "predict", "exported/model.onnx", "--image", "cat.jpg", "--top", "3", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["resolution"] == list(workplace.space.resolution)
    shares = [each["probability"] for each in document["classes"]]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    code, out, _ = nas("predict", "exported/model.onnx", "--image", "cat.jpg")
    assert code == 0
    assert "small_s in exported/model.onnx, of 10 classes" in out
    assert document["classes"][0]["label"] in out


def test_a_photo_needs_no_device_and_a_latency_does(nas, workplace):
    assert "--device: is missing. Fix: --device NAME" in nas("predict", "small_s")[2]
    code, _, err = nas("predict", tflite("theirs.tflite"))
    assert code == 2
    assert "Fix: --image PHOTO classifies a photo with this file" in err
    code, _, err = nas("predict", "theirs.tflite", "--image", "a.jpg", "--device", "toy")
    assert code == 2
    assert "--image classifies a photo" in err
    assert "--image" in nas("predict", "small_s", "--device", "toy", "--top", "2")[2]


def test_a_file_of_others_needs_no_table(nas, workplace, host):
    code, out, err = nas("check", tflite("theirs.tflite"), "--device", "host", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["format"], document["file"]["measured_ms"]) == ("nas-file-check-1", 4)
    assert document["file"]["start"] == {"load_ms": 12.0, "first_ms": 3.0, "memory_mb": 40.0}
    assert document["beside"] is None


def test_a_file_of_others_stands_beside_a_network(nas, workplace, host):
    workplace.space.published["small_s"].save(Path("net.yaml"))
    code, out, err = nas(
        "check", tflite("theirs.tflite"), "--device", "host", "--beside", "net.yaml"
    )
    assert code == 0, err
    theirs, ours, ratio = out.splitlines()
    assert theirs == (
        "theirs.tflite on host: 4.0000 ms; it loads in 12.0 ms, first run 3.00 ms, 40.0 MB of memory"
    )
    assert ours.startswith("small_s (random weights) on host: ")
    assert ratio.startswith("theirs.tflite takes ")


def test_options_of_a_table_are_refused_with_a_file(nas, workplace, host):
    code, _, err = nas("check", tflite("theirs.tflite"), "--device", "host", "--nets", "3")
    assert code == 2
    assert "theirs.tflite is measured as it is" in err
    code, _, err = nas("check", "--device", "toy", "--beside", "net.yaml")
    assert code == 2
    assert "--beside" in err


def test_the_start_of_whole_networks_stands_in_table_and_check(nas, workplace, host):
    assert nas("profile", "--space", "small", "--device", "host")[0] == 0
    header, first, *_ = Path("latency_tables/host/networks.csv").read_text().splitlines()
    start = dict(zip(header.split(","), first.split(","), strict=True))
    assert (start["load_ms"], start["first_ms"], start["memory_mb"]) == ("12.0", "3.0", "40.0")
    code, out, err = nas("check", "--device", "host", "--nets", "3")
    assert code == 0, err
    assert "start of a network (median of 3): loads in 12.0 ms, first run 3.00 ms, 40.0 MB" in out


def test_an_int8_table_says_its_precision_wherever_it_is_used(nas, workplace, monkeypatch):
    from dataclasses import replace

    class Int8(FileDevice):
        def info(self):
            return replace(super().info(), name="host-int8", precision="int8")

    opened = []

    def host(threads, precision=None):
        opened.append(precision)
        return Int8(threads) if precision == "int8" else FileDevice(threads)

    monkeypatch.setattr("nas.devices.host.device.Host", host)
    code, out, err = nas(
        "profile", "--space", "small", "--device", "host", "--precision", "int8", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert (document["table"], document["precision"]) == ("latency_tables/host-int8", "int8")
    assert document["next"] == "nas check --device host-int8 --space small"
    for command in (
        ("check", "--device", "host-int8", "--nets", "2"),
        ("profile", "--space", "small", "--device", "host-int8"),
    ):
        code, _, err = nas(*command)
        assert code == 0, err
    assert opened == ["int8"] * 3
    code, out, err = nas("search", "--space", "small", "--device", "host-int8")
    assert code == 0, err
    assert "table of host-int8 in int8" in out
    assert "of networks in float32, while the latencies are of int8" in out
    code, out, _ = nas("search", "--space", "small", "--device", "host-int8", "--json")
    document = json.loads(out)
    assert document["table"]["precision"] == "int8"
    assert document["scores"]["precision"] == "float32"


def test_a_precision_that_a_device_lacks_is_refused(nas, workplace, host):
    code, _, err = nas("profile", "--space", "small", "--device", "host", "--precision", "float16")
    assert code == 2
    assert (
        "--precision: is not available on the host (got float16, expected float32 or int8)" in err
    )
    assert not Path("latency_tables/host-float16").exists()
