"""The three trainings of tensorflow-model-optimization: how a network is prepared for each, and taken apart again."""

import collections
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.errors import input_error
from keras_nin.keras_graph import trace_functional

if TYPE_CHECKING:
    import keras
    import tf_keras

    from keras_nin.export.optimization.training import OptimizationSettings

_PRUNING_UPDATES = 50  # how often pruning picks the smallest weights on its way to the final sparsity
_BATCH = 32
# Activation functions whose output tensorflow-model-optimization quantizes as the TFLite kernels do.
_KNOWN_ACTIVATIONS = ("relu", "relu6", "swish", "gelu", "linear", "softmax", "sigmoid", "tanh")
_FOLDED_KERNELS = {"Conv1D": "kernel", "Conv2D": "kernel", "Dense": "kernel", "SeparableConv2D": "pointwise_kernel"}


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedNetwork:
    """A network that is ready to be trained.

    Attributes:
        finish: function from the trained network to one without wrappers, or to the quantized network itself.
        final_step: number of steps after which the network is as compressed as it will be.
        callback: a tf_keras callback that has to see the training and the end of every epoch, or None.
    """

    network: "tf_keras.Model"
    finish: "Callable[[tf_keras.Model], tf_keras.Model]"
    final_step: int = 0
    callback: "tf_keras.callbacks.Callback | None" = None


def prepare_network(
    method: str, network: "tf_keras.Model", settings: "OptimizationSettings", steps: int, images: np.ndarray
) -> PreparedNetwork:
    """Prepare what `keras_nin.export.to_tf_keras` made for a training; its layers become a part of the result.

    "pruned" prunes by magnitude, along the cubic schedule of arXiv:1710.01878 over the first half of the training.
    "clustered" shares weights, k-means++ to begin with (Deep Compression, arXiv:1510.00149). "qat" is `quantize_model`.

    Args:
        method: "qat", "pruned" or "clustered".
        network, settings, steps: the network, how it is trained, and in how many steps.
        images: some training images, float32 (N, H, W, C).
    """
    import tensorflow_model_optimization as tfmot

    if method == "qat":
        quantized = quantize_model(network)
        freeze_batch_norms(quantized)
        initialize_ranges(quantized, images)
        return PreparedNetwork(quantized, lambda network: network)
    if method == "clustered":
        clustering = tfmot.clustering.keras
        start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
        clustered = clustering.cluster_weights(
            network, number_of_clusters=settings.clusters, cluster_centroids_init=start
        )
        return PreparedNetwork(clustered, clustering.strip_clustering)
    pruning, last = tfmot.sparsity.keras, max(1, steps // 2)
    # A layer that is called several times counts its steps several times.
    is_shared = any(len(layer.inbound_nodes) > 1 for layer in network.layers)
    frequency = 1 if is_shared else max(1, last // _PRUNING_UPDATES)
    last -= last % frequency  # the last update comes at the last step
    schedule: Any = pruning.PolynomialDecay(0.0, settings.sparsity, 0, last, frequency=frequency)
    pruned = pruning.prune_low_magnitude(network, pruning_schedule=schedule)
    return PreparedNetwork(pruned, pruning.strip_pruning, last, pruning.UpdatePruningStep())


# Quantization-aware training


def quantize_model(network: "tf_keras.Model") -> "tf_keras.Model":
    """Return a copy of a tf_keras model that computes as an int8 file will, to be trained.

    As tfmot's `quantize_model`, which refuses layers that it does not know (Multiply, Rescaling, a BatchNormalization
    that follows no convolution, ...): here the output of such a layer is quantized and the layer itself left alone.
    Layers are called ``quant_<name>``. Convolution, BatchNormalization and ReLU in a row count as one.
    Integer quantization: arXiv:1712.05877.

    Args:
        network: tf_keras.Model as `keras_nin.export.to_tf_keras` makes it.

    Raises:
        InputError: no graph of tf_keras layers.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras

    from keras_nin._compat.tensorflow import default_8bit_scheme, is_graph_network

    if not isinstance(network, tf_keras.Model) or not is_graph_network(network):
        raise input_error("a tf_keras model as keras_nin.export.to_tf_keras makes it", type(network).__name__)
    api = tfmot.quantization.keras
    with api.quantize_scope():
        return api.quantize_apply(api.quantize_annotate_model(network), default_8bit_scheme(_choose_config))


def _choose_config(layer: Any, configs: Any, is_known: bool) -> Any:
    """Return the quantization of a layer; None for tfmot's own."""
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    has_unknown_activation = type(layer).__name__ == "Activation" and activation not in _KNOWN_ACTIVATIONS
    if is_known and not has_unknown_activation:
        return None
    if getattr(layer, "results", 1) > 1:  # tfmot quantizes none of several outputs
        return configs.NoOpQuantizeConfig()
    return configs.Default8BitOutputQuantizeConfig()


def initialize_ranges(network: "tf_keras.Model", images: np.ndarray) -> None:
    """Set the ranges of a network that `quantize_model` made to the smallest and largest values on images (N, H, W, C).

    tfmot begins at -6 to 6 and moves by a thousandth of the way in each step: a short training would end with ranges
    far from those that the network needs.
    """
    import tensorflow as tf

    from keras_nin._compat.tensorflow import replaced_quantizers

    ranges: dict[str, tuple[float, float, Any]] = {}

    def observe(quantizer: Any, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        key = weights["min_var"].name  # the object may be a new one at each call
        minimum, maximum, _ = ranges.get(key, (0.0, 0.0, None))  # an int8 range contains zero
        minimum = min(minimum, float(tf.reduce_min(inputs)))
        maximum = max(maximum, float(tf.reduce_max(inputs)))
        ranges[key] = minimum, maximum, weights
        return inputs

    def pass_on(quantizer: Any, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        return inputs  # the ranges of weights are taken anew in each step

    with replaced_quantizers(observe, pass_on):
        for start in range(0, len(images), _BATCH):
            network(images[start : start + _BATCH], training=False)
    for minimum, maximum, weights in ranges.values():
        weights["min_var"].assign(minimum)
        weights["max_var"].assign(maximum)


def freeze_batch_norms(network: "tf_keras.Model") -> None:
    """Let every BatchNormalization of a network that `quantize_model` made compute in training as it does in a file.

    With the statistics of each batch the values would leave the ranges where the moving ones are still far from those
    (a momentum of 0.999 and a short training): activations of one step, whose gradients grow by 1 / sqrt(epsilon) in
    each layer until they overflow. Freezing the statistics: arXiv:1806.08342, section 3.2.3.
    """
    import tf_keras

    for layer in network.layers:
        norm = getattr(layer, "layer", layer)
        if isinstance(norm, tf_keras.layers.BatchNormalization):
            norm.trainable = False


# Clustering


def fold_batch_norms(model: "keras.Model") -> list[str]:
    """Let every BatchNormalization that follows a convolution or dense layer only add, and freeze it, in place.

    The converter multiplies each channel of a kernel with the factor of its BatchNormalization: 16 distinct weights
    would become 16 per channel. Here the weights themselves are multiplied, before they are clustered; the outputs of
    the model at inference stay the same. Returns the paths of those BatchNormalization layers.
    """
    trace = trace_functional(model)
    calls = collections.Counter(id(call.operation) for call in trace.calls)
    folded = []
    for call in trace.calls:
        norm: Any = call.operation
        if type(norm).__name__ != "BatchNormalization":
            continue
        (source,) = call.inputs
        producer = trace.producers.get(source)
        uses = len(trace.consumers[source]) + trace.outputs.count(source)
        if producer is None or not uses == calls[id(producer.operation)] == calls[id(norm)] == 1:
            continue
        layer: Any = producer.operation
        is_linear = getattr(getattr(layer, "activation", None), "__name__", "") == "linear"
        # The norm has to scale the last axis of the kernel.
        if type(layer).__name__ in _FOLDED_KERNELS and is_linear and norm.axis in (-1, len(layer.output.shape) - 1):
            _fold_into(layer, norm)
            folded.append("/".join(call.path))
    return folded


def _fold_into(layer: Any, norm: Any) -> None:
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
