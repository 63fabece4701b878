"""Chains to the files that devices run, in worker processes, kept by content so that none is converted twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Condition, Lock

from nas.devices.base import Chain
from nas.devices.worker import Worker
from nas.extras import need
from nas.plugins import BLOCKS, plugins
from nas.specs import SPECS

Cores = Sequence[int]
MOST_WORKERS = 4
"""Beside a device that is being timed on the same computer, more would keep the memory busy that it shares."""


@dataclass(frozen=True)
class Target:
    """What chains are converted to.

    Attributes:
        name: of its folder in the cache; `nas.devices.<name>_convert` is the worker.
        suffix: of its files.
        packages: whose versions the files depend on.
        extra: what brings them (`nas.extras`).
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    extra: str


LITERT = Target("litert", ".tflite", ("litert-torch", "torch"), "litert")
COREML = Target("coreml", ".mlpackage", ("coremltools", "torch"), "coreml")


@dataclass(frozen=True, eq=False)
class _Lane:
    """A process that converts, and the cores that it may use."""

    worker: Worker
    cores: tuple[int, ...]


class Converter:
    """Converts in the background; devices that are profiled together share one.

    Args:
        workers: processes that convert side by side, of about 1 GB each.
        cores: the cores that they may use; all there are where it is empty.
        spare: cores that may convert for a while (`hurry`), each in one more process.
        cache: where converted files are kept; `cache_folder` by default.
        target: what they are.

    Raises:
        InputError: when what converts is not installed.
    """

    def __init__(
        self, workers: int = 1, cores: Cores = (), cache: Path | None = None, target: Target = LITERT, spare: Cores = ()
    ) -> None:
        need(f"converting to {target.name}", target.extra)
        self._content = _content(target)
        self.cache, self.target = cache or cache_folder(target), target
        self._lanes = [_Lane(self._worker(), tuple(cores)) for _ in range(workers)]
        self._spare = spare[: max(MOST_WORKERS - workers, 0)]
        self._free = list(self._lanes)
        self._leaving: set[_Lane] = set()
        self._freed = Condition()
        self._queue = ThreadPoolExecutor(workers + len(self._spare))
        self._asked: dict[Path, Future[Path]] = {}
        self._lock = Lock()

    def prepare(self, chain: Chain) -> Future[Path]:
        """The chain's file. The future raises OperationFailed where it cannot be converted."""
        path = self.cache / f"{chain.digest(*self._content, *_brought(chain))}{self.target.suffix}"
        with self._lock:
            asked = self._asked.get(path)
            if asked is None or (asked.done() and not path.exists()):
                asked = self._asked[path] = self._queue.submit(self._convert, chain, path)
        return asked

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Converts on the spare cores too while it lasts; its end waits for what they are at."""
        more = {_Lane(self._worker(), (core,)) for core in self._spare}
        with self._freed:
            self._free += more
            self._freed.notify_all()
        try:
            yield
        except BaseException:
            for lane in more:
                lane.worker.close()
            raise
        finally:
            with self._freed:
                self._leaving |= more
                self._freed.wait_for(lambda: more <= set(self._free))
                self._free = [lane for lane in self._free if lane not in more]
                self._leaving -= more
            for lane in more:
                lane.worker.close()

    def close(self) -> None:
        self._queue.shutdown(wait=False, cancel_futures=True)
        for lane in self._lanes:
            lane.worker.close()

    def _worker(self) -> Worker:
        return Worker(f"nas.devices.{self.target.name}_convert")

    def _convert(self, chain: Chain, path: Path) -> Path:
        if not path.exists():
            lane = self._lane()
            try:
                lane.worker.ask(chain=chain.to_dict(), path=str(path), cores=lane.cores)
            finally:
                with self._freed:
                    self._free.append(lane)
                    self._freed.notify_all()
        return path

    def _lane(self) -> _Lane:
        """One that is free, taken."""
        with self._freed:
            while not (free := [lane for lane in self._free if lane not in self._leaving]):
                self._freed.wait()
            self._free.remove(free[0])
            return free[0]


def cache_folder(target: Target = LITERT) -> Path:
    """Where converted files are kept: $XDG_CACHE_HOME/nas/litert, ~/.cache/nas/litert by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / target.name


def _brought(chain: Chain) -> list[str]:
    """What a converted file depends on beside that, where blocks of other packages are in it: their versions."""
    if not any(spec.module for spec in chain.blocks):
        return []
    known = plugins(BLOCKS, SPECS)
    return sorted({f"{p.package} {p.version}" for spec in chain.blocks if spec.module and (p := known.get(spec.kind))})


@cache
def _content(target: Target) -> tuple[str, ...]:
    """What a converted file depends on beside its chain: the converter, and the code that builds and exports blocks."""
    package = Path(__file__).resolve().parents[1]
    sources = [*package.glob("blocks/*.py"), package / "export/fold.py"]
    # The worker of LiteRT has what builds the networks of every target.
    used = {"base.py", "litert_convert.py", f"{target.name}_convert.py"}
    sources += [Path(__file__).with_name(name) for name in used]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()
    return *map(version, target.packages), code
