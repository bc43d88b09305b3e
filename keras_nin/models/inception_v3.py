"""Inception v3: Szegedy et al., arXiv:1512.00567, layer for layer as keras.applications has it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_nin import layers
from keras_nin.errors import check_whole_number
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, read_specs
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

    from keras_nin.models.third_party import LayerNames

# torchvision's auxiliary classifier, which only training uses and this network does not have.
_AUXILIARY = ("conv0.conv", "conv0.bn", "conv1.conv", "conv1.bn", "fc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionV3Spec(ModelSpec):
    """Inception v3: the convolutions of its stem, and kind and arguments of each module after it."""

    stem: tuple[tuple[int, int, int, str, str], ...]
    modules: tuple[tuple[str, dict[str, int]], ...]

    @property
    def layer_names(self) -> LayerNames:
        """Names of torchvision, and those of keras.applications, which Keras 2 and 1 numbered."""
        torchvision = super().layer_names
        convolutions = tuple(map(str, torchvision.values()))
        batch_norms = tuple(f"{name}_bn" for name in convolutions)
        return (
            {f"{theirs}.conv": ours for theirs, ours in torchvision.items()}
            | {f"{theirs}.bn": f"{ours}_bn" for theirs, ours in torchvision.items()}
            | {f"AuxLogits.{theirs}": None for theirs in _AUXILIARY}
            | {"fc": "classifier", "predictions": "classifier"}
            | {"conv2d": convolutions, "batch_normalization": batch_norms}
            | {"convolution2d": convolutions, "batchnormalization": batch_norms}
        )


def inception_v3(
    spec: InceptionV3Spec,
    *,
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    padded_pools: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build Inception v3: a stem, eleven modules of which two halve the grid, global average and a dense layer.

    The layers, and the order of the weights, are those of keras.applications.InceptionV3.

    Args:
        input_shape: (H, W, C) of at least 75x75.
        padded_pools: whether the average poolings inside the modules count zeros around the map, as in torchvision,
            whose weights need it.
    """
    units = check_whole_number("classes", spec.classes if classes is None else classes)

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        import keras

        for number, (filters, size, strides, padding, pool) in enumerate(spec.stem, start=1):
            style = {"strides": strides, "padding": padding, "batch_norm": True, "scale": False}
            x = layers.conv2d(x, filters, size, name=f"conv{number}_{size}x{size}", **style)
            x = layers.pool2d(x, name=pool) if pool else x
        for number, (kind, arguments) in enumerate(spec.modules):
            if kind.startswith("reduction"):
                x = layers.inception_reduction(x, kind[-1], name=f"mixed{number}")
            else:
                x = layers.inception_v3_module(x, kind, **arguments, padded_pool=padded_pools, name=f"mixed{number}")
        if not include_top:
            return x
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.layers.Dense(units, activation=classifier_activation, name="classifier")(x)

    return spec.assemble(graph, input_shape, weights, name, include_top)


SPECS, (InceptionV3,) = read_specs(inception_v3, InceptionV3Spec)
preprocess_input, decode_predictions = family_functions(SPECS)
