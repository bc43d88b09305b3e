"""A single convolution as exported files: what a sweep measures."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_nin.benchmark.sweep_results import ConvLayer

_CALIBRATION_COUNT = 4


def export_layer(
    layer: "ConvLayer", schemes: Sequence[str], folder: pathlib.Path, seed: int
) -> dict[str, pathlib.Path]:
    """Export a convolution with random weights, and return the paths of its files by scheme.

    int8 is calibrated with noise, all that a layer with random weights can be calibrated with: the files serve to
    measure latency only.

    Args:
        layer: the convolution.
        schemes: "float32" and "int8".
        folder: where the files go.
        seed: of weights and noise.

    Raises:
        InputError: the layer cannot be converted.
    """
    import keras

    from keras_nin.data.named_datasets import open_noise
    from keras_nin.export import convert_schemes, load_calibration

    shape = (layer.size, layer.size, layer.cin)
    keras.backend.clear_session()
    inputs = keras.Input(shape, name="input")
    initializer = keras.initializers.GlorotUniform(seed)
    convolution = keras.layers.Conv2D(
        layer.cout, layer.kernel, padding="same", kernel_initializer=initializer, name="conv"
    )
    model = keras.Model(inputs, convolution(inputs), name="single")
    calibration = load_calibration(open_noise(shape, seed), shape, count=_CALIBRATION_COUNT, seed=seed)
    paths = {}
    for scheme, converted in zip(schemes, convert_schemes(model, schemes, calibration), strict=True):
        name = f"conv{layer.kernel}x{layer.kernel}_{layer.cin}to{layer.cout}_at{layer.size}_{scheme}.tflite"
        paths[scheme] = folder / name
        paths[scheme].write_bytes(converted.data)
    return paths
