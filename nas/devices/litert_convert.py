"""Worker that converts chains of blocks to .tflite files with litert-torch."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.blocks import build_block
from nas.devices.base import Chain
from nas.devices.worker import serve
from nas.export.fold import fold
from nas.files import replacing
from nas.specs import Shape


def main() -> None:
    serve(_answer, _start)


def _start() -> None:
    import litert_torch  # noqa: F401 (for the freeze to find it there)

    torch.set_num_threads(1)
    gc.freeze()  # the imports leave a million objects; not collecting them saves a tenth of every conversion


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    convert(Chain.from_dict(request["chain"]), Path(request["path"]))
    return {}


def convert(chain: Chain, path: Path) -> None:
    """Writes the chain, as it is deployed and with random weights, as a float32 .tflite file.

    Maps go in and come out channels-last, as LiteRT computes them: a transpose at either end, which no operation
    inside a network has, would be counted otherwise.
    """
    import litert_torch

    torch.manual_seed(0)
    module, shape = build(chain)
    example = torch.randn(*chain.input.tensor())
    args = [0] if chain.input.layout == "map" else None
    outputs = [0] if shape.layout == "map" else None
    if args:
        example = example.permute(0, 2, 3, 1).contiguous()
    if args or outputs:
        module = litert_torch.to_channel_last_io(module, args=args, outputs=outputs)
    with replacing(path) as temporary:
        litert_torch.convert(module.eval(), (example,)).export(str(temporary))


def build(chain: Chain) -> tuple[nn.Module, Shape]:
    """The chain as a module in eval mode, ready to deploy, and the shape of its output."""
    blocks: list[nn.Module] = []
    made: dict[object, nn.Module] = {}
    shape = chain.input
    for spec in chain.blocks:
        key: object = (spec, shape) if chain.tied else len(blocks)
        if key not in made:
            block = build_block(spec, shape).eval()
            block.deploy()
            made[key] = fold(block)
        blocks.append(made[key])
        shape = spec.output_shape(shape)
    return nn.Sequential(*blocks).eval(), shape


if __name__ == "__main__":
    main()
