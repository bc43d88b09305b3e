"""Inception v3: Szegedy et al., arXiv:1512.00567, layer for layer as keras.applications has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_nin import layers
from keras_nin.errors import check_whole_number
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, make_builder
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

    from keras_nin.models.third_party import LayerNames

# Filters, kernel size, strides and padding of the stem's convolutions; None is a 3x3/2 maximum pooling.
STEM = (
    (32, 3, 2, "valid"),
    (32, 3, 1, "valid"),
    (64, 3, 1, "same"),
    None,
    (80, 1, 1, "valid"),
    (192, 3, 1, "valid"),
    None,
)
# Kind and arguments of each module after it.
MODULES = (
    ("a", {"pool_projection": 32}),
    ("a", {"pool_projection": 64}),
    ("a", {"pool_projection": 64}),
    ("reduction a", {}),
    ("b", {"width": 128}),
    ("b", {"width": 160}),
    ("b", {"width": 160}),
    ("b", {"width": 192}),
    ("reduction b", {}),
    ("c", {}),
    ("c", {}),
)

# Kernels along the branches of each kind of module; two in brackets stand side by side.
_BRANCHES = {
    "a": {"5x5": ("1x1", "5x5"), "3x3dbl": ("1x1", "3x3", "3x3")},
    "reduction a": {"3x3": ("3x3",), "3x3dbl": ("1x1", "3x3", "3x3")},
    "b": {"7x7": ("1x1", "1x7", "7x1"), "7x7dbl": ("1x1", "7x1", "1x7", "7x1", "1x7")},
    "reduction b": {"3x3": ("1x1", "3x3"), "7x7x3": ("1x1", "1x7", "7x1", "3x3")},
    "c": {"3x3": ("1x1", ("1x3", "3x1")), "3x3dbl": ("1x1", "3x3", ("1x3", "3x1"))},
}


def _convolution_names(kind: str) -> dict[str, str]:
    """Return the names of a module's convolutions in the order in which they are built: torchvision's, and ours."""
    names = {} if kind.startswith("reduction") else {"branch1x1": "conv1x1"}
    for branch, kernels in _BRANCHES[kind].items():
        for number, kernel in enumerate(kernels, start=1):
            theirs = f"branch{branch}_{number}" if len(kernels) > 1 else f"branch{branch}"
            if isinstance(kernel, tuple):
                names |= {
                    f"{theirs}{letter}": f"{branch}splitconv{half}" for letter, half in zip("ab", kernel, strict=True)
                }
            else:
                names[theirs] = f"{branch}{'abcde'[number - 1]}conv{kernel}"
    return names if kind.startswith("reduction") else names | {"branch_pool": "poolprojconv1x1"}


_TORCHVISION_NAMES = {
    "Conv2d_1a_3x3": "conv1_3x3",
    "Conv2d_2a_3x3": "conv2_3x3",
    "Conv2d_2b_3x3": "conv3_3x3",
    "Conv2d_3b_1x1": "conv4_1x1",
    "Conv2d_4a_3x3": "conv5_3x3",
} | {
    f"Mixed_{module}.{theirs}": f"mixed{number}_{ours}"
    for number, (module, (kind, _)) in enumerate(
        zip(("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"), MODULES, strict=True)
    )
    for theirs, ours in _convolution_names(kind).items()
}
CONVOLUTIONS = tuple(_TORCHVISION_NAMES.values())
_BATCH_NORMS = tuple(f"{name}_bn" for name in CONVOLUTIONS)
# torchvision's auxiliary classifier, which only training uses and this network does not have.
_AUXILIARY = ("conv0.conv", "conv0.bn", "conv1.conv", "conv1.bn", "fc")


class InceptionV3Spec(ModelSpec):
    """Inception v3."""

    @property
    def layer_names(self) -> LayerNames:
        """Names of torchvision, and those of keras.applications, which Keras 2 and 1 numbered."""
        return (
            {f"{theirs}.conv": ours for theirs, ours in _TORCHVISION_NAMES.items()}
            | {f"{theirs}.bn": f"{ours}_bn" for theirs, ours in _TORCHVISION_NAMES.items()}
            | {f"AuxLogits.{theirs}": None for theirs in _AUXILIARY}
            | {"fc": "classifier", "predictions": "classifier"}
            | {"conv2d": CONVOLUTIONS, "batch_normalization": _BATCH_NORMS}
            | {"convolution2d": CONVOLUTIONS, "batchnormalization": _BATCH_NORMS}
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

        convolutions = pools = 0
        for row in STEM:
            if row is None:
                pools += 1
                x = layers.pool2d(x, name=f"pool{pools}")
                continue
            filters, size, strides, padding = row
            convolutions += 1
            style = {"strides": strides, "padding": padding, "batch_norm": True, "scale": False}
            x = layers.conv2d(x, filters, size, name=f"conv{convolutions}_{size}x{size}", **style)
        for number, (kind, arguments) in enumerate(MODULES):
            if kind.startswith("reduction"):
                x = layers.inception_reduction(x, kind[-1], name=f"mixed{number}")
            else:
                x = layers.inception_v3_module(x, kind, **arguments, padded_pool=padded_pools, name=f"mixed{number}")
        if not include_top:
            return x
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.layers.Dense(units, activation=classifier_activation, name="classifier")(x)

    return spec.assemble(graph, input_shape, weights, name, include_top)


SPECS = (
    InceptionV3Spec(
        name="inception_v3",
        family=inception_v3,
        title="factorized convolutions and grid reductions, as keras.applications has it",
        paper="Rethinking the Inception Architecture for Computer Vision, arXiv:1512.00567",
        input_shape=(299, 299, 3),
        classes=1000,
        params=23_851_784,
        macs=5_713_216_096,
        preprocessing="symmetric",
    ),
)
InceptionV3 = make_builder("InceptionV3", inception_v3, SPECS[0])
preprocess_input, decode_predictions = family_functions(SPECS)
