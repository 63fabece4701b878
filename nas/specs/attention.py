"""The layers inside a softmax attention, which several blocks have."""

from __future__ import annotations

from nas.specs.layers import Layer


def softmax_attention(
    queries: int, keys: int, heads: int, key_dim: int, value_dim: int, biases: int = 0, talking: bool = False
) -> tuple[Layer, ...]:
    """From projected queries, keys and values to mixed values.

    Args:
        queries, keys: how many there are of each.
        heads, key_dim, value_dim: heads, and channels of a key and of a value in each.
        biases: entries of each head's bias table; 0 without one.
        talking: heads are mixed linearly before and after the softmax (arXiv:2003.02436).
    """
    scores, keyed, valued = heads * queries * keys, heads * key_dim, heads * value_dim
    bias = Layer("elementwise", params=heads * biases, read=2 * scores, written=scores)
    mix = Layer("conv", heads * scores, heads * heads + heads, scores, scores)
    return (
        Layer("matmul", queries * keys * keyed, read=(queries + keys) * keyed, written=scores),
        *((bias,) if biases else ()),
        *((mix,) if talking else ()),
        Layer("softmax", read=scores, written=scores),
        *((mix,) if talking else ()),
        Layer("matmul", queries * keys * valued, read=scores + keys * valued, written=queries * valued),
    )
