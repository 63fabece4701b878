"""Answer JSON lines on stdin with the client library of a device farm; `client` starts it.

`python -I loop.py on_FARM.py` runs in the environment of that farm, without nas, on Python 3.9 or
newer. The file has `describe`, `submit`, `status`, and `kind_of`, which sorts errors.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any


def main() -> None:
    # Client libraries print to stdout, which would mix with the answers. It leads to stderr from
    # here on, and the answers go to a copy of it.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = importlib.util.spec_from_file_location("farm", sys.argv[1])
    assert spec is not None and spec.loader is not None
    farm: Any = importlib.util.module_from_spec(spec)
    started: BaseException | None = None
    try:
        spec.loader.exec_module(farm)
    except ImportError as error:
        started = error
    for line in sys.stdin:
        try:
            if started is not None:
                raise started
            request = json.loads(line)
            answer = getattr(farm, request["do"])(**request.get("with", {}))
            reply = json.dumps({"answer": answer})
        except Exception as error:
            kind = "missing" if started is not None else farm.kind_of(error)
            reply = json.dumps({"error": {"kind": kind, "message": one_line(error)}})
        replies.write(reply + "\n")
        replies.flush()


def one_line(error: BaseException) -> str:
    """Return an error's class and message without frames and line breaks."""
    words = [word for word in str(error).split() if not set(word) <= set("|┌┐└┘─")]
    return f"{type(error).__name__}: {' '.join(words)[:300] or 'no message'}"


if __name__ == "__main__":
    main()
