"""GoogLeNet, Inception v1: Szegedy et al., arXiv:1409.4842."""

import dataclasses
import functools

from keras_nin import layers
from keras_nin.errors import check_choice
from keras_nin.models.model_spec import ModelSpec, assemble_model, check_input_shape

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
POOL_AFTER = {"3b": "pool3", "4e": "pool4"}
AUXILIARY_AFTER = ("4a", "4d")
NORMALIZATIONS = ("lrn", "batch", None)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table below."""

    normalization: str | None
    input_shape: tuple[int, int, int] = (224, 224, 3)
    classes: int = 1000
    small_stem: bool = False  # for 32x32 inputs: one 3x3 convolution instead of the strided stem


VARIANTS = {
    "googlenet": Variant("lrn"),
    "googlenet_bn": Variant("batch"),
    "googlenet_cifar10": Variant("batch", (32, 32, 3), 10, small_stem=True),
}

_PARTS = {
    "1x1": "1x1",
    "3x3_reduce": "3x3reduce1x1",
    "3x3": "3x3",
    "5x5_reduce": "5x5reduce1x1",
    "5x5": "5x5",
    "pool_proj": "poolproj1x1",
}
_CAFFE = (
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
# Layer names in weight files of others: those of the authors' Caffe release, as they are and with _ for /.
LAYER_NAMES = _CAFFE | {theirs.replace("/", "_"): ours for theirs, ours in _CAFFE.items()}


def googlenet(
    variant,
    *,
    include_top=True,
    weights=None,
    input_shape=None,
    classes=None,
    classifier_activation="softmax",
    normalization="default",
    auxiliary=False,
    pool_rounding="ceil",
    name=None,
):
    """Build a GoogLeNet: a stem, nine Inception modules, global average pooling and a dense layer to the classes.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in the average, dropout and the dense layer.
        weights: None (random), the name of weights that ship, or a path; see `load_weights`.
        input_shape: (H, W, C); the default is the variant's.
        classes: number of classes; the default is the variant's.
        classifier_activation: applied to the scores; None returns them as they are.
        normalization: ``"lrn"`` (the paper's local response normalisation, in the stem), ``"batch"``
            (BatchNormalization instead of every convolution's bias) or None; the default is the variant's.
        auxiliary: whether the two auxiliary classifiers, on modules 4a and 4d, are further outputs, for training.
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras).
        name: the model's name; the default is the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), to a list of three such outputs with `auxiliary`, or to the last
        module's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]
    kind = row.normalization if normalization == "default" else normalization
    check_choice("normalization", kind, NORMALIZATIONS)
    count = row.classes if classes is None else classes

    def graph(x):
        x = _stem(x, row.small_stem, kind, pool_rounding)
        extra = []
        for module, widths in MODULES.items():
            x = _module(x, module, widths, kind)
            if auxiliary and include_top and module in AUXILIARY_AFTER:
                extra.append(_auxiliary(x, count, classifier_activation, len(extra) + 1))
            if module in POOL_AFTER:
                x = layers.pool2d(x, rounding=pool_rounding, name=POOL_AFTER[module])
        if not include_top:
            return x
        main = _top(x, count, classifier_activation)
        return [main, *extra] if extra else main

    shape = check_input_shape(input_shape, row.input_shape)
    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=shape,
        weights=weights,
        include_top=include_top,
        layer_names=LAYER_NAMES,
    )


def _stem(x, small, kind, rounding):
    batch_norm = kind == "batch"
    if small:
        return layers.conv2d(x, 192, 3, batch_norm=batch_norm, name="conv1")
    x = layers.conv2d(x, 64, 7, strides=2, padding=3, batch_norm=batch_norm, name="conv1")
    x = layers.pool2d(x, rounding=rounding, name="pool1")
    if kind == "lrn":
        x = layers.local_response_normalization(x, name="norm1")
    x = layers.conv1x1(x, 64, batch_norm=batch_norm, name="conv2_reduce1x1")
    x = layers.conv2d(x, 192, 3, batch_norm=batch_norm, name="conv2")
    if kind == "lrn":
        x = layers.local_response_normalization(x, name="norm2")
    return layers.pool2d(x, rounding=rounding, name="pool2")


def _module(x, module, widths, kind):
    one, reduce3, three, reduce5, five, projection = widths
    return layers.inception_module(
        x,
        one,
        three,
        five,
        reduce3x3=reduce3,
        reduce5x5=reduce5,
        pool_projection=projection,
        batch_norm=kind == "batch",
        name=f"inception_{module}",
    )


def _top(x, classes, classifier_activation):
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    x = keras.layers.Dropout(0.4, name="dropout")(x)
    layers.check_positive("classes", classes)
    return keras.layers.Dense(classes, activation=classifier_activation, name="classifier")(x)


def _auxiliary(x, classes, classifier_activation, number):
    """An auxiliary classifier, section 5 of the paper: 5x5/3 average pooling, 1x1 to 128, 1024 hidden units."""
    import keras

    prefix = f"auxiliary{number}"
    x = layers.pool2d(x, "average", 5, 3, name=f"{prefix}_pool")
    x = layers.conv1x1(x, 128, name=f"{prefix}_1x1")
    x = keras.layers.Flatten(name=f"{prefix}_flatten")(x)
    x = keras.layers.Dense(1024, activation="relu", name=f"{prefix}_dense")(x)
    x = keras.layers.Dropout(0.7, name=f"{prefix}_dropout")(x)
    return keras.layers.Dense(classes, activation=classifier_activation, name=f"{prefix}_classifier")(x)


GoogLeNet = functools.partial(googlenet, "googlenet")
GoogLeNetBN = functools.partial(googlenet, "googlenet_bn")
GoogLeNetCIFAR10 = functools.partial(googlenet, "googlenet_cifar10")


def _module_weights(channels, widths):
    one, reduce3, three, reduce5, five, projection = widths
    direct = channels * (one + reduce3 + reduce5 + projection)
    return direct + 3 * 3 * reduce3 * three + 5 * 5 * reduce5 * five


_IN = dict(zip(MODULES, (192, 256, 480, 512, 512, 512, 528, 832, 832), strict=True))
MODULE_WEIGHTS = {module: _module_weights(_IN[module], widths) for module, widths in MODULES.items()}
_CONV2 = 64 * 64 + 3 * 3 * 64 * 192
_STEM = 7 * 7 * 3 * 64 + _CONV2
_OUTPUTS = 64 + 64 + 192 + sum(map(sum, MODULES.values()))  # of all convolutions
_SIDES = {"3": 28, "4": 14, "5": 7}
_SMALL_SIDES = {"3": 32, "4": 16, "5": 8}
_SMALL_STEM = 3 * 3 * 3 * 192
_SMALL_OUTPUTS = 192 + sum(map(sum, MODULES.values()))


def _params(stem, outputs, classes, per_output):
    return stem + sum(MODULE_WEIGHTS.values()) + per_output * outputs + 1024 * classes + classes


def _macs(stem, sides, classes):
    modules = sum(weights * sides[module[0]] ** 2 for module, weights in MODULE_WEIGHTS.items())
    return stem + modules + 1024 * classes


_STEM_MACS = 112**2 * 7 * 7 * 3 * 64 + 56**2 * _CONV2

SPECS = (
    ModelSpec(
        name="googlenet",
        builder=GoogLeNet,
        title="the paper's network, with local response normalisation",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(_STEM, _OUTPUTS, 1000, per_output=1),
        macs=_macs(_STEM_MACS, _SIDES, 1000),
        preprocessing="caffe",
        layer_names=LAYER_NAMES,
    ),
    ModelSpec(
        name="googlenet_bn",
        builder=GoogLeNetBN,
        title="with BatchNormalization instead of biases and of local response normalisation",
        paper=PAPER,
        input_shape=(224, 224, 3),
        classes=1000,
        params=_params(_STEM, _OUTPUTS, 1000, per_output=4),  # gamma, beta, moving mean, moving variance
        macs=_macs(_STEM_MACS, _SIDES, 1000),
        preprocessing="caffe",
        layer_names=LAYER_NAMES,
    ),
    ModelSpec(
        name="googlenet_cifar10",
        builder=GoogLeNetCIFAR10,
        title="the nine modules on 32x32 inputs, after one 3x3 layer",
        paper=PAPER,
        input_shape=(32, 32, 3),
        classes=10,
        params=_params(_SMALL_STEM, _SMALL_OUTPUTS, 10, per_output=4),
        macs=_macs(32**2 * _SMALL_STEM, _SMALL_SIDES, 10),
        dataset="cifar10",
        preprocessing="standardize",
        layer_names=LAYER_NAMES,
    ),
)
