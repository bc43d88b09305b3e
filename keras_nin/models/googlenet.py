"""GoogLeNet, Inception v1: Szegedy et al., arXiv:1409.4842."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_nin import layers
from keras_nin.errors import check_choice, check_whole_number
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, assemble_model, check_input_shape, variant_of
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

PAPER = "Going deeper with convolutions, arXiv:1409.4842"

# 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection of each module: table 1 of the paper.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
_POOL_AFTER = {"3b": "pool3", "4e": "pool4"}
_AUXILIARY_AFTER = ("4a", "4d")
NORMALIZATIONS = ("lrn", "batch", None)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table below."""

    title: str
    normalization: str
    input_shape: Shape = (224, 224, 3)
    classes: int = 1000
    small_stem: bool = False  # for 32x32 inputs: one 3x3 convolution instead of the strided stem
    dataset: str | None = None
    preprocessing: str = "caffe"


VARIANTS = {
    "googlenet": Variant("the paper's network, with local response normalization", "lrn"),
    "googlenet_bn": Variant("with BatchNormalization instead of biases and of local response normalization", "batch"),
    "googlenet_cifar10": Variant(
        "the nine modules on 32x32 inputs, after one 3x3 layer",
        "batch",
        (32, 32, 3),
        10,
        small_stem=True,
        dataset="cifar10",
        preprocessing="standardize",
    ),
}

_PARTS = {
    "1x1": "1x1",
    "3x3_reduce": "3x3reduce1x1",
    "3x3": "3x3",
    "5x5_reduce": "5x5reduce1x1",
    "5x5": "5x5",
    "pool_proj": "poolproj1x1",
}
_CAFFE_NAMES = (
    {
        "conv1/7x7_s2": "conv1",
        "conv2/3x3_reduce": "conv2_reduce1x1",
        "conv2/3x3": "conv2",
        "loss3/classifier": "classifier",
    }
    | {f"inception_{m}/{theirs}": f"inception_{m}_{ours}" for m in MODULES for theirs, ours in _PARTS.items()}
    | {
        f"loss{number}/{theirs}": f"auxiliary{number}_{ours}"
        for number in (1, 2)
        for theirs, ours in (("conv", "1x1"), ("fc", "dense"), ("classifier", "classifier"))
    }
)
# Third-party layer names: those of the authors' Caffe release, as they are and with _ for /.
LAYER_NAMES = _CAFFE_NAMES | {theirs.replace("/", "_"): ours for theirs, ours in _CAFFE_NAMES.items()}


def googlenet(
    variant: str,
    *,
    include_top: bool = True,
    weights: Weights = None,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    normalization: str | None = "default",
    auxiliary: bool = False,
    pool_rounding: str = "ceil",
    name: str | None = None,
) -> keras.Model:
    """Build a GoogLeNet: a stem, nine Inception modules, global average pooling and a dense layer to the classes.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in the average, dropout and the dense layer.
        weights: None (random) or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C).
        classes: number of classes.
        classifier_activation: applied to the scores; None returns them as they are.
        normalization: ``"lrn"`` (the paper's local response normalization, in the stem), ``"batch"``
            (BatchNormalization instead of every convolution's bias), None, or ``"default"`` (the variant's).
        auxiliary: whether the two auxiliary classifiers, on modules 4a and 4d, are further outputs, for training.
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras).
        name: the model's name; None takes the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), to a list of three such outputs with `auxiliary`, or to the last
        module's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]
    kind = row.normalization if normalization == "default" else normalization
    check_choice("normalization", kind, NORMALIZATIONS)
    units = row.classes if classes is None else classes

    def graph(x: keras.KerasTensor) -> keras.KerasTensor | list[keras.KerasTensor]:
        x = _stem(x, row.small_stem, kind, pool_rounding)
        auxiliaries = []
        for module, widths in MODULES.items():
            x = _module(x, module, widths, batch_norm=kind == "batch")
            if auxiliary and include_top and module in _AUXILIARY_AFTER:
                auxiliaries.append(_auxiliary(x, units, classifier_activation, f"auxiliary{len(auxiliaries) + 1}"))
            if module in _POOL_AFTER:
                x = layers.pool2d(x, rounding=pool_rounding, name=_POOL_AFTER[module])
        if not include_top:
            return x
        main = _top(x, units, classifier_activation)
        return [main, *auxiliaries] if auxiliaries else main

    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=check_input_shape(input_shape, row.input_shape),
        weights=weights,
        include_top=include_top,
        layer_names=LAYER_NAMES,
    )


def _stem(x: keras.KerasTensor, small: bool, normalization: str | None, rounding: str) -> keras.KerasTensor:
    batch_norm = normalization == "batch"
    if small:
        return layers.conv2d(x, 192, 3, batch_norm=batch_norm, name="conv1")
    x = layers.conv2d(x, 64, 7, strides=2, padding=3, batch_norm=batch_norm, name="conv1")
    x = layers.pool2d(x, rounding=rounding, name="pool1")
    if normalization == "lrn":
        x = layers.local_response_normalization(x, name="norm1")
    x = layers.conv1x1(x, 64, batch_norm=batch_norm, name="conv2_reduce1x1")
    x = layers.conv2d(x, 192, 3, batch_norm=batch_norm, name="conv2")
    if normalization == "lrn":
        x = layers.local_response_normalization(x, name="norm2")
    return layers.pool2d(x, rounding=rounding, name="pool2")


def _module(x: keras.KerasTensor, module: str, widths: tuple[int, ...], batch_norm: bool) -> keras.KerasTensor:
    conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, pool_projection = widths
    return layers.inception_module(
        x,
        conv1x1,
        conv3x3,
        conv5x5,
        reduce3x3=reduce3x3,
        reduce5x5=reduce5x5,
        pool_projection=pool_projection,
        batch_norm=batch_norm,
        name=f"inception_{module}",
    )


def _top(x: keras.KerasTensor, classes: int, classifier_activation: str | None) -> keras.KerasTensor:
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    x = keras.layers.Dropout(0.4, name="dropout")(x)
    check_whole_number("classes", classes)
    return keras.layers.Dense(classes, activation=classifier_activation, name="classifier")(x)


def _auxiliary(x: keras.KerasTensor, classes: int, classifier_activation: str | None, name: str) -> keras.KerasTensor:
    """Add an auxiliary classifier, section 5 of the paper: 5x5/3 average pooling, 1x1 to 128, 1024 hidden units."""
    import keras

    x = layers.pool2d(x, "average", 5, 3, name=f"{name}_pool")
    x = layers.conv1x1(x, 128, name=f"{name}_1x1")
    x = keras.layers.Flatten(name=f"{name}_flatten")(x)
    x = keras.layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    x = keras.layers.Dropout(0.7, name=f"{name}_dropout")(x)
    return keras.layers.Dense(classes, activation=classifier_activation, name=f"{name}_classifier")(x)


@variant_of(googlenet, VARIANTS["googlenet"])
def GoogLeNet(**arguments: Any) -> keras.Model:
    """Build GoogLeNet (Inception v1), the network of the paper (arXiv:1409.4842)."""
    return googlenet("googlenet", **arguments)


@variant_of(googlenet, VARIANTS["googlenet_bn"])
def GoogLeNetBN(**arguments: Any) -> keras.Model:
    """Build GoogLeNet with BatchNormalization instead of biases and of local response normalization."""
    return googlenet("googlenet_bn", **arguments)


@variant_of(googlenet, VARIANTS["googlenet_cifar10"])
def GoogLeNetCIFAR10(**arguments: Any) -> keras.Model:
    """Build the nine modules of GoogLeNet on 32x32 inputs, after one 3x3 layer."""
    return googlenet("googlenet_cifar10", **arguments)


def _module_weights(channels: int, widths: tuple[int, ...]) -> int:
    conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, pool_projection = widths
    pointwise = channels * (conv1x1 + reduce3x3 + reduce5x5 + pool_projection)
    return pointwise + 3 * 3 * reduce3x3 * conv3x3 + 5 * 5 * reduce5x5 * conv5x5


_MODULE_CHANNELS = (192, 256, 480, 512, 512, 512, 528, 832, 832)  # of the input of each module
_MODULE_WEIGHTS = {
    module: _module_weights(channels, widths)
    for channels, (module, widths) in zip(_MODULE_CHANNELS, MODULES.items(), strict=True)
}
_MODULE_OUTPUTS = sum(map(sum, MODULES.values()))
_CONV2 = 64 * 64 + 3 * 3 * 64 * 192


def _spec(
    name: str, builder: Callable[..., keras.Model], stem: Mapping[str, int], sides: Mapping[str, int]
) -> ModelSpec:
    """Return the row of the registry, with parameters and MACs by arithmetic.

    Args:
        name, builder: of the row.
        stem: "weights", "outputs" and "macs" of the stem's convolutions.
        sides: side of the map in each group of modules, 3 to 5.
    """
    row = VARIANTS[name]
    per_channel = 4 if row.normalization == "batch" else 1  # gamma, beta, moving mean and variance; or the bias
    channels = stem["outputs"] + _MODULE_OUTPUTS
    classifier = 1024 * row.classes
    return ModelSpec(
        name=name,
        builder=builder,
        title=row.title,
        paper=PAPER,
        input_shape=row.input_shape,
        classes=row.classes,
        params=stem["weights"] + sum(_MODULE_WEIGHTS.values()) + per_channel * channels + classifier + row.classes,
        macs=stem["macs"] + sum(n * sides[module[0]] ** 2 for module, n in _MODULE_WEIGHTS.items()) + classifier,
        dataset=row.dataset,
        preprocessing=row.preprocessing,
        layer_names=LAYER_NAMES,
    )


_STEM = {
    "weights": 7 * 7 * 3 * 64 + _CONV2,
    "outputs": 64 + 64 + 192,
    "macs": 112**2 * 7 * 7 * 3 * 64 + 56**2 * _CONV2,
}
_SMALL_STEM = {"weights": 3 * 3 * 3 * 192, "outputs": 192, "macs": 32**2 * 3 * 3 * 3 * 192}
_SIDES = {"3": 28, "4": 14, "5": 7}
SPECS = (
    _spec("googlenet", GoogLeNet, _STEM, _SIDES),
    _spec("googlenet_bn", GoogLeNetBN, _STEM, _SIDES),
    _spec("googlenet_cifar10", GoogLeNetCIFAR10, _SMALL_STEM, {"3": 32, "4": 16, "5": 8}),
)
preprocess_input, decode_predictions = family_functions(SPECS)
