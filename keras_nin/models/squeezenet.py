"""SqueezeNet: Iandola et al., arXiv:1602.07360."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_nin import layers
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, read_specs
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

# Squeeze and expand widths of fire2 to fire9; both expand layers have the same width.
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNetSpec(ModelSpec):
    """A SqueezeNet: its first convolution, after which modules a pooling stands, and its bypasses."""

    conv1: tuple[int, int, int] = (96, 7, 2)  # filters, kernel size, strides
    conv1_padding: str = "valid"
    pool_after: tuple[int, ...] = (1, 4, 8)  # 1 for conv1, n for fire n
    simple_bypasses: tuple[int, ...] = ()
    complex_bypasses: tuple[int, ...] = ()


def squeezenet(
    spec: SqueezeNetSpec,
    *,
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    pool_rounding: str = "floor",
    padded_head: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a SqueezeNet: a convolution, eight fire modules, and a 1x1 layer to the classes averaged over the map.

    Args:
        pool_rounding: ``"floor"`` (Keras) or ``"ceil"`` (Caffe, torchvision).
        padded_head: a border of zeros, one wide, before the last 1x1 layer, as in the Caffe release of 1.0.
    """

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        import keras

        filters, kernel_size, strides = spec.conv1
        x = layers.conv2d(x, filters, kernel_size, strides=strides, padding=spec.conv1_padding, name="conv1")
        if 1 in spec.pool_after:
            x = layers.pool2d(x, rounding=pool_rounding, name="pool1")
        for number, (squeeze, expand) in FIRES.items():
            complex_bypass = "complex" if number in spec.complex_bypasses else None
            bypass = "simple" if number in spec.simple_bypasses else complex_bypass
            x = layers.fire(x, squeeze, expand, expand, bypass=bypass, name=f"fire{number}")
            if number in spec.pool_after:
                x = layers.pool2d(x, rounding=pool_rounding, name=f"pool{number}")
        if not include_top:
            return x
        x = keras.layers.Dropout(0.5, name="drop9")(x)
        units = spec.classes if classes is None else classes
        style = {"classifier_activation": classifier_activation, "zero_padding": int(padded_head)}
        return layers.pointwise_head(x, units, name="conv10", **style)

    return spec.assemble(graph, input_shape, weights, name, include_top)


SPECS, _builders = read_specs(squeezenet, SqueezeNetSpec)
SqueezeNet1_0, SqueezeNet1_0SimpleBypass, SqueezeNet1_0ComplexBypass, SqueezeNet1_1, SqueezeNetCIFAR10 = _builders
preprocess_input, decode_predictions = family_functions(SPECS)
