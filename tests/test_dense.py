"""Dense prediction in every shipped space: pyramids, the segmentation head, large inputs, sizes
that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.blocks import FPNHead, Operation, Shape, pyramid
from nas.convert.litert import build
from nas.devices import Chain
from nas.devices.host.device import Host
from nas.errors import InputError
from nas.latency import LatencyTable, Row
from nas.latency.profile.width_groups import groups, spread
from nas.search.fastest import fastest
from nas.space import Architecture, Space, space_names
from nas.space.operations import space_operations

NAMES = space_names()
SPACES = {name: nas.load_space(name) for name in NAMES}
EVERY_SPACE = pytest.mark.parametrize("name", NAMES)
PLACEMENTS = pytest.mark.parametrize("attention", ["network_suffix", "stage_suffix"])
LINEAR = ("swiftformer", "efficientvit")


def least(name: str) -> Architecture:
    """The published member with the fewest MACs, or the smallest member."""
    space = SPACES[name]
    return min(space.published.values() or [space.smallest()], key=lambda arch: arch.macs)


@EVERY_SPACE
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (512, 512)], ids=str)
@torch.no_grad()
def test_features_have_strides_4_8_16_32(name: str, size: tuple[int, int]) -> None:
    arch = least(name).at(size)
    torch.manual_seed(0)
    maps = nas.build(arch).eval().forward_features(torch.randn(1, 3, *size))
    assert [tuple(x.shape) for x in maps] == [
        (1, width, size[0] // stride, size[1] // stride)
        for width, stride in zip(arch.widths, (4, 8, 16, 32), strict=True)
    ]
    assert all(x.isfinite().all() for x in maps)


@EVERY_SPACE
def test_large_inputs_are_counted(name: str) -> None:
    small, large = (SPACES[name].at(size) for size in ((512, 512), (1024, 2048)))
    assert large.resolution == (1024, 2048)
    last = large.smallest().operations()[-2].output
    assert (last.height, last.width) == (32, 64)
    for member, wide in (
        (small.smallest(), large.smallest()),
        *zip(small.published.values(), large.published.values(), strict=True),
    ):
        growth = wide.macs / member.macs
        assert growth > 7.7, "8 times the pixels; windows are padded more at the smaller size"
        assert growth < 8.1 or name not in LINEAR, (
            f"{member.name}: {growth:.2f} times the MACs for 8 times the pixels"
        )


@EVERY_SPACE
def test_a_network_with_the_head_trains_one_step(name: str) -> None:
    arch = least(name).at((64, 96)).with_head(FPNHead(5, width=16))
    torch.manual_seed(0)
    net = nas.build(arch).train()
    images = torch.randn(2, 3, 64, 96)
    labels = torch.randint(5, (2, 8, 12))
    scores = net(images)
    assert isinstance(scores, Tensor) and scores.shape == (2, 5, 8, 12)
    nn.functional.cross_entropy(scores, labels).backward()
    gradients = {key: parameter.grad for key, parameter in net.named_parameters()}
    assert all(grad is None or grad.isfinite().all() for grad in gradients.values())
    for part in ("stage1" if arch.stem else "stem", "stage2", "stage3", "stage4", "head"):
        assert any(
            key.startswith(part) and grad is not None and grad.any()
            for key, grad in gradients.items()
        ), part
    before = [parameter.detach().clone() for parameter in net.parameters()]
    torch.optim.SGD(net.parameters(), lr=0.01).step()
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


@EVERY_SPACE
def test_counts_are_those_of_the_network_and_the_file_gives_it_back(
    name: str, tmp_path: Path
) -> None:
    arch = least(name).with_head(FPNHead(19))
    with torch.device("meta"):
        net = nas.build(arch)
    assert sum(parameter.numel() for parameter in net.parameters()) == arch.params
    arch.save(tmp_path / "arch.yaml")
    assert nas.load_architecture(tmp_path / "arch.yaml") == arch


@EVERY_SPACE
def test_the_head_is_priced_by_parts_and_all_members_are_covered(name: str) -> None:
    """A row per width of each stage and one of the rest, not one per combination of widths."""
    space = SPACES[name].with_head(FPNHead(19))
    operations = space_operations(space)
    keys = {operation.key for operation in operations}
    for member in (
        *space.published.values(),
        space.largest(),
        space.smallest(),
        *map(space.sample, range(20)),
    ):
        assert {part.key for operation in member.operations() for part in operation.parts} <= keys
    assert "fpn_head" not in {kind for kind, _, _ in keys}
    by_kind = {
        kind: [group for group in groups(operations) if group.operations[0].spec.kind == kind]
        for kind in ("fpn_level", "fpn_fuse")
    }
    choices = [len(stage.widths) for stage in space.stages[1:]]
    assert [len(group.operations) for group in by_kind["fpn_level"]] == choices
    assert [len(group.operations) for group in by_kind["fpn_fuse"]] == [1]
    for group in by_kind["fpn_level"]:
        chosen = group.chosen()
        assert len(chosen) <= 12 and chosen == spread(group.operations, len(chosen))


def test_the_parts_of_the_head_have_its_layers() -> None:
    head = FPNHead(5, width=16, depth=2, levels=4, final_expansion=2)
    shape = pyramid([Shape(6, 16, 24), Shape(8, 8, 12), Shape(12, 4, 6), Shape(10, 2, 3)])
    whole = Operation("head", head, shape)
    parts = whole.parts
    assert [part.spec.kind for part in parts] == ["fpn_level"] * 4 + ["fpn_fuse"]
    assert sum(part.macs for part in parts) == whole.macs
    assert sum(part.params for part in parts) == whole.params
    assert [layer for part in parts for layer in part.spec.layers(part.input)] == list(
        head.layers(shape)
    )
    assert parts[-1].output == whole.output
    stem = nas.load_architecture("emo_1m").operations()[0]
    assert stem.parts == (stem,)


def test_a_segmentation_profile_of_efficientvit_measures_300_operations_at_most() -> None:
    """At 512x1024, with the head: the limit of a profile, which interpolates the others."""
    space = SPACES["efficientvit"].with_head(FPNHead(19)).at((512, 1024))
    operations = space_operations(space)
    measured = sum(len(group.chosen()) for group in groups(operations))
    heads = [op for op in operations if op.spec.kind.startswith("fpn_")]
    assert len(heads) == 6 + 7 + 7 + 1
    assert measured <= 300 and len(operations) < 1000


def test_a_row_of_the_whole_head_is_still_read(
    small_space: Callable[..., Space], made_up_table: Callable[..., LatencyTable]
) -> None:
    """Tables of earlier versions have it; what could not run then, still cannot."""
    space = small_space().with_head(FPNHead(3))
    table = made_up_table(space)
    arch = space.largest()
    head = arch.operations()[-1]
    parts = [table.ms(part) for part in head.parts]
    assert table.ms(head) == pytest.approx(sum(ms for ms in parts if ms is not None))
    row = Row(*head.key, str(head.output), 7.0, 7.0, 7.0, 1, "measured", "2026-01-01")
    older = LatencyTable(table.device, {**table.rows, head.key: row})
    line = table.device.calibration
    assert older.ms(head) == pytest.approx(line.scale * 7.0 + line.weights_ms * head.params / 1e6)
    refused = LatencyTable(table.device, table.rows, unsupported={head.key: "no such layer"})
    assert refused.ms(head) is None and refused.lacking(head) == (head,)
    missing = head.parts[1]
    rows = {key: row for key, row in table.rows.items() if key != missing.key}
    with pytest.raises(InputError, match=r"no row for fpn_level\(width=64\)") as caught:
        LatencyTable(table.device, rows).total_ms(arch)
    assert "\n" not in str(caught.value)


@PLACEMENTS
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_rows_are_those_of_the_members_and_the_fastest_of_them_is_found(
    small_space: Callable[..., Space],
    made_up_table: Callable[..., LatencyTable],
    attention: str,
    levels: int,
) -> None:
    """Tokens at the end of the network are changed to a map before the head, which costs too."""
    space = small_space(attention).with_head(FPNHead(3, width=8, levels=levels))
    members = list(space.enumerate())
    needed = {
        part.key for arch in members for operation in arch.operations() for part in operation.parts
    }
    assert {operation.key for operation in space_operations(space)} == needed
    for seed in range(3):
        table = made_up_table(space, seed)
        ms, found = fastest(space, table)
        assert ms == pytest.approx(min(map(table.total_ms, members)))
        assert table.total_ms(found) == pytest.approx(ms) and space.contains(found)


@PLACEMENTS
def test_rows_of_the_head_survive_the_table(
    small_space: Callable[..., Space],
    made_up_table: Callable[..., LatencyTable],
    attention: str,
    tmp_path: Path,
) -> None:
    space = small_space(attention).with_head(FPNHead(3))
    table = made_up_table(space)
    table.save(tmp_path / "toy")
    assert nas.load_table(tmp_path / "toy").rows == table.rows
    text = (tmp_path / "toy" / "table.csv").read_text()
    assert "+64x4x4+" in text
    (tmp_path / "toy" / "table.csv").write_text(text.replace("+64x4x4+", "+64x0x4+"))
    with pytest.raises(InputError, match=r"table.csv:\d+: .*is not a shape of an activation"):
        nas.load_table(tmp_path / "toy")


def test_every_name_of_a_head_finds_its_row_again(small_space: Callable[..., Space]) -> None:
    from nas.latency.network_times import at_resolution_id, resolution_id

    whole = small_space()
    for space in (
        whole,
        whole.at((64, 96), 7),
        whole.with_head(FPNHead(5, depth=2, activation="relu")).at((96, 32)),
    ):
        again = at_resolution_id(whole, resolution_id(space), "plan")
        assert (again.resolution, again.heads, again.published) == (
            space.resolution,
            space.heads,
            space.published,
        )
    assert resolution_id(whole) == "64x64/10", "the tables that there are say it like this"


# A stride of 2 inside stage 4, and heads of 12 channels that take a width of 24 only.
PICKY = """\
format: nas-space-1
name: picky
resolution: [64, 64]
stages:
- {entry: {kind: conv_stem}, width: [8, 16], depth: {min: 1, max: 1}, local: {kind: mb4d, expansion: 2}}
- {entry: {kind: conv_embedding}, width: [16], depth: {min: 1, max: 1}, local: {kind: mb4d, expansion: 2}}
- {entry: {kind: conv_embedding}, width: [16, 24], depth: {min: 1, max: 1}, local: {kind: mb4d, expansion: 2}}
- entry: {kind: conv_embedding}
  width: [32]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
  global: {kind: attention_ffn, heads: 2, key_dim: 8, value_ratio: 2, expansion: 2, stride: 2}
head: {kind: map_head, classes: 10}
published:
  picky_s: {widths: [8, 16, 16, 32], depths: [1, 1, 1, 1], attention: [0, 0, 0, 1]}
"""


def test_an_impossible_size_is_refused_where_the_space_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "picky.yaml"
    path.write_text(PICKY)
    space = nas.load_space(str(path))
    assert space.at((128, 192)).resolution == (128, 192)
    for size in (96, (64, 96), (96, 64)):
        with pytest.raises(InputError) as caught:
            space.at(size)
        reason = str(caught.value)
        assert (
            "stages[3].global" in reason
            and "stage 4" in reason
            and "stride 2 does not divide the map" in reason
        )
        assert "\n" not in reason
    for size in (50, (64, 80), 0, -32):
        with pytest.raises(ValueError, match="multiples of 32"):
            space.at(size)
    path.write_text(PICKY.replace("[64, 64]", "[96, 96]"))
    with pytest.raises(
        InputError, match=r"picky.yaml:\d+: stages\[3\].global: stage 4.*stride 2 does not divide"
    ):
        nas.load_space(str(path))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(cache=tmp_path_factory.mktemp("cache"))
    yield host
    host.close()


def run_litert(path: Path, arrays: list[np.ndarray], count: int) -> np.ndarray:
    """The first `count` numbers that a .tflite file gives for these inputs."""
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(str(path))
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    for buffer, array in zip(inputs, arrays, strict=True):
        buffer.write(np.ascontiguousarray(array).ravel())
    model.run_by_index(0, inputs, outputs)
    return np.asarray(outputs[0].read(count, np.float32))


@pytest.mark.parametrize(
    "head", [FPNHead(5, width=16), FPNHead(3, width=8, depth=2, levels=1)], ids=str
)
@torch.no_grad()
def test_litert_gives_what_the_head_gives(host: Host, head: FPNHead) -> None:
    shape = pyramid([Shape(16, 8, 12), Shape(24, 4, 6), Shape(32, 2, 3)][-head.levels :])
    chain = Chain((head,), shape)
    artifact = host.prepare(chain).result()
    assert host.measure(artifact).median_ms > 0
    maps = [torch.rand(level.tensor()) for level in shape.levels]
    torch.manual_seed(0)
    module, output = build(chain)
    expected = module(*maps).permute(0, 2, 3, 1)
    found = run_litert(artifact, [x.permute(0, 2, 3, 1).numpy() for x in maps], output.elements)
    np.testing.assert_allclose(found, expected.numpy().ravel(), atol=1e-4)


@torch.no_grad()
def test_litert_gives_what_a_network_with_the_head_gives(
    host: Host, small_space: Callable[..., Space]
) -> None:
    member = small_space().published["small_l"].at((64, 96)).with_head(FPNHead(5, width=16))
    assert any(operation.name == "stage4_unflatten" for operation in member.operations()), (
        "tokens at the end"
    )
    artifact = host.prepare(Chain.network(member.operations())).result()
    x_bhwc = torch.rand(1, 64, 96, 3)
    torch.manual_seed(0)
    expected = nas.build(member).eval()(x_bhwc.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = run_litert(artifact, [x_bhwc.numpy()], expected.numel())
    np.testing.assert_allclose(found, expected.numpy().ravel(), atol=1e-4)


def test_a_row_of_the_head_on_the_host(host: Host) -> None:
    from nas.latency.profile.operation_timing import measure, prepare

    shape = pyramid([Shape(16, 16, 16), Shape(24, 8, 8), Shape(32, 4, 4)])
    operation = Operation("head", FPNHead(5, width=16), shape)
    rows = [measure(host, prepare(host, part), 0.0) for part in operation.parts]
    assert all(isinstance(row, Row) and 0 <= row.median_ms < 50 for row in rows)
    assert [row.output for row in rows] == ["16x16x16", "16x8x8", "16x4x4", "5x16x16"]
