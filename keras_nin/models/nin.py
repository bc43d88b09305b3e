"""Network in Network: Lin, Chen, Yan, arXiv:1312.4400."""

import dataclasses
import functools

from keras_nin import layers
from keras_nin.errors import InputError
from keras_nin.models.model_spec import ModelSpec, assemble_model, check_input_shape

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

    stages: tuple[Stage, ...]
    input_shape: tuple[int, int, int]
    classes: int
    pool_rounding: str
    batch_norm: bool = False


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
    "nin_cifar10": Variant(_CIFAR_STAGES, (32, 32, 3), 10, "ceil"),
    "nin_cifar10_bn": Variant(_CIFAR_STAGES, (32, 32, 3), 10, "ceil", batch_norm=True),
    "nin_cifar100": Variant(_CIFAR_STAGES, (32, 32, 3), 100, "ceil"),
    "nin_imagenet": Variant(_IMAGENET_STAGES, (227, 227, 3), 1000, "floor"),
    "nin_digits": Variant(_DIGITS_STAGES, (8, 8, 1), 10, "ceil"),
}

# Names of the authors' Caffe release for ImageNet in its fourth stage, whose classifier kept the name of its width.
CAFFE_STAGE_4 = ("conv4-1024", "cccp7-1024", "cccp8-1024")


def layer_names(variant):
    """Return the table of foreign layer names of a row of `VARIANTS`: Caffe's, and those of graphs in TensorFlow.

    Caffe numbers the 1x1 layers through the stages (conv1, cccp1, cccp2, conv2, cccp3, ...), the graphs in each
    (nin1/conv/conv, nin1/cccp1/conv, ...).
    """
    names = {}
    for number, stage in enumerate(VARIANTS[variant].stages, start=1):
        side = stage.kernel_size
        ours = [f"mlpconv{number}_{layer}" for layer in (f"conv{side}x{side}", "conv1x1a", "conv1x1b")]
        caffe = (f"conv{number}", f"cccp{2 * number - 1}", f"cccp{2 * number}") if number < 4 else CAFFE_STAGE_4
        graph = [f"nin{number}/{layer}/conv" for layer in ("conv", "cccp1", "cccp2")]
        names |= dict(zip(caffe, ours, strict=True)) | dict(zip(graph, ours, strict=True))
    return names


def nin(
    variant,
    *,
    include_top=True,
    weights=None,
    input_shape=None,
    classes=None,
    classifier_activation="softmax",
    pool_rounding=None,
    pools=None,
    batch_norm=None,
    name=None,
):
    """Build a Network in Network: mlpconv blocks, pooling, and a 1x1 layer to the classes averaged over the map.

    Args:
        variant: name of a row of `VARIANTS`.
        include_top: whether to end in the 1x1 layer to the classes and the global average.
        weights: None (random), the name of weights that ship, or a path; see `load_weights`.
        input_shape: (H, W, C); the default is the variant's.
        classes: number of classes; the default is the variant's.
        classifier_activation: applied to the averaged scores; None returns them as they are.
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras); the default is the variant's.
        pools: kind (``"max"`` or ``"average"``) of each pooling between blocks; the default is the variant's.
        batch_norm: BatchNormalization between every convolution and its ReLU, except in the head.
        name: the model's name; the default is the variant's.

    Returns:
        keras.Model from (B, H, W, C) to (B, classes), or to the last block's map without the top.

    Raises:
        InputError: an argument does not fit, or the weights do not.
    """
    row = VARIANTS[variant]
    rounding = row.pool_rounding if pool_rounding is None else pool_rounding
    normalise = row.batch_norm if batch_norm is None else batch_norm
    kinds = [stage.pool for stage in row.stages if stage.pool]
    if pools is not None and len(pools) != len(kinds):
        raise InputError(f"Expected `pools` to name {len(kinds)} kinds of pooling. Received: {pools!r}")
    kinds = iter(kinds if pools is None else pools)

    def graph(x):
        for number, stage in enumerate(row.stages, start=1):
            x = _stage(x, stage, number, kind=next(kinds, stage.pool), rounding=rounding, batch_norm=normalise)
        if not include_top:
            return x
        # The last block's second 1x1 layer is the classifier.
        head = f"mlpconv{len(row.stages)}_conv1x1b"
        return layers.pointwise_head(
            x, row.classes if classes is None else classes, classifier_activation=classifier_activation, name=head
        )

    shape = check_input_shape(input_shape, row.input_shape)
    return assemble_model(
        graph,
        variant=variant,
        name=name,
        input_shape=shape,
        weights=weights,
        include_top=include_top,
        layer_names=layer_names(variant),
    )


def _stage(x, stage, number, *, kind, rounding, batch_norm):
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
    if stage.pool:
        x = layers.pool2d(x, kind, rounding=rounding, name=f"pool{number}")
    if stage.dropout:
        x = keras.layers.Dropout(stage.dropout, name=f"dropout{number}")(x)
    return x


NiNCIFAR10 = functools.partial(nin, "nin_cifar10")
NiNCIFAR10BN = functools.partial(nin, "nin_cifar10_bn")
NiNCIFAR100 = functools.partial(nin, "nin_cifar100")
NiNImageNet = functools.partial(nin, "nin_imagenet")
NiNDigits = functools.partial(nin, "nin_digits")

_CIFAR_WEIGHTS = (
    (5 * 5 * 3 * 192 + 192 * 160 + 160 * 96, 192 + 160 + 96, 32 * 32),
    (5 * 5 * 96 * 192 + 192 * 192 + 192 * 192, 192 + 192 + 192, 16 * 16),
    (3 * 3 * 192 * 192 + 192 * 192, 192 + 192, 8 * 8),
)
_IMAGENET_WEIGHTS = (
    (11 * 11 * 3 * 96 + 96 * 96 * 2, 96 * 3, 55 * 55),
    (5 * 5 * 96 * 256 + 256 * 256 * 2, 256 * 3, 27 * 27),
    (3 * 3 * 256 * 384 + 384 * 384 * 2, 384 * 3, 13 * 13),
    (3 * 3 * 384 * 1024 + 1024 * 1024, 1024 * 2, 6 * 6),
)
_DIGITS_WEIGHTS = (
    (3 * 3 * 1 * 48 + 48 * 32 + 32 * 24, 48 + 32 + 24, 8 * 8),
    (3 * 3 * 24 * 48 + 48 * 48 * 2, 48 * 3, 4 * 4),
    (3 * 3 * 48 * 64 + 64 * 64, 64 * 2, 2 * 2),
)


def _params(stages, channels, classes, per_output=1):
    """Weights of all stages plus `per_output` further parameters per output channel, plus the classifier."""
    return sum(weights + per_output * outputs for weights, outputs, _ in stages) + channels * classes + classes


def _macs(stages, channels, classes):
    return sum(weights * positions for weights, _, positions in stages) + stages[-1][2] * channels * classes


SPECS = (
    ModelSpec(
        name="nin_digits",
        builder=NiNDigits,
        title="NiN's structure at the size of the embedded 8x8 digits",
        paper=PAPER,
        input_shape=(8, 8, 1),
        classes=10,
        params=_params(_DIGITS_WEIGHTS, 64, 10),
        macs=_macs(_DIGITS_WEIGHTS, 64, 10),
        dataset="digits",
        weights=("digits",),
        layer_names=layer_names("nin_digits"),
    ),
    ModelSpec(
        name="nin_cifar10",
        builder=NiNCIFAR10,
        title="the paper's network for CIFAR-10",
        paper=PAPER,
        input_shape=(32, 32, 3),
        classes=10,
        params=_params(_CIFAR_WEIGHTS, 192, 10),
        macs=_macs(_CIFAR_WEIGHTS, 192, 10),
        dataset="cifar10",
        preprocessing="standardize",
        layer_names=layer_names("nin_cifar10"),
    ),
    ModelSpec(
        name="nin_cifar10_bn",
        builder=NiNCIFAR10BN,
        title="the CIFAR-10 network with BatchNormalization instead of biases",
        paper=PAPER,
        input_shape=(32, 32, 3),
        classes=10,
        params=_params(_CIFAR_WEIGHTS, 192, 10, per_output=4),  # gamma, beta, moving mean, moving variance
        macs=_macs(_CIFAR_WEIGHTS, 192, 10),
        dataset="cifar10",
        preprocessing="standardize",
        layer_names=layer_names("nin_cifar10_bn"),
    ),
    ModelSpec(
        name="nin_cifar100",
        builder=NiNCIFAR100,
        title="the paper's network for CIFAR-100",
        paper=PAPER,
        input_shape=(32, 32, 3),
        classes=100,
        params=_params(_CIFAR_WEIGHTS, 192, 100),
        macs=_macs(_CIFAR_WEIGHTS, 192, 100),
        dataset="cifar100",
        preprocessing="standardize",
        layer_names=layer_names("nin_cifar100"),
    ),
    ModelSpec(
        name="nin_imagenet",
        builder=NiNImageNet,
        title="the authors' Caffe network for ImageNet",
        paper=PAPER,
        input_shape=(227, 227, 3),
        classes=1000,
        params=_params(_IMAGENET_WEIGHTS, 1024, 1000),
        macs=_macs(_IMAGENET_WEIGHTS, 1024, 1000),
        preprocessing="caffe",
        layer_names=layer_names("nin_imagenet"),
    ),
)
