"""Claims about the article's small ConvNet: a head of 1x1 layers, and a 1x1 layer added for its ReLU.

In the network with the additional ReLU the 1x1 layer follows pooling and ReLU: 3x3 layer, pooling, ReLU, 1x1 layer,
ReLU. Without its own ReLU it is linear, but it can be merged only into the linear layer that follows, not into the 3x3
layer before: between those two are the maximum and the ReLU, which do not commute with a mix of channels.
"""

import functools
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import layers, models
from keras_nin.claims import networks
from keras_nin.claims.claim import Figures

if TYPE_CHECKING:
    import keras

# The pointwise head learns slowly: its accuracy is about 79% after 30 epochs, 90% after 60, 95% after 80.
_HEAD_EPOCHS, _RELU_EPOCHS = 60, 30
HEADS = {"linear": "convnet_linear_head", "pointwise": "convnet_pointwise_head"}
# The third layer: with its ReLU, without it, or left out.
WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER = "with its ReLU", "without its ReLU", "no third layer"
_MERGED_NEXT = "no ReLU: merged into the linear layer after it, relative difference"
_MERGED_PREVIOUS = "no ReLU: merged into the 3x3 layer before it, relative difference"


def _measure_heads() -> Figures:
    figures = {}
    for head, name in HEADS.items():
        rows = networks.audit_zoo_model(name).rows
        trunk = sum(row.params for row in rows if row.name in ("conv1", "conv2"))
        total = sum(row.params for row in rows)
        figures |= {f"{head} head, parameters": total - trunk, f"{head} network, parameters": total}
    return figures


def _train_heads(training: networks.ClaimTraining) -> Figures:
    images = networks.load_training_images(training)
    figures, test_accuracy, gap = {}, {}, {}
    for head, name in HEADS.items():
        build = functools.partial(models.build_model, name, classifier_activation=training.activation)
        runs = networks.train_over_seeds(build, training, images, _HEAD_EPOCHS)
        accuracies, gaps = [run.test_accuracy for run in runs], [run.gap for run in runs]
        test_accuracy[head], gap[head] = statistics.fmean(accuracies), statistics.fmean(gaps)
        figures[f"{head}: test accuracy, %"] = networks.format_mean_and_range(accuracies)
        figures[f"{head}: gap, pp"] = networks.format_mean_and_range(gaps)
    return figures | {
        "pointwise: smaller gap between training and test accuracy, mean over seeds": gap["pointwise"] < gap["linear"],
        "pointwise: at least as accurate, mean over seeds": test_accuracy["pointwise"] >= test_accuracy["linear"],
    }


def build_relu_classifier(third: str, classifier_activation: str | None = "softmax") -> "keras.Model":
    """Return the article's network with a dense layer to ten classes, so that it can be trained: (28, 28, 1) -> (10,).

    `third` is `WITH_RELU`, `WITHOUT_RELU` or `NO_THIRD_LAYER`.
    """
    import keras

    trunk = models.build_model("convnet_extra_relu", include_top=False)
    x: Any = trunk.output
    if third != NO_THIRD_LAYER:
        x = layers.conv1x1(x, 8, activation="relu" if third == WITH_RELU else None, name="conv3_1x1")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(10, activation=classifier_activation, name="dense")(x)
    return keras.Model(trunk.input, x, name=f"convnet_{third.replace(' ', '_')}")


def merge_into_next_layer(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference of the scores when the linear third layer is merged into the dense layer."""
    third, dense = (model.get_layer(name).get_weights() for name in ("conv3_1x1", "dense"))
    maps = networks.run_up_to(model, "relu2", images)
    flat = networks.run_up_to(model, "flatten", images).astype(np.float64)
    kernel, bias = networks.compose_with_dense(third, dense, positions=maps.shape[1] * maps.shape[2])
    return networks.relative_difference(maps.reshape(len(maps), -1) @ kernel + bias, flat @ dense[0] + dense[1])


def merge_into_previous_layer(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference of the maps when the linear third layer is merged into the 3x3 layer before it.

    The pooling and the ReLU between the two then follow the merged layer.
    """
    first, second, third = (model.get_layer(name).get_weights() for name in ("conv1", "conv2", "conv3_1x1"))
    merged = models.build_model("convnet_extra_relu", include_top=False)
    merged.get_layer("conv1").set_weights(first)
    merged.get_layer("conv2").set_weights(networks.compose_convolutions(second, third))
    reference = networks.run_up_to(model, "conv3_1x1", images)
    return networks.relative_difference(networks.run_up_to(merged, "relu2", images), reference)


def merge_adjacent_layers(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference when the third layer directly follows the 3x3 layer and is merged into it."""
    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    maps = networks.run_up_to(model, "relu1", images)
    conv3x3 = functools.partial(layers.conv2d, filters=8, kernel_size=3, activation=None, name="conv2")
    conv1x1 = functools.partial(layers.conv1x1, filters=8, activation=None, name="conv3_1x1")
    pair = networks.build_network(lambda x: conv1x1(conv3x3(x)), maps.shape[1:], "pair")
    pair.set_weights([*second, *third])
    merged = networks.build_network(conv3x3, maps.shape[1:], "merged")
    merged.set_weights(networks.compose_convolutions(second, third))
    return networks.relative_difference(networks.run_model(merged, maps), networks.run_model(pair, maps))


def _measure_relu() -> Figures:
    audit = networks.audit_zoo_model("convnet_extra_relu")
    params = {row.name: row.params for row in networks.convolution_rows(audit)}
    model, images = (
        networks.randomize_weights(build_relu_classifier(WITHOUT_RELU)),
        networks.random_input(16, 28, 28, 1),
    )
    return {
        "3x3 layer to 3 channels, parameters": params["conv1"],
        "3x3 layer to 8 channels, parameters": params["conv2"],
        "1x1 layer to 8 channels, parameters": params["conv3_1x1"],
        _MERGED_NEXT: merge_into_next_layer(model, images),
        _MERGED_PREVIOUS: merge_into_previous_layer(model, images),
        "no ReLU, nothing between: merged into the 3x3 layer, relative difference": merge_adjacent_layers(
            model, images
        ),
    }


def _train_relu(training: networks.ClaimTraining) -> Figures:
    images = networks.load_training_images(training)
    runs = {}
    for third in (WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER):
        build = functools.partial(build_relu_classifier, third, training.activation)
        runs[third] = networks.train_over_seeds(build, training, images, _RELU_EPOCHS)
    accuracies = {third: [run.test_accuracy for run in runs[third]] for third in runs}
    sample = images.test[0][:64]
    linear = [run.model for run in runs[WITHOUT_RELU]]
    return {
        **{f"{third}: test accuracy, %": networks.format_mean_and_range(accuracies[third]) for third in runs},
        f"trained, {_MERGED_NEXT}": max(merge_into_next_layer(model, sample) for model in linear),
        f"trained, {_MERGED_PREVIOUS}": min(merge_into_previous_layer(model, sample) for model in linear),
        f"{WITH_RELU}: at least as accurate as without, mean over seeds": (
            sum(accuracies[WITH_RELU]) >= sum(accuracies[WITHOUT_RELU])
        ),
    }


MEASURES = {"paperspace-head": _measure_heads, "paperspace-relu": _measure_relu}
TRAINED_MEASURES = {"paperspace-head": _train_heads, "paperspace-relu": _train_relu}
