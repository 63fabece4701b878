"""Bicubic upsampling in a segmentation head, which Core ML has no operation for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nas.blocks import FPNHead, Shape, pyramid
from nas.convert.chain import Chain
from nas.convert.coreml import bicubic_matrix, to_ml_program


@pytest.mark.parametrize(
    ("size", "larger"), [((6, 8), (12, 16)), ((3, 5), (12, 20)), ((4, 4), (7, 9))]
)
def test_two_matrices_upsample_as_torch_does(
    size: tuple[int, int], larger: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *size)
    rows, columns = (
        torch.from_numpy(bicubic_matrix(before, after))
        for before, after in zip(size, larger, strict=True)
    )
    expected = F.interpolate(maps, size=larger, mode="bicubic", align_corners=False)
    torch.testing.assert_close(rows @ maps @ columns.T, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_a_head_becomes_an_ml_program(resize: str) -> None:
    pytest.importorskip("coremltools")
    head = FPNHead(5, width=8, resize=resize)  # type: ignore[arg-type]
    shape = pyramid([Shape(8, 12, 16), Shape(12, 6, 8), Shape(16, 3, 4)])
    program = to_ml_program(Chain((head,), shape)).get_spec().mlProgram
    block = program.functions["main"].block_specializations["CoreML6"]
    kinds = [operation.type for operation in block.operations]
    # Two coarser maps, each by two matrices.
    assert kinds.count("matmul") == (4 if resize == "bicubic" else 0)
    assert any("upsample" in kind for kind in kinds) is (resize == "bilinear")
    (output,) = (each for each in block.operations if each.outputs[0].name == block.outputs[0])
    sides = output.outputs[0].type.tensorType.dimensions
    assert [each.constant.size for each in sides] == [1, 5, 12, 16]
