"""Claims that two computations are equal, compared with what the built layers compute."""

import dataclasses
import functools
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import data, layers, models, rewrite
from keras_nin.audit.api import audit_model
from keras_nin.claims import networks
from keras_nin.claims.claim import Figures
from keras_nin.claims.networks import build_network, random_input, randomize_weights, relative_difference, run_model

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

SOFT_MASK_SIZE, _PHOTOGRAPH_SIZE = (36, 36), (288, 288)
SOFT_MASK_SEED = 0
_MASK_STEPS, _MASK_BATCH, _MASK_TEST_FRAMES = 600, 32, 64
# How strongly a pulse changes red, green and blue of skin, relative to green.
_PULSE_COLOR = (0.35, 1.0, 0.55)


def _measure_weighting() -> Figures:
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
    dense = randomize_weights(models.build_model("convnet_linear_head"))
    convolutional = rewrite.convert_dense_to_conv(dense)
    images = random_input(4, 28, 28, 1)
    scores = run_model(convolutional, images)[:, 0, 0]
    return {
        "kernel of the dense layer after Flatten": convolutional.get_layer("dense1").kernel_size,
        "kernel of the dense layer after it": convolutional.get_layer("dense2").kernel_size,
        "28x28 images, largest relative difference": relative_difference(scores, run_model(dense, images)),
        "60x44 image: output": run_model(convolutional, random_input(1, 60, 44, 1)).shape[1:],
        "9x10 map: head at its 3x4 positions, largest relative difference": _compare_every_position(),
    }


def _compare_every_position() -> float:
    """Run the convolutional head on a 9x10 map and compare each position with the dense head on that 7x7 crop."""
    import keras

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
    image = random_input(1, 28, 28, 1)
    outputs, ranks = {}, {}
    for side in (1, 3):
        model = randomize_weights(models.build_model(f"conv{side}x{side}_1to16"))
        outputs[side] = run_model(model, image).reshape(-1, 16)
        ranks[side] = int(np.linalg.matrix_rank(outputs[side] - model.get_weights()[1]))
    after_relu = int(np.linalg.matrix_rank(np.maximum(outputs[1], 0)))
    findings = audit_model(models.build_model("conv1x1_1to16")).findings
    return {
        "1x1 layer, rank of the 16 outputs without bias": ranks[1],
        "3x3 layer, rank of the 16 outputs without bias": ranks[3],
        "1x1 layer with its biases and a ReLU, rank above 1": after_relu > 1,
        "finding of the audit": " ".join(finding.rule for finding in findings if "conv1" in finding.layers),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class SoftMask:
    """The soft mask in the manner of DeepPhys (arXiv:1805.07888): 32 maps that a 1x1 layer projects to one.

    Attributes:
        photograph: the image, float32 (288, 288, 3), 0 to 1.
        image: the network's input, float32 (36, 36, 3), 0 to 1.
        maps: the 32 maps of the 3x3 layer, float32 (36, 36, 32), -1 to 1.
        mask: the projected map, float32 (36, 36), 0 to 1.
        weights, bias: of the 1x1 layer; the weights (32,).
        name: the image's name.
        seed: seed of the weights, and of the training.
        steps: training steps; 0 for random weights.
        skin_auc: on synthetic frames that it was not trained on, how often a pixel of skin has a larger mask than one
            of the background; None for random weights.
    """

    photograph: np.ndarray
    image: np.ndarray
    maps: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    bias: float
    name: str
    seed: int = SOFT_MASK_SEED
    steps: int = 0
    skin_auc: float | None = None

    def plot(self) -> "Figure":
        """Return a figure of the image, the 32 maps with their weights, and the mask."""
        from keras_nin.plots.sweeps import plot_soft_mask

        return plot_soft_mask(self)


def compute_soft_mask(path: str | pathlib.Path | None = None, *, train: bool = False) -> SoftMask:
    """Run the soft mask network with seeded random weights, or trained as `train_soft_mask` does.

    Args:
        path: a photograph; None takes the sample photograph of scikit-learn.
        train: whether to train it first, which takes some seconds.

    Raises:
        InputError: the file is not a readable image.
    """
    if path is None:
        from sklearn.datasets import load_sample_image

        pixels, name = np.asarray(load_sample_image("china.jpg")), "scikit-learn's china.jpg"
    else:
        from keras_nin.data.image_folder import decode_image

        pixels, name = decode_image(pathlib.Path(path)), str(path)
    photograph, image = (
        data.get_preset("unit").apply([pixels], size, 3) for size in (_PHOTOGRAPH_SIZE, SOFT_MASK_SIZE)
    )
    model, trained = randomize_weights(models.build_model("deepphys_softconv"), SOFT_MASK_SEED), {}
    if train:
        model, skin_auc = train_soft_mask()
        trained = {"steps": _MASK_STEPS, "skin_auc": skin_auc}
    maps, mask = (networks.run_up_to(model, layer, image)[0] for layer in ("conv1", "mask_1x1"))
    weights, bias = model.get_layer("mask_1x1").get_weights()
    sums = weights.reshape(-1), float(bias[0])
    return SoftMask(photograph[0], image[0], maps, mask[..., 0], *sums, name, **trained)


@functools.lru_cache(maxsize=1)
def train_soft_mask(seed: int = SOFT_MASK_SEED) -> "tuple[keras.Model, float]":
    """Train the soft mask as DeepPhys (arXiv:1805.07888) does: by a pulse that it must find, not by masks.

    The network sees synthetic frames of skin on a background, and beside each the change to the next frame. The pulse
    is predicted from the changes, averaged with the mask as weights: what the mask does not weight adds no noise.

    Returns:
        The model (36, 36, 3) -> (36, 36, 1), and `SoftMask.skin_auc`.
    """
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = models.build_model("deepphys_softconv")
    changes: Any = keras.Input((*SOFT_MASK_SIZE, 3), name="changes")
    mask: Any = model.output
    weighted: Any = keras.ops.sum(changes * mask, (1, 2))
    total_weight: Any = keras.ops.sum(mask, (1, 2))
    pulse: Any = keras.layers.Dense(1, name="pulse")(weighted / total_weight)
    trainer = keras.Model([model.input, changes], pulse)
    # Compiling with XLA takes longer than this short run.
    trainer.compile(keras.optimizers.Adam(1e-2), loss="mse", jit_compile=False)  # pyright: ignore
    for _ in range(_MASK_STEPS):
        frames, frame_changes, pulses, _ = _synthetic_frames(rng, _MASK_BATCH)
        trainer.train_on_batch([frames, frame_changes], pulses)
    frames, _, _, skin = _synthetic_frames(np.random.default_rng(seed + 1), _MASK_TEST_FRAMES)
    values = run_model(model, frames)[..., 0]
    inside, outside = np.sort(values[skin]), np.sort(values[~skin])
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return model, float(below.mean() / (2 * outside.size))


def _synthetic_frames(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Return frames of skin on a background, their changes to the next frame, the pulses, and where there is skin.

    Frames and changes are float32 (N, 36, 36, 3), pulses float32 (N, 1), the skin bool (N, 36, 36). Skin has any of the
    colors of skin, under any light, and changes with the pulse; the background has any color, and flickers.
    """
    height, width = SOFT_MASK_SIZE
    rows, columns = np.mgrid[:height, :width]
    blocks = rng.random((count, 6, 6, 3)).repeat(height // 6, 1).repeat(width // 6, 2)
    flicker = rng.standard_normal((count, 6, 6, 3)).repeat(height // 6, 1).repeat(width // 6, 2)
    center, radius = rng.uniform(10, 26, (2, count, 1, 1)), rng.uniform(6, 12, (2, count, 1, 1))
    skin = ((rows - center[0]) / radius[0]) ** 2 + ((columns - center[1]) / radius[1]) ** 2 < 1
    tone = rng.uniform(0, 1, (count, 1))  # from dark to light
    color = (1 - tone) * (0.35, 0.22, 0.16) + tone * (0.95, 0.76, 0.67)
    shade = rng.uniform(0.7, 1.1, (count, 1, 1, 1)) * (1 + 0.15 * np.cos(columns / width * 3))[None, :, :, None]
    frames = np.where(skin[..., None], color[:, None, None] * shade, blocks)
    frames = np.clip(frames + 0.02 * rng.standard_normal(frames.shape), 0, 1)
    pulses = rng.standard_normal((count, 1))
    beats = pulses[:, None, None] * np.array(_PULSE_COLOR)
    changes = np.where(skin[..., None], beats, 2 * flicker) + rng.standard_normal(frames.shape)
    return (*(values.astype(np.float32) for values in (frames, changes, pulses)), skin)


def _measure_soft_mask() -> Figures:
    audit = networks.audit_zoo_model("deepphys_softconv")
    soft_mask = compute_soft_mask()
    weighted_sum = soft_mask.maps.astype(np.float64) @ soft_mask.weights + soft_mask.bias
    return {
        "parameters": audit.total.params,
        "maps before the 1x1 layer": soft_mask.maps.shape[-1],
        "mask: output": networks.map_shape(audit.rows[-1].output_shape),
        "mask from the weighted sum of the maps, largest relative difference": relative_difference(
            soft_mask.mask, 1 / (1 + np.exp(-weighted_sum))
        ),
        "mask between 0 and 1": bool(soft_mask.mask.min() > 0 and soft_mask.mask.max() < 1),
    }


MEASURES = {
    "paperspace-weighting": _measure_weighting,
    "lecun-fc": _measure_fully_connected,
    "transwikia-one-channel": _measure_one_channel,
    "demystified-softconv": _measure_soft_mask,
}
