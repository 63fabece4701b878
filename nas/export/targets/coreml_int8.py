"""Target `coreml-int8`: the ML program with weights in 8 bits, by coremltools' own quantiser.

Activations stay in float16. Their ranges would come from `MLModel.predict`, which needs a Mac
(`coremltools.optimize.coreml.linear_quantize_activations`), and computing in int8 needs iOS 17.
"""

from __future__ import annotations

from pathlib import Path

from nas.export.target import Model, Target
from nas.export.targets import coreml

NOTE = f"weights in 8 bits, activations in float16; {coreml.NOTE}"


def write(model: Model, path: Path) -> None:
    """Write the ML program of `coreml`, its weights quantised."""
    import coremltools.optimize.coreml as cto

    # Symmetric: the zero point is 0, so weights are dequantised by a factor alone.
    how = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(mode="linear_symmetric"))
    cto.linear_quantize_weights(coreml.convert(model), how).save(str(path))


TARGET = Target(
    "model-int8.mlpackage",
    write,
    packages=coreml.PACKAGES,
    alone=coreml.TARGET.alone,
    inspect=coreml.inspect,
    note=NOTE,
    mark=coreml.MARK,
)
