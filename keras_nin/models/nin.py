"""Network in Network: Lin, Chen, Yan, arXiv:1312.4400."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import layers
from keras_nin.errors import InputError
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, assemble_model, check_input_shape, variant_of
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

PAPER = "Network in Network, arXiv:1312.4400"


@dataclasses.dataclass(frozen=True)
class Stage:
    """An mlpconv block and the pooling after it; the last stage's pooling is the head's global average."""

    filters: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: str = "same"
    pool: str | None = None
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table below: the stages, then the 1x1 layer to the classes."""

    title: str
    stages: tuple[Stage, ...]
    input_shape: Shape
    classes: int
    pool_rounding: str
    batch_norm: bool = False
    dataset: str | None = None
    preprocessing: str = "standardize"
    bundled_weights: tuple[str, ...] = ()


_CIFAR_STAGES = (
    Stage((192, 160, 96), 5, pool="max", dropout=0.5),
    Stage((192, 192, 192), 5, pool="average", dropout=0.5),
    Stage((192, 192), 3),
)
_IMAGENET_STAGES = (
    Stage((96, 96, 96), 11, strides=4, padding="valid", pool="max"),
    Stage((256, 256, 256), 5, pool="max"),
    Stage((384, 384, 384), 3, pool="max", dropout=0.5),
    Stage((1024, 1024), 3),
)
_DIGITS_STAGES = (
    Stage((48, 32, 24), 3, pool="max", dropout=0.1),
    Stage((48, 48, 48), 3, pool="average", dropout=0.1),
    Stage((64, 64), 3),
)
VARIANTS = {
    "nin_digits": Variant(
        "NiN's structure at the size of the embedded 8x8 digits",
        _DIGITS_STAGES,
        (8, 8, 1),
        10,
        "ceil",
        dataset="digits",
        preprocessing="unit",
        bundled_weights=("digits",),
    ),
    "nin_cifar10": Variant(
        "the paper's network for CIFAR-10", _CIFAR_STAGES, (32, 32, 3), 10, "ceil", dataset="cifar10"
    ),
    "nin_cifar10_bn": Variant(
        "the CIFAR-10 network with BatchNormalization instead of biases",
        _CIFAR_STAGES,
        (32, 32, 3),
        10,
        "ceil",
        batch_norm=True,
        dataset="cifar10",
    ),
    "nin_cifar100": Variant(
        "the paper's network for CIFAR-100", _CIFAR_STAGES, (32, 32, 3), 100, "ceil", dataset="cifar100"
    ),
    "nin_imagenet": Variant(
        "the authors' Caffe network for ImageNet",
        _IMAGENET_STAGES,
        (227, 227, 3),
        1000,
        "floor",
        preprocessing="caffe",
    ),
}

# Names of the authors' Caffe release for ImageNet in its fourth stage, whose classifier kept the name of its width.
_CAFFE_STAGE_4 = ("conv4-1024", "cccp7-1024", "cccp8-1024")


def layer_names(variant: str) -> dict[str, str]:
    """Return the table of third-party layer names of a row of `VARIANTS`: Caffe's, and those of TensorFlow graphs.

    Caffe numbers the 1x1 layers through the stages (conv1, cccp1, cccp2, conv2, cccp3, ...), the graphs in each
    (nin1/conv/conv, nin1/cccp1/conv, ...).
    """
    names = {}
    for number, stage in enumerate(VARIANTS[variant].stages, start=1):
        side = stage.kernel_size
        ours = [f"mlpconv{number}_{layer}" for layer in (f"conv{side}x{side}", "conv1x1a", "conv1x1b")]
        caffe = (f"conv{number}", f"cccp{2 * number - 1}", f"cccp{2 * number}") if number < 4 else _CAFFE_STAGE_4
        graph = [f"nin{number}/{layer}/conv" for layer in ("conv", "cccp1", "cccp2")]
        names |= dict(zip(caffe, ours, strict=True)) | dict(zip(graph, ours, strict=True))
    return names


def nin(
    variant: str,
    *,
    include_top: bool = True,
    weights: Weights = None,
    input_shape: Shape | None = None,
    classes: int | None = None,
    classifier_activation: str | None = "softmax",
    pool_rounding: str | None = None,
    pools: Sequence[str] | None = None,
    batch_norm: bool | None = None,
    name: str | None = None,
) -> keras.Model:
    """Build a Network in Network: mlpconv blocks, pooling, and a 1x1 layer to the classes averaged over the map.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in the 1x1 layer to the classes and the global average.
        weights: None (random), the name of bundled weights, or a path; see `keras_nin.models.load_weights`.
        input_shape: (H, W, C).
        classes: number of classes.
        classifier_activation: applied to the averaged scores; None returns them as they are.
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras).
        pools: kind (``"max"`` or ``"average"``) of each pooling between blocks; None takes the variant's.
        batch_norm: BatchNormalization between every convolution and its ReLU, except in the head.
        name: the model's name; None takes the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to the last block's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]
    rounding = row.pool_rounding if pool_rounding is None else pool_rounding
    normalize = row.batch_norm if batch_norm is None else batch_norm
    own_pools = [stage.pool for stage in row.stages if stage.pool]
    if pools is not None and len(pools) != len(own_pools):
        raise InputError(
            f"Expected `pools` to name {len(own_pools)} kinds of pooling. Received: {pools!r}", argument="pools"
        )

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        kinds = iter(own_pools if pools is None else pools)
        for number, stage in enumerate(row.stages, start=1):
            kind = next(kinds) if stage.pool else None
            x = _stage(x, stage, number, kind, rounding, normalize)
        if not include_top:
            return x
        # The last block's second 1x1 layer is the classifier.
        return layers.pointwise_head(
            x,
            row.classes if classes is None else classes,
            classifier_activation=classifier_activation,
            name=f"mlpconv{len(row.stages)}_conv1x1b",
        )

    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=check_input_shape(input_shape, row.input_shape),
        weights=weights,
        include_top=include_top,
        layer_names=layer_names(variant),
    )


def _stage(
    x: keras.KerasTensor, stage: Stage, number: int, pool: str | None, rounding: str, batch_norm: bool
) -> keras.KerasTensor:
    import keras

    x = layers.mlpconv(
        x,
        stage.filters,
        stage.kernel_size,
        strides=stage.strides,
        padding=stage.padding,
        batch_norm=batch_norm,
        name=f"mlpconv{number}",
    )
    if pool:
        x = layers.pool2d(x, pool, rounding=rounding, name=f"pool{number}")
    if stage.dropout:
        x = keras.layers.Dropout(stage.dropout, name=f"dropout{number}")(x)
    return x


@variant_of(nin, VARIANTS["nin_digits"])
def NiNDigits(**arguments: Any) -> keras.Model:
    """Build NiN's structure at the size of the 8x8 digits, with bundled weights."""
    return nin("nin_digits", **arguments)


@variant_of(nin, VARIANTS["nin_cifar10"])
def NiNCIFAR10(**arguments: Any) -> keras.Model:
    """Build the network of the paper for CIFAR-10 (arXiv:1312.4400)."""
    return nin("nin_cifar10", **arguments)


@variant_of(nin, VARIANTS["nin_cifar10_bn"])
def NiNCIFAR10BN(**arguments: Any) -> keras.Model:
    """Build the network of the paper for CIFAR-10 with BatchNormalization instead of biases."""
    return nin("nin_cifar10_bn", **arguments)


@variant_of(nin, VARIANTS["nin_cifar100"])
def NiNCIFAR100(**arguments: Any) -> keras.Model:
    """Build the network of the paper for CIFAR-100 (arXiv:1312.4400)."""
    return nin("nin_cifar100", **arguments)


@variant_of(nin, VARIANTS["nin_imagenet"])
def NiNImageNet(**arguments: Any) -> keras.Model:
    """Build the authors' Caffe network for ImageNet."""
    return nin("nin_imagenet", **arguments)


# Weights, output channels and positions of the convolutions of each stage, without the classifier.
_CIFAR_SIZES = (
    (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96, 192 + 160 + 96, 32 * 32),
    (5 * 5 * 96 * 192 + 192 * 192 + 192 * 192, 192 + 192 + 192, 16 * 16),
    (3 * 3 * 192 * 192 + 192 * 192, 192 + 192, 8 * 8),
)
_IMAGENET_SIZES = (
    (11 * 11 * 3 * 96 + 96 * 96 * 2, 96 * 3, 55 * 55),
    (5 * 5 * 96 * 256 + 256 * 256 * 2, 256 * 3, 27 * 27),
    (3 * 3 * 256 * 384 + 384 * 384 * 2, 384 * 3, 13 * 13),
    (3 * 3 * 384 * 1024 + 1024 * 1024, 1024 * 2, 6 * 6),
)
_DIGITS_SIZES = (
    (3 * 3 * 1 * 48 + 48 * 32 + 32 * 24, 48 + 32 + 24, 8 * 8),
    (3 * 3 * 24 * 48 + 48 * 48 * 2, 48 * 3, 4 * 4),
    (3 * 3 * 48 * 64 + 64 * 64, 64 * 2, 2 * 2),
)


def _spec(name: str, builder: Callable[..., keras.Model], sizes: Sequence[tuple[int, int, int]]) -> ModelSpec:
    """Return the row of the registry, with parameters and MACs by arithmetic."""
    row = VARIANTS[name]
    per_channel = 4 if row.batch_norm else 1  # gamma, beta, moving mean and variance; or the bias
    head = row.stages[-1].filters[-1] * row.classes
    return ModelSpec(
        name=name,
        builder=builder,
        title=row.title,
        paper=PAPER,
        input_shape=row.input_shape,
        classes=row.classes,
        params=sum(weights + per_channel * channels for weights, channels, _ in sizes) + head + row.classes,
        macs=sum(weights * positions for weights, _, positions in sizes) + sizes[-1][2] * head,
        dataset=row.dataset,
        preprocessing=row.preprocessing,
        weights=row.bundled_weights,
        layer_names=layer_names(name),
    )


SPECS = (
    _spec("nin_digits", NiNDigits, _DIGITS_SIZES),
    _spec("nin_cifar10", NiNCIFAR10, _CIFAR_SIZES),
    _spec("nin_cifar10_bn", NiNCIFAR10BN, _CIFAR_SIZES),
    _spec("nin_cifar100", NiNCIFAR100, _CIFAR_SIZES),
    _spec("nin_imagenet", NiNImageNet, _IMAGENET_SIZES),
)
preprocess_input, decode_predictions = family_functions(SPECS)
