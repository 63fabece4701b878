"""Every block: its formulas against the module that is built from it, gradients, and the text that
names it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nas.blocks
from nas.blocks import (
    ACTIVATIONS,
    IRMB,
    MB3D,
    MB4D,
    SPECS,
    AdditiveEncoder,
    AttentionFFN,
    BlockSpec,
    ConvEmbedding,
    ConvEncoder,
    ConvFFN,
    ConvHead,
    ConvStem,
    DSConv,
    DualPathEmbedding,
    EfficientViTModule,
    EfficientViTStem,
    EMOStem,
    Flatten,
    FusedMBConv,
    FusedMBConvDown,
    Identity,
    IRMBDown,
    MapHead,
    MBConv,
    MBConvDown,
    ResBlock,
    Shape,
    TokenHead,
    Unflatten,
    from_dict,
    parse,
)
from nas.blocks.build import build_block
from nas.errors import InputError
from nas.testing.blocks import (
    check_axes,
    check_deploy,
    check_formulas,
    check_gradients,
    check_text,
    examples,
)

SIDES = st.integers(3, 9)
EVEN = st.integers(4, 12).map(lambda half: 2 * half)
ACTIVATION = st.sampled_from(ACTIVATIONS)
KERNEL = st.sampled_from([3, 5])
MAPS = st.builds(Shape, EVEN, SIDES, SIDES)
TOKENS = st.builds(Shape, EVEN, SIDES, SIDES, st.just("tokens"))
EVEN_MAPS = st.builds(Shape, EVEN, st.sampled_from([4, 6]), st.sampled_from([4, 6]))
NORM = st.sampled_from(["batch", "layer"])
RATIO = st.sampled_from([1.0, 2.5, 3.0])
HEADS = {
    "heads": st.integers(1, 4),
    "key_dim": st.sampled_from([4, 8]),
    "value_ratio": st.integers(1, 4),
}

CASES: dict[str, st.SearchStrategy[tuple[BlockSpec, Shape]]] = {
    "conv_stem": st.tuples(
        st.builds(ConvStem, EVEN, ACTIVATION), st.builds(Shape, st.just(3), SIDES, SIDES)
    ),
    "conv_embedding": st.tuples(st.builds(ConvEmbedding, EVEN), MAPS),
    "mb4d": st.tuples(
        st.builds(MB4D, st.integers(1, 5), st.sampled_from([3, 5]), ACTIVATION), MAPS
    ),
    "mb3d": st.tuples(
        st.builds(
            MB3D,
            st.integers(1, 4),
            st.sampled_from([4, 8]),
            st.integers(1, 4),
            st.integers(1, 4),
            ACTIVATION,
        ),
        TOKENS,
    ),
    "conv_ffn": st.tuples(
        st.builds(ConvFFN, st.integers(1, 4), st.sampled_from([3, 5]), ACTIVATION), MAPS
    ),
    "attention_ffn": st.tuples(
        st.builds(
            AttentionFFN,
            st.integers(1, 4),
            **HEADS,
            stride=st.integers(1, 2),
            activation=ACTIVATION,
        ),
        EVEN_MAPS,
    ),
    "dual_path_embedding": st.tuples(
        st.builds(DualPathEmbedding, EVEN, **HEADS, activation=ACTIVATION), MAPS
    ),
    "dsconv": st.tuples(st.builds(DSConv, KERNEL, ACTIVATION), MAPS),
    "res_block": st.tuples(st.builds(ResBlock, st.integers(1, 3), KERNEL, ACTIVATION), MAPS),
    "mbconv": st.tuples(
        st.builds(MBConv, st.integers(1, 4), KERNEL, st.booleans(), ACTIVATION), MAPS
    ),
    "mbconv_down": st.tuples(
        st.builds(MBConvDown, EVEN, st.integers(1, 4), KERNEL, st.booleans(), ACTIVATION), MAPS
    ),
    "fused_mbconv": st.tuples(st.builds(FusedMBConv, st.integers(1, 4), KERNEL, ACTIVATION), MAPS),
    "fused_mbconv_down": st.tuples(
        st.builds(FusedMBConvDown, EVEN, st.integers(1, 4), KERNEL, ACTIVATION), MAPS
    ),
    "efficientvit_stem": st.tuples(
        st.builds(EfficientViTStem, EVEN, st.sampled_from(["dsconv", "res_block"]), ACTIVATION),
        st.builds(Shape, st.just(3), SIDES, SIDES),
    ),
    "efficientvit_module": st.tuples(
        st.builds(
            EfficientViTModule,
            st.integers(1, 4),
            st.sampled_from([4, 8, 16]),
            KERNEL,
            st.booleans(),
            ACTIVATION,
        ),
        st.builds(Shape, st.sampled_from([16, 32]), SIDES, SIDES),
    ),
    "conv_head": st.tuples(st.builds(ConvHead, st.integers(2, 20), EVEN, EVEN, ACTIVATION), MAPS),
    "flatten": st.tuples(st.just(Flatten()), MAPS),
    "unflatten": st.tuples(st.just(Unflatten()), TOKENS),
    "irmb": st.tuples(
        st.builds(
            IRMB,
            RATIO,
            KERNEL,
            st.booleans(),
            st.booleans(),
            st.just(2),
            st.integers(2, 7),
            NORM,
            ACTIVATION,
        ),
        MAPS,
    ),
    "irmb_down": st.tuples(st.builds(IRMBDown, EVEN, RATIO, KERNEL, NORM, ACTIVATION), MAPS),
    "emo_stem": st.tuples(
        st.builds(EMOStem, EVEN, ACTIVATION), st.builds(Shape, st.just(3), SIDES, SIDES)
    ),
    "map_head": st.tuples(st.builds(MapHead, st.integers(2, 20), NORM, st.booleans()), MAPS),
    "conv_encoder": st.tuples(
        st.builds(ConvEncoder, st.integers(1, 5), st.sampled_from([3, 5]), ACTIVATION), MAPS
    ),
    "additive_encoder": st.tuples(
        st.builds(AdditiveEncoder, st.integers(1, 5), st.sampled_from([3, 5]), ACTIVATION), MAPS
    ),
    "token_head": st.tuples(st.builds(TokenHead, st.integers(2, 20), st.booleans()), TOKENS),
}
"""Many blocks of a kind. A kind without a strategy here is tested with its examples."""
BUILT = [kind for kind, spec in SPECS.items() if spec.module]
KINDS = pytest.mark.parametrize(
    "kind",
    # A head on a pyramid takes several tensors, and has a file of its own.
    [kind for kind in BUILT if SPECS[kind].layout != "pyramid"],
)
few = settings(max_examples=12)


def cases(kind: str) -> st.SearchStrategy[tuple[BlockSpec, Shape]]:
    return CASES[kind] if kind in CASES else st.sampled_from(examples(SPECS[kind]))


def test_strategies_are_for_kinds_that_exist() -> None:
    assert set(CASES) <= set(BUILT)


@pytest.mark.parametrize("kind", BUILT)
def test_every_kind_has_small_examples_that_it_takes(kind: str) -> None:
    assert examples(SPECS[kind])
    for spec, shape in examples(SPECS[kind]):
        spec.check(shape)
        assert shape.layout == spec.layout
        assert spec.params(shape) < 20_000 and spec.macs(shape) < 1_000_000, "not small"


def test_two_families_cannot_share_a_kind() -> None:
    with pytest.raises(ValueError, match=r"emo: block kind 'emo_stem' is already defined in nas\."):
        nas.blocks._listed(["nas.blocks.emo", "nas.blocks.emo"])


@KINDS
@few
@given(data=st.data())
def test_formulas_equal_the_module(kind: str, data: st.DataObject) -> None:
    check_formulas(*data.draw(cases(kind)))


@KINDS
@few
@given(data=st.data())
def test_gradients_reach_every_parameter(kind: str, data: st.DataObject) -> None:
    check_gradients(*data.draw(cases(kind)))


@KINDS
@few
@given(data=st.data())
def test_deploying_and_folding_keep_the_output(kind: str, data: st.DataObject) -> None:
    check_deploy(*data.draw(cases(kind)))


@KINDS
@few
@given(data=st.data())
def test_axes_and_published_names_are_those_of_the_module(kind: str, data: st.DataObject) -> None:
    check_axes(*data.draw(cases(kind)))


@KINDS
@few
@given(data=st.data())
def test_text_and_data_give_the_spec_back(kind: str, data: st.DataObject) -> None:
    check_text(*data.draw(cases(kind)))


@pytest.mark.parametrize(
    "spec, shape",
    [
        (MB4D(), Shape(48, 56, 56)),
        (MB4D(activation="hardswish"), Shape(64, 14, 14)),
        (MB3D(), Shape(448, 7, 7, "tokens")),
        (ConvStem(48), Shape(3, 224, 224)),
        (ConvEmbedding(96), Shape(48, 56, 56)),
        (TokenHead(1000), Shape(448, 7, 7, "tokens")),
    ],
    ids=str,
)
def test_published_sizes(spec: BlockSpec, shape: Shape) -> None:
    block = build_block(spec, shape).eval()
    assert sum(parameter.numel() for parameter in block.parameters()) == spec.params(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        output = block(torch.randn(shape.tensor()))
    assert tuple(output.shape) == spec.output_shape(shape).tensor()
    assert flops.get_total_flops() / 2 == pytest.approx(spec.macs(shape), rel=0.01)


def test_mb4d_is_the_papers_equation() -> None:
    """I = X + s1 (Pool(X) - X); X' = I + s2 Conv_BN(Conv_BN,GELU(I)), with the pool's border not
    counting padding."""
    shape = Shape(4, 3, 3)
    block = build_block(MB4D(expansion=1), shape).eval()
    with torch.no_grad():
        block.mixer_scale.fill_(1.0)
        block.mlp_scale.zero_()
        x = torch.arange(36.0).reshape(1, 4, 3, 3)
        corner = x[:, :, :2, :2].mean(dim=(2, 3))
        torch.testing.assert_close(block(x)[:, :, 0, 0], corner)


def test_mb3d_without_bias_is_softmax_attention() -> None:
    spec = MB3D(heads=2, key_dim=4, value_ratio=2, expansion=2)
    shape = Shape(8, 3, 5, "tokens")
    block = build_block(spec, shape).eval()
    with torch.no_grad():
        block.mixer_scale.fill_(1.0)
        block.mlp_scale.zero_()
        nn.init.normal_(block.qkv.weight)
        nn.init.normal_(block.bias)
        x = torch.randn(2, 15, 8)
        q, k, v = (
            block.qkv(block.mixer_norm(x))
            .reshape(2, 15, 2, 16)
            .transpose(1, 2)
            .split([4, 4, 8], dim=3)
        )
        bias = torch.empty(2, 15, 15)
        for i in range(15):
            for j in range(15):
                bias[:, i, j] = block.bias[:, abs(i // 5 - j // 5), abs(i % 5 - j % 5)]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        expected = x + block.mixer_projection(mixed.transpose(1, 2).reshape(2, 15, 16))
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_heads_train_both_classifiers_and_average_them() -> None:
    head = build_block(TokenHead(5), Shape(8, 2, 2, "tokens"))
    x = torch.randn(3, 4, 8)
    logits, distilled = head(x)
    torch.testing.assert_close(head.eval()(x), (logits + distilled) / 2)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: from_dict({"kind": "mb5d"}), "unknown block kind 'mb5d', did you mean 'mb"),
        (
            lambda: from_dict({"kind": "mb4d", "pool": 2.5}),
            "pool: Input should be a valid integer",
        ),
        (
            lambda: from_dict({"kind": "mb4d", "expansion": 0.1}),
            "expansion 0.1 must be at least 0.25",
        ),
        (lambda: from_dict({"kind": "mb4d", "expansoin": 2}), "expansoin: unknown key"),
        (lambda: from_dict({"kind": "token_head"}), "classes: is missing"),
        (lambda: parse("mb4d", "expansion=4;pool=2"), "pool 2 must be odd"),
        (lambda: parse("mb3d", "heads"), "heads"),
        (lambda: parse("conv_stem", "width=33"), "multiple of 2"),
        (lambda: TokenHead(1), "classes 1 must be at least 2"),
        (lambda: MB3D(activation="relu6"), "activation 'relu6' is not one of"),  # type: ignore[arg-type]
        (lambda: Shape.parse("48x56"), "'48x56' is not a shape"),
        (lambda: build_block(Identity(), Shape(8, 4, 4)), "block kind 'identity' has no module"),
    ],
)
def test_bad_specs_give_the_reason_in_one_line(make, reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as caught:
        make()
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_kind_in_build_is_an_input_error() -> None:
    with pytest.raises(InputError):
        build_block(Identity(), Shape(8, 4, 4))


@pytest.mark.parametrize("first", ["inference", "export"])
def test_nothing_of_an_earlier_forward_pass_is_kept(first: str) -> None:
    """A tensor made in inference mode or while exporting must not turn up in a later training step."""
    shape = Shape(8, 2, 11 if first == "inference" else 13, "tokens")
    block = build_block(MB3D(heads=2, key_dim=4), shape).eval()
    x = torch.randn(shape.tensor())
    if first == "inference":
        with torch.inference_mode():
            block(x)
    else:
        torch.export.export(block, (x,))
    output = block.train()(x)
    assert type(output) is Tensor
    output.sum().backward()
