"""A stack of copies of an operation, made from the .tflite file of one copy.

Converting takes seconds, longer for a stack, whose copies are all alike. So one copy is converted, and its operators
are repeated in the file, each copy on the output of the one before it, with one set of weights for all.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

from nas.errors import NasError


def repeat(path: Path, copies: int) -> None:
    """Makes the network in a .tflite file a stack of so many copies of it.

    Raises:
        NasError: when it has not one graph with one input and one output of the same shape and type.
    """
    from ai_edge_litert.tools.flatbuffer_utils import read_model, write_model

    model = read_model(path)
    graph = model.subgraphs[0]
    start, end = graph.inputs[0], graph.outputs[0]
    if len(model.subgraphs) > 1 or len(graph.inputs) > 1 or len(graph.outputs) > 1 or not _alike(graph, start, end):
        raise NasError(f"{path}: no stack can be made of a network that does not give what it takes")
    operators = list(graph.operators)
    made = [tensor for operator in operators for tensor in operator.outputs]
    first, last = end, end
    for number in range(2, copies + 1):
        places = {start: last}
        for tensor in made:
            places[tensor] = len(graph.tensors)
            graph.tensors.append(_named(graph.tensors[tensor], number))
        graph.operators += [_moved(operator, places) for operator in operators]
        last = places[end]
    graph.outputs = [last]
    for signature in model.signatureDefs or ():
        for output in signature.outputs:
            output.tensorIndex = last if output.tensorIndex == first else output.tensorIndex
    write_model(model, path)


def _alike(graph: Any, one: int, other: int) -> bool:
    a, b = graph.tensors[one], graph.tensors[other]
    return list(a.shape) == list(b.shape) and a.type == b.type and one != other


def _named(tensor: Any, number: int) -> Any:
    """A copy of a tensor, with a name of its own."""
    other = copy(tensor)
    other.name = (tensor.name if isinstance(tensor.name, bytes) else str(tensor.name).encode()) + b"/%d" % number
    return other


def _moved(operator: Any, places: dict[int, int]) -> Any:
    """A copy of an operator on other tensors; those without a place, the weights, are shared."""
    other = copy(operator)
    other.inputs = [places.get(tensor, tensor) for tensor in operator.inputs]
    other.outputs = [places[tensor] for tensor in operator.outputs]
    return other
