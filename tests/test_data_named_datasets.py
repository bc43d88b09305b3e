"""Digits, noise, and keras.datasets offline: its cache holds tiny files in the real formats, every download fails."""

import gzip
import io
import pathlib
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest

from keras_nin.data import open_dataset
from keras_nin.data.named_datasets import find_local_copy, needs_keras
from keras_nin.errors import InputError

FASHION = tuple(
    f"fashion-mnist/{name}-ubyte.gz"
    for name in ("train-labels-idx1", "train-images-idx3", "t10k-labels-idx1", "t10k-images-idx3")
)
FILES = {
    "mnist": "mnist.npz",
    "cifar10": "cifar-10-batches-py-target_archive",
    "cifar100": "cifar-100-python-target_archive",
    "fashion_mnist": FASHION[0],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return Keras's cache folder, empty, without a network behind it."""
    import keras  # noqa: F401 - the modules that are patched below

    def no_network(*_):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))  # read once, when Keras is imported
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


@pytest.fixture
def any_checksum(monkeypatch):
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)


def write_mnist(path, train=900, test=30):
    images = np.random.RandomState(0).randint(0, 256, (train + test, 28, 28), dtype=np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    with open(path, "wb") as file:
        np.savez(file, x_train=images[:train], y_train=labels[:train], x_test=images[train:], y_test=labels[train:])
    return images, labels


def write_cifar10(path):
    """Write the archive with one image a batch, which Keras's reader repeats 10,000 times; test_batch has three."""
    random = np.random.RandomState(0)
    with tarfile.open(path, "w:gz") as archive:
        for name, count in [*((f"data_batch_{index}", 1) for index in range(1, 6)), ("test_batch", 3)]:
            pixels = random.randint(0, 256, (count, 3072), dtype=np.uint8)
            data = pickle.dumps({b"data": pixels, b"labels": [index + 4 for index in range(count)]}, protocol=4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return pixels


def write_cifar100(path):
    random = np.random.RandomState(0)
    with tarfile.open(path, "w:gz") as archive:
        for name, count in (("train", 600), ("test", 3)):
            pixels = random.randint(0, 256, (count, 3072), dtype=np.uint8)
            content = {b"data": pixels, b"fine_labels": [index % 100 for index in range(count)]}
            data = pickle.dumps(content, protocol=4)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return pixels


def write_fashion_mnist(path, train=600, test=7):
    """Write the four files beside `path`, which is the first of them."""
    random = np.random.RandomState(0)
    for name, count in zip(FASHION, (train, train, test, test), strict=True):
        file = path.parent / name.split("/")[1]
        file.parent.mkdir(exist_ok=True)
        pixels = random.randint(0, 256, (count, 28, 28), dtype=np.uint8)
        content = bytes(8) + bytes(index % 10 for index in range(count))
        file.write_bytes(gzip.compress(bytes(16) + pixels.tobytes() if "images" in name else content))
    return pixels


WRITERS = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "fashion_mnist": write_fashion_mnist,
}


def test_cifar100(cache, any_checksum, capsys):
    pixels = write_cifar100(cache / FILES["cifar100"])
    cifar = open_dataset("cifar100")
    expected = pixels.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(cifar.images[cifar.select("test")], expected)
    assert int(cifar.labels.max()) == 99
    assert capsys.readouterr().out == ""


def test_fashion_mnist(cache, any_checksum, capsys):
    pixels = write_fashion_mnist(cache / FILES["fashion_mnist"])
    fashion = open_dataset("fashion_mnist")
    np.testing.assert_array_equal(fashion.images[fashion.select("test")], pixels[..., np.newaxis])
    assert fashion.labels_of(fashion.select("test")).tolist() == list(range(7))
    assert fashion.class_names[9] == "ankle boot"
    assert capsys.readouterr().out == ""


def test_only_the_missing_files_are_asked_for(cache, any_checksum):
    write_fashion_mnist(cache / FASHION[0])
    (cache / FASHION[3]).unlink()
    with pytest.raises(InputError) as caught:
        open_dataset("fashion_mnist")
    assert FASHION[3] in str(caught.value)
    assert FASHION[0] not in str(caught.value)


def test_mnist(cache, any_checksum, capsys):
    images, labels = write_mnist(cache / FILES["mnist"])
    mnist = open_dataset("mnist")
    np.testing.assert_array_equal(mnist.images, images[..., np.newaxis])
    np.testing.assert_array_equal(mnist.labels, labels)
    assert {name: len(indices) for name, indices in mnist.splits.items()} == {
        "train": 810,
        "calibration": 90,
        "test": 30,
    }
    assert mnist.select("test").tolist() == list(range(900, 930))
    np.testing.assert_array_equal(mnist.select("calibration"), open_dataset("mnist", seed=3).select("calibration"))
    assert mnist.select("calibration").tolist() != list(range(500))
    assert mnist.preprocessing.mode == "unit"
    assert mnist.class_names == tuple("0123456789")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_a_cached_copy_opens_without_keras_and_has_the_same_images(name, cache, any_checksum):
    assert find_local_copy(name) == name
    WRITERS[name](cache / FILES[name])
    for _ in range(2):  # the second time Keras has unpacked the archive
        copy = open_dataset(find_local_copy(name))
        dataset = open_dataset(name)
        test = dataset.select("test")
        assert copy.select("test").tolist() == test.tolist()
        assert copy.stored_digest(test) == dataset.stored_digest(test)
        np.testing.assert_array_equal(copy.labels, dataset.labels)
    assert not needs_keras(find_local_copy(name))
    assert find_local_copy("fashion_mnist") == "fashion_mnist"
    assert needs_keras("fashion_mnist")


def test_cifar10(cache, any_checksum, capsys):
    test_pixels = write_cifar10(cache / FILES["cifar10"])
    cifar = open_dataset("cifar10")
    assert cifar.images.shape == (50_003, 32, 32, 3)
    np.testing.assert_array_equal(
        cifar.images[cifar.select("test")], test_pixels.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
    )
    assert cifar.labels_of(cifar.select("test")).tolist() == [4, 5, 6]
    assert [len(cifar.select(split)) for split in ("train", "calibration", "test")] == [49_500, 500, 3]
    assert cifar.class_names[6] == "frog"
    assert cifar.preprocessing.mode == "standardize"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", FILES)
def test_without_cache_and_network_one_line_says_which_file_goes_where(cache, capsys, name):
    with pytest.raises(InputError) as caught:
        open_dataset(name)
    message = str(caught.value)
    assert "\n" not in message
    assert "it is not in Keras's cache (URL fetch failure" in message
    assert f"as {str(cache / FILES[name])!r}" in message
    assert "https://" in message
    assert ".npz" in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", FILES)
def test_the_file_put_where_the_line_says_is_the_one_that_keras_reads(cache, any_checksum, name):
    with pytest.raises(InputError) as caught:
        open_dataset(name)
    place = str(caught.value).split(" as '")[1].split("'")[0]
    WRITERS[name](pathlib.Path(place))
    assert open_dataset(name).name == name


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_another_checksum_is_called_damaged(cache, name):
    WRITERS[name](cache / FILES[name])
    (cache / FILES[name]).write_bytes(b"half a download")
    with pytest.raises(InputError, match="its cached file is damaged or incomplete"):
        open_dataset(name)


@pytest.mark.filterwarnings("ignore:Could not extract archive")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_open_is_called_damaged(cache, any_checksum, name):
    WRITERS[name](cache / FILES[name])
    (cache / FILES[name]).write_bytes(b"PK\x03\x04 half a download")
    with pytest.raises(InputError, match="its cached file is damaged or incomplete"):
        open_dataset(name)


def test_progress_goes_to_a_terminal_on_stderr_alone(cache, monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(InputError):
        open_dataset("mnist")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Downloading data from" in err


def test_images_and_labels_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits, source = open_dataset("digits"), load_digits()
    assert digits.images.shape == (1797, 8, 8, 1)
    assert digits.images.dtype == np.uint8
    np.testing.assert_array_equal(np.rint(digits.images[..., 0] / (255 / 16)), source.images)
    assert digits.images.max() == 255
    np.testing.assert_array_equal(digits.labels, source.target)
    assert digits.class_names == tuple("0123456789")
    assert digits.preprocessing.mode == "unit"


def test_splits_are_fixed_complete_and_even_over_the_classes():
    digits = open_dataset("digits")
    sizes = {name: len(indices) for name, indices in digits.splits.items()}
    assert sizes == {"train": 1338, "calibration": 100, "test": 359}
    assert sorted(np.concatenate(list(digits.splits.values()))) == list(range(1797))
    assert np.bincount(digits.labels_of(digits.select("calibration"))).tolist() == [10] * 10
    assert set(np.bincount(digits.labels_of(digits.select("test")))) == {35, 36, 37}
    for name, indices in open_dataset("digits", seed=7).splits.items():
        np.testing.assert_array_equal(indices, digits.splits[name])


def test_the_test_images_never_change():
    # Accuracies of weights that ship are of these images.
    digits = open_dataset("digits")
    assert digits.select("test")[:5].tolist() == [3, 7, 13, 19, 36]
    assert digits.digest(digits.select("test"))[:16] == "b5f89e9d2d05a82f"


def test_no_image_is_in_two_splits():
    digits = open_dataset("digits")
    contents = [digits.image_digests(indices) for indices in digits.splits.values()]
    assert len(set.union(*contents)) == 1797


def test_noise_is_uniform_seeded_and_unlabeled():
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
