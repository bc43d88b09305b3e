"""The claim that a 1x1 layer of equal width adds a non-linearity, and what it is worth with and without its ReLU.

In the article's network the layer stands behind pooling and ReLU: 3x3 layer, pooling, ReLU, 1x1 layer, ReLU. Without
its own ReLU it is linear, but what it can merge with is the next linear layer, not the 3x3 layer before: between those
two stand the maximum and the ReLU, which do not commute with a mix of channels.
"""

import functools
import statistics

import numpy as np

from keras_nin.claims import collapse
from keras_nin.claims.equalities import EQUAL
from keras_nin.claims.networks import audited, convolutions, network, noise, randomize, relative_difference, run
from keras_nin.claims.records import Above, Claim, Declared, Trained
from keras_nin.claims.sources import PAPERSPACE

# The third layer: with its ReLU, without it, and none at all.
WITH, LINEAR, NONE = "with its ReLU", "without its ReLU", "no third layer"
_EPOCHS = 30
_ACTIVATIONS = {WITH: "relu", LINEAR: None}


def classifier(third, classifier_activation="softmax"):
    """Return the article's network with a dense layer to ten classes, which it needs to be trained: (28, 28, 1) -> 10.

    Args:
        third: `WITH`, `LINEAR` or `NONE`.
        classifier_activation: of the dense layer; None returns its scores.
    """
    import keras

    from keras_nin import layers, models

    trunk = models.build("convnet_extra_relu", include_top=False)
    x = trunk.output
    if third != NONE:
        x = layers.conv1x1(x, 8, activation=_ACTIVATIONS[third], name="conv3_1x1")
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(10, activation=classifier_activation, name="dense")(x)
    return keras.Model(trunk.input, x, name=f"convnet_{third.replace(' ', '_')}")


def merged_with_the_next(model, images):
    """Return the largest relative difference of scores when the linear third layer is merged into the dense layer.

    Args:
        model: `classifier(LINEAR)`, trained or not.
        images: (N, 28, 28, 1).
    """
    layers = {name: model.get_layer(name) for name in ("relu2", "conv3_1x1", "dense")}
    before = run(_part(model, layers["relu2"]), images)
    kernel, bias = layers["dense"].get_weights()
    scores = run(_part(model, model.get_layer("flatten")), images).astype(np.float64) @ kernel + bias
    positions = before.shape[1] * before.shape[2]
    kernel, bias = collapse.compose_with_dense(layers["conv3_1x1"].get_weights(), (kernel, bias), positions)
    return relative_difference(before.reshape(len(before), -1) @ kernel + bias, scores)


def merged_with_the_one_before(model, images):
    """Return the largest relative difference of maps when the linear third layer is merged into the 3x3 layer before.

    The pooling and the ReLU between the two then come after the merged layer.
    """
    import keras

    merged = _with_merged_kernel(model)
    outputs = merged.get_layer("relu2").output
    reference = run(_part(model, model.get_layer("conv3_1x1")), images)
    return relative_difference(run(keras.Model(merged.input, outputs), images), reference)


def _with_merged_kernel(model):
    from keras_nin import models

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    merged = models.build("convnet_extra_relu", include_top=False)
    merged.get_layer("conv1").set_weights(model.get_layer("conv1").get_weights())
    merged.get_layer("conv2").set_weights(collapse.compose_convolutions(second, third))
    return merged


def merged_with_nothing_between(model, images):
    """Return the largest relative difference when the third layer stands right behind the 3x3 layer, and is merged."""
    from keras_nin import layers

    second, third = (model.get_layer(name).get_weights() for name in ("conv2", "conv3_1x1"))
    maps = run(_part(model, model.get_layer("relu1")), images)
    shape = maps.shape[1:]

    def two(x):
        x = layers.conv2d(x, 8, 3, activation=None, name="conv2")
        return layers.conv1x1(x, 8, activation=None, name="conv3_1x1")

    pair = network(two, shape, "two")
    pair.set_weights([*second, *third])
    one = network(lambda x: layers.conv2d(x, 8, 3, activation=None, name="conv2"), shape, "one")
    one.set_weights(collapse.compose_convolutions(second, third))
    return relative_difference(run(one, maps), run(pair, maps))


def _part(model, layer):
    import keras

    return keras.Model(model.input, layer.output)


def _measure():
    rows = {row.name: row.params for row in convolutions(audited("convnet_extra_relu"))}
    model, images = randomize(classifier(LINEAR)), noise(16, 28, 28, 1)
    return {
        "3x3 layer to 3 channels, parameters": rows["conv1"],
        "3x3 layer to 8 channels, parameters": rows["conv2"],
        "1x1 layer to 8 channels, parameters": rows["conv3_1x1"],
        _NEXT: merged_with_the_next(model, images),
        _BEFORE: merged_with_the_one_before(model, images),
        _BARE: merged_with_nothing_between(model, images),
    }


_NEXT = "no ReLU: merged into the linear layer after it, relative difference"
_BEFORE = "no ReLU: merged into the 3x3 layer before it, relative difference"
_BARE = "no ReLU, nothing between: merged into the 3x3 layer, relative difference"


def _train(training):
    from keras_nin.claims.training import images, summary, train

    pictures = images(training)
    runs = {
        third: train(functools.partial(classifier, third, training.activation), training, pictures, _EPOCHS)
        for third in (WITH, LINEAR, NONE)
    }
    sample = pictures.test[0][:64]
    figures = {
        f"{third}: test accuracy, %": summary([run.test_accuracy for run in done]) for third, done in runs.items()
    }
    linear = [run.model for run in runs[LINEAR]]
    return figures | {
        f"trained, {_NEXT}": max(merged_with_the_next(model, sample) for model in linear),
        f"trained, {_BEFORE}": min(merged_with_the_one_before(model, sample) for model in linear),
        f"{WITH}: at least as accurate as without, in the mean": _mean(runs[WITH]) >= _mean(runs[LINEAR]),
    }


def _mean(runs):
    return statistics.fmean(run.test_accuracy for run in runs)


CLAIMS = (
    Claim(
        id="paperspace-relu",
        source=PAPERSPACE,
        text="A 1x1 layer of equal width adds a non-linearity; without its ReLU it collapses into the layer before it.",
        figures=(
            Declared("3x3 layer to 3 channels, parameters", 3 * 3 * 1 * 3 + 3),
            Declared("3x3 layer to 8 channels, parameters", 3 * 3 * 3 * 8 + 8),
            Declared("1x1 layer to 8 channels, parameters", 8 * 8 + 8),
            Declared(_NEXT, None, EQUAL),
            Declared(_BEFORE, EQUAL, Above(1e-2)),
            Declared(_BARE, None, EQUAL),
        ),
        measure=_measure,
        why="The parameters hold, and without its ReLU the layer is linear. It does not collapse into the 3x3 layer "
        "before it in this network, because pooling and a ReLU stand between them; it would with nothing between. What "
        "it merges with, exactly, is the linear layer that follows: here a dense layer to ten classes, which we add.",
        trained=Trained(
            figures=(
                *(Declared(f"{third}: test accuracy, %") for third in (WITH, LINEAR, NONE)),
                Declared(f"{WITH}: at least as accurate as without, in the mean"),
                Declared(f"trained, {_NEXT}", None, EQUAL),
                Declared(f"trained, {_BEFORE}", EQUAL, Above(1e-2)),
            ),
            measure=_train,
            why="Trained, mean (lowest to highest) over the seeds; a difference within that spread says nothing.",
        ),
    ),
)
