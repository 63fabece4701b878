"""Where `benchmark_model` comes from: given, in the cache, fetched, or not to be had."""

from __future__ import annotations

import base64
import hashlib
import io
from email.message import Message
from pathlib import Path

import pytest
from fake_phone.shell import ELF_ARM64

from nas.devices.android import benchmark_tool as module
from nas.devices.android.benchmark_tool import (
    ACCELERATOR_VARIABLE,
    ACCELERATORS,
    VARIABLE,
    VERSION,
    benchmark_tool,
    cache_path,
    gpu_accelerator,
)
from nas.errors import InputError, NasError

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file at LiteRT's address."""
    path = tmp_path / "release" / "benchmark_model"
    path.parent.mkdir()
    path.write_bytes(ELF_ARM64)
    (path.parent / ACCELERATORS[0]).write_bytes(ELF_ARM64 + b"gpu")
    monkeypatch.delenv(ACCELERATOR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(module, "RELEASE", path.parent.as_uri())
    return path


def test_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = benchmark_tool()
    assert (
        tool.path == cache_path()
        and tool.path.read_bytes() == ELF_ARM64
        and tool.version == VERSION
    )
    assert tool.sha256 == hashlib.sha256(ELF_ARM64).hexdigest()
    monkeypatch.setattr(module, "RELEASE", NOWHERE)
    assert benchmark_tool() == tool


def test_damaged_copy_is_fetched_again() -> None:
    tool = benchmark_tool()
    tool.path.write_bytes(ELF_ARM64[:30])
    assert benchmark_tool() == tool and tool.path.read_bytes() == ELF_ARM64


def test_without_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELEASE", NOWHERE)
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
    with pytest.raises(NasError, match="not the released program: a login page"):
        benchmark_tool()
    assert not cache_path().exists(), "what is no program does not stay in the cache"


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        benchmark_tool(tmp_path / "none")


def test_checksum_of_the_server_is_compared(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's storage sends the checksum of the file; a download that was cut short differs."""

    class Answer(io.BytesIO):
        headers = Message()

    def answer(url: str, timeout: float) -> Answer:
        made = Answer(release.read_bytes())
        made.headers = Message()
        made.headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={checksum}"
        return made

    monkeypatch.setattr(module.urllib.request, "urlopen", answer)
    checksum = base64.b64encode(hashlib.md5(b"whole").digest()).decode()
    with pytest.raises(NasError, match="broken download"):
        benchmark_tool()
    checksum = base64.b64encode(hashlib.md5(ELF_ARM64).digest()).decode()
    assert benchmark_tool().path.read_bytes() == ELF_ARM64


def test_accelerator_of_the_release_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    library = gpu_accelerator(benchmark_tool())
    assert library is not None and library.path.name == ACCELERATORS[0]
    monkeypatch.setattr(module, "RELEASE", NOWHERE)
    assert gpu_accelerator(benchmark_tool()) == library


def test_accelerator_beside_a_tool_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(ELF_ARM64)
    assert gpu_accelerator(benchmark_tool(mine)) is None, "the release's is of another version"
    (tmp_path / ACCELERATORS[2]).write_bytes(ELF_ARM64 + b"beside")
    beside = gpu_accelerator(benchmark_tool(mine))
    assert beside is not None and beside.path == tmp_path / ACCELERATORS[2]
    other = tmp_path / "other.so"
    other.write_bytes(ELF_ARM64 + b"other")
    monkeypatch.setenv(ACCELERATOR_VARIABLE, str(other))
    given = gpu_accelerator(benchmark_tool(mine))
    assert given is not None and given.path == other


def test_without_accelerator_the_phone_may_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = benchmark_tool()
    monkeypatch.setattr(module, "RELEASE", NOWHERE)
    assert gpu_accelerator(tool) is None
