"""Worker that times .tflite files with LiteRT's CompiledModel on the CPU. Needs numpy and ai-edge-litert alone."""

from __future__ import annotations

import os
from typing import Any

from nas.devices.board_timer import time_file
from nas.devices.worker import go_first, serve

MOST_S = 0.8
"""Short, as `Host.repeats` and what they do not agree on bring it back later, with the file loaded anew."""


def main() -> None:
    go_first()
    serve(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    return time_file(request["path"], request["threads"], loads=1, most_s=MOST_S)


if __name__ == "__main__":
    main()
