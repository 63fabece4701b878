"""A converted file's name follows what is computed: changed code changes it, other words for the
same code do not."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.blocks import MB4D, BlockSpec, EfficientViTStem, Operation, ResBlock, Shape
from nas.convert import converter
from nas.convert.chain import Chain, Weights
from nas.convert.converter import COREML, LITERT, Converter, Target
from nas.convert.graph import graph_digest
from nas.space import load_space, space_names
from nas.space.operations import space_operations

SHAPE = Shape(8, 4, 4)
MODULE, CLASS = MB4D.module.split(":")
MOVED = "a_moved_block"


class Worker:
    """Converts at once, to an empty file."""

    def __init__(self, module: str) -> None:
        pass

    def ask(self, **request: Any) -> dict[str, Any]:
        Path(request["path"]).touch()
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function from a chain to the name of its file, as a new process would give it."""
    monkeypatch.setattr(converter, "Worker", Worker)

    def of(chain: Chain, target: Target = LITERT) -> str:
        converter._graph.cache_clear()
        one = Converter(cache=tmp_path, target=target)
        try:
            return one.prepare(chain).result().name
        finally:
            one.close()

    return of


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that moves the module of MB4D to another file, with its text changed."""

    def move(*changes: tuple[str, str]) -> None:
        text = inspect.getsource(importlib.import_module(MODULE))
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "elsewhere.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(MOVED, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, MOVED, module)
        monkeypatch.setattr(MB4D, "module", f"{MOVED}:{CLASS}")

    return move


def stack(spec: BlockSpec, shape: Shape = SHAPE, copies: int = 1) -> Chain:
    return Chain((spec,) * copies, shape, tied=True)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ([], True),
        ([("    def forward(", "    # Equation 3 of the paper.\n    def forward(")], True),
        ([("hidden = self", "inside = self"), ("project(hidden)", "project(inside)")], True),
        ([("count_include_pad=False", "count_include_pad=True")], False),
        ([("self.activation(self.expand(x_bchw))", "self.expand(x_bchw)")], False),
        ([("ACTIVATIONS[spec.activation]()", "nn.ReLU()")], False),
    ],
)
def test_code_counts_and_neither_comments_nor_names_nor_files(
    changes: list[tuple[str, str]], same: bool, name: Callable[..., str], moved: Callable[..., None]
) -> None:
    before = name(stack(MB4D()))
    moved(*changes)
    assert (name(stack(MB4D())) == before) is same


def test_what_a_spec_decides_counts(
    name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hyperparameters stay: only the code of the spec says which block stands in this stem."""
    stem = EfficientViTStem(16)
    image = Shape(3, 32, 32)
    before = name(stack(stem, image))
    monkeypatch.setattr(
        EfficientViTStem, "residual", property(lambda self: ResBlock(activation=self.activation))
    )
    assert name(stack(stem, image)) != before


def test_what_converts_and_what_is_asked_counts(
    name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(sha256: str) -> Chain:
        return Chain((MB4D(), MB4D()), SHAPE, weights=Weights("/nowhere", sha256, ("one", "two")))

    chains = [
        stack(MB4D()),
        stack(MB4D(), copies=2),
        stack(MB4D(), copies=3),
        stack(MB4D(), Shape(8, 8, 4)),
        Chain((MB4D(), MB4D()), SHAPE),
        weights("a"),
        weights("b"),
    ]
    names = [name(chain) for chain in chains]
    names += [
        name(stack(MB4D()), replace(LITERT, version=LITERT.version + 1)),
        name(stack(MB4D()), COREML),
    ]
    monkeypatch.setattr(converter, "version", lambda package: "another version")
    converter._versions.cache_clear()
    names.append(name(stack(MB4D())))
    converter._versions.cache_clear()
    assert len(set(names)) == len(names)


def test_every_kind_of_operation_has_a_name_that_another_process_gives_it_too(
    name: Callable[..., str],
) -> None:
    spaces = [load_space(space).at(64) for space in space_names()]
    operations: dict[str, Operation] = {
        op.spec.kind: op for space in spaces for op in space_operations(space)
    }
    names = {kind: name(Chain.stack(operation)) for kind, operation in operations.items()}
    assert len(set(names.values())) == len(names)
    # No name is that of the text, as for a chain whose module cannot be built.
    assert not {Chain.stack(operation).digest() for operation in operations.values()} & {
        converter._graph(Chain.stack(operation)) for operation in operations.values()
    }
    code = (
        "import sys, json; from nas.convert import converter\n"
        "from nas.convert.chain import Chain\n"
        "chains = [Chain.from_dict(each) for each in json.load(sys.stdin)]\n"
        "print(json.dumps([converter._graph(chain) for chain in chains]))"
    )
    chains = [Chain.stack(operation) for operation in operations.values()]
    there = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([chain.to_dict() for chain in chains]),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "7"},
    )
    assert json.loads(there.stdout) == [converter._graph(chain) for chain in chains]


class Constant(nn.Module):
    """Adds a constant that no hyperparameter says."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.register_buffer("constant", make())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.constant


@pytest.mark.parametrize(
    "make",
    [
        lambda last: torch.tensor([1.0, last]),
        lambda last: torch.as_tensor(np.array([1.0, last], dtype=np.float32)),
        lambda last: torch.from_numpy(np.array([1.0, last], dtype=np.float32)),
        lambda last: torch.linspace(1.0, last, 2),
        lambda last: torch.tensor([1.0, last]) * torch.tensor(3.0).item(),
    ],
)
def test_constants_count_by_their_values(make: Callable[[float], Tensor]) -> None:
    digests = [
        graph_digest(lambda last=last: Constant(lambda: make(last)), [(1, 2)])
        for last in (2.0, 2.0, 3.0)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_naming_leaves_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    graph_digest(
        lambda: nn.Sequential(
            nn.Linear(2, 2), Constant(lambda: torch.tensor([torch.rand(1).item()]))
        ),
        [(1, 2)],
    )
    assert torch.equal(torch.rand(2), expected)


def test_what_cannot_be_built_is_named_all_the_same(
    name: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker says what is wrong with it."""
    monkeypatch.setattr(MB4D, "module", "no_such_package:Block")
    assert name(stack(MB4D())) != name(stack(MB4D(expansion=2)))
