"""Network in Network: Lin, Chen, Yan, arXiv:1312.4400."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from keras_nin import layers
from keras_nin.errors import InputError
from keras_nin.models.model_spec import ModelSpec, Shape, Weights, read_specs
from keras_nin.models.predictions import family_functions

if TYPE_CHECKING:
    import keras

# Channels of an mlpconv block's layers, kernel size, strides, padding, kind of the pooling after it, dropout.
Stage: TypeAlias = tuple[tuple[int, ...], int, int, str, str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NiNSpec(ModelSpec):
    """A Network in Network: the stages, then the 1x1 layer to the classes."""

    stages: tuple[Stage, ...]
    pool_rounding: str = "ceil"
    batch_norm: bool = False


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
    kinds = [pool for *_, pool, _ in spec.stages if pool]
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


SPECS, (NiNDigits, NiNCIFAR10, NiNCIFAR10BN, NiNCIFAR100, NiNImageNet) = read_specs(nin, NiNSpec)
preprocess_input, decode_predictions = family_functions(SPECS)
