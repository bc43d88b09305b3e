"""Every kind of source becomes a `Dataset`."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_nin.data import Dataset, NamedArrays, list_datasets, open_dataset
from keras_nin.errors import InputError

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
INPUTS = {"picture": (4, 4, 3), "history": (5,)}


def samples(count=12):
    rng = np.random.default_rng(0)
    return {name: rng.random((count, *shape), np.float32) for name, shape in INPUTS.items()}


class Batches(keras.utils.PyDataset):
    """Images in batches of five."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(5 * index, 5 * index + 5)
        return IMAGES[part], LABELS[part]


def test_the_names():
    assert list_datasets() == ["cifar10", "cifar100", "digits", "fashion_mnist", "mnist", "random"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("array", IMAGES),
        ("array", (IMAGES, LABELS)),
        ("array", (IMAGES, np.eye(3)[LABELS])),
        ("tf.data.Dataset", tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))),
        ("tf.data.Dataset", tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)),
        ("tf.data.Dataset", tf.data.Dataset.from_tensor_slices(IMAGES).batch(5)),
        ("PyDataset", Batches()),
    ],
)
def test_images_in_memory(name, source):
    dataset = open_dataset(source)
    assert (dataset.name, dataset.preprocessing.mode) == (name, "unit")
    np.testing.assert_array_equal(dataset.images, IMAGES)
    has_labels = isinstance(source, (tuple, Batches)) or "tuple" in str(type(getattr(source, "element_spec", None)))
    if has_labels:
        np.testing.assert_array_equal(dataset.labels, LABELS)
    else:
        assert dataset.labels is None
    assert dataset.select("calibration").tolist() == [0, 5, 10]
    assert open_dataset(source).digest(range(12)) == open_dataset(IMAGES).digest(range(12))


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_one_split_may_take_all(split):
    dataset = open_dataset(IMAGES, split=split, labels=LABELS)
    assert {name: indices.tolist() for name, indices in dataset.splits.items()} == {split: list(range(12))}
    with pytest.raises(InputError, match="Expected `split` to be one of"):
        open_dataset(IMAGES, split="validation")


def test_grayscale_images_get_a_channel():
    assert open_dataset(IMAGES[..., 0]).images.shape == (12, 4, 4, 1)


@pytest.mark.parametrize(
    "wrap", [lambda arrays: arrays, lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(5)]
)
def test_samples_by_the_name_of_the_input(wrap):
    arrays = samples()
    dataset = open_dataset(wrap(arrays), input_shape=INPUTS)
    assert isinstance(dataset, NamedArrays)
    assert dataset.preprocessing is None
    loaded = dataset.load([1, 2])
    for name in INPUTS:
        np.testing.assert_array_equal(loaded[name], arrays[name][[1, 2]])


@pytest.mark.parametrize("input_shape", [None, (4, 4, 3), {"picture": (4, 4, 3)}])
def test_floating_point_is_what_the_network_takes(input_shape):
    array = samples()["picture"].astype(np.float64)
    for source in (array, tf.data.Dataset.from_tensor_slices(array).batch(5)):
        dataset = open_dataset(source, input_shape=input_shape)
        loaded = dataset.load([3, 0])
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, array[[3, 0]].astype(np.float32))


def test_a_dataset_is_returned_as_it_is():
    dataset = open_dataset(IMAGES)
    assert open_dataset(dataset) is dataset


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (None, {}, "Expected `data` to be a dataset name, .*Received: None"),
        (["digits"], {}, "Expected `data`"),
        ({}, {}, "Expected `data`"),
        (IMAGES[:0], {}, r"uint8 images of shape .*Received: \(0, 4, 4, 3\)"),
        (IMAGES[0, 0], {}, r"uint8 images of shape .*Received: \(4, 3\)"),
        (np.array(3.0), {}, r"numbers \(N, ...\)"),
        (np.array(["a"]), {}, "numbers"),
        (np.full((3, 4), np.nan), {}, "finite"),
        (np.ones((3, 4)), {"input_shape": (5,)}, r"`data` to be numbers \(N, 5\). Received: float64 \(3, 4\)"),
        ((IMAGES, LABELS[:5]), {}, r"masks of 12 samples. Received: int64 \(5,\)"),
        ((IMAGES, np.full((12, 2), np.nan)), {}, "`labels` to be finite numbers"),
        ((IMAGES, {"mask": LABELS[:3]}), {}, r"`mask` to be numbers, .*Received: int64 \(3,\)"),
        (samples() | {"history": np.ones((3, 5))}, {}, "as many samples for each input"),
        (samples(), {"input_shape": {"picture": (4, 4, 3), "age": (1,)}}, r"each input \(picture, age\)"),
        (tf.data.Dataset.from_tensor_slices(IMAGES).repeat(), {}, r"finite tf.data.Dataset.*Use `.take\(count\)`"),
        (tf.data.Dataset.from_tensor_slices(IMAGES[:0]), {}, "with samples. Received: an empty one"),
    ],
)
def test_sources_that_do_not_fit(source, options, message):
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(source, **options)
    assert caught.value.argument in ("data", "labels")


@pytest.mark.parametrize("source", ["mnits", "no/such/folder", "photo.jpg", "", "Digits"])
def test_an_unknown_name_lists_what_works(source):
    with pytest.raises(InputError) as caught:
        open_dataset(source)
    message = str(caught.value)
    assert "\n" not in message
    assert f"Received: {source!r}" in message
    others = "an existing folder of images, an .npz file and CIFAR's archive work too"
    assert f"{', '.join(list_datasets())}; {others}" in message
    assert caught.value.argument == "data"


def test_a_path_may_be_a_path_object_and_its_ending_in_capitals(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    (tmp_path / "a.npz").rename(tmp_path / "a.NPZ")
    assert open_dataset(tmp_path / "a.NPZ").name == "a.NPZ"


def test_a_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(open_dataset("digits").images) == 1797
    with pytest.raises(InputError, match="Expected images"):
        open_dataset("./digits")


@pytest.mark.parametrize("source", ["digits", "random", "some.npz"])
def test_a_labels_file_needs_a_folder(source):
    with pytest.raises(InputError, match="labels file only with a folder of images. Received: 'labels.csv'"):
        open_dataset(source, labels="labels.csv", input_shape=(4, 4, 3))


def test_random_samples_by_name():
    first, second = (open_dataset("random", input_shape=INPUTS, seed=seed) for seed in (0, 1))
    assert (first.name, first.noise) == ("random", True)
    assert first.load([0])["picture"].shape == (1, 4, 4, 3)
    again = open_dataset("random", input_shape=INPUTS, seed=0)
    assert first.digest([0, 1]) == again.digest([0, 1]) != second.digest([0, 1])


def test_opening_noise_imports_neither_keras_nor_scikit_learn():
    code = (
        "import sys; from keras_nin.data import open_dataset, get_preset\n"
        "open_dataset('random', input_shape=(8, 8, 3)).load([0], (8, 8), 3, get_preset('torch'))\n"
        "print({'keras', 'tensorflow', 'sklearn'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_the_repr_names_the_splits():
    assert repr(open_dataset(IMAGES)) == "Dataset('array', 12 images: calibration 3, test 9)"
    assert isinstance(open_dataset(IMAGES), Dataset)
