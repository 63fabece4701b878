"""Operations timed in turn on the host, and a network converted with weights of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.blocks import MB4D, Flatten, MapHead, Operation, Shape
from nas.convert.chain import EMPTY
from nas.convert.litert import build
from nas.devices import Chain, OperationFailed
from nas.devices.host.device import Host
from nas.devices.host.profile_worker import load
from nas.latency.check.network import weights_of
from nas.space import Space

SMALL, LARGE = (
    Operation("block", MB4D(expansion=4), Shape(channels, 14, 14)) for channels in (16, 96)
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(cache=tmp_path_factory.mktemp("cache"))
    yield host
    host.close()


def test_each_operation_gets_its_own_time(host: Host) -> None:
    times = host.profile([EMPTY, Chain.stack(SMALL), Chain.stack(LARGE), Chain.stack(SMALL)])
    assert times is not None and len(times) == 4
    call, small, large, again = times
    assert 0 < call < small < large
    assert small == pytest.approx(again, rel=1.0)
    alone = host.measure(host.prepare(Chain.stack(LARGE)).result()).median_ms
    assert large == pytest.approx(alone, rel=0.5)


def test_an_operation_that_cannot_be_loaded_fails_the_profile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = host.prepare(Chain.stack(SMALL)).result()
    broken = path.with_name("broken.tflite")
    broken.write_bytes(b"garbage" * 100)
    prepare = host.prepare
    monkeypatch.setattr(
        host, "prepare", lambda chain: type("Done", (), {"result": lambda _: broken})()
    )
    with pytest.raises(OperationFailed):
        host.profile([Chain.stack(SMALL)])
    monkeypatch.setattr(host, "prepare", prepare)
    assert host.profile([Chain.stack(SMALL)]) is not None


def test_a_file_reads_what_the_one_before_it_wrote(host: Host) -> None:
    """So that the chain of files computes what the chain of blocks does."""
    shape = SMALL.input
    chains = [Chain((SMALL.spec,), shape), Chain((Flatten(),), shape), Chain((MapHead(7),), shape)]
    files = load(
        [
            str(host.prepare(chain).result())
            for chain in (chains[0], chains[0], chains[2], chains[1])
        ],
        1,
    )
    assert files[1].inputs is files[0].outputs and files[2].inputs is files[1].outputs
    assert files[3].inputs is not files[2].outputs, "logits are no map"
    x_bhwc = torch.rand(1, 14, 14, 16)
    files[0].inputs[0].write(x_bhwc.numpy().ravel())
    for file in files:
        file.run()
    torch.manual_seed(0)
    block, _ = build(chains[0])
    torch.manual_seed(0)
    head, _ = build(chains[2])
    with torch.no_grad():
        expected = head(block(block(x_bhwc.permute(0, 3, 1, 2))))
    assert files[2].outputs[0].read(7, np.float32) == pytest.approx(expected[0].numpy(), abs=1e-4)


def test_a_network_is_converted_with_its_own_weights(
    host: Host, small_space: Callable[..., Space], tmp_path: Path
) -> None:
    from ai_edge_litert.compiled_model import CompiledModel

    arch = small_space().published["small_s"]
    torch.manual_seed(5)
    network = nas.build(arch)
    save_file(network.state_dict(), tmp_path / "weights.safetensors", {"format": "nas-weights-1"})
    operations = arch.operations()
    chain = Chain.network(operations, weights_of(tmp_path / "weights.safetensors", operations))
    assert Chain.from_dict(chain.to_dict()) == chain
    assert chain.digest() != Chain.network(operations).digest()
    model = CompiledModel.from_file(str(host.prepare(chain).result()))
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    x_bhwc = torch.rand(1, 64, 64, 3)
    inputs[0].write(x_bhwc.numpy().ravel())
    model.run_by_index(0, inputs, outputs)
    with torch.no_grad():
        expected = network.eval()(x_bhwc.permute(0, 3, 1, 2))
    assert outputs[0].read(10, np.float32) == pytest.approx(expected[0].numpy(), abs=1e-5)
