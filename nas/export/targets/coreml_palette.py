"""Targets `coreml-palette6` and `coreml-palette4`: the ML program with weights from a palette.

Each tensor of weights is stored as a table of 64 or 16 values and one index per weight. The table's
values are the centres of clusters of the weights (k-means), so they are dense where weights are.
Neural Engines decompress such weights while they compute, so that less memory is read. Activations
stay in float16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.export.target import Model, Target
from nas.export.targets import coreml


def _target(bits: int) -> Target:
    """Return the target whose palettes have 2^bits values."""

    def write(model: Model, path: Path) -> None:
        """Write the ML program of `coreml`, its weights palettised."""
        import coremltools.optimize.coreml as cto

        # One palette per tensor: palettes of groups of channels need iOS 18, and this file runs on
        # iOS 16 as that of `coreml` does.
        how = cto.OptimizationConfig(
            global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=bits)
        )
        cto.palettize_weights(coreml.convert(model), how).save(str(path))

    def inspect(path: Path, model: Model) -> dict[str, Any]:
        """Return the facts of `coreml.inspect`, and how many tensors of weights have a palette.

        Raises:
            NasError: when one of them is not as expected.
        """
        import coremltools as ct

        palettes = sum(
            operation.type == "constexpr_lut_to_dense"
            for operation in coreml.operations(ct.utils.load_spec(str(path)))
        )
        if not palettes:
            raise NasError("the ML program has no palettised weights (got 0 of them)")
        return coreml.inspect(path, model) | {"palettes": palettes, "bits": bits}

    return Target(
        f"model-palette{bits}.mlpackage",
        write,
        packages=coreml.PACKAGES,
        alone=coreml.TARGET.alone,
        inspect=inspect,
        note=f"weights from palettes of {2**bits} values, activations in float16; {coreml.NOTE}",
        mark=coreml.MARK,
    )


SIX = _target(6)
FOUR = _target(4)
