"""Small spaces with made-up latency tables and scores, in memory and as files, for tests of what
uses them."""

from __future__ import annotations

import gc
import os
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from order import dealt
from quick import quick_cases, recorded_times

from nas.accuracy import Accuracy, Scores
from nas.accuracy.recorded import RecordedScores
from nas.accuracy.single_moves import Score, wanted_keys
from nas.blocks import BlockSpec, Identity
from nas.devices.info import Calibration
from nas.latency import DeviceInfo, LatencyTable, Row
from nas.latency.table import make_table
from nas.space import Architecture, Space, load_space
from nas.space.operations import space_operations

settings.register_profile(
    "any machine", deadline=None
)  # tests run beside others, and machines differ
settings.load_profile("any machine")


TIMES = Path(__file__).with_name("times.csv")
"""CPU seconds of one case of each test, recorded by `make times`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `make quick` has no time for, and let what is marked by hand go first, so
    that no worker is left alone with it at the end."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    for name, cpu_s in recorded_times(TIMES).items():
        every = cases.get(name, [])
        chosen = quick_cases(len(every), cpu_s)
        for number, item in enumerate(every):
            if number not in chosen:
                # It stays where it is: tests of a module share what its fixtures have made.
                item.add_marker(pytest.mark.slow(seconds=0))

    def seconds(item: pytest.Item) -> float:
        return max((mark.kwargs.get("seconds", 1) for mark in item.iter_markers("slow")), default=0)

    items[:] = dealt(items, seconds, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_collection_finish() -> None:
    """Leave all that was imported out of later garbage collections.

    These millions of objects live until the end, and with them a full collection takes half a
    second. Code that frees memory after an error collects several times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is converted or decoded once is there for all tests of a run, in all workers; the user's
    own is left."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


SMALL_SPACE = """\
format: nas-space-1
name: small
resolution: [64, 64]
attention: {attention}
scores: small-toy
recipe: EfficientFormer
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


CHOICES_SPACE = """\
format: nas-space-1
name: choices
resolution: [64, 64]
attention: {attention}
stages:
- entry: {{kind: conv_stem, activation: [relu, gelu]}}
  width: [8, 16]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: [1, 2], activation: [gelu, relu]}}
- entry: [{{kind: conv_embedding}}, {{kind: irmb_down, expansion: [2, 3]}}]
  width: [16, 24]
  depth: {{min: 1, max: 1}}
  local: [{{kind: mb4d, expansion: 2}}, {{kind: irmb, expansion: 2, attention: false}}]
- entry: {{kind: conv_embedding}}
  width: [24, 32]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2, activation: [gelu, relu]}}
  global: {{kind: irmb, expansion: 2, attention: true, window: 2, head_dim: [8, 12, 16]}}
- entry: {{kind: conv_embedding}}
  width: [32, 48]
  depth: {{min: 1, max: 2}}
  local: [{{kind: mb4d, expansion: 2}}, {{kind: irmb, expansion: 2, attention: false}}]
  global: {{kind: mb3d, heads: 2, key_dim: 8, value_ratio: 2, expansion: [1, 2]}}
head: [{{kind: map_head, classes: 10}}, {{kind: map_head, classes: 10, norm: layer, distillation: [true, false]}}]
published:
  choices_s:
    widths: [8, 16, 24, 32]
    depths: [1, 1, 2, 1]
    attention: [0, 0, 1, 1]
    entry: {{activation: [gelu, null, null, null], kind: [null, irmb_down, null, null], expansion: 3}}
    block: {{activation: [relu, null, [relu, null], null], kind: [null, irmb, null, null], expansion: [2, 2, 2, 1],
             head_dim: [null, null, 12, null]}}
    head: {{norm: layer, distillation: false}}
  choices_l:
    widths: [16, 24, 32, 48]
    depths: [2, 1, 2, 2]
    attention: [0, 0, 0, 2]
    block: {{expansion: [[1, 2], 2, 2, 2]}}
"""

STEM_SPACE = """\
format: nas-space-1
name: stem
resolution: [32, 32]
attention: {attention}
stem: [{{kind: efficientvit_stem, width: [4, 8], activation: [hardswish, relu]}}, {{kind: emo_stem, width: 8}}]
stages:
- entry: {{kind: mbconv_down, expansion: [1, 2]}}
  width: [8, 12]
  depth: {{min: 1, max: 1}}
  local: {{kind: mb4d, expansion: 2}}
- entry: {{kind: conv_embedding}}
  width: [12]
  depth: {{min: 1, max: 1}}
  local: {{kind: mb4d, expansion: [1, 2]}}
- entry: {{kind: conv_embedding}}
  width: [16, 24]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
  global: {{kind: irmb, expansion: [1.5, 2], attention: true, window: 2, head_dim: [12, 16]}}
- entry: {{kind: conv_embedding}}
  width: [16]
  depth: {{min: 1, max: 2}}
  local: {{kind: mb4d, expansion: 2}}
  global: {{kind: mb3d, heads: 2, key_dim: 4, value_ratio: 2, expansion: 2}}
head: {{kind: token_head, classes: 10, distillation: false}}
published:
  stem_s:
    widths: [8, 12, 16, 16]
    depths: [1, 1, 1, 1]
    attention: [0, 0, 0, 1]
    stem: {{kind: efficientvit_stem, width: 4, activation: relu}}
    entry: {{expansion: 1}}
    block: {{expansion: [2, 1, 2, 2]}}
"""
"""Small enough to look at every member."""


TINY = """\
format: nas-space-1
name: tiny
resolution: [32, 32]
attention: network_suffix
stages:
- entry: {kind: conv_stem, activation: relu}
  width: [8]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [8]
  depth: {min: 1, max: 2}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [16]
  depth: {min: 1, max: 1}
  local: {kind: mb4d, expansion: 2}
- entry: {kind: conv_embedding}
  width: [16]
  depth: {min: 1, max: 1}
  local: {kind: mb4d, expansion: 2}
  global: {kind: mb3d, heads: 2, key_dim: 4, value_ratio: 2, expansion: 2}
head: {kind: token_head, classes: 10, distillation: false}
"""


@pytest.fixture(scope="session")
def tiny_space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    """One width a stage; fewer networks than names for them."""
    path = tmp_path_factory.mktemp("spaces") / "tiny.yaml"
    path.write_text(TINY)
    return load_space(str(path))


@pytest.fixture
def small_space(tmp_path: Path) -> Callable[[str], Space]:
    """A function from the placement of attention to a space of four small stages."""

    def make(attention: str = "network_suffix") -> Space:
        path = tmp_path / f"{attention}.yaml"
        path.write_text(SMALL_SPACE.format(attention=attention))
        return load_space(str(path))

    return make


@pytest.fixture
def choices_space(tmp_path: Path) -> Callable[..., Space]:
    """A function from the placement of attention to a space of four small stages, most places with
    several candidates.

    It takes text that is to be replaced in the file, too.
    """

    def make(attention: str = "network_suffix", *changes: tuple[str, str]) -> Space:
        return _changed(
            CHOICES_SPACE.format(attention=attention),
            changes,
            tmp_path / f"choices-{attention}.yaml",
        )

    return make


@pytest.fixture
def stem_space(tmp_path: Path) -> Callable[..., Space]:
    """A function from the placement of attention to a space of a few thousand members with a stem
    before stage 1."""

    def make(attention: str = "network_suffix", *changes: tuple[str, str]) -> Space:
        return _changed(
            STEM_SPACE.format(attention=attention), changes, tmp_path / f"stem-{attention}.yaml"
        )

    return make


def _changed(text: str, changes: Sequence[tuple[str, str]], path: Path) -> Space:
    """The space in a text, each pair of old and new text replaced once."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return load_space(str(path))


@pytest.fixture
def made_up_table() -> Callable[..., LatencyTable]:
    """A function from a space to a latency table for it; with a seed the latencies are random, not
    even monotone, and weights take their time too."""

    def make(space: Space, seed: int | None = None, name: str = "toy") -> LatencyTable:
        rng = random.Random(seed)
        rows = []
        for operation in space_operations(space):
            ms = (
                0.01 + operation.macs / 1e9 + operation.params / 1e7
                if seed is None
                else rng.uniform(0.0, 1.0)
            )
            rows.append(
                Row(*operation.key, str(operation.output), ms, ms, ms, 0, "estimated", "2026-01-31")
            )
        device = DeviceInfo(
            name=name,
            kind="toy",
            soc="no chip",
            os="no OS",
            runtime="none",
            runtime_version="0",
            compute_unit="none",
            precision="fp32",
            provenance="estimated",
            date="2026-01-31",
            intercept_ms=0.1,
            calibration=(
                Calibration() if seed is None else Calibration(weights_ms=3.0, weights_from=0.1)
            ),
        )
        return make_table(device, rows)

    return make


@pytest.fixture
def made_up_scores() -> Callable[..., RecordedScores]:
    """A function from a space and a seed to scores for it; some costs are negative."""

    def make(space: Space, seed: int = 0) -> RecordedScores:
        rng = random.Random(seed)
        typical = {
            "drop": (0.5, 0.4),
            "localise": (0.2, 0.2),
            "narrow": (1.0, 0.5),
            "exchange": (0.1, 0.2),
        }
        keys = [key for key in wanted_keys(space) if key[0] != "narrow"]
        for index, stage in enumerate(space.stages, start=1):
            keys += [("narrow", f"stage{index}", str(width)) for width in stage.widths[:-1]]
        rows = tuple(
            Score(
                move,
                place,
                rng.gauss(*typical[move]),
                choice,
                importance=rng.uniform(0.5, 5.0) if move == "drop" else None,
            )
            for move, place, choice in keys
        )
        return RecordedScores(
            space, rows, ("made up for a test", f"seed {seed}"), baseline_accuracy=90.0, images=5000
        )

    return make


@dataclass(frozen=True)
class StageScores(Scores):
    """Scores that price whole stages at random, neither convex nor monotone, for tests of what
    searches by them.

    Attributes:
        digits: decimals of every part; with few, many members tie.
        positional: whether blocks cost something of their own too, at each position something else.
        known: members that have a cost of their own.
        penalty: the most that an entry may add to the cautious cost.
        error: of every difference.
    """

    scored: Space
    seed: int = 0
    digits: int = 6
    positional: bool = False
    known: tuple[Architecture, ...] = ()
    penalty: float = 0.0
    error: float = 0.0
    notes: tuple[str, ...] = ("made up for a test",)
    path: str = ""

    def _drawn(self, *key: object) -> float:
        return round(zlib.crc32(repr((self.seed, *key)).encode()) / 2**32 * 1.5 - 0.5, self.digits)

    def cost(self, arch: Architecture) -> float:
        arch = self.scored.place(arch)
        compact = replace(arch.compact(), name="")
        for number, member in enumerate(self.known):
            if replace(member.compact(), name="") == compact:
                return self._drawn("known", number)
        total = self.head_cost(arch.head) + (self.stem_cost(arch.stem) if arch.stem else 0.0)
        before = int(arch.stem.width) if arch.stem else 3  # type: ignore[attr-defined]
        for index, stage in enumerate(arch.stages):
            sums = zip(*(self.counts(index, block) for block in stage.blocks), strict=True)
            total += self.entry_cost(index, stage.entry, before)
            total += self.stage_cost(index, stage.width, tuple(map(sum, sums)))
            total += sum(
                self.block_cost(index, p, block, stage.width)
                for p, block in enumerate(stage.blocks)
            )
            before = stage.width
        return total

    def accuracy(self, arch: Architecture) -> Accuracy:
        return Accuracy(80.0 - self.cost(arch), 0.5, "top1", self.provenance)

    def check(self, space: Space) -> None:
        assert space.name == self.space

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError

    def cautious(self) -> Scores:
        return replace(self, penalty=1.0)

    def difference_error(self, arch: Architecture, other: Architecture) -> float:
        return self.error

    def exceptions(self) -> Sequence[Architecture]:
        return self.known

    def stem_cost(self, stem: BlockSpec) -> float:
        return self._drawn("stem", stem)

    def head_cost(self, head: BlockSpec) -> float:
        return self._drawn("head", head)

    def entry_cost(self, index: int, entry: BlockSpec, before: int) -> float:
        penalty = self.penalty * abs(self._drawn("penalty", index, entry, before))
        return self._drawn("entry", index, entry, before) + round(penalty, self.digits)

    def block_cost(self, index: int, position: int, block: BlockSpec, width: int) -> float:
        return self._drawn("block", index, position, block, width) if self.positional else 0.0

    def counts(self, index: int, block: BlockSpec) -> tuple[int, ...]:
        if isinstance(block, Identity):
            return 0, 0, 0
        is_global = self.scored.stages[index].kind(block) == "global"
        return 1, int(is_global), round(4 * float(getattr(block, "expansion", 1)))

    def stage_cost(self, index: int, width: int, counts: tuple[int, ...]) -> float:
        return self._drawn("stage", index, width, counts)


@pytest.fixture
def made_up_stage_scores() -> Callable[..., StageScores]:
    """A function from a space to scores that price its whole stages at random; two members have a
    cost of their own."""

    def make(space: Space, seed: int = 0, **more: Any) -> StageScores:
        return StageScores(space, seed, known=(space.largest(), space.sample(seed)), **more)

    return make


@dataclass(frozen=True)
class Workplace:
    """A working directory with a space, its scores and a table of the device `toy`, where names are
    looked up."""

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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made_up_table: Callable[..., LatencyTable],
    made_up_scores: Callable[..., RecordedScores],
) -> Workplace:
    """The working directory of the test."""
    spaces = tmp_path / "search_spaces"
    spaces.mkdir()
    (spaces / "small.yaml").write_text(SMALL_SPACE.format(attention="network_suffix"))
    space = load_space(str(spaces / "small.yaml"))
    made_up_table(space).save(tmp_path / "latency_tables" / "toy")
    made_up_scores(space).save(tmp_path / "experiments" / "small-toy")
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path, space)
