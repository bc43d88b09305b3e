"""`preprocess_input` and `decode_predictions`, as in keras.applications."""

import inspect

import keras
import numpy as np
import pytest

from keras_nin import InputError, data
from keras_nin.models import articles, googlenet, inception_v3, nin, squeezenet

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("family", [articles, googlenet, inception_v3, nin, squeezenet])
def test_every_family_has_both_functions(family):
    for function in (family.preprocess_input, family.decode_predictions):
        assert inspect.isfunction(function)
        assert "Args:" in function.__doc__


@pytest.mark.parametrize(
    ("family", "variant", "preset"),
    [
        (inception_v3, None, "symmetric"),
        (squeezenet, "squeezenet_v1_0", "caffe"),
        (squeezenet, "squeezenet_v1_1", "torch"),
        (nin, "nin_cifar10", "standardize"),
        (articles, None, "unit"),
    ],
)
def test_images_are_scaled_as_the_weights_need_it(family, variant, preset):
    scaled = family.preprocess_input(IMAGES, variant)
    expected = data.get_preset(preset).apply(IMAGES.astype(np.uint8), (4, 4), 3) if preset != "caffe" else None
    if expected is None:
        expected = IMAGES[..., ::-1] - np.float32([104, 117, 123])
    elif preset == "torch":
        expected = (IMAGES / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    assert scaled.dtype == np.float32


def test_keras_applications_scales_alike():
    expected = keras.applications.inception_v3.preprocess_input(IMAGES.copy())
    np.testing.assert_allclose(inception_v3.preprocess_input(IMAGES), expected, atol=1e-6)


def test_the_variant_is_needed_where_it_matters():
    with pytest.raises(InputError, match="`variant` to be one of squeezenet_v1_0, .*which differ in preprocessing"):
        squeezenet.preprocess_input(IMAGES)
    with pytest.raises(InputError, match="`variant` to be one of squeezenet_v1_0"):
        squeezenet.preprocess_input(IMAGES, "squeezenet")
    with pytest.raises(InputError, match="differ in dataset"):
        nin.decode_predictions(np.eye(10))


def test_predictions_become_class_names():
    scores = np.array([[0.1, 0.2, 0.3, 0, 0, 0, 0.4, 0, 0, 0]])
    assert squeezenet.decode_predictions(scores, top=2) == [[("6", "frog", 0.4), ("2", "bird", 0.3)]]
    assert nin.decode_predictions(scores, top=1, variant="nin_digits") == [[("6", "6", 0.4)]]
    assert squeezenet.decode_predictions(np.eye(3)[:1], top=1) == [[("0", "class 0", 1.0)]]
    with pytest.raises(InputError, match=r"`predictions` of shape \(batch, classes\). Received: \(3,\)"):
        squeezenet.decode_predictions(np.ones(3))


def test_imagenet_names_are_those_of_keras(monkeypatch):
    index = {str(number): [f"n{number:08}", f"name {number}"] for number in range(1000)}
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", index)
    scores = np.zeros((1, 1000), np.float32)
    scores[0, [7, 3]] = 0.75, 0.25
    expected = [[("n00000007", "name 7", 0.75), ("n00000003", "name 3", 0.25)]]
    assert googlenet.decode_predictions(scores, top=2) == expected


def test_imagenet_names_need_a_download_once(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", None)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fail)
    where = f"Received: URL fetch failure. Save {keras.src.applications.imagenet_utils.CLASS_INDEX_PATH} as '.*json'$"
    with pytest.raises(InputError, match=f"class names of ImageNet .*{where}"):
        googlenet.decode_predictions(np.zeros((1, 1000)))
