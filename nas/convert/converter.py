"""Convert chains to the files that devices run, in worker processes, with a cache by content.

Every device that runs converted files holds a `Converter`, as does the writer of a bundle. A file's
name is a digest of all that it depends on: no file is converted twice or taken for another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from threading import Condition, Lock
from typing import Any

from nas import resources
from nas.convert.chain import EMPTY, Chain, Interrupted, OperationFailed
from nas.convert.int8 import slow_operators
from nas.convert.worker import Worker
from nas.errors import NasError
from nas.extras import need
from nas.files import remove

Cores = Sequence[int]
MOST_WORKERS = 4
"""Maximum number of processes; more would load the memory that a device on this computer shares."""


@dataclass(frozen=True)
class Target:
    """A kind of file that chains are converted to.

    Attributes:
        name: of its folder in the cache; `nas.convert.<name>` is its worker.
        suffix: of its files.
        packages: distributions whose versions the files depend on.
        extra: the extra of nas that installs them (`nas.extras`).
        version: of the worker's own part. Raise it with any change of what the worker makes of a
            module (the layout at either end, how copies are stacked, an option of the converter),
            or an older file would be taken for a new one.
        settings: returns what else decides the content of its files, as plain data.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    extra: str
    version: int
    settings: Callable[[], Any] | None = None


LITERT = Target("litert", ".tflite", ("litert-torch", "torch"), "litert", version=1)
LITERT_INT8 = Target(
    "litert_int8",
    ".tflite",
    ("litert-torch", "torch", "ai-edge-quantizer"),
    "litert",
    version=1,
    settings=slow_operators,
)
COREML = Target("coreml", ".mlpackage", ("coremltools", "torch"), "coreml", version=2)


@dataclass(frozen=True, eq=False)
class _Lane:
    """A process that converts and the cores that it may use (all where empty)."""

    worker: Worker
    cores: tuple[int, ...]


class Converter:
    """Converts in the background; devices that are profiled together share one.

    A chain waits in the queue until a lane is free. The thread that takes it asks the lane's
    process, and returns the lane when the file is there.

    Args:
        workers: number of processes that convert side by side, of about 1 GB each.
        cores: the cores that they may use (default: all).
        cache: folder of converted files (default: `cache_folder`).
        target: kind of the files.
        spare: cores that may convert inside `borrow_cores`, each with one more process.

    Raises:
        InputError: when the packages of the target are not installed.

    Attributes:
        _free: lanes that wait for a chain.
        _leaving: borrowed lanes that take no further chain.
        _busy: number of lanes that convert.
        _loners: number of lanes that convert without any other, or wait for that.
        _ended: lanes whose processes were ended here, so that nobody waits for their chains.
        _freed: condition that guards these and is notified when one changes.
        _asked: futures by path, guarded by `_lock`.
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
        self._busy = 0
        self._loners = 0
        self._ended: set[_Lane] = set()
        self._freed = Condition()
        # A thread for each lane that there can be; without borrowed lanes some of them wait.
        self._queue = ThreadPoolExecutor(workers + len(self._spare))
        self._asked: dict[Path, Future[Path]] = {}
        self._lock = Lock()

    def prepare(self, chain: Chain) -> Future[Path]:
        """Return a future of the chain's file, which raises OperationFailed where that fails."""
        path = self.cache / f"{self._name(chain)}{self.target.suffix}"
        # Chains of one file share a future, so that two threads do not convert it at once. A file
        # that was deleted since (large networks are) or that failed is asked for again.
        with self._lock:
            asked = self._asked.get(path)
            if asked is None or (asked.done() and not path.exists()):
                asked = self._asked[path] = self._queue.submit(self._convert, chain, path)
        return asked

    @contextlib.contextmanager
    def borrow_cores(self) -> Iterator[None]:
        """Convert on the spare cores too; the context manager's end waits for their conversions."""
        more = {_Lane(self._worker(), (core,)) for core in self._spare}
        with self._freed:
            self._free += more
            self._freed.notify_all()
        try:
            yield
        except BaseException:
            # After an error nobody waits for conversions: killed workers free their lanes.
            self._end(more)
            raise
        finally:
            with self._freed:
                # The order matters. Leaving lanes get no further chain, then lanes at work return
                # to `_free`, and only then are they removed. So no conversion runs on the spare
                # cores once measuring begins.
                self._leaving |= more
                self._freed.wait_for(lambda: more <= set(self._free))
                self._free = [lane for lane in self._free if lane not in more]
                self._leaving -= more
            for lane in more:
                lane.worker.close()

    def close(self) -> None:
        self._queue.shutdown(wait=False, cancel_futures=True)
        self._end(self._lanes)

    def _end(self, lanes: Collection[_Lane]) -> None:
        """End the processes of lanes, which take no further chain."""
        with self._freed:
            self._ended.update(lanes)
            self._freed.notify_all()
        for lane in lanes:
            lane.worker.close()

    def _name(self, chain: Chain) -> str:
        """Return a digest of all that the chain's file depends on.

        That is the graph of operations, the arrangement around it, the trained weights, and the
        versions of what converts.
        """
        # A stack is traced as one block: its copies are equal, and tracing takes time.
        copies = len(chain.blocks) if len(set(chain.blocks)) == 1 else 1
        content: dict[str, Any] = {
            "target": [self.target.name, self.target.version],
            "packages": self._versions,
            # Weights have their own entry: the graph is the same for all of them.
            "graph": _graph(
                replace(chain, blocks=chain.blocks[: len(chain.blocks) // copies], weights=None)
            ),
            "copies": copies,
            "tied": chain.tied,
            # The worker converts maps to another layout at either end than tokens and vectors.
            "layouts": [chain.input.layout, chain.output.layout],
            "weights": [chain.weights.sha256, chain.weights.names] if chain.weights else None,
        }
        if self.target.settings is not None:
            content["settings"] = self.target.settings()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _worker(self) -> Worker:
        return Worker(f"nas.convert.{self.target.name}")

    def _convert(self, chain: Chain, path: Path) -> Path:
        """Return the chain's file, converted on a free lane where it is not in the cache.

        Raises:
            OperationFailed: when the chain cannot be converted.
            Interrupted: when its process was ended twice, the second time without any other.
            NasError: when no chain can be converted any more.
        """
        if not path.exists():
            lane = self._lane()
            try:
                self._ask(lane, chain, path)
            except Interrupted:
                if lane in self._ended:
                    raise
                # The kernel ends processes for want of memory. Alone, the chain may have enough.
                with self._alone(lane):
                    self._ask(lane, chain, path)
            except OperationFailed as error:
                self._check_well(lane, path, error)
                raise
            finally:
                with self._freed:
                    self._free.append(lane)
                    self._busy -= 1
                    self._freed.notify_all()
        return path

    def _ask(self, lane: _Lane, chain: Chain, path: Path) -> None:
        lane.worker.ask(chain=chain.to_dict(), path=str(path), cores=lane.cores)

    @contextlib.contextmanager
    def _alone(self, lane: _Lane) -> Iterator[None]:
        """Context manager: the other lanes are idle, and their processes have ended."""
        with self._freed:
            # A lane that waits here does not count as busy: two of them would wait for each other.
            # While any waits, no other lane takes a chain, or its turn would never come.
            self._loners += 1
            self._busy -= 1
            self._freed.notify_all()
            self._freed.wait_for(lambda: not self._busy or lane in self._ended)
            self._busy += 1
            idle = list(self._free)
        try:
            for other in idle:
                other.worker.close()
            if lane in self._ended:
                raise Interrupted(f"converting to {self.target.name} was stopped")
            yield
        finally:
            with self._freed:
                self._loners -= 1
                self._freed.notify_all()

    def _check_well(self, lane: _Lane, path: Path, error: OperationFailed) -> None:
        """Raise NasError where the control cannot be converted either.

        The fault is then not the chain's: packages were changed meanwhile, or a disk is gone.
        """
        control = path.with_name(f"control-{path.name}")
        try:
            self._ask(lane, EMPTY, control)
        except OperationFailed:
            raise NasError(
                f"converting to {self.target.name} does not work any more ({error}). Fix: check the"
                " packages that convert, then run the same command again"
            ) from error
        finally:
            remove(control)

    def _lane(self) -> _Lane:
        """Take a free lane that is not leaving; wait until there is one."""
        with self._freed:
            while (
                not (free := [lane for lane in self._free if lane not in self._leaving])
                or self._loners
            ):
                self._freed.wait()
            self._free.remove(free[0])
            self._busy += 1
            return free[0]


def cache_folder(target: Target = LITERT) -> Path:
    """Return the folder of converted files: $XDG_CACHE_HOME/nas/<target> (default: ~/.cache)."""
    return resources.cache_folder(target.name)


@lru_cache(maxsize=4096)
def _graph(chain: Chain) -> str:
    """Return a digest of what a chain's module computes, or of the chain where it cannot be built.

    The worker refuses such a chain and says why.
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
    """Return the installed versions of a target's packages."""
    return {name: version(name) for name in target.packages}
