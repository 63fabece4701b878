"""Digests in files of weights: a changed bit is refused, whoever reads the file."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

import nas
from nas.errors import InputError
from nas.latency.check.network import weights_of
from nas.runs.schema import WEIGHTS_FORMAT
from nas.space import load_architecture
from nas.training.state import read_tensors
from nas.weight_files import DIGEST, UNKNOWN_DIGEST, content_sha256, read_header
from nas.weights.files import read_checkpoint, read_safetensors, save_tensors

TENSORS = {
    "stem.weight": torch.arange(12.0).reshape(3, 4).T,
    "stem.steps": torch.tensor(7),
    "head.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "head.none": torch.zeros(0, 3),
    "head.mask": torch.tensor([True, False]),
}
HEADER = {
    "format": "nas-test-1",
    "classes": f'["a \\ \\"b\\"", "\n", "\\"{DIGEST}\\":\\"{UNKNOWN_DIGEST}\\""]',
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, TENSORS, HEADER)
    return path


def alike(found: dict[str, Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in TENSORS.items()
    )


def test_what_is_written_is_read_and_its_digest_is_that_of_its_content(weights: Path) -> None:
    tensors, header = read_safetensors(weights)
    assert alike(tensors)
    assert header == {**HEADER, DIGEST: content_sha256(weights)}
    assert header[DIGEST] != UNKNOWN_DIGEST
    assert alike(read_checkpoint(weights).content)
    assert alike(read_tensors(weights, HEADER["format"], "a test")[0])


READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "checkpoint": lambda path: read_checkpoint(path).content,
    "training": lambda path: read_tensors(path, HEADER["format"], "a test")[0],
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_changed_bit_changes_what_is_read(
    read: Callable[[Path], dict[str, Tensor]], weights: Path
) -> None:
    content = weights.read_bytes()
    rng = random.Random(0)
    refused = 0
    for at in range(len(content)):
        changed = content[at] ^ (1 << rng.randrange(8))
        weights.write_bytes(bytes((*content[:at], changed, *content[at + 1 :])))
        try:
            found = read(weights)
        except InputError as error:
            assert str(error).startswith(f"{weights}: ") and "\n" not in str(error)
            refused += 1
        else:
            # The name of the digest was hit, so that the file has none, and all else is intact.
            assert alike(found)
            assert DIGEST not in read_header(weights)
            rest = {k: v for k, v in read_header(weights).items() if k in HEADER}
            assert rest == HEADER
    assert refused >= len(content) - len(DIGEST)


def test_a_changed_weight_is_told_with_its_remedy(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        InputError,
        match=rf"weights.safetensors: its content is not the one .* '{DIGEST}' in its header\)\."
        " Fix: restore the file from a copy, or remove it and run the command",
    ):
        read_checkpoint(weights)


def test_a_file_without_a_digest_stays_readable(weights: Path) -> None:
    safetensors.torch.save_file({k: v.contiguous() for k, v in TENSORS.items()}, weights, HEADER)
    assert alike(read_checkpoint(weights).content)
    assert alike(read_tensors(weights, HEADER["format"], "a test")[0])


def test_the_same_content_may_be_written_again_by_another_program(weights: Path) -> None:
    tensors, header = read_safetensors(weights)
    again = weights.with_name("again.safetensors")
    # safetensors writes the keys of its metadata in random order.
    safetensors.torch.save_file(dict(reversed(tensors.items())), again, header)
    assert alike(read_checkpoint(again).content)
    tensors["stem.steps"] += 1
    safetensors.torch.save_file(tensors, again, header)
    with pytest.raises(InputError, match="its content is not the one that was written"):
        read_checkpoint(again)


def test_weights_that_are_to_be_measured_are_verified(workplace, tmp_path: Path) -> None:
    arch = workplace.space.smallest()
    path = tmp_path / "w.safetensors"
    save_tensors(path, nas.build(arch).state_dict(), {"format": WEIGHTS_FORMAT})
    arch.save(tmp_path / "w.yaml")
    operations = load_architecture(tmp_path / "w.yaml").operations()
    assert weights_of(path, operations).path == str(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"w.safetensors: its content is not the one"):
        weights_of(path, operations)


def test_all_weights_are_written_with_a_digest_and_read_with_a_check() -> None:
    package = Path(nas.__file__).parent
    users = {
        (path.relative_to(package).as_posix(), alias.name)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors")
        for alias in node.names
        if alias.name != "SafetensorError"
    }
    assert users == {
        # It reads the names alone and has the content checked.
        ("latency/check/network.py", "safe_open"),
        # What it converts has been checked there.
        ("convert/litert.py", "load_file"),
    }
