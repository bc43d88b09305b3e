"""GoogLeNet, Inception v1: Szegedy et al., arXiv:1409.4842."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_nin import layers
from keras_nin.errors import check_choice, check_whole_number, expected_error
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, read_specs, read_table
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

    from keras_nin.models.third_party import LayerNames

# 1x1, 3x3 reduction, 3x3, 5x5 reduction, 5x5, pool projection of each module.
Widths: TypeAlias = Mapping[str, tuple[int, ...]]
MODULES: Widths = {name: tuple(widths) for name, widths in read_table("zoo.toml")["googlenet"]["modules"].items()}
_POOL_AFTER = {"3b": "pool3", "4e": "pool4"}
_AUXILIARY_AFTER = ("4a", "4d")
# torchvision's names of the layers of a module, and of those around the modules.
_TORCHVISION_BRANCHES = {
    "branch1": "1x1",
    "branch2.0": "3x3reduce1x1",
    "branch2.1": "3x3",
    "branch3.0": "5x5reduce1x1",
    "branch3.1": "5x5",
    "branch4.1": "poolproj1x1",
}
_TORCHVISION_STEM = {"conv1": "conv1", "conv2": "conv2_reduce1x1", "conv3": "conv2"}
# Of its auxiliary classifiers, which are not those of the paper and which its weights do not train.
_TORCHVISION_AUXILIARY = ("conv.conv", "conv.bn", "fc1", "fc2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoogLeNetSpec(ModelSpec):
    """A GoogLeNet.

    Attributes:
        default_normalization: as the argument `normalization`.
        small_stem: channels of one 3x3 convolution instead of the strided stem, for small inputs; 0 for the stem.
        modules: widths of the modules by name.
        pool_after: names of the poolings after modules.
    """

    default_normalization: str = "batch"
    small_stem: int = 0
    modules: Widths = dataclasses.field(default_factory=lambda: MODULES)
    pool_after: Mapping[str, str] = dataclasses.field(default_factory=lambda: _POOL_AFTER)

    @property
    def layer_names(self) -> LayerNames:
        """Names of the authors' Caffe release, as they are and with _ for /, and those of torchvision."""
        caffe = super().layer_names
        caffe = {**caffe, **{theirs.replace("/", "_"): ours for theirs, ours in caffe.items()}}
        if self.small_stem:  # which torchvision does not have
            return caffe
        torchvision = _TORCHVISION_STEM | {
            f"inception{module}.{branch}": f"inception_{module}_{part}"
            for module in self.modules
            for branch, part in _TORCHVISION_BRANCHES.items()
        }
        return (
            caffe
            | {f"{theirs}.conv": ours for theirs, ours in torchvision.items()}
            | {f"{theirs}.bn": f"{ours}_bn" for theirs, ours in torchvision.items()}
            | {f"aux{number}.{theirs}": None for number in (1, 2) for theirs in _TORCHVISION_AUXILIARY}
            | {"fc": "classifier"}
        )


def googlenet(
    spec: GoogLeNetSpec,
    *,
    weights: Weights = None,
    include_top: bool = True,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    normalization: str | None = "default",
    auxiliary: bool = False,
    pool_rounding: str = "ceil",
    pool4_size: int = 3,
    branch5x5_kernel_size: int = 5,
    name: str | None = None,
) -> keras.Model:
    """Build a GoogLeNet: a stem, Inception modules, global average pooling and a dense layer to the classes.

    Args:
        normalization: ``"lrn"`` (the paper's local response normalization, in the stem), ``"batch"``
            (BatchNormalization instead of every convolution's bias), None, or ``"default"`` (the variant's).
        auxiliary: whether the two auxiliary classifiers, on modules 4a and 4d, are further outputs, for training.
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras).
        pool4_size: side of the window of the pooling after module 4e; 2 in TF-Slim and torchvision.
        branch5x5_kernel_size: side of the modules' 5x5 kernels; 3 in TF-Slim and torchvision.
    """
    kind = spec.default_normalization if normalization == "default" else normalization
    check_choice("normalization", kind, ("lrn", "batch", None))
    units = check_whole_number("classes", spec.classes if classes is None else classes)
    check_whole_number("pool4_size", pool4_size)
    check_whole_number("branch5x5_kernel_size", branch5x5_kernel_size)
    if auxiliary and not set(_AUXILIARY_AFTER) <= set(spec.modules):
        raise expected_error("auxiliary", f"to be False: {spec.name} lacks the modules of the classifiers", auxiliary)

    def graph(x: keras.KerasTensor) -> keras.KerasTensor | list[keras.KerasTensor]:
        import keras

        x = _stem(x, spec.small_stem, kind, pool_rounding)
        outputs = []
        for module, widths in spec.modules.items():
            conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, projection = widths
            reductions = {"reduce3x3": reduce3x3, "reduce5x5": reduce5x5, "pool_projection": projection}
            style: dict[str, Any] = {"branch5x5_kernel_size": branch5x5_kernel_size, "batch_norm": kind == "batch"}
            style |= reductions
            x = layers.inception_module(x, conv1x1, conv3x3, conv5x5, name=f"inception_{module}", **style)
            if auxiliary and module in _AUXILIARY_AFTER:
                outputs.append(_auxiliary(x, units, classifier_activation, f"auxiliary{len(outputs) + 1}"))
            if module in spec.pool_after:
                size = pool4_size if module == "4e" else 3
                x = layers.pool2d(x, size=size, rounding=pool_rounding, name=spec.pool_after[module])
        if not include_top:
            return x
        x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
        x = keras.layers.Dropout(0.4, name="dropout")(x)
        x = keras.layers.Dense(units, activation=classifier_activation, name="classifier")(x)
        return [x, *outputs] if outputs else x

    return spec.assemble(graph, input_shape, weights, name, include_top)


def _stem(x: keras.KerasTensor, small: int, normalization: str | None, rounding: str) -> keras.KerasTensor:
    batch_norm = normalization == "batch"
    if small:
        return layers.conv2d(x, small, 3, batch_norm=batch_norm, name="conv1")
    x = layers.conv2d(x, 64, 7, strides=2, padding=3, batch_norm=batch_norm, name="conv1")
    x = layers.pool2d(x, rounding=rounding, name="pool1")
    if normalization == "lrn":
        x = layers.local_response_normalization(x, name="norm1")
    x = layers.conv1x1(x, 64, batch_norm=batch_norm, name="conv2_reduce1x1")
    x = layers.conv2d(x, 192, 3, batch_norm=batch_norm, name="conv2")
    if normalization == "lrn":
        x = layers.local_response_normalization(x, name="norm2")
    return layers.pool2d(x, rounding=rounding, name="pool2")


def _auxiliary(x: keras.KerasTensor, classes: int, classifier_activation: str | None, name: str) -> keras.KerasTensor:
    """Add an auxiliary classifier, section 5 of the paper: 5x5/3 average pooling, 1x1 to 128, 1024 hidden units."""
    import keras

    x = layers.pool2d(x, "average", 5, 3, name=f"{name}_pool")
    x = layers.conv1x1(x, 128, name=f"{name}_1x1")
    x = keras.layers.Flatten(name=f"{name}_flatten")(x)
    x = keras.layers.Dense(1024, activation="relu", name=f"{name}_dense")(x)
    x = keras.layers.Dropout(0.7, name=f"{name}_dropout")(x)
    return keras.layers.Dense(classes, activation=classifier_activation, name=f"{name}_classifier")(x)


SPECS, (GoogLeNet, GoogLeNetBN, GoogLeNetCIFAR10, InceptionDigits) = read_specs(googlenet, GoogLeNetSpec)
preprocess_input, decode_predictions = family_functions(SPECS)
