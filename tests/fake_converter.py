"""A converter of nothing, for tests of bundles."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from nas.devices import Chain, OperationFailed


class FakeConverter:
    """Writes a chain's description in place of its file."""

    fails: Callable[[Chain], bool] = staticmethod(lambda chain: False)
    stop_after: int | None = None
    converted: list[Chain]

    def __init__(
        self,
        workers: int = 1,
        cores: Sequence[int] = (),
        cache: Path | None = None,
        target: Any = None,
    ) -> None:
        assert cache is not None
        self.cache = cache
        self.suffix = target.suffix
        self.cache.mkdir(parents=True, exist_ok=True)
        FakeConverter.converted = []

    def prepare(self, chain: Chain) -> Future[Path]:
        future: Future[Path] = Future()
        path = self.cache / f"converted-{chain.digest()}{self.suffix}"
        if (
            FakeConverter.stop_after is not None
            and len(FakeConverter.converted) >= FakeConverter.stop_after
        ):
            future.set_exception(KeyboardInterrupt())
        elif FakeConverter.fails(chain):
            future.set_exception(OperationFailed("NotImplementedError: no such layer"))
        else:
            if not path.exists():
                FakeConverter.converted.append(chain)
                self._write(path, json.dumps(chain.to_dict()))
            future.set_result(path)
        return future

    def _write(self, path: Path, text: str) -> None:
        if self.suffix == ".mlpackage":
            (path / "Data").mkdir(parents=True)
            (path / "Manifest.json").write_text("{}")
            path = path / "Data" / "model.mlmodel"
        path.write_text(text)

    def close(self) -> None:
        """Nothing was started."""
