"""Worker that times .tflite files with LiteRT on the CPU, for `Host.measure`.

It needs numpy and ai-edge-litert alone.
"""

from __future__ import annotations

import os
from typing import Any

from nas.convert.worker import go_first, serve
from nas.devices.board.timer import time_file

MOST_S, ROUND_S = 0.1, 0.05
"""Limit of one measurement, and minimum of one round, in seconds.

They are short, as `Host.repeats` measures the file again later, loaded anew. Slow spells of a
shared machine last for tens of seconds, so a longer measurement would lie in one as a whole.
"""


def main() -> None:
    go_first()
    serve(_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    return time_file(request["path"], request["threads"], loads=1, most_s=MOST_S, round_s=ROUND_S)


if __name__ == "__main__":
    main()
