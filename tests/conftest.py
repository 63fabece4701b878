"""Small spaces with made-up latency tables and scores, in memory and as files, for tests of what uses them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.latency import DeviceInfo, LatencyTable, Row
from nas.latency.coverage import space_operations
from nas.latency.table import make_table
from nas.search.scores import Score, Scores
from nas.space import Space, load_space

SMALL_SPACE = """\
format: nas-space-1
name: small
resolution: [64, 64]
attention: {attention}
scores: small-toy
stages:
- entry: {{kind: conv_stem, activation: relu}}
  width: [8, 16]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
- entry: {{kind: conv_embedding}}
  width: [16, 24]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
- entry: {{kind: conv_embedding}}
  width: [16, 24, 32]
  depth: {{min: 1, max: 3}}
  local: {{kind: mb4d, expansion: 2}}
  global: {{kind: mb3d, heads: 2, key_dim: 8, value_ratio: 2, expansion: 2}}
- entry: {{kind: conv_embedding}}
  width: [32, 40, 48]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
  global: {{kind: mb3d, heads: 2, key_dim: 8, value_ratio: 2, expansion: 2}}
head: {{kind: token_head, classes: 10, distillation: true}}
published:
  small_s: {{widths: [8, 16, 24, 32], depths: [1, 1, 2, 1], attention: [0, 0, 0, 1]}}
  small_l: {{widths: [16, 24, 32, 48], depths: [2, 2, 3, 2], attention: [0, 0, 0, 2]}}
"""


@pytest.fixture
def small_space(tmp_path: Path) -> Callable[[str], Space]:
    """A function from the placement of attention to a space of four small stages."""

    def make(attention: str = "network_suffix") -> Space:
        path = tmp_path / f"{attention}.yaml"
        path.write_text(SMALL_SPACE.format(attention=attention))
        return load_space(str(path))

    return make


@pytest.fixture
def made_up_table() -> Callable[..., LatencyTable]:
    """A function from a space to a latency table for it; with a seed the latencies are random, not even monotone."""

    def make(space: Space, seed: int | None = None, name: str = "toy") -> LatencyTable:
        rng = random.Random(seed)
        rows = []
        for operation in space_operations(space):
            ms = 0.01 + operation.macs / 1e9 + operation.params / 1e7 if seed is None else rng.uniform(0.0, 1.0)
            rows.append(Row(*operation.key, str(operation.output), ms, ms, ms, 0, "estimated", "2026-01-31"))
        device = DeviceInfo(
            name=name, kind="toy", soc="no chip", os="no OS", runtime="none", runtime_version="0", compute_unit="none",
            precision="fp32", provenance="estimated", date="2026-01-31", intercept_ms=0.1,
        )  # fmt: skip
        return make_table(device, rows)

    return make


@pytest.fixture
def made_up_scores() -> Callable[..., Scores]:
    """A function from a space and a seed to scores for it; some costs are negative."""

    def make(space: Space, seed: int = 0) -> Scores:
        rng = random.Random(seed)
        rows = []
        for index, stage in enumerate(space.stages, start=1):
            for position in range(1, stage.depths[1] + 1):
                rows.append(Score("drop", index, rng.gauss(0.5, 0.4), position, importance=rng.uniform(0.5, 5.0)))
                if stage.global_:
                    rows.append(Score("localise", index, rng.gauss(0.2, 0.2), position))
            rows += [Score("narrow", index, rng.gauss(1.0, 0.5), width=width) for width in stage.widths[:-1]]
        return Scores.of(space, rows, ["made up for a test", f"seed {seed}"], baseline_accuracy=90.0, images=5000)

    return make


@dataclass(frozen=True)
class Workplace:
    """A working directory with a space, its scores and a table of the device `toy`, where names are looked up."""

    folder: Path
    space: Space

    @property
    def space_file(self) -> Path:
        return self.folder / "search_spaces" / "small.yaml"

    @property
    def table_file(self) -> Path:
        return self.folder / "latency_tables" / "toy" / "table.csv"

    @property
    def scores_file(self) -> Path:
        return self.folder / "experiments" / "small-toy" / "scores.csv"


@pytest.fixture
def workplace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_up_table: Callable[..., LatencyTable],
    made_up_scores: Callable[..., Scores],
) -> Workplace:  # fmt: skip
    """The working directory of the test."""
    spaces = tmp_path / "search_spaces"
    spaces.mkdir()
    (spaces / "small.yaml").write_text(SMALL_SPACE.format(attention="network_suffix"))
    space = load_space(str(spaces / "small.yaml"))
    made_up_table(space).save(tmp_path / "latency_tables" / "toy")
    made_up_scores(space).save(tmp_path / "experiments" / "small-toy")
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, space)
