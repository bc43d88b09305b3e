"""The trained part of the claims, on few images."""

import dataclasses
import functools

import numpy as np
import pytest
from tiers import by_tier

from keras_nin import claims, data, models
from keras_nin.claims import convnet, networks
from keras_nin.errors import InputError


@pytest.fixture
def few(tmp_path):
    source = data.open_dataset("digits")
    train, test = source.select("train", 120), source.select("test", 40)
    path = tmp_path / "few.npz"
    np.savez(
        path,
        x_train=source.images[train],
        y_train=source.labels[train],
        x_test=source.images[test],
        y_test=source.labels[test],
    )
    return str(path)


def test_images_have_the_articles_size():
    pictures = networks.load_training_images(networks.ClaimTraining())
    assert [part[0].shape[1:] for part in (pictures.train, pictures.test)] == [(28, 28, 1)] * 2
    assert (len(pictures.train[1]), len(pictures.test[1])) == (1338, 359)
    assert pictures.train[0].min() >= 0
    assert 0.9 < pictures.train[0].max() <= 1


@pytest.mark.slow
def test_a_claim_names_the_epochs_where_the_user_does_not(few):
    given = claims.ClaimTraining(data=few, seeds=1)
    pictures = networks.load_training_images(given)
    build = functools.partial(models.build_model, "convnet_pointwise_head")
    (one,), (two,) = (networks.train_over_seeds(build, given, pictures, epochs) for epochs in (1, 2))
    (asked,) = networks.train_over_seeds(build, claims.ClaimTraining(data=few, epochs=1, seeds=1), pictures, 2)
    weights = [trained.model.get_weights()[0] for trained in (one, two, asked)]
    assert np.array_equal(weights[0], weights[2])
    assert not np.array_equal(weights[0], weights[1])


@pytest.mark.slow
def test_the_same_seed_trains_the_same_network(few):
    given = claims.ClaimTraining(data=few, epochs=1, seeds=2)
    pictures = networks.load_training_images(given)
    build = functools.partial(models.build_model, "convnet_pointwise_head")
    first, second = networks.train_over_seeds(build, given, pictures, 9)
    (again,) = networks.train_over_seeds(build, dataclasses.replace(given, seeds=1), pictures, 9)
    assert all(np.array_equal(a, b) for a, b in zip(first.model.get_weights(), again.model.get_weights(), strict=True))
    assert any(
        not np.array_equal(a, b) for a, b in zip(first.model.get_weights(), second.model.get_weights(), strict=True)
    )
    assert first.gap == first.train_accuracy - first.test_accuracy


def test_a_sigmoid_is_trained_with_one_question_a_class():
    outputs = np.array([[0.9, 0.2, 0.4], [0.1, 0.5, 0.8]], np.float32)
    wanted = np.array([[1, 0, 0], [0, 0, 1]])
    expected = -np.mean(np.where(wanted, np.log(outputs), np.log(1 - outputs)), axis=1)
    np.testing.assert_allclose(
        networks._binary_crossentropy_per_class(np.array([[0], [2]]), outputs), expected, rtol=1e-5
    )


@pytest.mark.parametrize(
    "activation", by_tier(networks.CLASSIFIER_ACTIVATIONS, wide=networks.CLASSIFIER_ACTIVATIONS[1:])
)
def test_it_learns(activation, few):
    given = claims.ClaimTraining(data=few, epochs=25, seeds=1, activation=activation)
    build = functools.partial(models.build_model, "convnet_linear_head", classifier_activation=activation)
    (trained,) = networks.train_over_seeds(build, given, networks.load_training_images(given), 9)
    assert trained.model.layers[-1].activation.__name__ == activation
    assert trained.train_accuracy > 0.9
    assert trained.test_accuracy > 0.6


def test_the_classifier_is_the_articles_network_with_a_dense_layer():
    layers = [layer.name for layer in convnet.build_relu_classifier(convnet.WITH_RELU).layers[1:]]
    assert layers == ["conv1", "pool1", "relu1", "conv2", "pool2", "relu2", "conv3_1x1", "flatten", "dense"]
    assert "conv3_1x1" not in [layer.name for layer in convnet.build_relu_classifier(convnet.NO_THIRD_LAYER).layers]
    kinds = [
        convnet.build_relu_classifier(third).get_layer("conv3_1x1").activation.__name__ for third in ("with its ReLU",
             "without its ReLU")]  # fmt: skip
    assert kinds == ["relu", "linear"]


def test_summary():
    assert networks.format_mean_and_range([0.5, 0.75, 1.0]) == "75.00 (50.00 to 100.00)"


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"seeds": 0}, {"epochs": True}, {"epochs": 1.5}, {"activation": "tanh"}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        claims.ClaimTraining(**wrong)


def test_data_that_does_not_fit(tmp_path):
    images = np.zeros((20, 8, 8), np.uint8)
    np.savez(tmp_path / "eleven.npz", x_train=images, y_train=np.arange(20), x_test=images + 1, y_test=np.arange(20))
    with pytest.raises(InputError, match="0 to 9"):
        networks.load_training_images(claims.ClaimTraining(data=str(tmp_path / "eleven.npz")))
    with pytest.raises(InputError, match="known name"):
        networks.load_training_images(claims.ClaimTraining(data="nothing"))


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize(
    ("id", "activation", "seeds"),
    zip(["paperspace-head", "paperspace-relu"], networks.CLASSIFIER_ACTIVATIONS, [2, 1], strict=True),
)
def test_trained_claims(id, activation, seeds, few):
    result = claims.reproduce_claim(
        claims.get_claim(id), claims.ClaimTraining(data=few, epochs=3, seeds=seeds, activation=activation)
    )
    assert result.reproduced
    assert result.verdict == "partly holds" or id == "paperspace-head"
    assert [figure.name for figure in result.figures if type(figure.ours) not in (int, float, bool, str)] == []
    assert any("test accuracy" in figure.name for figure in result.figures)


@pytest.mark.external
@pytest.mark.wide
def test_mnist(external_data, tmp_path):
    with np.load(external_data / "images" / "mnist_test.npz") as archive:
        pictures, labels = (archive[key] for key in archive.files)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=pictures[:3000],
        y_train=labels[:3000],
        x_test=pictures[9000:],
        y_test=labels[9000:],
    )
    given = claims.ClaimTraining(data=str(tmp_path / "mnist.npz"), epochs=1, seeds=1)
    pictures = networks.load_training_images(given)
    assert pictures.train[0].shape[1:] == (28, 28, 1)
    (trained,) = networks.train_over_seeds(
        functools.partial(models.build_model, "convnet_linear_head"), given, pictures, 9
    )
    assert trained.test_accuracy > 0.8
