"""The claim that 1x1 layers and a global average can take the place of a dense head."""

import functools
import statistics

import numpy as np

from keras_nin.claims import networks
from keras_nin.claims.claim import Above, Claim, DeclaredFigure, TrainedPart
from keras_nin.claims.equalities import FLOAT32_EQUAL
from keras_nin.claims.networks import (
    audit_zoo_model,
    build_network,
    convolution_rows,
    random_input,
    randomize_weights,
    relative_difference,
    run_model,
)
from keras_nin.models.articles import CONVNET

HEADS = {"linear": "convnet_linear_head", "pointwise": "convnet_pointwise_head"}
_HEAD_EPOCHS = 60  # the pointwise head learns slowly: about 79 % right after 30, 90 % after 60, 95 % after 80
_TRUNK_PARAMS = (3 * 3 * 1 * 3 + 3) + (3 * 3 * 3 * 64 + 64)
_LINEAR_HEAD_PARAMS = (7 * 7 * 64 * 100 + 100) + (100 * 10 + 10)
_POINTWISE_HEAD_PARAMS = (64 * 32 + 32) + (32 * 10 + 10)


def _measure_heads():
    figures = {}
    for head, name in HEADS.items():
        rows = audit_zoo_model(name).rows
        trunk = sum(row.params for row in rows if row.name in ("conv1", "conv2"))
        total = sum(row.params for row in rows)
        figures |= {f"{head} head, parameters": total - trunk, f"{head} network, parameters": total}
    return figures


def _train_heads(training):
    from keras_nin import models
    from keras_nin.claims.networks import format_mean_and_range, load_training_images, train_over_seeds

    pictures = load_training_images(training)
    figures, tests, gaps = {}, {}, {}
    for head, name in HEADS.items():
        build = functools.partial(models.build_model, name, classifier_activation=training.activation)
        runs = train_over_seeds(build, training, pictures, _HEAD_EPOCHS)
        tests[head], gaps[head] = ([getattr(run, what) for run in runs] for what in ("test_accuracy", "gap"))
        figures |= {
            f"{head}: test accuracy, %": format_mean_and_range(tests[head]),
            f"{head}: gap, points": format_mean_and_range(gaps[head]),
        }
    mean = statistics.fmean
    return figures | {
        _SMALLER_GAP: mean(gaps["pointwise"]) < mean(gaps["linear"]),
        _AS_ACCURATE: mean(tests["pointwise"]) >= mean(tests["linear"]),
    }


_SMALLER_GAP = "pointwise: smaller gap between training and test accuracy, in the mean"
_AS_ACCURATE = "pointwise: at least as accurate, in the mean"

HEAD_CLAIMS = (
    Claim(
        id="paperspace-head",
        source=CONVNET,
        text="Two 1x1 layers and a global average can take the place of a linear head, with far fewer parameters.",
        figures=(
            DeclaredFigure("linear head, parameters", _LINEAR_HEAD_PARAMS),
            DeclaredFigure("linear network, parameters", _TRUNK_PARAMS + _LINEAR_HEAD_PARAMS),
            DeclaredFigure("pointwise head, parameters", _POINTWISE_HEAD_PARAMS),
            DeclaredFigure("pointwise network, parameters", _TRUNK_PARAMS + _POINTWISE_HEAD_PARAMS),
        ),
        measure=_measure_heads,
        why="The parameters hold: the linear head's are nearly all in the layer behind Flatten, and grow with the size "
        "of the image, while those of the pointwise head do not.",
        trained=TrainedPart(
            figures=(
                *(DeclaredFigure(f"{head}: {what}") for head in HEADS for what in ("test accuracy, %", "gap, points")),
                DeclaredFigure(_SMALLER_GAP, True, None),
                DeclaredFigure(_AS_ACCURATE, True, None),
            ),
            measure=_train_heads,
            why="Trained, mean (lowest to highest) over the seeds; both heads get the same images, order and steps, "
            "and the pointwise head learns more slowly. A small gap of a network that has "
            "not learned its training images yet says nothing about overfitting. The article ends both in a sigmoid; "
            "one label an image wants a softmax, which is the default here.",
        ),
    ),
)


# MERGED The claim that a 1x1 layer of equal width adds a non-linearity, and what it is worth with and without its ReLU.
# MERGED
# MERGED In the article's network the layer stands behind pooling and ReLU: 3x3 layer, pooling, ReLU, 1x1 layer, ReLU. Without
# MERGED its own ReLU it is linear, but what it can merge with is the next linear layer, not the 3x3 layer before: between those
# MERGED two stand the maximum and the ReLU, which do not commute with a mix of channels.

# The third layer: with its ReLU, without it, and none at all.
WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER = "with its ReLU", "without its ReLU", "no third layer"
_RELU_EPOCHS = 30
_THIRD_ACTIVATIONS = {WITH_RELU: "relu", WITHOUT_RELU: None}


def build_relu_classifier(third, classifier_activation="softmax"):
    """Return the article's network with a dense layer to ten classes, which it needs to be trained: (28, 28, 1) -> 10.

    Args:
        third: `WITH`, `LINEAR` or `NONE`.
        classifier_activation: of the dense layer; None returns its scores.
    """
    import keras

    from keras_nin import layers, models

    trunk = models.build_model("convnet_extra_relu", include_top=False)
    x = trunk.output
    if third != NO_THIRD_LAYER:
        x = layers.conv1x1(x, 8, activation=_THIRD_ACTIVATIONS[third], name="conv3_1x1")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(10, activation=classifier_activation, name="dense")(x)
    return keras.Model(trunk.input, x, name=f"convnet_{third.replace(' ', '_')}")


def merge_into_next_layer(model, images):
    """Return the largest relative difference of scores when the linear third layer is merged into the dense layer.

    Args:
        model: `classifier(LINEAR)`, trained or not.
        images: (N, 28, 28, 1).
    """
    layers = {name: model.get_layer(name) for name in ("relu2", "conv3_1x1", "dense")}
    before = run_model(_submodel(model, layers["relu2"]), images)
    kernel, bias = layers["dense"].get_weights()
    scores = run_model(_submodel(model, model.get_layer("flatten")), images).astype(np.float64) @ kernel + bias
    positions = before.shape[1] * before.shape[2]
    kernel, bias = networks.compose_with_dense(layers["conv3_1x1"].get_weights(), (kernel, bias), positions)
    return relative_difference(before.reshape(len(before), -1) @ kernel + bias, scores)


def merge_into_previous_layer(model, images):
    """Return the largest relative difference of maps when the linear third layer is merged into the 3x3 layer before.

    The pooling and the ReLU between the two then come after the merged layer.
    """
    import keras

    merged = _build_merged_network(model)
    outputs = merged.get_layer("relu2").output
    reference = run_model(_submodel(model, model.get_layer("conv3_1x1")), images)
    return relative_difference(run_model(keras.Model(merged.input, outputs), images), reference)


def _build_merged_network(model):
    from keras_nin import models

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    merged = models.build_model("convnet_extra_relu", include_top=False)
    merged.get_layer("conv1").set_weights(model.get_layer("conv1").get_weights())
    merged.get_layer("conv2").set_weights(networks.compose_convolutions(second, third))
    return merged


def merge_adjacent_layers(model, images):
    """Return the largest relative difference when the third layer stands right behind the 3x3 layer, and is merged."""
    from keras_nin import layers

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    maps = run_model(_submodel(model, model.get_layer("relu1")), images)
    shape = maps.shape[1:]

    def two(x):
        x = layers.conv2d(x, 8, 3, activation=None, name="conv2")
        return layers.conv1x1(x, 8, activation=None, name="conv3_1x1")

    pair = build_network(two, shape, "two")
    pair.set_weights([*second, *third])
    one = build_network(lambda x: layers.conv2d(x, 8, 3, activation=None, name="conv2"), shape, "one")
    one.set_weights(networks.compose_convolutions(second, third))
    return relative_difference(run_model(one, maps), run_model(pair, maps))


def _submodel(model, layer):
    import keras

    return keras.Model(model.input, layer.output)


def _measure_relu():
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


_MERGED_NEXT = "no ReLU: merged into the linear layer after it, relative difference"
_MERGED_PREVIOUS = "no ReLU: merged into the 3x3 layer before it, relative difference"
_MERGED_ADJACENT = "no ReLU, nothing between: merged into the 3x3 layer, relative difference"


def _train_relu(training):
    from keras_nin.claims.networks import format_mean_and_range, load_training_images, train_over_seeds

    pictures = load_training_images(training)
    runs = {
        third: train_over_seeds(
            functools.partial(build_relu_classifier, third, training.activation), training, pictures, _RELU_EPOCHS
        )
        for third in (WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER)
    }
    sample = pictures.test[0][:64]
    figures = {
        f"{third}: test accuracy, %": format_mean_and_range([run.test_accuracy for run in done])
        for third, done in runs.items()
    }
    linear = [run.model for run in runs[WITHOUT_RELU]]
    return figures | {
        f"trained, {_MERGED_NEXT}": max(merge_into_next_layer(model, sample) for model in linear),
        f"trained, {_MERGED_PREVIOUS}": min(merge_into_previous_layer(model, sample) for model in linear),
        f"{WITH_RELU}: at least as accurate as without, in the mean": _mean_accuracy(runs[WITH_RELU])
        >= _mean_accuracy(runs[WITHOUT_RELU]),
    }


def _mean_accuracy(runs):
    return statistics.fmean(run.test_accuracy for run in runs)


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
        why="The parameters hold, and without its ReLU the layer is linear. It does not collapse into the 3x3 layer "
        "before it in this network, because pooling and a ReLU stand between them; it would with nothing between. What "
        "it merges with, exactly, is the linear layer that follows: here a dense layer to ten classes, which we add.",
        trained=TrainedPart(
            figures=(
                *(DeclaredFigure(f"{third}: test accuracy, %") for third in (WITH_RELU, WITHOUT_RELU, NO_THIRD_LAYER)),
                DeclaredFigure(f"{WITH_RELU}: at least as accurate as without, in the mean"),
                DeclaredFigure(f"trained, {_MERGED_NEXT}", None, FLOAT32_EQUAL),
                DeclaredFigure(f"trained, {_MERGED_PREVIOUS}", FLOAT32_EQUAL, Above(1e-2)),
            ),
            measure=_train_relu,
            why="Trained, mean (lowest to highest) over the seeds; a difference within that spread says nothing.",
        ),
    ),
)
