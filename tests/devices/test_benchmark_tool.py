"""Where `benchmark_model` comes from: given, in the cache, fetched, or not to be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from fake_phone.shell import ELF_ARM64

from nas.devices.android import benchmark_tool as module
from nas.devices.android.benchmark_tool import VARIABLE, VERSION, benchmark_tool, cache_path
from nas.errors import InputError, NasError

NOWHERE = "http://127.0.0.1:9/benchmark_model"


@pytest.fixture(autouse=True)
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file at LiteRT's address."""
    path = tmp_path / "release"
    path.write_bytes(ELF_ARM64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "URL", path.as_uri())
    return path


def test_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = benchmark_tool()
    assert (
        tool.path == cache_path()
        and tool.path.read_bytes() == ELF_ARM64
        and tool.version == VERSION
    )
    assert tool.sha256 == hashlib.sha256(ELF_ARM64).hexdigest()
    monkeypatch.setattr(module, "URL", NOWHERE)
    assert benchmark_tool() == tool


def test_damaged_copy_is_fetched_again() -> None:
    tool = benchmark_tool()
    tool.path.write_bytes(ELF_ARM64[:30])
    assert benchmark_tool() == tool and tool.path.read_bytes() == ELF_ARM64


def test_without_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "URL", NOWHERE)
    with pytest.raises(NasError) as error:
        benchmark_tool()
    for part in (NOWHERE, str(cache_path()), f"{VARIABLE}=FILE", "refused"):
        assert part in str(error.value)
    assert "\n" not in str(error.value) and not cache_path().exists()
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(ELF_ARM64 + b"by hand")
    assert benchmark_tool().path == cache_path()


def test_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    other = tmp_path / "other"
    mine.write_bytes(ELF_ARM64 + b"mine")
    other.write_bytes(ELF_ARM64 + b"other")
    monkeypatch.setenv(VARIABLE, str(other))
    assert benchmark_tool().path == other and benchmark_tool(mine).path == mine
    assert benchmark_tool(mine).version == f"benchmark_model {benchmark_tool(mine).sha256[:12]}"


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", ELF_ARM64.replace(b"\xb7\x00", b"\x3e\x00")]
)
def test_other_programs_are_refused(tmp_path: Path, release: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(InputError, match="other: is not a program for arm64"):
        benchmark_tool(tmp_path / "other")
    release.write_bytes(content)
    with pytest.raises(InputError, match="benchmark_model: is not a program for arm64"):
        benchmark_tool()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        benchmark_tool(tmp_path / "none")
