import numpy as np
import pytest

from keras_nin.data import open_dataset
from keras_nin.errors import InputError


def test_noise_is_uniform_seeded_and_unlabelled():
    random = open_dataset("random", input_shape=(32, 24, 3), seed=5)
    image = random.images[0]
    assert image.shape == (32, 24, 3)
    assert image.dtype == np.uint8
    assert image.min() < 5
    assert image.max() > 250
    assert image.mean() == pytest.approx(127.5, abs=6)  # 3.9 standard errors of 2304 draws
    assert random.labels is None
    assert random.noise
    assert random.names_of([3, 1]) == [3, 1]
    np.testing.assert_array_equal(image, open_dataset("random", input_shape=[32, 24, 3], seed=5).images[0])
    assert random.digest([0]) != open_dataset("random", input_shape=(32, 24, 3), seed=6).digest([0])


def test_calibration_and_test_share_no_image():
    random = open_dataset("random", input_shape=(4, 4, 1))
    assert {name: len(indices) for name, indices in random.splits.items()} == {"calibration": 1000, "test": 1000}
    calibration, test = (random.image_digests(random.select(split)) for split in ("calibration", "test"))
    assert len(calibration | test) == 2000


def test_the_sequence_ends():
    images = open_dataset("random", input_shape=(2, 2, 1)).images
    with pytest.raises(IndexError):
        images[len(images)]


@pytest.mark.parametrize("shape", [None, (8, 8), (0, 8, 3), (None, None, 3), "8,8,3", (8.0, 8, 3)])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(InputError, match="Expected `input_shape` .*'random'"):
        open_dataset("random", input_shape=shape)


def test_noise_takes_the_channels_of_a_feature_map():
    random = open_dataset("random", input_shape=(12, 12, 512))
    batch = random.load(random.select("test", 2), (12, 12), 512)
    assert batch.shape == (2, 12, 12, 512)
    np.testing.assert_allclose(batch[0], random.images[int(random.select("test", 2)[0])] / np.float32(255), rtol=1e-6)


def test_a_seed_that_is_none_is_refused():
    with pytest.raises(InputError, match="Expected `seed`"):
        open_dataset("random", input_shape=(8, 8, 3), seed=-1)
