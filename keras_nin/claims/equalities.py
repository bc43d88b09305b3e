"""Claims that two computations are equal, compared with what the built layers compute."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from keras_nin.claims.claim import DEMYSTIFIED, LECUN, TRANSWIKIA, AtMost, Claim, DeclaredFigure, Figures
from keras_nin.claims.networks import (
    audit_zoo_model,
    build_network,
    map_shape,
    random_input,
    randomize_weights,
    relative_difference,
    run_model,
)
from keras_nin.models.articles import CONVNET

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

# Sums of up to 3,136 float32 products in another order.
FLOAT32_EQUAL = AtMost(1e-5)
SOFT_MASK_SIZE, _PHOTOGRAPH_SIZE = (36, 36), (288, 288)
SOFT_MASK_SEED = 0


def _measure_weighting() -> Figures:
    from keras_nin import layers

    image = random_input(1, 28, 28, 1)
    figures = {}
    for factor in (4.0, 0.1):
        model = build_network(
            lambda x: layers.conv1x1(x, 1, activation=None, use_bias=False, name="conv1"), (28, 28, 1), "weighting"
        )
        model.set_weights([np.full((1, 1, 1, 1), factor, np.float32)])
        different = run_model(model, image) != np.float32(factor) * image
        figures[f"filter {factor:g}: pixels that are not {factor:g} x input"] = int(different.sum())
    return figures


def _measure_fully_connected() -> Figures:
    from keras_nin import models, rewrite

    dense = randomize_weights(models.build_model("convnet_linear_head"))
    convolutional = rewrite.convert_dense_to_conv(dense)
    images = random_input(4, 28, 28, 1)
    figures = {
        "kernel of the dense layer after Flatten": convolutional.get_layer("dense1").kernel_size,
        "kernel of the dense layer after it": convolutional.get_layer("dense2").kernel_size,
        "28x28 images, largest relative difference": relative_difference(
            run_model(convolutional, images)[:, 0, 0], run_model(dense, images)
        ),
        "60x44 image: output": run_model(convolutional, random_input(1, 60, 44, 1)).shape[1:],
    }
    return figures | {"9x10 map: head at its 3x4 positions, largest relative difference": _compare_every_position()}


def _compare_every_position() -> float:
    """Run the convolutional head on a 9x10 map and compare each position with the dense head on that 7x7 crop."""
    import keras

    from keras_nin import rewrite

    def graph(x: "keras.KerasTensor") -> "keras.KerasTensor":
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dense(100, activation="relu", name="dense1")(x)
        return keras.layers.Dense(10, name="dense2")(x)

    head = randomize_weights(build_network(graph, (7, 7, 64), "head"))
    larger = random_input(1, 9, 10, 64)
    crops = [larger[0, top : top + 7, left : left + 7] for top in range(3) for left in range(4)]
    scores = run_model(rewrite.convert_dense_to_conv(head), larger)
    return relative_difference(scores.reshape(-1, 10), run_model(head, np.stack(crops)))


def _measure_one_channel() -> Figures:
    from keras_nin import models
    from keras_nin.audit.api import audit_model

    image = random_input(1, 28, 28, 1)
    outputs, biases = {}, {}
    for side in (1, 3):
        model = randomize_weights(models.build_model(f"conv{side}x{side}_1to16"))
        outputs[side] = run_model(model, image).reshape(-1, 16)
        biases[side] = model.get_weights()[1]
    ranks = {side: int(np.linalg.matrix_rank(outputs[side] - biases[side])) for side in outputs}
    after_relu = int(np.linalg.matrix_rank(np.maximum(outputs[1], 0)))
    findings = audit_model(models.build_model("conv1x1_1to16")).findings
    return {
        "1x1 layer, rank of the 16 outputs without bias": ranks[1],
        "3x3 layer, rank of the 16 outputs without bias": ranks[3],
        "1x1 layer with its biases and a ReLU, rank above 1": after_relu > 1,
        "finding of the audit": " ".join(finding.rule for finding in findings if "conv1" in finding.layers),
    }


EQUALITY_CLAIMS = (
    Claim(
        id="paperspace-weighting",
        source=CONVNET,
        text="A 1x1 filter of value 4 on one channel multiplies every pixel by 4.",
        figures=(
            DeclaredFigure("filter 4: pixels that are not 4 x input", 0),
            DeclaredFigure("filter 0.1: pixels that are not 0.1 x input", None, 0),
        ),
        measure=_measure_weighting,
        why="It holds to the last bit, without a bias: one product in float32, rounded once. It also "
        "holds for a factor that float32 cannot represent exactly, such as 0.1, once it is rounded to float32.",
    ),
    Claim(
        id="lecun-fc",
        source=LECUN,
        text="A fully connected layer is a convolution with 1x1 kernels and a full connection table.",
        figures=(
            DeclaredFigure("kernel of the dense layer after Flatten", (1, 1), (7, 7)),
            DeclaredFigure("kernel of the dense layer after it", (1, 1)),
            DeclaredFigure("28x28 images, largest relative difference", FLOAT32_EQUAL),
            DeclaredFigure("60x44 image: output", None, (60 // 4 - 7 + 1, 44 // 4 - 7 + 1, 10)),
            DeclaredFigure("9x10 map: head at its 3x4 positions, largest relative difference", None, FLOAT32_EQUAL),
        ),
        measure=_measure_fully_connected,
        why="The outputs are equal, and the convolution also runs on larger images, where it gives a map of scores: at "
        "each place those of the dense head on that part of the map. But only a dense layer on a vector has a 1x1 "
        "kernel; one after Flatten covers its whole map and becomes a 7x7 kernel.",
    ),
    Claim(
        id="transwikia-one-channel",
        source=TRANSWIKIA,
        text="After a 28x28x1 input, every output channel of a 1x1 layer is the input times a constant.",
        figures=(
            DeclaredFigure("1x1 layer, rank of the 16 outputs without bias", 1),
            DeclaredFigure("3x3 layer, rank of the 16 outputs without bias", None, 9),
            DeclaredFigure("1x1 layer with its biases and a ReLU, rank above 1", None, True),
            DeclaredFigure("finding of the audit", None, "pointwise-on-one-channel"),
        ),
        measure=_measure_one_channel,
        why="It holds for the layer itself: without their biases the 16 channels have rank 1. With different biases, a "
        "ReLU clips each channel at a different brightness, so its outputs are more than multiples of the input.",
    ),
)


@dataclasses.dataclass(frozen=True, eq=False)
class SoftMask:
    """The soft mask in the manner of DeepPhys (arXiv:1805.07888): 32 maps that a 1x1 layer projects to one.

    Attributes:
        photograph: the image, float32 (288, 288, 3), 0 to 1.
        image: the network's input, float32 (36, 36, 3), 0 to 1.
        maps: the 32 maps of the 3x3 layer, float32 (36, 36, 32), -1 to 1.
        mask: the projected map, float32 (36, 36), 0 to 1.
        weights: of the 1x1 layer, (32,).
        bias: of the 1x1 layer.
        name: the image's name.
        seed: seed of the network's random weights.
    """

    photograph: np.ndarray
    image: np.ndarray
    maps: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    bias: float
    name: str
    seed: int = SOFT_MASK_SEED

    def plot(self) -> "Figure":
        """Return a figure of the image, the 32 maps with their weights, and the mask."""
        from keras_nin.plots.sweeps import plot_soft_mask

        return plot_soft_mask(self)


def compute_soft_mask(path: str | pathlib.Path | None = None) -> SoftMask:
    """Run the soft mask network with seeded random weights: the maps show what the layers do, nothing learned.

    Args:
        path: a photograph; None takes the sample photograph of scikit-learn.

    Raises:
        InputError: the file is not a readable image.
    """
    import keras

    from keras_nin import data, models

    pixels, name = _load_photograph(path)
    preset = data.get_preset("unit")
    image = preset.apply([pixels], SOFT_MASK_SIZE, 3)
    model = randomize_weights(models.build_model("deepphys_softconv"), SOFT_MASK_SEED)
    layers = [model.get_layer(layer) for layer in ("conv1", "mask_1x1")]
    maps, mask = (run_model(keras.Model(model.input, layer.output), image)[0] for layer in layers)
    weights, bias = layers[1].get_weights()
    photograph = preset.apply([pixels], _PHOTOGRAPH_SIZE, 3)[0]
    return SoftMask(photograph, image[0], maps, mask[..., 0], weights.reshape(-1), float(bias[0]), name)


def _load_photograph(path: str | pathlib.Path | None) -> tuple[np.ndarray, str]:
    if path is None:
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image("china.jpg")), "scikit-learn's china.jpg"
    from keras_nin.data.image_folder import decode_image

    return decode_image(pathlib.Path(path)), str(path)


def _measure_soft_mask() -> Figures:
    result = audit_zoo_model("deepphys_softconv")
    soft_mask = compute_soft_mask()
    weighted_sum = soft_mask.maps.astype(np.float64) @ soft_mask.weights + soft_mask.bias
    return {
        "parameters": result.total.params,
        "maps before the 1x1 layer": soft_mask.maps.shape[-1],
        "mask: output": map_shape(result.rows[-1].output_shape),
        "mask from the weighted sum of the maps, largest relative difference": relative_difference(
            soft_mask.mask, 1 / (1 + np.exp(-weighted_sum))
        ),
        "mask between 0 and 1": bool(soft_mask.mask.min() > 0 and soft_mask.mask.max() < 1),
    }


SOFT_MASK_CLAIMS = (
    Claim(
        id="demystified-softconv",
        source=DEMYSTIFIED,
        text="A 1x1 layer with a sigmoid pools the 32 maps of a 36x36x3 image into one map that can be viewed.",
        figures=(
            DeclaredFigure("parameters", (3 * 3 * 3 * 32 + 32) + (32 * 1 + 1)),
            DeclaredFigure("maps before the 1x1 layer", 32),
            DeclaredFigure("mask: output", (36, 36, 1)),
            DeclaredFigure("mask from the weighted sum of the maps, largest relative difference", None, FLOAT32_EQUAL),
            DeclaredFigure("mask between 0 and 1", True),
        ),
        measure=_measure_soft_mask,
        why="The mask is the sigmoid of one weighted sum of the maps at every pixel, run here on a photograph. Which "
        "parts it lights up depends on training: the weights here are random, so the figure shows only the "
        "mechanism.",
    ),
)
