"""Every operation of every shipped space becomes an ML program on Linux, and the process that
converts keeps quiet."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.blocks import FPNHead, Operation
from nas.convert.converter import COREML, Converter
from nas.devices import Chain
from nas.latency.profile.width_groups import groups
from nas.space import load_space, space_names
from nas.space.operations import space_operations

DENSE = "segmentation"
SPACES = [*space_names(), DENSE]


def one_of_each_group(name: str) -> list[Operation]:
    """The narrowest operation of each group: one kind with the same hyperparameters on the same
    grid."""
    if name == DENSE:
        space = load_space("efficientvit")
        plain = {operation.key for operation in space_operations(space)}
        dense = space_operations(space.with_head(FPNHead(19)))
        parts = groups([operation for operation in dense if operation.key not in plain])
        assert len(parts) > 1, "the head is measured by its parts"
        return [group.chosen()[0] for group in parts]
    return [group.chosen()[0] for group in groups(space_operations(load_space(name)))]


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_every_group_of_operations_converts(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    operations = one_of_each_group(name)
    converter = Converter(cache=tmp_path, target=COREML)
    try:
        asked = {
            str(operation): converter.prepare(Chain.stack(operation)) for operation in operations
        }
        failed = {
            label: str(future.exception()) for label, future in asked.items() if future.exception()
        }
        assert not failed
        packages = {future.result() for future in asked.values()}
        assert len(packages) == len(operations) and all(
            (path / "Manifest.json").is_file() for path in packages
        )
        stamps = {path: path.stat().st_mtime_ns for path in packages}
        assert converter.prepare(Chain.stack(operations[0])).result() in packages
        assert {path: path.stat().st_mtime_ns for path in packages} == stamps, (
            "nothing is converted twice"
        )
    finally:
        converter.close()
    assert capfd.readouterr() == ("", "")
