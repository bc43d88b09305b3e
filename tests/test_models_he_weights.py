"""Weights of `--weights he`: random ones with which a network behaves numerically like a trained one."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from keras import layers as kl
from tiers import by_tier

from keras_nin import InputError, models
from keras_nin.models.he_weights import sample_images

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "applications.py"


def network():
    """Preprocessing, a deep residual stack, depthwise and 1x1 layers, a nested model, and scales that start at 0."""
    inputs = x = keras.Input((24, 24, 3))
    x = kl.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(kl.Rescaling(1 / 255)(x))
    for block in range(4):
        y = kl.BatchNormalization(name=f"norm{block}")(x)
        y = kl.DepthwiseConv2D(3, padding="same", name=f"depthwise{block}")(kl.ReLU()(y))
        y = kl.Conv2D(16, 1, activation="relu", name=f"pointwise{block}")(y)
        x = kl.Add()([x, y])
    x = kl.Conv2DTranspose(12, 3, name="up")(x)
    x = keras.Sequential([keras.Input((26, 26, 12)), kl.Conv2D(8, 3, name="inner")], name="nested")(x)
    x = kl.BatchNormalization(gamma_initializer=keras.initializers.Constant(1e-6), name="last_norm")(x)
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kl.Dense(5, activation="softmax", name="classes")(x))


@pytest.fixture(scope="module")
def model():
    model = network()
    models.initialize_he(model, 3, "raw")
    return model


def test_activations_have_the_sizes_of_a_trained_network(model):
    images = sample_images(32, (24, 24, 3), np.random.default_rng(9)).astype(np.float32)
    names = [f"{kind}{block}" for kind in ("norm", "depthwise") for block in range(4)] + ["up"]
    probe = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    for name, values in zip(names, probe.predict(images, verbose=0), strict=True):
        channels = values.reshape(-1, values.shape[-1])
        assert 0.7 < channels.std(axis=0).mean() < 1.4, name
        # The norms are followed by a ReLU, the depthwise layers by a convolution.
        assert abs(channels.mean(axis=0).mean() - name.startswith("norm")) < 0.3, name
    probabilities = model.predict(images, verbose=0)
    logits = np.log(probabilities)
    assert 1 < logits.std(axis=0).mean() < 4
    assert len(set(probabilities.argmax(axis=1))) >= 3


def test_the_seed_decides(model):
    again, other = network(), network()
    models.initialize_he(again, 3, "raw")
    models.initialize_he(other, 4, "raw")
    hashes = [models.hash_weights(each) for each in (model, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_of_a_name_and_said_in_the_label():
    loaded = models.load_model("nin_digits", weights="he", seed=2)
    assert (loaded.weights, loaded.random) == ("he (seed 2)", True)
    again = models.load_model("nin_digits", weights="he", seed=2)
    assert models.hash_weights(loaded.model) == models.hash_weights(again.model)


def test_other_inputs_than_images():
    inputs = keras.Input((12, 4))
    model = keras.Model(inputs, kl.Dense(3)(kl.LSTM(8)(kl.Conv1D(6, 3, activation="relu", name="conv")(inputs))))
    models.initialize_he(model)
    outputs = model.predict(np.random.default_rng(1).standard_normal((64, 12, 4)), verbose=0)
    assert 1 < outputs.std(axis=0).mean() < 5


def test_a_model_that_is_no_graph():
    with pytest.raises(InputError, match="Expected a Functional model"):
        models.initialize_he(keras.Sequential([kl.Dense(2)]))


APPLICATIONS = ("MobileNet", "MobileNetV3Small")  # of the twenty of benchmarks/applications.py


@pytest.mark.parametrize("name", by_tier(APPLICATIONS, wide=APPLICATIONS))
def test_networks_of_keras_applications_pass_in_float32_and_int8(name):
    """Two rows of the table in docs/guides/he_weights.md, on smaller images."""
    spec = importlib.util.spec_from_file_location("applications", SCRIPT)
    applications = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(applications)
    row = dict(zip(applications.COLUMNS, applications.measure(name, size=64), strict=True))
    assert (row["float32"], row["int8"]) == ("pass", "pass")
    assert float(row["float32 SNR"].split()[0]) > 80
    assert float(row["int8 SNR"].split()[0]) > 6
    assert name in applications.NETWORKS
    assert len(set(applications.NETWORKS)) == 20


def test_the_guide_shows_all_twenty():
    text = (SCRIPT.parents[1] / "docs" / "guides" / "he_weights.md").read_text()
    rows = [line.split(" | ")[0].lstrip("| ") for line in text.splitlines() if line.startswith("| ")]
    names = SCRIPT.read_text()
    assert len(rows[2:]) == 20
    assert all(f'"{name}"' in names for name in rows[2:])
