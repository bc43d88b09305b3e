"""Move the factors of BatchNormalization into the convolution before it, so that equal weights stay equal in a file."""

import collections

import numpy as np

from keras_nin.export.twin.steps import Slot, flatten

_KERNELS = {"Conv1D": "kernel", "Conv2D": "kernel", "Dense": "kernel", "SeparableConv2D": "pointwise_kernel"}


def fold_norms(model):
    """Let every BatchNormalization that follows a convolution or dense layer only add, and freeze it.

    The converter multiplies each channel of a kernel with the factor of its BatchNormalization: 16 distinct weights
    would become 16 a channel. Here that is done to the weights themselves, before they are clustered; the outputs of
    the model at inference stay what they are.

    Args:
        model: keras.Model, changed in place.

    Returns:
        List of the paths of those BatchNormalization layers.
    """
    plan = flatten(model)
    producers = {slot: step for step in plan.steps for slot in step.outputs}
    uses = collections.Counter(slot for step in plan.steps for slot in _slots(step))
    calls = collections.Counter(id(step.operation) for step in plan.steps)
    uses.update(plan.outputs)
    folded = []
    for step in plan.steps:
        if type(step.operation).__name__ != "BatchNormalization":
            continue
        source = producers.get(step.args[0])
        alone = source and uses[step.args[0]] == calls[id(source.operation)] == calls[id(step.operation)] == 1
        if alone and _scales_channels(source.operation, step.operation):
            _fold(source.operation, step.operation)
            folded.append("/".join(step.path))
    return folded


def _slots(step):
    import keras

    return [each for each in keras.tree.flatten((step.args, step.kwargs)) if isinstance(each, Slot)]


def _scales_channels(layer, norm):
    """Return whether the last axis of a layer's kernel is what `norm` scales, with no activation between them."""
    if type(layer).__name__ not in _KERNELS or getattr(layer.activation, "__name__", "") != "linear":
        return False
    return norm.axis in (-1, len(layer.output.shape) - 1)


def _fold(layer, norm):
    deviation = np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    factor = (norm.gamma.numpy() if norm.scale else 1.0) / deviation
    kernel = getattr(layer, _KERNELS[type(layer).__name__])
    kernel.assign(kernel.numpy() * factor)
    if layer.use_bias:
        layer.bias.assign(layer.bias.numpy() * factor)
    norm.moving_mean.assign(norm.moving_mean.numpy() * factor)
    norm.moving_variance.assign(np.full_like(deviation, 1 - norm.epsilon))
    if norm.scale:
        norm.gamma.assign(np.ones_like(deviation))
    norm.trainable = False
