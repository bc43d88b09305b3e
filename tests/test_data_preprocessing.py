import json

import numpy as np
import pytest

from keras_nin.data.preprocessing import MODES, PRESETS, Preprocessing, get_preset
from keras_nin.errors import InputError

PIXEL = np.array([[[255, 102, 0]]], np.uint8)  # red, green, blue


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw", [255, 102, 0]),
        ("unit", [1, 0.4, 0]),
        ("symmetric", [1, 102 / 127.5 - 1, -1]),
        ("torch", [(1 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0 - 0.406) / 0.225]),
        ("caffe", [0 - 104, 102 - 117, 255 - 123]),
        ("keras_caffe", [0 - 103.939, 102 - 116.779, 255 - 123.68]),
        ("standardize", np.array([136, -17, -119]) / np.sqrt((136**2 + 17**2 + 119**2) / 3)),
    ],
)
def test_the_arithmetic_of_every_preset(name, expected):
    values = get_preset(name).apply([PIXEL], (1, 1), 3)
    assert values.dtype == np.float32
    assert values.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-6, atol=1e-6)


def test_every_mode_has_a_preset():
    assert {record.mode for record in PRESETS.values()} == set(MODES)


def test_standardize_is_per_image_and_takes_a_uniform_image_to_zero():
    images = np.stack([np.full((6, 4, 3), 200, np.uint8), np.arange(72, dtype=np.uint8).reshape(6, 4, 3)])
    flat, ramp = get_preset("standardize").apply(images, (6, 4), 3)
    assert not flat.any()
    np.testing.assert_allclose([ramp.mean(), ramp.std()], [0, 1], atol=1e-6)


def test_standardize_divides_by_at_least_one_over_the_root_of_the_pixels():
    image = np.zeros((100, 100, 1), np.uint8)
    image[0, 0] = 1  # standard deviation 0.0099995, floor 0.01
    values = get_preset("standardize").apply([image], (100, 100), 1)
    assert values.max() == pytest.approx((1 - 1e-4) / 0.01, rel=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_record_survives_json(name):
    record = get_preset(name)
    assert Preprocessing.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("name", ["caffe", "torch", "symmetric"])
def test_images_of_many_sizes_become_one_contiguous_array(name):
    images = (np.zeros(shape, np.uint8) for shape in [(30, 40), (9, 9, 3), (50, 20, 4), (8, 8, 1)])
    values = get_preset(name).apply(images, size=(12, 10), channels=3)
    assert values.shape == (4, 12, 10, 3)
    assert values.flags.c_contiguous


def test_no_images_give_an_empty_array():
    assert get_preset("torch").apply([], (4, 5), 3).shape == (0, 4, 5, 3)


def test_images_are_left_as_they_were():
    image = PIXEL.copy()
    get_preset("torch").apply([image], (1, 1), 3)
    np.testing.assert_array_equal(image, PIXEL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "tf"}, "Expected `mode` to be one of raw, unit, symmetric, bgr_mean, standardize. Received: 'tf'"),
        ({"mode": "raw", "mean": (1,)}, "Expected no `mean` for mode 'raw'"),
        ({"mode": "bgr_mean"}, "Expected `mean`"),
        ({"mode": "bgr_mean", "mean": (1, 2, 3), "std": (1, 1, 1)}, "Expected no `std`"),
        ({"mode": "unit", "mean": "abc"}, "Expected `mean` to be finite numbers"),
        ({"mode": "unit", "mean": ()}, "Expected `mean` to be finite numbers"),
        ({"mode": "unit", "mean": 0.5}, "Expected `mean` to be finite numbers"),
        ({"mode": "unit", "std": (1, float("nan"))}, "Expected `std` to be finite numbers"),
        ({"mode": "unit", "std": (1, 0, 1)}, "Expected `std` above 0"),
        ({"mode": "raw", "crop_fraction": 0}, "Expected `crop_fraction` above 0 and at most 1. Received: 0"),
        ({"mode": "raw", "crop_fraction": 1.1}, "Expected `crop_fraction`"),
        ({"mode": "raw", "crop_fraction": True}, "Expected `crop_fraction`"),
        ({"mode": "raw", "crop_fraction": "1"}, "Expected `crop_fraction`"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InputError) as caught:
        Preprocessing(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("record", "size", "channels", "message"),
    [
        (get_preset("torch"), (4, 4), 1, r"Expected `mean` to have 1 number"),
        (Preprocessing("unit", std=(1, 2)), (4, 4), 3, r"Expected `std` to have 3 number"),
        (get_preset("raw"), (4, 4), 4, r"photographs have no 4 channels. Received: uint8"),
        (get_preset("raw"), (4, 4, 3), 3, r"Expected `size`"),
        (get_preset("raw"), (0, 4), 3, r"Expected `size`"),
        (get_preset("raw"), None, 3, r"Expected `size`"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(record, size, channels, message):
    with pytest.raises(InputError, match=message):
        record.apply([PIXEL], size, channels)


@pytest.mark.parametrize("document", [{}, {"mode": "raw", "scale": 2}, "raw", None])
def test_json_that_is_no_preprocessing_is_refused(document):
    with pytest.raises(InputError, match="Expected preprocessing as an object with the keys crop_fraction, mean"):
        Preprocessing.from_json(document)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean caffe"):
        get_preset("cafe")
