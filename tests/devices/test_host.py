"""The host: a small operation and a small network, really converted and run by LiteRT."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.blocks import MB4D, Operation, Shape
from nas.convert.converter import LITERT, cache_folder
from nas.convert.litert import build
from nas.devices import Chain, OperationFailed, Settings
from nas.devices.board.runner import machine
from nas.devices.board.runner.timer import quietest
from nas.devices.host import device as host_module
from nas.devices.host.device import Host
from nas.devices.precision import device_of
from nas.errors import InputError
from nas.latency import DeviceInfo
from nas.latency.known_devices import known_devices, opened
from nas.space import Space

OPERATION = Operation("block", MB4D(expansion=2), Shape(16, 8, 8))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(cache=tmp_path_factory.mktemp("cache"))
    yield host
    host.close()


def test_operation_is_converted_once_and_timed(
    host: Host, capfd: pytest.CaptureFixture[str]
) -> None:
    cores = os.sched_getaffinity(0)
    one, four = (host.prepare(Chain.stack(OPERATION, copies)).result() for copies in (1, 4))
    stamp = one.stat().st_mtime_ns
    assert host.prepare(Chain.stack(OPERATION)).result() == one and one.stat().st_mtime_ns == stamp
    short = host.measure(one)
    long = host.measure(four)
    for timing in (short, long):
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < 50 and timing.runs > 50
    assert 1.5 * short.median_ms < long.median_ms < 8 * short.median_ms
    assert capfd.readouterr() == ("", "")
    assert os.sched_getaffinity(0) == cores


def test_network_gives_what_torch_gives(host: Host, small_space: Callable[..., Space]) -> None:
    """Weights are random from one seed, so that the same network can be built here."""
    from ai_edge_litert.compiled_model import CompiledModel

    member = small_space().published["small_s"]
    chain = Chain.network(member.operations())
    artifact = host.prepare(chain).result()
    assert host.measure(artifact).median_ms > 0
    model = CompiledModel.from_file(str(artifact))
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    x_bhwc = torch.rand(1, 64, 64, 3)
    inputs[0].write(x_bhwc.numpy().ravel())
    model.run_by_index(0, inputs, outputs)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = nas.build(member).eval()(x_bhwc.permute(0, 3, 1, 2))
    assert outputs[0].read(10, np.float32) == pytest.approx(expected[0].numpy(), abs=1e-5)


def test_chain_is_the_deployed_network(small_space: Callable[..., Space]) -> None:
    member = small_space().published["small_l"]
    torch.manual_seed(0)
    module, shape = build(Chain.network(member.operations()))
    torch.manual_seed(0)
    network = nas.build(member).eval()
    x_bchw = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(module(x_bchw), network(x_bchw), atol=1e-5)
    assert shape == member.operations()[-1].output
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())


def test_tied_copies_are_one_module() -> None:
    tied, _ = build(Chain.stack(OPERATION, 3))
    loose, _ = build(Chain((OPERATION.spec,) * 3, OPERATION.input))
    assert len(list(tied.get_submodule("blocks").children())) == 1, (
        "a module that stands twice is listed once"
    )
    assert len(list(loose.get_submodule("blocks").children())) == 3


def test_garbage_file_is_a_failed_operation(host: Host, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.tflite"
    garbage.write_bytes(b"garbage" * 100)
    with pytest.raises(OperationFailed):
        host.measure(garbage)
    assert host.measure(host.prepare(Chain.stack(OPERATION)).result()).runs > 0


def test_info_is_a_device_file(host: Host, tmp_path: Path) -> None:
    info = host.info()
    assert isinstance(info, DeviceInfo)
    assert info.threads == 1 and info.runtime_version and info.tools["litert-torch"] and info.soc
    info.save(tmp_path / "device.yaml")


def test_in_a_hurry_the_core_that_measures_converts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "_cores", lambda: [0, 1, 2])
    # Equal cores, whatever this machine has: of those the last one measures.
    monkeypatch.setattr(machine, "_speed", lambda core: 0.0)
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        host_module, "Converter", lambda *positional, **named: found.update(of=positional, **named)
    )
    Host(threads=1)
    assert found == {"of": (2, [0, 1], None), "target": LITERT, "spare": [2]}
    Host(threads=3)
    assert found == {"of": (3, [0, 1, 2], None), "target": LITERT, "spare": []}


def test_more_threads_than_cores() -> None:
    with pytest.raises(
        InputError, match=r"--threads: this machine has .*\(got 4096, expected 1 to"
    ):
        Host(threads=4096)


def test_quiet_rounds_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 0.45 s something takes the core for a third of that, and a run takes three times as
    long."""
    clock = [0.0]

    def run() -> None:
        clock[0] += 0.030 if clock[0] % 0.45 > 0.3 else 0.010

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for _ in range(5):
        assert np.median(quietest(run)) == pytest.approx(0.010)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nas" / "litert"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "nas" / "litert"


def test_names(workplace: object) -> None:
    known = {device.name: device for device in known_devices()}
    assert known["host"].connected and known["host"].table is None
    assert not known["toy"].connected and known["toy"].table is not None
    for name, message in (
        ("toy", "toy: is not connected, and no phone.yaml .*estimated"),
        ("hots", "unknown device 'hots', did you mean 'host'"),
        ("iphone12", "iphone12: is measured through Core ML, on a Mac.*--bundle DIR"),
    ):
        with pytest.raises(InputError, match=message), opened(name, Settings()):
            pass
    with (
        pytest.raises(InputError, match=r"--unit: .* host \(got gpu, expected cpu\)"),
        opened("host", Settings("gpu")),
    ):
        pass


def test_int8_has_a_table_and_files_of_its_own(host: Host, tmp_path: Path) -> None:
    device = Host(cache=tmp_path, precision="int8")
    try:
        info = device.info()
        assert (info.name, info.precision) == ("host-int8", "int8")
        assert info.tools["ai-edge-quantizer"]
        assert device_of(info) == ("host", "int8")
        chains = [Chain.stack(OPERATION), Chain.stack(OPERATION)]
        file = device.prepare(chains[0]).result()
        assert file.name != host.prepare(chains[0]).result().name
        assert device.measure(file).median_ms > 0
        times = device.profile(chains)
        assert times is not None
        assert len(times) == 2
        assert min(times) > 0
    finally:
        device.close()


def test_the_start_of_a_network_is_timed_in_a_process_of_its_own(host: Host) -> None:
    file = host.prepare(Chain.stack(OPERATION)).result()
    runner = host._runner._process
    start = host.start_up(file)
    assert start is not None
    assert start.load_ms > 0
    assert start.first_ms > 0
    assert start.memory_mb is not None
    assert 0 <= start.memory_mb < 500
    assert host._runner._process is runner


def test_an_onnx_file_of_any_origin_is_timed(host: Host, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def save(name: str, *shape: int | str) -> Path:
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in "xy"]
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 8
        onnx.save(model, str(tmp_path / name))
        return tmp_path / name

    timing = host.measure(save("batch.onnx", "N", 3, 8, 8))
    assert timing.median_ms > 0
    assert timing.runs > 5
    start = host.start_up(tmp_path / "batch.onnx")
    assert start is not None
    assert start.first_ms > 0
    with pytest.raises(OperationFailed, match="input 'x' has no fixed size"):
        host.measure(save("open.onnx", 1, 3, "H", "W"))


def test_a_precision_that_the_host_lacks_is_refused() -> None:
    with (
        pytest.raises(InputError, match=r"--precision: is not available on the host .*int8\)"),
        opened("host", Settings(precision="float16")),
    ):
        pass
