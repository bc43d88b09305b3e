"""Network in Network: Lin, Chen, Yan, arXiv:1312.4400."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from keras_nin import layers
from keras_nin.errors import InputError
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, make_builder
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

# Names of the authors' Caffe release for ImageNet in its fourth stage, whose classifier kept the name of its width.
_CAFFE_STAGE_4 = ("conv4-1024", "cccp7-1024", "cccp8-1024")


class Stage(NamedTuple):
    """An mlpconv block and the pooling after it; the last stage's pooling is the head's global average."""

    filters: tuple[int, ...]
    kernel_size: int
    strides: int = 1
    padding: str = "same"
    pool: str | None = None
    dropout: float = 0.0


_DIGITS_STAGES = (
    Stage((48, 32, 24), 3, pool="max", dropout=0.1),
    Stage((48, 48, 48), 3, pool="average", dropout=0.1),
    Stage((64, 64), 3),
)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class NiNSpec(ModelSpec):
    """A Network in Network: the stages, then the 1x1 layer to the classes."""

    stages: tuple[Stage, ...]
    pool_rounding: str = "ceil"
    batch_norm: bool = False

    @property
    def layer_names(self) -> dict[str, str]:
        """Names of the Caffe release, and those of TensorFlow graphs.

        Caffe numbers the 1x1 layers through the stages (conv1, cccp1, cccp2, conv2, cccp3, ...), the graphs in each
        (nin1/conv/conv, nin1/cccp1/conv, ...).
        """
        names = {}
        for number, stage in enumerate(self.stages, start=1):
            side = stage.kernel_size
            ours = [f"mlpconv{number}_{layer}" for layer in (f"conv{side}x{side}", "conv1x1a", "conv1x1b")]
            caffe = (f"conv{number}", f"cccp{2 * number - 1}", f"cccp{2 * number}") if number < 4 else _CAFFE_STAGE_4
            graph = [f"nin{number}/{layer}/conv" for layer in ("conv", "cccp1", "cccp2")]
            names |= dict(zip((*caffe, *graph), ours * 2, strict=True))
        return names


def nin(
    spec: NiNSpec,
    *,
    weights: Weights = None,
    include_top: bool = True,
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
        pool_rounding: ``"ceil"`` (Caffe) or ``"floor"`` (Keras).
        pools: kind (``"max"`` or ``"average"``) of each pooling between blocks; None takes the variant's.
        batch_norm: BatchNormalization between every convolution and its ReLU, except in the head.
    """
    kinds = [stage.pool for stage in spec.stages if stage.pool]
    if pools is not None and len(pools) != len(kinds):
        message = f"Expected `pools` to name {len(kinds)} kinds of pooling. Received: {pools!r}"
        raise InputError(message, argument="pools")
    rounding = spec.pool_rounding if pool_rounding is None else pool_rounding
    normalize = spec.batch_norm if batch_norm is None else batch_norm

    def graph(x: keras.KerasTensor) -> keras.KerasTensor:
        import keras

        remaining = iter(pools or kinds)
        for number, (filters, kernel_size, strides, padding, pool, dropout) in enumerate(spec.stages, start=1):
            style = {"strides": strides, "padding": padding, "batch_norm": normalize}
            x = layers.mlpconv(x, filters, kernel_size, name=f"mlpconv{number}", **style)
            if pool:
                x = layers.pool2d(x, next(remaining), rounding=rounding, name=f"pool{number}")
            if dropout:
                x = keras.layers.Dropout(dropout, name=f"dropout{number}")(x)
        if not include_top:
            return x
        # The last block's second 1x1 layer is the classifier.
        head = f"mlpconv{len(spec.stages)}_conv1x1b"
        units = spec.classes if classes is None else classes
        return layers.pointwise_head(x, units, classifier_activation=classifier_activation, name=head)

    return spec.assemble(graph, input_shape, weights, name, include_top)


_spec = functools.partial(NiNSpec, family=nin, paper="Network in Network, arXiv:1312.4400")
_cifar = functools.partial(
    _spec,
    input_shape=(32, 32, 3),
    classes=10,
    params=966_986,
    macs=222_486_528,
    dataset="cifar10",
    preprocessing="standardize",
    stages=_CIFAR_STAGES,
)
SPECS = (
    _spec(
        name="nin_digits",
        title="NiN's structure at the size of the embedded 8x8 digits",
        input_shape=(8, 8, 1),
        classes=10,
        params=50_482,
        macs=544_256,
        dataset="digits",
        bundled_weights=("digits",),
        stages=_DIGITS_STAGES,
    ),
    _cifar(name="nin_cifar10", title="the paper's network for CIFAR-10"),
    _cifar(
        name="nin_cifar10_bn",
        title="the CIFAR-10 network with BatchNormalization instead of biases",
        params=971_210,
        batch_norm=True,
    ),
    _cifar(
        name="nin_cifar100",
        title="the paper's network for CIFAR-100",
        classes=100,
        params=984_356,
        macs=223_592_448,
        dataset="cifar100",
    ),
    _spec(
        name="nin_imagenet",
        title="the authors' Caffe network for ImageNet",
        input_shape=(227, 227, 3),
        classes=1000,
        params=7_595_176,
        macs=1_105_996_320,
        preprocessing="caffe",
        stages=_IMAGENET_STAGES,
        pool_rounding="floor",
    ),
)
NiNDigits = make_builder("NiNDigits", nin, SPECS[0])
NiNCIFAR10 = make_builder("NiNCIFAR10", nin, SPECS[1])
NiNCIFAR10BN = make_builder("NiNCIFAR10BN", nin, SPECS[2])
NiNCIFAR100 = make_builder("NiNCIFAR100", nin, SPECS[3])
NiNImageNet = make_builder("NiNImageNet", nin, SPECS[4])
preprocess_input, decode_predictions = family_functions(SPECS)
