"""Worker that converts chains to LiteRT files; `converter` starts it as a process.

A stack of copies is converted as one block, which is then repeated in the file.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.blocks import Shape
from nas.blocks.build import build_block
from nas.blocks.module import fold
from nas.convert.chain import Chain, Link
from nas.convert.worker import serve
from nas.errors import NasError
from nas.files import replacing


def main() -> None:
    serve(_answer, start)


def start() -> None:
    """Import what converts, before the first request."""
    import litert_torch  # noqa: F401 (for the freeze to find it there)

    torch.set_num_threads(1)
    # The imports leave a million objects. Not collecting them saves a tenth of every conversion.
    gc.freeze()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    convert(Chain.from_dict(request["chain"]), Path(request["path"]))
    return {}


def convert(chain: Chain, path: Path) -> None:
    """Write a chain in its deployed form as a float32 .tflite file.

    It has its weights, or random ones. Maps enter and leave channels-last, as LiteRT computes them.
    Otherwise the measured time would include a transpose at either end, which no operation inside a
    network has.
    """
    import litert_torch

    torch.manual_seed(0)
    # One copy of a tied stack is converted; `repeat` adds the others.
    chain, copies = single(chain)
    module, shape = build(chain)
    inputs = chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)
    examples = [torch.randn(*each.tensor()) for each in inputs]
    args = [index for index, each in enumerate(inputs) if each.layout == "map"] or None
    outputs = [0] if shape.layout == "map" else None
    if args:
        examples = [example.permute(0, 2, 3, 1).contiguous() for example in examples]  # (1,H,W,C)
    if args or outputs:
        module = litert_torch.to_channel_last_io(module, args=args, outputs=outputs)
    with replacing(path) as temporary:
        litert_torch.convert(module.eval(), tuple(examples)).export(str(temporary))
        if copies > 1:
            repeat(temporary, copies)


def single(chain: Chain) -> tuple[Chain, int]:
    """Return one copy of a tied stack and the number of its copies; another chain as it is, and 1."""
    copies = len(chain.blocks) if chain.tied and len(set(chain.blocks)) == 1 else 1
    return replace(chain, blocks=chain.blocks[: len(chain.blocks) // copies]), copies


class _Chained(nn.Module):
    """Blocks one after the other, each on the last output or on those of its taps (`Link.taps`)."""

    def __init__(self, blocks: Sequence[nn.Module], links: Sequence[Link]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.links = links

    def forward(self, *inputs: Tensor) -> Tensor:
        x: Any = inputs if self.links[0].spec.layout == "pyramid" else inputs[0]
        outputs: list[Tensor] = []
        for block, link in zip(self.blocks, self.links, strict=True):
            outputs.append(block([outputs[tap] for tap in link.taps] if link.taps else x))
            x = outputs[-1]
        return outputs[-1]


def build(chain: Chain) -> tuple[nn.Module, Shape]:
    """Return the chain as a module in eval mode, ready to deploy, and the shape of its output."""
    blocks: list[nn.Module] = []
    made: dict[object, nn.Module] = {}
    links = chain.links()
    state = load_file(chain.weights.path) if chain.weights else {}
    for link in links:
        # Equal blocks of a tied chain are one module; in any other each has its own weights.
        key: object = (link.spec, link.input) if chain.tied else len(blocks)
        if key not in made:
            block = build_block(link.spec, link.input).eval()
            if chain.weights:
                prefix = f"{chain.weights.names[len(blocks)]}."
                block.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
                )
            # The form that phones run: branches merged, batch norm folded into convolutions.
            block.deploy()
            made[key] = fold(block)
        blocks.append(made[key])
    return _Chained(blocks, links).eval(), links[-1].spec.output_shape(links[-1].input)


def repeat(path: Path, copies: int) -> None:
    """Make the network in a .tflite file a stack of copies of it.

    The copies share the weights' tensors and buffers, so the file hardly grows.

    Raises:
        NasError: unless the file has one graph, with one input and one output of equal shape and
            type.
    """
    from ai_edge_litert.tools.flatbuffer_utils import read_model, write_model

    model = read_model(path)
    graph = model.subgraphs[0]
    start = graph.inputs[0]
    end = graph.outputs[0]
    if (
        len(model.subgraphs) > 1
        or len(graph.inputs) > 1
        or len(graph.outputs) > 1
        or not _alike(graph, start, end)
    ):
        raise NasError(
            f"{path}: cannot be stacked (expected one graph with one input and one output of equal"
            " shape and type)"
        )
    operators = list(graph.operators)
    made = [tensor for operator in operators for tensor in operator.outputs]
    first = end
    last = end
    # Each copy has its own activations, appended to the tensors of the graph. Its input is the
    # output of the copy before it. The file lists operators in the order in which they run.
    for number in range(2, copies + 1):
        places = {start: last}
        for tensor in made:
            places[tensor] = len(graph.tensors)
            graph.tensors.append(_named(graph.tensors[tensor], number))
        graph.operators += [_moved(operator, places) for operator in operators]
        last = places[end]
    graph.outputs = [last]
    # Signatures name their outputs by tensor, apart from the graph's own list.
    for signature in model.signatureDefs or ():
        for output in signature.outputs:
            output.tensorIndex = last if output.tensorIndex == first else output.tensorIndex
    write_model(model, path)


def _alike(graph: Any, one: int, other: int) -> bool:
    """Return whether two tensors are different ones of equal shape and type."""
    a = graph.tensors[one]
    b = graph.tensors[other]
    return list(a.shape) == list(b.shape) and a.type == b.type and one != other


def _named(tensor: Any, number: int) -> Any:
    """Return a copy of a tensor, with a name of its own."""
    other = copy(tensor)
    other.name = (
        tensor.name if isinstance(tensor.name, bytes) else str(tensor.name).encode()
    ) + b"/%d" % number
    return other


def _moved(operator: Any, places: dict[int, int]) -> Any:
    """Return a copy of an operator on other tensors; tensors without a place (weights) stay."""
    other = copy(operator)
    other.inputs = [places.get(tensor, tensor) for tensor in operator.inputs]
    other.outputs = [places[tensor] for tensor in operator.outputs]
    return other


if __name__ == "__main__":
    main()
