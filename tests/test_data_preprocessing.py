"""From images to a model's input: geometry, channels, arithmetic."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_nin.data.preprocessing import MODES, PRESETS, Preprocessing, fit_image, get_preset, parse_preprocessing
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
    assert {record.mode for record in PRESETS.values()} == set(MODES) - {"affine"}


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
        (
            {"mode": "tf"},
            "Expected `mode` to be one of raw, unit, symmetric, bgr_mean, standardize, affine. Received: 'tf'",
        ),
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


@pytest.mark.parametrize("document", [{}, {"mode": "raw", "factor": 2}, "raw", None])
def test_json_that_is_no_preprocessing_is_refused(document):
    with pytest.raises(InputError, match="Expected preprocessing as an object with the keys channels, crop_fraction"):
        Preprocessing.from_json(document)


TORCH = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("arguments", "expected", "described"),
    [
        ({"mean": 127.5, "std": 127.5}, [1, -0.2, -1], "custom, (x - 127.5) / 127.5"),
        ({"scale": 1 / 127.5, "mean": 1}, [1, -0.2, -1], "symmetric, [-1, 1]"),
        ({"std": (255.0,), "channels": "bgr"}, [0, 0.4, 1], "custom, x / 255, BGR"),
        (
            {"scale": 1 / 255, **TORCH},
            [(1 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, -0.406 / 0.225],
            "torch, (x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)",
        ),
        (
            {"preprocessing": "torch", "channels": "bgr"},  # each constant goes with its color
            [-0.406 / 0.225, (0.4 - 0.456) / 0.224, (1 - 0.485) / 0.229],
            "custom, (x / 255 - (0.406, 0.456, 0.485)) / (0.225, 0.224, 0.229), BGR, crop 0.875",
        ),
        ({"preprocessing": "caffe", "channels": "rgb"}, [255 - 123, 102 - 117, 0 - 104],
         "custom, x - (123, 117, 104), crop 0.875"),
        ({"preprocessing": {"preset": "unit", "channels": "bgr"}}, [0, 0.4, 1], "unit, [0, 1], BGR"),
        ({"preprocessing": "standardize", "channels": "bgr"},
         np.array([-119, -17, 136]) / np.sqrt((136**2 + 17**2 + 119**2) / 3),
         "standardize, (x - mean of the image) / its deviation, BGR"),
    ],
)  # fmt: skip
def test_constants(arguments, expected, described):
    record = parse_preprocessing(**arguments)
    np.testing.assert_allclose(record.normalize(PIXEL[np.newaxis]).ravel(), expected, rtol=1e-5, atol=1e-6)
    assert str(record) == described
    assert Preprocessing.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TORCH, "`mean` for pixels from 0 to 255, which `scale` changes: 1/255 gives 0 to 1"),
        ({"std": 0.5}, "`std` for pixels from 0 to 255"),
        ({"preprocessing": "unit", "mean": 127.5}, "`mean` for pixels from 0 to 1,"),
        ({"preprocessing": "none", "mean": 1}, "no constants for arrays that are fed as they are"),
        ({"preprocessing": "standardize", "std": 1}, "no constants for mode 'standardize'. Received: `std`"),
        ({"scale": 0}, "`scale` to be a finite number above 0"),
        ({"channels": "grb"}, "`channels` to be one of rgb, bgr"),
        ({"preprocessing": {"scale": 1, "offset": 3}}, "an object with the keys"),
    ],
)
def test_constants_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_preprocessing(**arguments)


def test_constants_from_a_file_and_from_a_record(tmp_path):
    (tmp_path / "constants.json").write_text('{"scale": 0.00784313725, "mean": [1.0], "crop_fraction": 0.9}')
    record = parse_preprocessing(tmp_path / "constants.json")
    assert (record.mean, record.crop_fraction) == ((1.0,), 0.9)
    (tmp_path / "export.json").write_text(json.dumps({"schema": "any", "preprocessing": record.to_json()}))
    assert parse_preprocessing(str(tmp_path / "export.json"), channels="bgr") == record.with_constants(channels="bgr")
    (tmp_path / "export.json").write_text(json.dumps({"schema": "any", "preprocessing": None}))
    with pytest.raises(InputError, match=r"export.json': Expected preprocessing as an object .*Received: None"):
        parse_preprocessing(tmp_path / "export.json")
    assert parse_preprocessing("none") == "none"
    assert parse_preprocessing() is None


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean caffe"):
        get_preset("cafe")


def noise(*shape):
    return np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "size", "fraction", "rows", "columns"),
    [
        ((256, 341, 3), (224, 224), 0.875, slice(16, 240), slice(58, 282)),
        ((400, 256, 3), (224, 224), 0.875, slice(88, 312), slice(16, 240)),
        ((32, 32, 3), (24, 24), 0.75, slice(4, 28), slice(4, 28)),
        ((8, 8, 1), (8, 8), 1.0, slice(0, 8), slice(0, 8)),
        ((60, 80, 3), (60, 40), 1.0, slice(0, 60), slice(20, 60)),
        ((11, 10, 1), (10, 10), 1.0, slice(0, 10), slice(0, 10)),  # of the odd row, the one at the bottom goes
    ],
)
def test_an_image_of_the_right_size_is_cropped_and_not_resampled(shape, size, fraction, rows, columns):
    image = noise(*shape)
    np.testing.assert_array_equal(fit_image(image, size, shape[2], fraction), image[rows, columns])


def test_the_short_side_becomes_size_over_crop_fraction_with_pillows_bilinear():
    image = noise(300, 600, 3)
    resized = Image.fromarray(image).resize((512, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fit_image(image, (224, 224), 3, 0.875), np.asarray(resized)[16:240, 144:368])


def test_the_resize_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    inside = fit_image(stripes, (16, 16), 1)[:, 2:-2]
    assert np.all(np.abs(inside.astype(int) - 127) <= 2)


@pytest.mark.parametrize("shape", [(100, 30), (30, 100), (33, 33), (7, 500)])
def test_a_size_that_is_not_square_is_covered_whole_with_the_aspect_kept(shape):
    rows = np.linspace(0, 255, shape[0])[:, None].repeat(shape[1], 1).astype(np.uint8)
    fitted = fit_image(rows, (48, 20), 1)
    assert fitted.shape == (48, 20, 1)
    scale = max(48 / shape[0], 20 / shape[1])
    steps = np.diff(fitted[4:-4, 10, 0].astype(float)).mean()
    assert steps == pytest.approx(255 / shape[0] / scale, rel=0.2)


def test_no_side_comes_out_a_pixel_short():
    for side in range(1, 400):
        assert fit_image(np.zeros((side, side + 1), np.uint8), (49, 49), 1).shape == (
            49,
            49,
            1,
        )  # 11 * (49 / 11) is below 49


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_a_strip_does_not_become_gigabytes(shape):
    image = np.zeros(shape, np.uint8)
    image[shape[0] // 2, shape[1] // 2] = 255
    fitted = fit_image(image, (224, 224), 1, 0.875)
    assert fitted.shape == (224, 224, 1)
    assert fitted.max() > 200  # still the middle of the strip


def test_channels():
    grey, colour = noise(6, 6), noise(6, 6, 3)
    np.testing.assert_array_equal(fit_image(grey, (6, 6), 3), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(
        fit_image(colour, (6, 6), 1)[..., 0], np.asarray(Image.fromarray(colour).convert("L"))
    )
    with_alpha = np.concatenate([colour, noise(6, 6, 1)], axis=2)
    np.testing.assert_array_equal(fit_image(with_alpha, (3, 3), 3), fit_image(colour, (3, 3), 3))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros(4, np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(InputError, match=r"uint8 array .* Received: "):
        fit_image(image, (4, 4), 3)
