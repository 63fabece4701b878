"""One network on a device beside its prediction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import nas
from nas.devices import Chain, OperationFailed
from nas.errors import InputError, NasError
from nas.files import tree_sha256
from nas.latency import LatencyTable
from nas.latency.check.network import RIVAL_TURNS, Rival, check_network, exported_file, weights_of
from nas.latency.profile.run import profile
from nas.space import Architecture, Space
from nas.testing.devices import CALL_MS, FakeDevice, true_ms


@pytest.fixture
def space(small_space: Callable[..., Space]) -> Space:
    return small_space()


@pytest.fixture
def table(space: Space, tmp_path: Path) -> LatencyTable:
    return profile(space, FakeDevice(), tmp_path / "table")[0]


def save(arch: Architecture, path: Path, header: str = "nas-weights-1") -> Path:
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(nas.build(arch).state_dict(), path, {"format": header, "architecture": arch.name})
    return path


def test_a_network_stands_beside_its_prediction_operation_by_operation(
    space: Space, table: LatencyTable
) -> None:
    arch = space.published["small_l"]
    device = FakeDevice()
    found = check_network(table, arch, device)
    assert found.measured_ms == pytest.approx(true_ms(Chain.network(arch.operations())), rel=1e-4)
    assert found.predicted_ms == pytest.approx(table.predict(arch).ms, rel=1e-5)
    assert found.error_percent == pytest.approx(
        100 * (found.predicted_ms / found.measured_ms - 1), abs=1e-2
    )
    assert [each.name for each in found.operations] == [
        "intercept",
        *(op.name for op in arch.operations()),
    ]
    by_name = {op.name: op for op in arch.operations()}
    for each in found.operations[1:]:
        assert each.kind == by_name[each.name].spec.kind
        assert each.measured_ms == pytest.approx(
            true_ms(Chain.stack(by_name[each.name])) - CALL_MS, abs=1.1e-4
        ), "less the empty call's own"
        assert each.measured_ms == pytest.approx(each.predicted_ms, rel=0.2, abs=2e-3)
    assert sum(each.predicted_ms for each in found.operations) == pytest.approx(
        found.predicted_ms, abs=1e-4
    )
    assert found.profile == "by a formula" and found.weights is None


def test_a_device_without_a_profile_gives_the_whole_alone(
    space: Space, table: LatencyTable
) -> None:
    device = FakeDevice()
    device.profiled_by = ""
    found = check_network(table, space.published["small_s"], device)
    assert found.measured_ms > 0 and found.profile == ""
    assert {each.measured_ms for each in found.operations} == {None}
    assert len(device.measured) == 1


def test_an_operation_that_does_not_run_alone_costs_the_profile_only(
    space: Space, table: LatencyTable
) -> None:
    device = FakeDevice()
    device.fails = lambda chain: len(chain.blocks) == 1 and chain.blocks[0].kind == "conv_embedding"
    found = check_network(table, space.published["small_s"], device)
    assert found.measured_ms > 0 and {each.measured_ms for each in found.operations} == {None}


def test_a_slower_device_shows_in_the_error(space: Space, table: LatencyTable) -> None:
    device = FakeDevice()
    device.factor = lambda count: 1.25
    assert check_network(table, space.published["small_l"], device).error_percent == pytest.approx(
        -20, abs=1.5
    )


def test_the_file_tells_all(space: Space, table: LatencyTable, tmp_path: Path) -> None:
    arch = space.sample(3)
    weights = save(arch, tmp_path / "run" / "weights.safetensors")
    device = FakeDevice()
    found = check_network(table, arch, device, weights)
    path = found.save(tmp_path / "run")
    assert path.name == f"check-{table.device.name}.yaml"
    data = yaml.safe_load(path.read_text())
    assert data["format"] == "nas-run-check-1"
    assert {
        "device",
        "measured_ms",
        "predicted_ms",
        "error_percent",
        "provenance",
        "date",
        "versions",
    } <= set(data)
    assert data["operations"][1]["name"] == "stem" and data["weights"] == str(weights)
    assert data["exported"] is None and data["exported_ms"] is None
    assert data["settings"]["runtime"] == "fake" and data == yaml.safe_load(
        yaml.safe_dump(found.to_dict())
    )
    assert device.measured[0].weights is not None and device.measured[0].weights.names[0] == "stem"
    assert device.measured[1].weights is None


def test_an_exported_file_is_measured_too(
    space: Space, table: LatencyTable, tmp_path: Path
) -> None:
    arch = space.published["small_s"]
    device = FakeDevice()
    exported = device.prepare(Chain.network(space.published["small_l"].operations())).result()
    found = check_network(table, arch, device, exported=exported)
    assert found.measured_ms == pytest.approx(true_ms(Chain.network(arch.operations())), rel=1e-4)
    assert found.exported == str(exported)
    assert (
        found.exported_ms
        == pytest.approx(true_ms(device.measured[1]), rel=1e-4)
        != found.measured_ms
    )


def test_only_a_whole_export_is_taken(tmp_path: Path) -> None:
    from nas.runs.exports import Record

    assert exported_file(tmp_path, "litert-host") is None
    export = tmp_path / "export"
    export.mkdir()
    (export / "model.tflite").write_bytes(b"model")
    assert exported_file(tmp_path, "litert-host") is None, "export.yaml does not name it"
    entry = {"file": "model.tflite", "sha256": tree_sha256(export / "model.tflite")}
    Record(export).put("litert", entry, {})
    assert exported_file(tmp_path, "litert-host") == export / "model.tflite"
    assert exported_file(tmp_path, "litert-android") == export / "model.tflite"
    assert exported_file(tmp_path, "coreml") is None and exported_file(tmp_path, "formula") is None
    (export / "model.tflite").write_bytes(b"half")
    assert exported_file(tmp_path, "litert-host") is None


def test_weights_of_another_network_are_refused(
    space: Space, table: LatencyTable, tmp_path: Path
) -> None:
    arch = space.published["small_l"]
    other = save(space.published["small_s"], tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"weights of another network \('stage1_block2' is missing\)"
    ):
        check_network(table, arch, FakeDevice(), other)
    with pytest.raises(InputError, match="format 'nas-weights-1' is missing in its header"):
        weights_of(save(arch, tmp_path / "odd.safetensors", "nas-supernet-1"), arch.operations())
    (tmp_path / "cut.safetensors").write_bytes(other.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        weights_of(tmp_path / "cut.safetensors", arch.operations())


def test_a_table_that_does_not_know_the_network_names_the_command(
    space: Space, table: LatencyTable
) -> None:
    with pytest.raises(InputError, match=r"no row for .* nas profile --space small --device host"):
        check_network(table, space.published["small_s"].at(96), FakeDevice())


def test_other_settings_than_the_tables_are_refused(space: Space, table: LatencyTable) -> None:
    with pytest.raises(InputError, match="threads"):
        check_network(table, space.published["small_s"], FakeDevice(threads=2))


def test_an_estimated_table_is_checked_on_whatever_there_is(
    space: Space, made_up_table: Callable[..., LatencyTable], tmp_path: Path
) -> None:
    made_up_table(space).save(tmp_path)
    found = check_network(nas.load_table(tmp_path), space.published["small_s"], FakeDevice())
    assert found.provenance == "estimated" and found.device == "toy"


def test_a_network_that_does_not_run_is_an_error(space: Space, table: LatencyTable) -> None:
    device = FakeDevice()
    device.fails = lambda chain: len(chain.blocks) > 1
    with pytest.raises(
        NasError, match=r"network small_s could not be measured: RuntimeError: unsupported"
    ):
        check_network(table, space.published["small_s"], device)


def counted(device: FakeDevice, arch: Architecture) -> int:
    return device.measured.count(Chain.network(arch.operations()))


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_rival_is_measured_by_turns_with_the_network(
    space: Space, table: LatencyTable, monkeypatch: pytest.MonkeyPatch, repeats: int
) -> None:
    monkeypatch.setattr("nas.latency.check.turns.APART_S", 0.0)
    arch = space.published["small_s"]
    other = space.published["small_l"]
    device = FakeDevice()
    device.repeats = repeats
    device.profiled_by = ""
    found = check_network(table, arch, device, rival=Rival(other, "for a test"))
    chains = [Chain.network(each.operations()) for each in (arch, other)]
    assert (
        device.measured == chains * (len(device.measured) // 2)
        and len(device.measured) >= 2 * RIVAL_TURNS
    )
    assert found.rival is not None and (found.rival.name, found.rival.reason) == (
        "small_l",
        "for a test",
    )
    assert found.rival.measured_ms == pytest.approx(true_ms(chains[1]), rel=1e-4)
    assert found.rival.predicted_ms == pytest.approx(table.predict(other).ms, rel=1e-5)
    assert found.ratio == pytest.approx(true_ms(chains[0]) / true_ms(chains[1]), abs=1e-4)
    assert found.predicted_ratio == pytest.approx(
        found.predicted_ms / found.rival.predicted_ms, abs=1e-4
    )


def test_drift_hits_network_and_rival_alike(space: Space, table: LatencyTable) -> None:
    arch = space.published["small_s"]
    other = space.published["small_l"]
    device = FakeDevice()
    device.factor = lambda count: 1 + 0.2 * (count - 1)
    found = check_network(table, arch, device, rival=Rival(other, ""))
    ratio = true_ms(Chain.network(arch.operations())) / true_ms(Chain.network(other.operations()))
    assert found.ratio == pytest.approx(ratio * 1.4 / 1.6, rel=1e-3), (
        "the middle turns, one after the other"
    )


def test_without_a_rival_the_network_is_measured_once(space: Space, table: LatencyTable) -> None:
    device = FakeDevice()
    found = check_network(table, space.published["small_s"], device)
    assert counted(device, space.published["small_s"]) == 1
    assert (found.rival, found.ratio, found.predicted_ratio) == (None, None, None)


@pytest.mark.parametrize("when", ["converting", "running", "the second time"])
def test_a_rival_that_does_not_run_is_told_and_fails_nothing(
    space: Space, table: LatencyTable, when: str
) -> None:
    arch = space.published["small_s"]
    other = space.published["small_l"]
    device = FakeDevice()
    wrong = Chain.network(other.operations())
    if when == "converting":
        prepare = device.prepare

        def refuse(chain: Chain) -> Future[Path]:
            future = prepare(chain)
            if chain == wrong:
                future = Future()
                future.set_exception(OperationFailed("RuntimeError: unsupported"))
            return future

        device.prepare = refuse  # type: ignore[method-assign]
    else:
        first = when == "running"
        device.fails = lambda chain: chain == wrong and (first or counted(device, other) > 1)
    found = check_network(table, arch, device, rival=Rival(other, ""))
    assert found.measured_ms == pytest.approx(true_ms(Chain.network(arch.operations())), rel=1e-4)
    assert found.rival is not None and found.rival.failure == "RuntimeError: unsupported"
    assert (
        found.rival.measured_ms is None
        and found.rival.error_percent is None
        and found.ratio is None
    )
    assert found.rival.predicted_ms is not None and found.predicted_ratio is not None


def test_a_failure_that_passes_costs_nothing(space: Space, table: LatencyTable) -> None:
    arch = space.published["small_s"]
    other = space.published["small_l"]
    device = FakeDevice()
    failed = []

    def once(chain: Chain) -> bool:
        failed.append(chain)
        return failed.count(chain) == 1

    device.fails = once
    found = check_network(table, arch, device, rival=Rival(other, ""))
    assert found.measured_ms == pytest.approx(true_ms(Chain.network(arch.operations())), rel=1e-4)
    assert found.rival is not None and found.rival.failure == "" and found.ratio is not None


def test_a_rival_that_the_table_does_not_know_is_measured(
    space: Space, table: LatencyTable
) -> None:
    arch = space.published["small_s"]
    other = space.published["small_l"]
    own = {operation.key for operation in arch.operations()}
    lacking = next(op.key for op in other.operations() if op.key not in own)
    rows = {key: row for key, row in table.rows.items() if key != lacking}
    found = check_network(replace(table, rows=rows), arch, FakeDevice(), rival=Rival(other, ""))
    assert (
        found.rival is not None and found.rival.measured_ms is not None and found.ratio is not None
    )
    assert (
        found.rival.predicted_ms is None
        and found.rival.error_percent is None
        and found.predicted_ratio is None
    )


def test_the_network_itself_must_run_though_its_rival_does(
    space: Space, table: LatencyTable
) -> None:
    arch = space.published["small_s"]
    other = space.published["small_l"]
    device = FakeDevice()
    device.fails = lambda chain: chain == Chain.network(arch.operations())
    with pytest.raises(NasError, match=r"network small_s could not be measured"):
        check_network(table, arch, device, rival=Rival(other, ""))
