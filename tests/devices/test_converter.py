"""Who converts when: the usual processes, and those on spare cores while nothing is measured."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import pytest

from nas.blocks import Flatten, Shape
from nas.convert import converter
from nas.convert.chain import Interrupted
from nas.convert.converter import Converter
from nas.devices import Chain


class FakeWorker:
    """Converts when told to; counts how many do so at a time."""

    go: ClassVar[Event]
    at_work: ClassVar[list[FakeWorker]]
    cores: ClassVar[set[tuple[int, ...]]]

    def __init__(self, module: str) -> None:
        self.killed = Event()

    def ask(self, **request: Any) -> dict[str, Any]:
        self.at_work.append(self)
        self.cores.add(tuple(request["cores"]))
        try:
            while not self.go.wait(0.005):
                if self.killed.is_set():
                    raise Interrupted("killed")
            Path(request["path"]).write_bytes(b"converted")
        finally:
            self.at_work.remove(self)
        return {}

    def close(self) -> None:
        self.killed.set()


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """A converter with core 0 of its own, and 1 and 2 to spare."""
    FakeWorker.go = Event()
    FakeWorker.at_work = []
    FakeWorker.cores = set()
    monkeypatch.setattr(converter, "Worker", FakeWorker)
    return Converter(1, cores=[0], cache=tmp_path, spare=[1, 2])


def chains(count: int) -> list[Chain]:
    return [Chain((Flatten(),), Shape(8 * number, 1, 1)) for number in range(1, count + 1)]


def most_at_work(wanted: int) -> int:
    """How many convert, once as many as `wanted` do, or after a while."""
    deadline = time.monotonic() + 0.5
    while len(FakeWorker.at_work) < wanted and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(FakeWorker.at_work)


def test_spare_cores_convert_only_in_a_hurry(one: Converter) -> None:
    artifacts = [one.prepare(chain) for chain in chains(5)]
    assert most_at_work(2) == 1 and FakeWorker.cores == {(0,)}
    with one.borrow_cores():
        assert most_at_work(4) == 3 and FakeWorker.cores == {(0,), (1,), (2,)}
        FakeWorker.go.set()
        assert all(artifact.result(timeout=5).exists() for artifact in artifacts)
    FakeWorker.go.clear()
    more = [one.prepare(chain) for chain in chains(9)[5:]]
    assert most_at_work(2) == 1
    FakeWorker.go.set()
    assert all(artifact.result(timeout=5).exists() for artifact in more)
    one.close()


def test_an_interruption_waits_for_no_conversion(one: Converter) -> None:
    artifacts = [one.prepare(chain) for chain in chains(5)]
    with pytest.raises(KeyboardInterrupt), one.borrow_cores():
        assert most_at_work(3) == 3
        raise KeyboardInterrupt
    assert most_at_work(2) == 1, "the usual process goes on"
    killed = [artifact for artifact in artifacts if artifact.done()]
    assert len(killed) == 2 and all(isinstance(each.exception(), Interrupted) for each in killed)
    FakeWorker.go.set()
    one.close()
