"""The three ways to prepare a tf_keras network before training and to take it apart afterwards."""

import dataclasses
from typing import Any

from keras_nin.export.compress.ranges import set_ranges
from keras_nin.export.twin.quantize import quantize_model

# How often pruning looks for the smallest weights on its way to the final sparsity.
_UPDATES = 50


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
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


def prepare(method, twin, settings, steps, images):
    """Return the `Prepared` network of a method; the layers of `twin` become a part of it.

    Args:
        method: "qat", "pruned" or "clustered".
        twin: tf_keras.Model.
        settings: `keras_nin.export.compress.Settings`.
        steps: number of steps of the training.
        images: some training images, float32 (N, H, W, C).
    """
    return {"qat": _qat, "pruned": _pruned, "clustered": _clustered}[method](twin, settings, steps, images)


def _qat(twin, settings, steps, images):
    network = quantize_model(twin)
    set_ranges(network, images)
    return Prepared(network, lambda network: network)


def _pruned(twin, settings, steps, images):
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
    return Prepared(network, api.strip_pruning, last, api.UpdatePruningStep())


def _clustered(twin, settings, steps, images):
    """Share weights, k-means++ to begin with (arXiv:1510.00149)."""
    import tensorflow_model_optimization as tfmot

    api = tfmot.clustering.keras
    start = api.CentroidInitialization.KMEANS_PLUS_PLUS
    network = api.cluster_weights(twin, number_of_clusters=settings.clusters, cluster_centroids_init=start)
    return Prepared(network, api.strip_clustering)
