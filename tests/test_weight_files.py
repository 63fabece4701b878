"""Files of weights: what they are by their first bytes, whatever their name is."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from nas.errors import InputError
from nas.weight_files import find_file, kind_of, read_header

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 48849231\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"


def archive(names: tuple[str, ...]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return data.getvalue()


def tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as made:
        made.addfile(tarfile.TarInfo("model.pth"))
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (POINTER, "a pointer of Git LFS"),
        (POINTER.replace(b"\n", b"\r\n"), "a pointer of Git LFS"),
        (PAGE.encode(), "an HTML page"),
        (b"\xef\xbb\xbf\n\n" + PAGE.lower().encode(), "an HTML page"),
        (PAGE.encode("utf-16"), "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"Entry not found", "a text file that begins with 'Entry not found'"),
        ("Größe unbekannt ".encode() * 40, "a text file that begins with 'Größe"),
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
        (tar(), "a tar archive"),
        (archive(("weights.npy",)), r"a zip archive without a checkpoint .*'weights.npy'"),
        (archive(("m/data.pkl", "m/constants.pkl")), "a TorchScript program"),
        (bytes(range(256)) * 3, "not a checkpoint, or damaged: neither a safetensors"),
        (b"\xff" * 600, "not a checkpoint, or damaged: neither a safetensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_told(
    tmp_path: Path, content: bytes, reason: str, suffix: str
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"file\{suffix}: {reason}") as caught:
        kind_of(path)
    assert "\n" not in str(caught.value)


def test_formats_are_known_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file.onnx"
    path.write_bytes(save({"a": torch.zeros(2)}))
    assert kind_of(path) == "safetensors"
    torch.save({"a": torch.zeros(2)}, path)
    assert kind_of(path) == "torch"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    assert kind_of(path) == "torch"


@given(st.binary(max_size=600))
def test_any_bytes_are_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    try:
        assert kind_of(path) in ("safetensors", "torch")
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert isinstance(read_header(path), dict)


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=40), max_size=4))
def test_headers_are_read_as_safetensors_writes_them(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata)
    assert read_header(path) == metadata


def test_a_folder_names_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no checkpoint in this folder"):
        find_file(tmp_path)
    with pytest.raises(InputError, match="there is no such checkpoint file"):
        find_file(tmp_path / "gone")
    only = tmp_path / "emo_1m.pth"
    only.write_bytes(b"x")
    assert find_file(only) == find_file(tmp_path) == only
    (tmp_path / "other.ckpt").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"2 checkpoints in this folder \(emo_1m.pth, other.ckpt\)"
    ):
        find_file(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert find_file(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert find_file(tmp_path).name == "model.safetensors"


def test_a_split_checkpoint_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "model-00001-of-00002.safetensors", np.zeros(2))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="split into several files"):
        find_file(tmp_path)
