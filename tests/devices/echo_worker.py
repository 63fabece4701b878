"""A worker for tests: echoes, prints, fails or dies as it is asked to."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from nas.convert.worker import serve


def answer(request: dict[str, Any]) -> dict[str, Any]:
    print("chatter")
    print("more chatter", file=sys.stderr)
    os.write(1, b"native chatter\n")
    os.write(2, b"native chatter\n")
    if request.get("fail"):
        raise ValueError("no such thing\nand a second line")
    if request.get("full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    if request.get("die"):
        os._exit(3)
    return {"pid": os.getpid(), "request": request}


if __name__ == "__main__":
    serve(answer, lambda: print("chatter of the imports"))
