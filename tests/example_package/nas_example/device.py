"""A device that computes its timings; one's own would run the files somewhere."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import Future
from datetime import date
from pathlib import Path

from nas.devices import Chain, Device, Settings, Timing
from nas.latency import DeviceInfo


class Formula(Device):
    """A thousandth of a millisecond a call, and one for every ten million multiply-accumulates."""

    def __init__(self, threads: int, name: str = "formula", kind: str = "formula") -> None:
        self.threads = threads
        self.name = name
        self.kind = kind
        self._folder = tempfile.TemporaryDirectory(prefix="nas-example-")

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            name=self.name,
            kind=self.kind,
            soc="none",
            os="none",
            runtime="formula",
            runtime_version="1",
            compute_unit="cpu",
            precision="float32",
            threads=self.threads,
            provenance="measured",
            date=date.today().isoformat(),
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        path = Path(self._folder.name) / f"{chain.digest()}.json"
        path.write_text(json.dumps(chain.to_dict()), encoding="utf-8")
        future: Future[Path] = Future()
        future.set_result(path)
        return future

    def measure(self, artifact: Path) -> Timing:
        chain = Chain.from_dict(json.loads(artifact.read_text(encoding="utf-8")))
        ms = 0.001 + sum(link.spec.macs(link.input) for link in chain.links()) / 1e7 / self.threads
        return Timing(median_ms=ms, p10_ms=ms, p90_ms=ms, runs=1)

    def close(self) -> None:
        self._folder.cleanup()


def open_formula(settings: Settings) -> Device:
    return Formula(settings.threads or 1)
