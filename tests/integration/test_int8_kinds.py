"""Every kind of block in int8: it converts, runs, and stacks where its output has its input's shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.blocks import SPECS, Operation
from nas.convert import litert_int8
from nas.convert.chain import EMPTY
from nas.devices.board.runner.timer import load
from nas.latency.profile.operation_timing import chains
from nas.testing.blocks import examples

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", SPECS)
def test_a_kind_runs_in_int8(kind: str, tmp_path: Path) -> None:
    # One example is enough; a kind that only stands for an absent block has none.
    for spec, shape in examples(SPECS[kind])[:1]:
        for chain in chains(Operation("block", spec, shape), 3):
            path = tmp_path / f"{len(chain.blocks)}.tflite"
            litert_int8.convert(chain, path)
            load(str(path), 1)()


def test_the_cost_of_a_call_is_measured_in_int8_too(tmp_path: Path) -> None:
    path = tmp_path / "empty.tflite"
    litert_int8.convert(EMPTY, path)
    load(str(path), 1)()
