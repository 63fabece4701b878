"""Worker that converts chains of blocks to .tflite files with litert-torch."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.blocks import build_block
from nas.devices.base import Chain, Link
from nas.devices.litert_stack import repeat
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
    """Writes the chain, as it is deployed and with its weights or random ones, as a float32 .tflite file.

    Maps go in and come out channels-last, as LiteRT computes them: a transpose at either end, which no operation
    inside a network has, would be counted otherwise. Of a tied stack one copy is converted, and repeated in the file.
    """
    import litert_torch

    torch.manual_seed(0)
    copies = len(chain.blocks) if chain.tied and len(set(chain.blocks)) == 1 else 1
    module, shape = build(replace(chain, blocks=chain.blocks[: len(chain.blocks) // copies]))
    inputs = chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)
    examples = [torch.randn(*each.tensor()) for each in inputs]
    args = [index for index, each in enumerate(inputs) if each.layout == "map"] or None
    outputs = [0] if shape.layout == "map" else None
    if args:
        examples = [example.permute(0, 2, 3, 1).contiguous() for example in examples]
    if args or outputs:
        module = litert_torch.to_channel_last_io(module, args=args, outputs=outputs)
    with replacing(path) as temporary:
        litert_torch.convert(module.eval(), tuple(examples)).export(str(temporary))
        if copies > 1:
            repeat(temporary, copies)


class _Chained(nn.Module):
    """Blocks one after the other, each on the output of the one before it, or on those of its taps (`Link.taps`)."""

    def __init__(self, blocks: Sequence[nn.Module], links: Sequence[Link]) -> None:
        super().__init__()
        self.blocks, self.links = nn.ModuleList(blocks), links

    def forward(self, *inputs: Tensor) -> Tensor:
        x: Any = inputs if self.links[0].spec.layout == "pyramid" else inputs[0]
        outputs: list[Tensor] = []
        for block, link in zip(self.blocks, self.links, strict=True):
            outputs.append(block([outputs[tap] for tap in link.taps] if link.taps else x))
            x = outputs[-1]
        return outputs[-1]


def build(chain: Chain) -> tuple[nn.Module, Shape]:
    """The chain as a module in eval mode, ready to deploy, and the shape of its output."""
    blocks: list[nn.Module] = []
    made: dict[object, nn.Module] = {}
    links = chain.links()
    state = load_file(chain.weights.path) if chain.weights else {}
    for link in links:
        key: object = (link.spec, link.input) if chain.tied else len(blocks)
        if key not in made:
            block = build_block(link.spec, link.input).eval()
            if chain.weights:
                prefix = f"{chain.weights.names[len(blocks)]}."
                block.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            block.deploy()
            made[key] = fold(block)
        blocks.append(made[key])
    return _Chained(blocks, links).eval(), links[-1].spec.output_shape(links[-1].input)


if __name__ == "__main__":
    main()
