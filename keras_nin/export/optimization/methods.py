"""The three ways to prepare a tf_keras network before training and to take it apart afterwards."""

import collections
import contextlib
import dataclasses
from typing import Any

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export.optimization.tf_keras_model import TensorSlot, flatten_model

# How often pruning looks for the smallest weights on its way to the final sparsity.
_UPDATES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A network that is ready to be trained.

    Attributes:
        network: tf_keras.Model.
        finish: function from the trained network to a twin of the original, or to the quantised network.
        ready: number of steps after which the network is as compressed as it will be.
        callback: a tf_keras callback that has to see the training and the end of every epoch, or None.
    """

    network: Any
    finish: Any
    ready: int = 0
    callback: Any = None


def prepare_network(method, twin, settings, steps, images):
    """Return the `Prepared` network of a method; the layers of `twin` become a part of it.

    Args:
        method: "qat", "pruned" or "clustered".
        twin: tf_keras.Model.
        settings: `keras_nin.export.optimization.OptimizationSettings`.
        steps: number of steps of the training.
        images: some training images, float32 (N, H, W, C).
    """
    return {"qat": _prepare_qat, "pruned": _prepare_pruning, "clustered": _prepare_clustering}[method](
        twin, settings, steps, images
    )


def _prepare_qat(twin, settings, steps, images):
    network = quantize_model(twin)
    initialize_ranges(network, images)
    return PreparedNetwork(network, lambda network: network)


def _prepare_pruning(twin, settings, steps, images):
    """Prune by magnitude, along the cubic schedule of arXiv:1710.01878 over the first half of the training."""
    import tensorflow_model_optimization as tfmot

    api = tfmot.sparsity.keras
    last = max(1, steps // 2)
    # A layer that is called several times counts its steps several times.
    shared = any(len(layer.inbound_nodes) > 1 for layer in twin.layers)
    frequency = 1 if shared else max(1, last // _UPDATES)
    last -= last % frequency  # the last update comes at the last step
    schedule = api.PolynomialDecay(0.0, settings.sparsity, 0, last, frequency=frequency)
    network = api.prune_low_magnitude(twin, pruning_schedule=schedule)
    return PreparedNetwork(network, api.strip_pruning, last, api.UpdatePruningStep())


def _prepare_clustering(twin, settings, steps, images):
    """Share weights, k-means++ to begin with (arXiv:1510.00149)."""
    import tensorflow_model_optimization as tfmot

    api = tfmot.clustering.keras
    start = api.CentroidInitialization.KMEANS_PLUS_PLUS
    network = api.cluster_weights(twin, number_of_clusters=settings.clusters, cluster_centroids_init=start)
    return PreparedNetwork(network, api.strip_clustering)


# MERGED Quantisation-aware training of a twin: tensorflow-model-optimization's own, and what it leaves out.

# Activation functions whose output tensorflow-model-optimization quantises as the TFLite kernels do.
_KNOWN_ACTIVATIONS = ("relu", "relu6", "swish", "gelu", "linear", "softmax", "sigmoid", "tanh")


def quantize_model(twin):
    """Return a copy of a twin that computes as an int8 file will, to be trained.

    As tfmot's `quantize_model`, which refuses layers that it does not know (Multiply, Rescaling, a BatchNormalization
    that follows no convolution, ...): here the output of such a layer is quantised and the layer itself left alone.
    Layers are called ``quant_<name>``. Convolution, BatchNormalization and ReLU in a row count as one.
    Integer quantization: arXiv:1712.05877.

    Args:
        twin: tf_keras.Model as `keras_nin.export.to_tf_keras` makes it.

    Raises:
        InputError: no graph of tf_keras layers.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras

    if not isinstance(twin, tf_keras.Model) or not getattr(twin, "_is_graph_network", False):
        raise InputError(
            f"Expected a tf_keras model as keras_nin.export.to_tf_keras makes it. Received: {type(twin).__name__}"
        )
    keras_api = tfmot.quantization.keras
    with keras_api.quantize_scope():
        return keras_api.quantize_apply(keras_api.quantize_annotate_model(twin), _tfmot_scheme())


def _tfmot_scheme():
    """Return tfmot's 8-bit scheme with an answer for every layer."""
    from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

    configs = default_8bit.default_8bit_quantize_configs

    class Registry(default_8bit.default_8bit_quantize_registry.Default8BitQuantizeRegistry):
        def supports(self, layer):
            return True

        def get_quantize_config(self, layer):
            name = getattr(getattr(layer, "activation", None), "__name__", None)
            other = type(layer).__name__ == "Activation" and name not in _KNOWN_ACTIVATIONS
            if super().supports(layer) and not other:
                return super().get_quantize_config(layer)
            if getattr(layer, "results", 1) > 1:  # of several outputs tfmot quantises none
                return configs.NoOpQuantizeConfig()
            return configs.Default8BitOutputQuantizeConfig()

    class Scheme(default_8bit.default_8bit_quantize_scheme.Default8BitQuantizeScheme):
        def get_quantize_registry(self):
            return Registry()

    return Scheme()


# MERGED Where the ranges of a quantisation-aware training begin.

_BATCH = 32


def initialize_ranges(network, images):
    """Set the ranges of a network that `quantize_model` made to the least and largest values on `images`.

    tfmot begins at -6 to 6 and moves by a thousandth of the way in each step: a short training would end with ranges
    far from those that the network needs.

    Args:
        network: tf_keras.Model.
        images: float32 (N, H, W, C).
    """
    ranges = {}
    with _observing_ranges(ranges):
        for start in range(0, len(images), _BATCH):
            network(images[start : start + _BATCH], training=False)
    for least, largest, values in ranges.values():
        values["min_var"].assign(least)
        values["max_var"].assign(largest)


@contextlib.contextmanager
def _observing_ranges(ranges):
    """Let tfmot's quantisers pass everything on as it is, and note the least and the largest value of activations."""
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot

    def observe(self, inputs, training, weights, **kwargs):
        key = weights["min_var"].name  # the object may be made anew at each call
        # An int8 range holds zero.
        least, largest, _ = ranges.get(key, (0.0, 0.0, None))
        least, largest = min(least, float(tf.reduce_min(inputs))), max(largest, float(tf.reduce_max(inputs)))
        ranges[key] = least, largest, weights
        return inputs

    def ignore(self, inputs, training, weights, **kwargs):
        return inputs

    api = tfmot.quantization.keras.quantizers
    # Of activations, of the input, and of weights, which are looked at anew in each step.
    replaced = (
        (api.MovingAverageQuantizer, observe),
        (api.AllValuesQuantizer, observe),
        (api.LastValueQuantizer, ignore),
    )
    originals = [kind.__call__ for kind, _ in replaced]
    try:
        for kind, function in replaced:
            kind.__call__ = function
        yield
    finally:
        for (kind, _), original in zip(replaced, originals, strict=True):
            kind.__call__ = original


# MERGED Move the factors of BatchNormalization into the convolution before it, so that equal weights stay equal in a file.

_FOLDED_KERNELS = {"Conv1D": "kernel", "Conv2D": "kernel", "Dense": "kernel", "SeparableConv2D": "pointwise_kernel"}


def fold_batch_norms(model):
    """Let every BatchNormalization that follows a convolution or dense layer only add, and freeze it.

    The converter multiplies each channel of a kernel with the factor of its BatchNormalization: 16 distinct weights
    would become 16 a channel. Here that is done to the weights themselves, before they are clustered; the outputs of
    the model at inference stay what they are.

    Args:
        model: keras.Model, changed in place.

    Returns:
        List of the paths of those BatchNormalization layers.
    """
    plan = flatten_model(model)
    producers = {slot: step for step in plan.steps for slot in step.outputs}
    uses = collections.Counter(slot for step in plan.steps for slot in _call_slots(step))
    calls = collections.Counter(id(step.operation) for step in plan.steps)
    uses.update(plan.outputs)
    folded = []
    for step in plan.steps:
        if type(step.operation).__name__ != "BatchNormalization":
            continue
        source = producers.get(step.args[0])
        alone = source and uses[step.args[0]] == calls[id(source.operation)] == calls[id(step.operation)] == 1
        if alone and _scales_channels(source.operation, step.operation):
            _fold_into(source.operation, step.operation)
            folded.append("/".join(step.path))
    return folded


def _call_slots(step):
    import keras

    return [each for each in keras.tree.flatten((step.args, step.kwargs)) if isinstance(each, TensorSlot)]


def _scales_channels(layer, norm):
    """Return whether the last axis of a layer's kernel is what `norm` scales, with no activation between them."""
    if type(layer).__name__ not in _FOLDED_KERNELS or getattr(layer.activation, "__name__", "") != "linear":
        return False
    return norm.axis in (-1, len(layer.output.shape) - 1)


def _fold_into(layer, norm):
    deviation = np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    factor = (norm.gamma.numpy() if norm.scale else 1.0) / deviation
    kernel = getattr(layer, _FOLDED_KERNELS[type(layer).__name__])
    kernel.assign(kernel.numpy() * factor)
    if layer.use_bias:
        layer.bias.assign(layer.bias.numpy() * factor)
    norm.moving_mean.assign(norm.moving_mean.numpy() * factor)
    norm.moving_variance.assign(np.full_like(deviation, 1 - norm.epsilon))
    if norm.scale:
        norm.gamma.assign(np.ones_like(deviation))
    norm.trainable = False
