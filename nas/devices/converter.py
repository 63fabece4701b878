"""Chains to .tflite files, in worker processes, kept by content so that none is ever converted twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from nas.devices.base import Chain
from nas.devices.worker import Worker

Cores = Sequence[int]


class Converter:
    """Converts in the background; devices that are profiled together share one.

    Args:
        workers: processes that convert side by side, of about 1 GB each.
        cores: the cores that they may use; all there are where it is empty.
        cache: where converted files are kept; `cache_folder()` by default.
    """

    def __init__(self, workers: int = 1, cores: Cores = (), cache: Path | None = None) -> None:
        self.cache = cache or cache_folder()
        self._cores = list(cores)
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._workers = [Worker("nas.devices.litert_convert") for _ in range(workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._queue = ThreadPoolExecutor(workers)
        self._asked: dict[Path, Future[Path]] = {}
        self._lock = Lock()

    def prepare(self, chain: Chain) -> Future[Path]:
        """The chain's file. The future raises OperationFailed where it cannot be converted."""
        path = self.cache / f"{chain.digest(*_content())}.tflite"
        with self._lock:
            asked = self._asked.get(path)
            if asked is None or (asked.done() and not path.is_file()):
                asked = self._asked[path] = self._queue.submit(self._convert, chain, path)
        return asked

    def close(self) -> None:
        self._queue.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _convert(self, chain: Chain, path: Path) -> Path:
        if not path.is_file():
            worker = self._idle.get()
            try:
                worker.ask(chain=chain.to_dict(), path=str(path), cores=self._cores)
            finally:
                self._idle.put(worker)
        return path


def cache_folder() -> Path:
    """Where converted files are kept: $XDG_CACHE_HOME/nas/litert, ~/.cache/nas/litert by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas" / "litert"


@cache
def _content() -> tuple[str, ...]:
    """What a converted file depends on beside its chain: the converter, and the code that builds and exports blocks."""
    package = Path(__file__).resolve().parents[1]
    sources = [*package.glob("blocks/*.py"), package / "export/fold.py"]
    sources += [Path(__file__).with_name(name) for name in ("base.py", "litert_convert.py")]
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()
    return version("litert-torch"), version("torch"), code
