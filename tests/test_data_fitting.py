import numpy as np
import pytest
from PIL import Image

from keras_nin.data.preprocessing import fit_image
from keras_nin.errors import InputError


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
