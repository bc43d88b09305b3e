"""Claims about the article's small ConvNet: a head of 1x1 layers, and a 1x1 layer added for its ReLU.

In the network with the additional ReLU the 1x1 layer follows pooling and ReLU: 3x3 layer, pooling, ReLU, 1x1 layer,
ReLU. Without its own ReLU it is linear, but it can be merged only into the linear layer that follows, not into the 3x3
layer before: between those two are the maximum and the ReLU, which do not commute with a mix of channels.
"""

import functools
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.claims.claim import Above, Claim, DeclaredFigure, Figures, TrainedPart
from keras_nin.claims.equalities import FLOAT32_EQUAL
from keras_nin.claims.networks import (
    ClaimTraining,
    TrainedNetwork,
    audit_zoo_model,
    build_network,
    compose_convolutions,
    compose_with_dense,
    convolution_rows,
    format_mean_and_range,
    load_training_images,
    random_input,
    randomize_weights,
    relative_difference,
    run_model,
    train_over_seeds,
)
from keras_nin.models.articles import CONVNET

if TYPE_CHECKING:
    import keras

HEADS = {"linear": "convnet_linear_head", "pointwise": "convnet_pointwise_head"}
# The pointwise head learns slowly: its accuracy is about 79% after 30 epochs, 90% after 60, 95% after 80.
_HEAD_EPOCHS = 60
_TRUNK_PARAMS = (3 * 3 * 1 * 3 + 3) + (3 * 3 * 3 * 64 + 64)
_LINEAR_HEAD_PARAMS = (7 * 7 * 64 * 100 + 100) + (100 * 10 + 10)
_POINTWISE_HEAD_PARAMS = (64 * 32 + 32) + (32 * 10 + 10)
_SMALLER_GAP = "pointwise: smaller gap between training and test accuracy, mean over seeds"
_AS_ACCURATE = "pointwise: at least as accurate, mean over seeds"

# The third layer: with its ReLU, without it, or left out.
WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER = "with its ReLU", "without its ReLU", "no third layer"
_RELU_EPOCHS = 30
_THIRD_ACTIVATIONS = {WITH_RELU: "relu", WITHOUT_RELU: None}
_MERGED_NEXT = "no ReLU: merged into the linear layer after it, relative difference"
_MERGED_PREVIOUS = "no ReLU: merged into the 3x3 layer before it, relative difference"
_MERGED_ADJACENT = "no ReLU, nothing between: merged into the 3x3 layer, relative difference"
_RELU_AS_ACCURATE = f"{WITH_RELU}: at least as accurate as without, mean over seeds"


def _measure_heads() -> Figures:
    figures = {}
    for head, name in HEADS.items():
        rows = audit_zoo_model(name).rows
        trunk = sum(row.params for row in rows if row.name in ("conv1", "conv2"))
        total = sum(row.params for row in rows)
        figures |= {f"{head} head, parameters": total - trunk, f"{head} network, parameters": total}
    return figures


def _train_heads(training: ClaimTraining) -> Figures:
    from keras_nin import models

    images = load_training_images(training)
    figures, test_accuracy, gap = {}, {}, {}
    for head, name in HEADS.items():
        build = functools.partial(models.build_model, name, classifier_activation=training.activation)
        networks = train_over_seeds(build, training, images, _HEAD_EPOCHS)
        accuracies, gaps = [network.test_accuracy for network in networks], [network.gap for network in networks]
        test_accuracy[head], gap[head] = statistics.fmean(accuracies), statistics.fmean(gaps)
        figures[f"{head}: test accuracy, %"] = format_mean_and_range(accuracies)
        figures[f"{head}: gap, pp"] = format_mean_and_range(gaps)
    return figures | {
        _SMALLER_GAP: gap["pointwise"] < gap["linear"],
        _AS_ACCURATE: test_accuracy["pointwise"] >= test_accuracy["linear"],
    }


def build_relu_classifier(third: str, classifier_activation: str | None = "softmax") -> "keras.Model":
    """Return the article's network with a dense layer to ten classes, so that it can be trained: (28, 28, 1) -> (10,).

    Args:
        third: `WITH_RELU`, `WITHOUT_RELU` or `NO_THIRD_LAYER`.
        classifier_activation: activation of the dense layer; None returns its scores.
    """
    import keras

    from keras_nin import layers, models

    trunk = models.build_model("convnet_extra_relu", include_top=False)
    x: Any = trunk.output
    if third != NO_THIRD_LAYER:
        x = layers.conv1x1(x, 8, activation=_THIRD_ACTIVATIONS[third], name="conv3_1x1")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(10, activation=classifier_activation, name="dense")(x)
    return keras.Model(trunk.input, x, name=f"convnet_{third.replace(' ', '_')}")


def merge_into_next_layer(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference of the scores when the linear third layer is merged into the dense layer.

    Args:
        model: `build_relu_classifier(WITHOUT_RELU)`, trained or not.
        images: (N, 28, 28, 1).
    """
    dense = model.get_layer("dense").get_weights()
    maps = run_model(_submodel(model, "relu2"), images)
    flat = run_model(_submodel(model, "flatten"), images).astype(np.float64)
    positions = maps.shape[1] * maps.shape[2]
    kernel, bias = compose_with_dense(model.get_layer("conv3_1x1").get_weights(), dense, positions)
    return relative_difference(maps.reshape(len(maps), -1) @ kernel + bias, flat @ dense[0] + dense[1])


def merge_into_previous_layer(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference of the maps when the linear third layer is merged into the 3x3 layer before it.

    The pooling and the ReLU between the two then follow the merged layer.
    """
    merged = _build_merged_network(model)
    reference = run_model(_submodel(model, "conv3_1x1"), images)
    return relative_difference(run_model(_submodel(merged, "relu2"), images), reference)


def _build_merged_network(model: "keras.Model") -> "keras.Model":
    from keras_nin import models

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    merged = models.build_model("convnet_extra_relu", include_top=False)
    merged.get_layer("conv1").set_weights(model.get_layer("conv1").get_weights())
    merged.get_layer("conv2").set_weights(compose_convolutions(second, third))
    return merged


def merge_adjacent_layers(model: "keras.Model", images: np.ndarray) -> float:
    """Return the relative difference when the third layer directly follows the 3x3 layer and is merged into it."""
    from keras_nin import layers

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    maps = run_model(_submodel(model, "relu1"), images)
    shape = maps.shape[1:]

    def conv3x3(x: "keras.KerasTensor") -> "keras.KerasTensor":
        return layers.conv2d(x, 8, 3, activation=None, name="conv2")

    pair = build_network(lambda x: layers.conv1x1(conv3x3(x), 8, activation=None, name="conv3_1x1"), shape, "pair")
    pair.set_weights([*second, *third])
    merged = build_network(conv3x3, shape, "merged")
    merged.set_weights(compose_convolutions(second, third))
    return relative_difference(run_model(merged, maps), run_model(pair, maps))


def _submodel(model: "keras.Model", layer: str) -> "keras.Model":
    import keras

    return keras.Model(model.input, model.get_layer(layer).output)


def _measure_relu() -> Figures:
    rows = {row.name: row.params for row in convolution_rows(audit_zoo_model("convnet_extra_relu"))}
    model, images = randomize_weights(build_relu_classifier(WITHOUT_RELU)), random_input(16, 28, 28, 1)
    return {
        "3x3 layer to 3 channels, parameters": rows["conv1"],
        "3x3 layer to 8 channels, parameters": rows["conv2"],
        "1x1 layer to 8 channels, parameters": rows["conv3_1x1"],
        _MERGED_NEXT: merge_into_next_layer(model, images),
        _MERGED_PREVIOUS: merge_into_previous_layer(model, images),
        _MERGED_ADJACENT: merge_adjacent_layers(model, images),
    }


def _train_relu(training: ClaimTraining) -> Figures:
    images = load_training_images(training)
    networks = {
        third: train_over_seeds(
            functools.partial(build_relu_classifier, third, training.activation), training, images, _RELU_EPOCHS
        )
        for third in (WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER)
    }
    sample = images.test[0][:64]
    linear = [network.model for network in networks[WITHOUT_RELU]]
    return {
        **{f"{third}: test accuracy, %": format_mean_and_range(_accuracies(networks[third])) for third in networks},
        f"trained, {_MERGED_NEXT}": max(merge_into_next_layer(model, sample) for model in linear),
        f"trained, {_MERGED_PREVIOUS}": min(merge_into_previous_layer(model, sample) for model in linear),
        _RELU_AS_ACCURATE: sum(_accuracies(networks[WITH_RELU])) >= sum(_accuracies(networks[WITHOUT_RELU])),
    }


def _accuracies(networks: Sequence[TrainedNetwork]) -> list[float]:
    return [network.test_accuracy for network in networks]


HEAD_CLAIMS = (
    Claim(
        id="paperspace-head",
        source=CONVNET,
        text="Two 1x1 layers and global average pooling can replace a linear head, with far fewer parameters.",
        figures=(
            DeclaredFigure("linear head, parameters", _LINEAR_HEAD_PARAMS),
            DeclaredFigure("linear network, parameters", _TRUNK_PARAMS + _LINEAR_HEAD_PARAMS),
            DeclaredFigure("pointwise head, parameters", _POINTWISE_HEAD_PARAMS),
            DeclaredFigure("pointwise network, parameters", _TRUNK_PARAMS + _POINTWISE_HEAD_PARAMS),
        ),
        measure=_measure_heads,
        why="The parameter counts hold: almost all parameters of the linear head are in the layer after Flatten, and "
        "their number grows with the size of the image; that of the pointwise head does not.",
        trained=TrainedPart(
            figures=(
                *(DeclaredFigure(f"{head}: {what}") for head in HEADS for what in ("test accuracy, %", "gap, pp")),
                DeclaredFigure(_SMALLER_GAP, True, None),
                DeclaredFigure(_AS_ACCURATE, True, None),
            ),
            measure=_train_heads,
            why="Trained figures are the mean (lowest to highest) over the seeds; both heads see the same images in "
            "the same order for as many steps, and the pointwise head learns more slowly. The small gap of a network "
            "that has not yet learned its training images says nothing about overfitting. The article ends both "
            "networks in a sigmoid; for one label per image a softmax is the right choice, and the default here.",
        ),
    ),
)

RELU_CLAIMS = (
    Claim(
        id="paperspace-relu",
        source=CONVNET,
        text="A 1x1 layer of equal width adds a non-linearity; without its ReLU it collapses into the layer before it.",
        figures=(
            DeclaredFigure("3x3 layer to 3 channels, parameters", 3 * 3 * 1 * 3 + 3),
            DeclaredFigure("3x3 layer to 8 channels, parameters", 3 * 3 * 3 * 8 + 8),
            DeclaredFigure("1x1 layer to 8 channels, parameters", 8 * 8 + 8),
            DeclaredFigure(_MERGED_NEXT, None, FLOAT32_EQUAL),
            DeclaredFigure(_MERGED_PREVIOUS, FLOAT32_EQUAL, Above(1e-2)),
            DeclaredFigure(_MERGED_ADJACENT, None, FLOAT32_EQUAL),
        ),
        measure=_measure_relu,
        why="The parameter counts hold, and without its ReLU the layer is linear. In this network it does not collapse "
        "into the 3x3 layer before it, because pooling and a ReLU come between them; with nothing between, it would. "
        "It can be merged exactly into the linear layer that follows: here a dense layer to ten classes, which we add.",
        trained=TrainedPart(
            figures=(
                *(DeclaredFigure(f"{third}: test accuracy, %") for third in (WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER)),
                DeclaredFigure(_RELU_AS_ACCURATE),
                DeclaredFigure(f"trained, {_MERGED_NEXT}", None, FLOAT32_EQUAL),
                DeclaredFigure(f"trained, {_MERGED_PREVIOUS}", FLOAT32_EQUAL, Above(1e-2)),
            ),
            measure=_train_relu,
            why="Trained figures are the mean (lowest to highest) over the seeds; a difference within that range is "
            "not significant.",
        ),
    ),
)
