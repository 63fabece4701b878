"""Chains to the files that devices run, in worker processes, kept by content so that none is
converted twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Condition, Lock

from nas.convert.chain import Chain
from nas.convert.worker import Worker
from nas.extras import need

Cores = Sequence[int]
MOST_WORKERS = 4
"""Beside a device that is being timed on the same computer, more would keep the memory busy that it
shares."""


@dataclass(frozen=True)
class Target:
    """What chains are converted to.

    Attributes:
        name: of its folder in the cache; `nas.convert.<name>` is the worker.
        suffix: of its files.
        packages: whose versions the files depend on.
        extra: what brings them (`nas.extras`).
        version: of what our worker makes of a module. Whoever changes that (the layout at either
            end, how copies are stacked, an option of the converter) raises it, so that no older
            file is taken for a new one.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    version: int


LITERT = Target("litert", ".tflite", ("litert-torch", "torch"), "litert", version=1)
COREML = Target("coreml", ".mlpackage", ("coremltools", "torch"), "coreml", version=1)


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
        spare: cores that may convert for a while (`borrow_cores`), each in one more process.
        cache: where converted files are kept; `cache_folder` by default.
        target: what they are.

    Raises:
        InputError: when what converts is not installed.
    """

    def __init__(
        self,
        workers: int = 1,
        cores: Cores = (),
        cache: Path | None = None,
        target: Target = LITERT,
        spare: Cores = (),
    ) -> None:
        need(f"converting to {target.name}", target.extra)
        self._versions = _versions(target)
        self.cache = cache or cache_folder(target)
        self.target = target
        self._lanes = [_Lane(self._worker(), tuple(cores)) for _ in range(workers)]
        self._spare = spare[: max(MOST_WORKERS - workers, 0)]
        self._free = list(self._lanes)
        self._leaving: set[_Lane] = set()
        self._freed = Condition()
        self._queue = ThreadPoolExecutor(workers + len(self._spare))
        self._asked: dict[Path, Future[Path]] = {}
        self._lock = Lock()

    def prepare(self, chain: Chain) -> Future[Path]:
        """Return the chain's file. The future raises OperationFailed where it cannot be converted."""
        path = self.cache / f"{self._name(chain)}{self.target.suffix}"
        with self._lock:
            asked = self._asked.get(path)
            if asked is None or (asked.done() and not path.exists()):
                asked = self._asked[path] = self._queue.submit(self._convert, chain, path)
        return asked

    @contextlib.contextmanager
    def borrow_cores(self) -> Iterator[None]:
        """Convert on the spare cores too while it lasts; its end waits for what they are at."""
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

    def _name(self, chain: Chain) -> str:
        """Return a name for all that the chain's file depends on: what is converted, and what
        converts it."""
        copies = len(chain.blocks) if len(set(chain.blocks)) == 1 else 1
        content = {
            "target": [self.target.name, self.target.version],
            "packages": self._versions,
            "graph": _graph(
                replace(chain, blocks=chain.blocks[: len(chain.blocks) // copies], weights=None)
            ),
            "copies": copies,
            "tied": chain.tied,
            # Maps go in and out in another layout than tokens, and vectors.
            "layouts": [chain.input.layout, chain.output.layout],
            "weights": [chain.weights.sha256, chain.weights.names] if chain.weights else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _worker(self) -> Worker:
        return Worker(f"nas.convert.{self.target.name}")

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
        """Return one that is free, taken."""
        with self._freed:
            while not (free := [lane for lane in self._free if lane not in self._leaving]):
                self._freed.wait()
            self._free.remove(free[0])
            return free[0]


def cache_folder(target: Target = LITERT) -> Path:
    """Return where converted files are kept: $XDG_CACHE_HOME/nas/litert, ~/.cache/nas/litert by
    default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / target.name


@lru_cache(maxsize=4096)
def _graph(chain: Chain) -> str:
    """Return a name for the operations of a chain's module, or for its text where it cannot be
    built.

    Such a chain is refused by the worker, which says why.
    """
    from nas.convert.graph import graph_digest
    from nas.convert.litert import build

    inputs = chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)
    try:
        return graph_digest(lambda: build(chain)[0], [shape.tensor() for shape in inputs])
    except Exception:
        return chain.digest()


@cache
def _versions(target: Target) -> dict[str, str]:
    """Return the versions of what converts."""
    return {name: version(name) for name in target.packages}
