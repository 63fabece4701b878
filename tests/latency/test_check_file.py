"""A network file of any origin on a device, beside another network."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nas.devices import Chain, OperationFailed
from nas.devices.base import StartUp, Timing
from nas.devices.info import DeviceInfo
from nas.devices.kinds import KINDS
from nas.errors import InputError, NasError
from nas.files import tree_sha256
from nas.latency.check.file import SUFFIXES, TURNS, check_file, is_network_file
from nas.space import Space
from nas.testing.devices import FakeDevice, true_ms

START = StartUp(12.0, 3.0, 40.0)


class Files(FakeDevice):
    """A fake device of a kind that runs files: each takes a ms per letter of its content."""

    def __init__(self, kind: str = "litert-host") -> None:
        super().__init__()
        self.kind = kind
        self.files: list[Path] = []

    def info(self) -> DeviceInfo:
        return replace(super().info(), kind=self.kind)

    def measure(self, artifact: Path) -> Timing:
        self.files.append(artifact)
        if artifact in self._chains:
            return super().measure(artifact)
        ms = float(len(artifact.read_bytes()) - 8)
        if not ms:
            raise OperationFailed("RuntimeError: no graph")
        return Timing(ms, ms, ms, runs=10)

    def start_up(self, artifact: Path) -> StartUp | None:
        return START


def tflite(path: Path, ms: int) -> Path:
    path.write_bytes(b"\x1c\0\0\0TFL3" + b"x" * ms)
    return path


def test_a_file_alone_is_measured_once(tmp_path: Path) -> None:
    file = tflite(tmp_path / "theirs.tflite", 4)
    device = Files()
    found = check_file(device, file)
    assert (found.file.measured_ms, found.file.start) == (4, START)
    assert (found.beside, found.ratio) == (None, None)
    assert found.sha256 == tree_sha256(file)
    assert found.bytes == 12
    assert device.files == [file]
    assert file.exists(), "a user's file is never removed"
    written = found.to_dict()
    assert written["format"] == "nas-file-check-1"
    assert written["file"]["start"] == {"load_ms": 12.0, "first_ms": 3.0, "memory_mb": 40.0}


def test_a_file_and_another_one_are_measured_by_turns(tmp_path: Path) -> None:
    file, other = tflite(tmp_path / "a.tflite", 4), tflite(tmp_path / "b.tflite", 8)
    device = Files()
    found = check_file(device, file, str(other))
    assert found.beside is not None
    assert (found.beside.name, found.beside.measured_ms, found.ratio) == (str(other), 8, 0.5)
    assert device.files == [file, other] * TURNS
    assert other.exists()


def test_a_file_stands_beside_a_network_of_a_space(
    small_space: Callable[..., Space], tmp_path: Path
) -> None:
    arch = small_space().published["small_s"]
    arch.save(tmp_path / "ours.yaml")
    found = check_file(Files(), tflite(tmp_path / "theirs.tflite", 4), str(tmp_path / "ours.yaml"))
    assert found.beside is not None
    assert found.beside.name == "small_s (random weights)"
    expected = true_ms(Chain.network(arch.operations()))
    assert found.beside.measured_ms == pytest.approx(expected, abs=1e-5)
    assert found.ratio == pytest.approx(4 / expected, abs=1e-3)


def test_a_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(NasError, match=r"empty\.tflite could not be measured: .*no graph"):
        check_file(Files(), tflite(tmp_path / "empty.tflite", 0))


def test_what_is_no_file_for_the_device_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    device = Files()
    (tmp_path / "text.tflite").write_text("some text")
    (tmp_path / "net.mlpackage").mkdir()
    for name, message in (
        ("text.tflite", r"text\.tflite: is not a \.tflite file \(its identifier TFL3"),
        ("gone.tflite", r"gone\.tflite: does not exist"),
        ("net.mlpackage", r"which runs \.tflite and \.onnx files \(got \.mlpackage\)"),
    ):
        with pytest.raises(InputError, match=message):
            check_file(device, tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        check_file(device, tflite(tmp_path / "a.tflite", 4), str(tmp_path / "gone.onnx"))
    assert device.files == []


def test_pipes_and_folders_are_refused_instead_of_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tflite")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file.mlpackage").write_text("x")
    for name, message in (
        ("pipe.tflite", r"pipe\.tflite: is not a file \(got a pipe"),
        ("folder.onnx", r"folder\.onnx: is not a file\. Fix"),
        ("file.mlpackage", r"file\.mlpackage: is not a folder\. Fix"),
    ):
        with pytest.raises(InputError, match=message):
            check_file(Files(), tmp_path / name)


def test_an_ml_program_that_takes_an_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coremltools.proto import Model_pb2

    package = tmp_path / "net.mlpackage"
    package.mkdir()
    device = Files("coreml")
    monkeypatch.setattr(device, "measure", lambda artifact: Timing(2.0, 2.0, 2.0, runs=5))
    with pytest.raises(InputError, match=r"net\.mlpackage: is not an ML program"):
        check_file(device, package)
    spec = Model_pb2.Model()
    given = spec.description.input.add(name="x")
    monkeypatch.setattr("coremltools.utils.load_spec", lambda path: spec)
    given.type.imageType.width = 8
    with pytest.raises(InputError, match=r"net\.mlpackage: input 'x' is an image"):
        check_file(device, package)
    given.type.multiArrayType.shape.extend([1, 3, 8, 8])
    assert check_file(device, package).file.measured_ms == 2


@pytest.mark.parametrize("name", KINDS)
def test_kinds_run_files_that_are_known_as_such(name: str) -> None:
    for suffix in KINDS[name].file_suffixes:
        assert suffix in SUFFIXES
        assert is_network_file(f"folder/net{suffix}")
    assert not is_network_file("runs/one")
    assert not is_network_file("net.yaml")
