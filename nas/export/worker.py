"""Worker process that writes and runs exported files for `nas.export.run`.

The output of converters is discarded, and a crash of one does not end the export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.convert.chain import Chain
from nas.convert.worker import serve
from nas.errors import NasError
from nas.export import load_target
from nas.export.target import Model


def main() -> None:
    serve(_answer, lambda: torch.set_num_threads(1))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request.

    The reason of a target that refuses is under `refused`. The worker's loop
    (`nas.convert.worker.serve`) reports other errors.
    """
    target = load_target(request["target"])
    path = Path(request["path"])
    try:
        if request["do"] == "write":
            target.write(Model.load(Path(request["model"])), path)
        elif request["do"] == "alone" and target.alone:
            target.alone(Chain.from_dict(request["chain"]), path)
        elif request["do"] == "run" and target.run:
            np.save(request["outputs"], target.run(path, np.load(request["images"], mmap_mode="r")))
        elif request["do"] == "inspect" and target.inspect:
            return {"found": target.inspect(path, Model.load(Path(request["model"])))}
    except NasError as error:
        return {"refused": str(error)}
    return {}


if __name__ == "__main__":
    main()
