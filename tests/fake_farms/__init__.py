"""Stand-ins for device farms: servers on loopback that the services' own clients talk to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Scenario:
    """What a stand-in server does, and what it was asked; both are files that it shares.

    Keys: `times` (µs or ms by digest), `fails` (reason and number of times by digest), `quota`
    (number of jobs that may be outstanding), `empty` (digests of jobs without figures), `layers`
    (units by digest), `unknown_key` (the account is refused), `gone` (digests whose jobs vanish).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path.with_suffix(".log")

    def set(self, **keys: Any) -> None:
        now = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.path.write_text(json.dumps({**now, **keys}))

    def submitted(self) -> list[str]:
        """Return the digests of all submitted jobs, in their order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix("job ") for line in lines if line.startswith("job ")]


@contextmanager
def serving(name: str, python: str, scenario: Scenario, port: int = 0) -> Iterator[int]:
    """Run the server of a farm with the Python that has its client library; yield its port."""
    scenario.set()
    process = subprocess.Popen(
        [python, "-I", str(HERE / f"{name}_server.py"), str(scenario.path), str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
