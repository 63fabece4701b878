"""A worker for tests that converts and times by a formula, each request taking a few milliseconds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from nas.convert.chain import Chain
from nas.convert.worker import serve
from nas.files import write_text


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Write a chain into a file, or time the chain that a file holds."""
    from nas.testing.devices import true_ms

    time.sleep(0.01)
    path = Path(request["path"])
    if "chain" in request:
        write_text(path, json.dumps(request["chain"]))
        return {}
    ms = true_ms(Chain.from_dict(json.loads(path.read_text())))
    return {"median_ms": ms, "p10_ms": ms * 0.99, "p90_ms": ms * 1.02, "runs": 100}


if __name__ == "__main__":
    serve(answer)
