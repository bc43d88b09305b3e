"""The soft mask in the manner of DeepPhys: 32 maps that a 1x1 layer projects to one map that can be looked at."""

import dataclasses

import numpy as np

from keras_nin.claims.equalities import EQUAL
from keras_nin.claims.networks import audited, randomize, relative_difference, run
from keras_nin.claims.records import Claim, Declared
from keras_nin.claims.sources import DEMYSTIFIED

SIZE = (36, 36)
_LARGE = (288, 288)
SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """What the network makes of one image.

    Attributes:
        photograph: what the input shows, float32 (288, 288, 3), 0 to 1.
        image: its input, float32 (36, 36, 3), 0 to 1.
        maps: the 32 maps, float32 (36, 36, 32).
        mask: the projected map, float32 (36, 36), 0 to 1.
        weights, bias: of the 1x1 layer, (32,) and a number.
        name: of the image.
    """

    photograph: np.ndarray
    image: np.ndarray
    maps: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    bias: float
    name: str


def maps_of(path=None):
    """Return the `Maps` of the photograph at `path`, or of scikit-learn's sample photograph where `path` is None.

    The weights are random (seed `SEED`): the maps show what the layers do, and nothing that was learned.

    Raises:
        InputError: the file cannot be read as an image.
    """
    import keras

    from keras_nin import data, models

    pixels, name = _photograph(path)
    preset = data.preset("unit")
    image = preset.apply([pixels], SIZE, 3)
    model = randomize(models.build("deepphys_softconv"), SEED)
    layers = [model.get_layer(layer) for layer in ("conv1", "mask_1x1")]
    maps, mask = (run(keras.Model(model.input, layer.output), image)[0] for layer in layers)
    weights, bias = layers[1].get_weights()
    photograph = preset.apply([pixels], _LARGE, 3)[0]
    return Maps(photograph, image[0], maps, mask[..., 0], weights.reshape(-1), float(bias[0]), name)


def _photograph(path):
    if path is None:
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image("china.jpg")), "scikit-learn's china.jpg"
    from keras_nin.data.image_files import decode

    return decode(path), str(path)


def _measure():
    result = audited("deepphys_softconv")
    seen = maps_of()
    projected = 1 / (1 + np.exp(-(seen.maps.astype(np.float64) @ seen.weights + seen.bias)))
    return {
        "parameters": result.total.params,
        "maps before the 1x1 layer": seen.maps.shape[-1],
        "mask: output": result.rows[-1].output_shape[1:],
        "mask from the weighted sum of the maps, largest relative difference": relative_difference(
            seen.mask, projected
        ),
        "mask between 0 and 1": bool(seen.mask.min() > 0 and seen.mask.max() < 1),
    }


CLAIMS = (
    Claim(
        id="demystified-softconv",
        source=DEMYSTIFIED,
        text="A 1x1 layer with a sigmoid pools the 32 maps of a 36x36x3 image into one map that can be looked at.",
        figures=(
            Declared("parameters", (3 * 3 * 3 * 32 + 32) + (32 * 1 + 1)),
            Declared("maps before the 1x1 layer", 32),
            Declared("mask: output", (36, 36, 1)),
            Declared("mask from the weighted sum of the maps, largest relative difference", None, EQUAL),
            Declared("mask between 0 and 1", True),
        ),
        measure=_measure,
        why="The mask is the sigmoid of one weighted sum of the maps at every pixel, run here on a photograph. Which "
        "parts it lights up depends on training: the weights here are random, so the picture (--png) shows the "
        "mechanism alone.",
    ),
)
