"""GoogLeNet per module and with its auxiliary heads, and Inception v3 against keras.applications."""

import re

import keras
import numpy as np
import pytest
import third_party_writers as writers

from keras_nin import InputError, models
from keras_nin.audit import audit_model

# GoogLeNet takes seconds to build; tests/test_audit_zoo.py has its modules in the default tier.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows(build):
    return audit_model(build("googlenet")).rows


def biases(model_rows):
    return sum(row.output_shape[-1] for row in model_rows if row.params)


def test_second_convolution_and_classifier(rows):
    second = [row for row in rows if row.name in ("conv2_reduce1x1", "conv2")]
    assert sum(row.params for row in second) - biases(second) == 114_688
    assert sum(row.macs for row in second) == 359_661_568
    assert next(row.macs for row in rows if row.name == "classifier") == 1_024_000


def test_share_of_1x1_layers(rows):
    total = sum(row.macs for row in rows)
    assert sum(row.macs for row in rows if row.kind == "pointwise") / total == pytest.approx(0.233, abs=5e-4)


@pytest.mark.usefixtures("structure_only")
def test_auxiliary_heads():
    model = models.build_model("googlenet", auxiliary=True)
    assert model.count_params() == 13_378_280
    assert [tuple(tensor.shape) for tensor in model.outputs] == [(None, 1000)] * 3
    assert len(models.build_model("googlenet", auxiliary=True, include_top=False).outputs) == 1


@pytest.mark.usefixtures("structure_only")
def test_normalizations():
    kinds = {
        kind: {type(layer).__name__ for layer in models.build_model("googlenet", normalization=kind).layers}
        for kind in ("lrn", "batch", None)
    }
    assert "LocalResponseNormalization" in kinds["lrn"]
    assert "BatchNormalization" in kinds["batch"]
    assert not kinds[None] & {"LocalResponseNormalization", "BatchNormalization"}
    batch = models.build_model("googlenet", normalization="batch")
    assert sum(int(np.prod(weight.shape)) for weight in batch.trainable_weights) == 7_005_832
    with pytest.raises(InputError, match="`normalization` to be one of lrn, batch, None"):
        models.build_model("googlenet", normalization="layer")


def random_weights(model):
    """Weights that keep the activations at a size where a difference shows."""
    rng = np.random.default_rng(0)
    kinds = {"kernel": lambda shape: rng.normal(0, 0.05, shape), "moving_variance": lambda s: rng.uniform(0.5, 1.5, s)}
    return [kinds.get(weight.name, lambda s: rng.normal(0, 0.1, s))(weight.shape) for weight in model.weights]


@pytest.mark.wide
def test_inception_v3_is_that_of_keras_layer_for_layer(publisher, tmp_path):
    """Also the file of weights that Keras publishes: its layers are numbered in the order in which they were built."""
    shape = (139, 139, 3)  # grids of odd sides: 15, 7 and 3
    theirs = keras.applications.InceptionV3(weights=None, input_shape=shape)
    theirs.set_weights(random_weights(theirs))
    names = {}
    for kind in ("conv2d", "batch_normalization"):
        numbered = [layer.name for layer in theirs.layers if re.fullmatch(rf"{kind}(_\d+)?", layer.name)]
        numbered.sort(key=lambda name: int(name.removeprefix(kind)[1:] or 0))
        assert len(numbered) == 94
        names |= {name: f"{kind}_{number}" for number, name in enumerate(numbered, start=1)}
    publisher.offer("inception_v3", writers.keras_2(theirs, tmp_path / "w.h5", names).read_bytes())
    ours = models.InceptionV3(weights="imagenet", input_shape=shape)
    assert ours.count_params() == theirs.count_params()
    assert audit_model(ours).total.macs == audit_model(theirs).total.macs
    assert sum(int(np.prod(weight.shape)) for weight in ours.non_trainable_weights) == 34_432
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    images = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    expected = np.asarray(theirs(images))
    assert expected.max() > 0.1
    np.testing.assert_allclose(np.asarray(ours(images)), expected, rtol=0, atol=1e-5)


def test_inception_v3_without_its_top_and_its_grids():
    model = models.build_model("inception_v3", include_top=False)
    assert model.count_params() == 21_802_784
    sides = {row.output_shape[1] for row in audit_model(model).rows if row.name.startswith("mixed")}
    assert {35, 17, 8} <= sides
    assert model.output_shape == (None, 8, 8, 2048)
