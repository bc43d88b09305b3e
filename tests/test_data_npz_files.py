"""Files of arrays: images, and samples by the name of the input."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_nin.data import open_dataset
from keras_nin.errors import InputError

IMAGES = np.random.RandomState(0).randint(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "photos.npz", **arrays)
        return tmp_path / "photos.npz"

    return write


def training(train=25, test=4, **changes):
    images = np.random.RandomState(1).randint(0, 256, (train + test, 3, 3), dtype=np.uint8)
    arrays = {
        "x_train": images[:train],
        "y_train": np.arange(train, dtype=np.uint8).reshape(-1, 1) % 10,
        "x_test": images[train:],
        "y_test": np.arange(test),
    }
    return {**arrays, **changes}


def test_images_and_labels(save):
    photos = open_dataset(save(images=IMAGES, labels=LABELS.astype(np.uint8), class_names=np.array(["a", "b", "c"])))
    assert photos.name == "photos.npz"
    np.testing.assert_array_equal(photos.images, IMAGES)
    np.testing.assert_array_equal(photos.labels, LABELS)
    assert photos.labels.dtype == np.int64
    assert photos.class_names == ("a", "b", "c")
    assert photos.select("calibration").tolist() == [0, 5, 10]
    assert photos.select("test").tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert photos.preprocessing.mode == "unit"
    with pytest.raises(InputError, match="x_train"):
        photos.select("train")


def encode(images, **options):
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, **options)
        files.append(buffer.getvalue())
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


def test_encoded_images_are_decoded_on_demand(save):
    content, offsets = encode(IMAGES, format="PNG")
    photos = open_dataset(save(jpeg_bytes=content, offsets=offsets, labels=LABELS.astype(np.int8)))
    assert len(photos.images) == 12
    np.testing.assert_array_equal(np.stack([photos.images[index] for index in range(12)]), IMAGES)
    np.testing.assert_array_equal(photos.labels, LABELS)
    assert photos.select("calibration").tolist() == [0, 5, 10]
    as_array = open_dataset(save(images=IMAGES, labels=LABELS))
    assert photos.digest(range(12)) == as_array.digest(range(12))  # an image is its pixels, whatever holds them
    content, offsets = encode(IMAGES, format="JPEG")
    close = open_dataset(save(jpeg_bytes=content, offsets=offsets, labels=LABELS), split="test")
    assert close.select("test").tolist() == list(range(12))
    assert close.images[3].shape == (5, 4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jpeg_bytes": np.zeros(9)}, "`jpeg_bytes` in .* to be bytes, uint8 .size,.. Received: float64"),
        ({"offsets": np.array([0, 3, 3])}, "`offsets` in .* to be rising whole numbers up to 9"),
        ({"offsets": np.array([0, 10])}, "rising whole numbers up to 9"),
        ({"offsets": np.array([-1, 3])}, "rising whole numbers"),
        ({"offsets": np.array([0.0, 3.0])}, "rising whole numbers.* Received: float64 .2,."),
        ({"offsets": np.array([0])}, "rising whole numbers"),
        ({"labels": np.arange(5)}, "labels.* of 2 samples"),
    ],
)
def test_encoded_images_that_do_not_fit(changes, message, save):
    arrays = {"jpeg_bytes": np.arange(9, dtype=np.uint8), "offsets": np.array([0, 4, 9]), "labels": np.arange(2)}
    with pytest.raises(InputError, match=message):
        open_dataset(save(**arrays | changes))


def test_encoded_images_are_not_what_a_network_takes(save):
    content, offsets = encode(IMAGES, format="PNG")
    path = save(jpeg_bytes=content, offsets=offsets, labels=LABELS)
    with pytest.raises(InputError, match="for preprocessing 'none'. Received: .*encoded images; preprocessing 'raw' f"):
        open_dataset(path, as_arrays=True, input_shape=(5, 4, 3))
    with pytest.raises(InputError, match="to hold history .N, 5.. Received: jpeg_bytes, offsets, labels"):
        open_dataset(path, input_shape={"history": (5,)})


def test_an_encoded_image_that_is_none(save):
    photos = open_dataset(save(jpeg_bytes=np.arange(9, dtype=np.uint8), offsets=np.array([0, 4, 9])))
    with pytest.raises(InputError, match="Received: image 1 of '.*photos.npz' .not an image of the formats"):
        photos.load([1], (4, 4), 3)


def test_images_alone_and_grey(save):
    photos = open_dataset(save(images=IMAGES[..., 0]))
    assert photos.images.shape == (12, 5, 4, 1)
    assert photos.labels is None


def test_the_layout_of_keras(save):
    photos = open_dataset(save(**training()))
    assert photos.images.shape == (29, 3, 3, 1)
    assert photos.select("calibration").tolist() == [0, 10, 20]
    assert len(photos.select("train")) == 22
    assert photos.select("test").tolist() == [25, 26, 27, 28]
    assert photos.labels.tolist() == [*(index % 10 for index in range(25)), 0, 1, 2, 3]


def test_calibration_takes_at_most_500_training_images(save):
    photos = open_dataset(save(**training(train=6000)))
    assert [len(photos.select(split)) for split in ("calibration", "train")] == [500, 5500]
    assert photos.select("calibration")[-1] == 4990


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pictures": IMAGES},
            r"hold `images` \(and `labels`\), or jpeg_bytes and offsets, or x_.* Received: pictures",
        ),
        ({"x_train": IMAGES, "y_train": LABELS}, "Received: x_train, y_train"),
        ({}, "Received: nothing"),
        ({"images": IMAGES / np.float32(255)}, "`images` .* uint8, 0 to 255 .* Received: float32"),
        ({"images": IMAGES.astype(np.int64)}, "Received: int64"),
        ({"images": IMAGES.transpose(0, 3, 2, 1)}, r"channels 1, 3 or 4\). Received: \(12, 3, 4, 5\)"),
        ({"images": IMAGES[0, 0]}, r"Received: \(4, 3\)"),
        ({"images": IMAGES[:0]}, r"Received: \(0, 5, 4, 3\)"),
        ({"images": np.uint8(3)}, r"Received: \(\)"),
        ({"images": IMAGES, "labels": LABELS[:11]}, r"`labels` .* of 12 samples. Received: int64 \(11,\)"),
        ({"images": IMAGES, "labels": np.array(["a"] * 12)}, "Received: <U1"),
        ({"images": IMAGES, "labels": LABELS * np.nan}, "finite numbers. Received: NaN or infinity"),
        ({"images": IMAGES, "labels": LABELS, "labels_age": LABELS}, "`labels` .* alone, or `labels_NAME` for each"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a", "b"])}, "up to 2. Received: 2 names"),
        ({"images": IMAGES, "class_names": np.arange(3)}, "`class_names` .* strings"),
        ({"images": np.array([None, {}])}, "`images` .* readable array. Received: ValueError: Object arrays"),
        (training(x_test=IMAGES), r"`x_test` .* shape \(3, 3, 1\), as in `x_train`. Received: \(5, 4, 3\)"),
        (training(y_train=LABELS), r"`y_train` .* shape \(25,\)"),
        (training(y_test=LABELS), r"`y_test` .* shape \(4,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(save, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(save(**arrays))
    assert "photos.npz" in str(caught.value)


def test_a_truncated_file_is_refused_wherever_it_is_cut(save):
    path = save(images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"photos\.npz"):
            open_dataset(path)


def test_a_flipped_bit_is_refused(save):
    path = save(images=IMAGES)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(IMAGES.tobytes()) + 100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="`images` .*BadZipFile"):
        open_dataset(path)


def test_headers_that_numpy_cannot_parse_are_refused(tmp_path):
    header = io.BytesIO()
    np.save(header, IMAGES)
    path = tmp_path / "photos.npz"
    for old, new in [
        (b"{'descr'", b"{{'descr"),
        (b"}", b" "),
        (b"|u1", b"|zz"),
        (b"(12, 5", b"(99, 5"),
        (b"NUMPY", b"numpy"),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", header.getvalue().replace(old, new, 1))
        with pytest.raises(InputError, match="`images`"):
            open_dataset(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 nor this", "npy"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "photos.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, IMAGES)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or of another kind"):
        open_dataset(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Expected a readable file. Received: .*absent\.npz' \(No such file"):
        open_dataset(tmp_path / "absent.npz")


@pytest.mark.external
def test_the_files_that_others_made(external_data):
    cifar = open_dataset(external_data / "images" / "cifar10_test_lossless_200.npz")
    assert (len(cifar.select("calibration")), len(cifar.select("test"))) == (40, 160)
    mnist = open_dataset(external_data / "images" / "mnist_test.npz")
    assert mnist.load(mnist.select("test", 10), (28, 28), 1).shape == (10, 28, 28, 1)
    assert len(mnist.image_digests(range(10_000))) == 10_000


INPUTS = {"picture": (4, 4, 3), "history": (5,)}


def open_inputs(source):
    return open_dataset(source, input_shape=INPUTS)


def arrays(count=12):
    rng = np.random.default_rng(0)
    return {name: rng.random((count, *shape), np.float32) for name, shape in INPUTS.items()}


def test_an_array_for_each_input(save):
    stored = arrays()
    dataset = open_inputs(save(**stored, labels=np.arange(12)))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"calibration": 3, "test": 9}
    chosen = dataset.select("calibration")
    loaded = dataset.load(chosen)
    assert set(loaded) == set(INPUTS)
    for name in INPUTS:
        np.testing.assert_array_equal(loaded[name], stored[name][[0, 5, 10]])
    (part, labels), *rest = dataset.batches(dataset.select("test"), None, None, batch=6)
    assert [len(array) for array in part.values()] == [6, 6]
    assert (list(labels), len(rest)) == ([1, 2, 3, 4, 6, 7], 1)


def test_one_input_is_an_array(save):
    stored = arrays()
    dataset = open_dataset(save(**stored), input_shape={"history": (5,)})
    np.testing.assert_array_equal(dataset.load([1, 2]), stored["history"][[1, 2]])
    assert dataset.labels is None


def test_the_hash_is_over_all_inputs(save):
    stored = arrays()
    first = open_inputs(save(**stored)).digest([0, 1])
    stored["history"][1, 4] += 1
    assert open_inputs(save(**stored)).digest([0, 1]) != first
    assert open_inputs(save(**stored)).digest([0]) == open_inputs(save(**arrays())).digest([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": None}, r"to hold history \(N, 5\). Received: picture"),
        ({"history": np.zeros((12, 4), np.float32)}, r"`history` .* numbers \(N, 5\). Received: float32 \(12, 4\)"),
        ({"history": np.zeros((3, 5), np.float32)}, r"as many samples for each input .*'picture': 12, 'history': 3"),
        ({"history": np.zeros((0, 5), np.float32), "picture": np.zeros((0, 4, 4, 3))}, r"float.* \(0, 4, 4, 3\)"),
        ({"history": np.full((12, 5), np.nan)}, "finite numbers. Received: NaN"),
        ({"history": np.full((12, 5), "a")}, "numbers .* Received: <U1"),
        ({"labels": np.zeros(3, np.int64)}, r"`labels` .* of 12 samples"),
    ],
)
def test_named_inputs_that_do_not_fit(save, change, message):
    content = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        open_inputs(save(**content))


def test_named_inputs_need_an_npz(tmp_path):
    with pytest.raises(
        InputError, match=r"\(picture \(N, 4, 4, 3\), history \(N, 5\)\), or 'random'. Received: 'digits'"
    ):
        open_inputs("digits")
    with pytest.raises(InputError, match="readable file"):
        open_inputs(str(tmp_path / "missing.npz"))
