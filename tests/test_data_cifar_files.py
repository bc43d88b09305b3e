"""CIFAR from local files, in the layouts of its authors and of Keras's cache, and what is refused."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest

from keras_nin.data import open_dataset
from keras_nin.errors import InputError

NAMES = ["airplane", "automobile", "bird"]
FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def text(value):
    return b"U" + bytes([len(value)]) + value.encode()


def python2_batch(rows, labels, key="labels"):
    """The bytes of a batch as Python 2's cPickle wrote the release, with its strings and NumPy's names of the time."""
    data = rows.tobytes()
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\x09U\x01b\x87q\x0aRq\x0b"
        b"(K\x01K" + bytes([len(rows)]) + b"M\x00\x0c\x86q\x0c"
        b"cnumpy\ndtype\nq\x0dU\x02u1q\x0eK\x00K\x01\x87q\x0fRq\x10(K\x03U\x01|q\x11NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tq\x12b\x89T" + struct.pack("<i", len(data)) + data + b"q\x13tq\x14b"
    )
    entries = text("batch_label") + text("a batch"), text(key) + b"](" + numbers + b"e", text("data") + array
    return b"\x80\x02}q\x01(" + b"".join(entries) + b"u."


def python2_names(key, names):
    return b"\x80\x02}(" + text(key) + b"](" + b"".join(map(text, names)) + b"eu."


@pytest.fixture(scope="module")
def release():
    """The contents of each file of a small CIFAR-10, its images (H, W, C) and its labels, in order."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (12 * 6, 32, 32, 3), dtype=np.uint8)
    labels = random.randint(0, 3, len(images))
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    contents = {
        name: python2_batch(rows[12 * part : 12 * part + 12], labels[12 * part : 12 * part + 12])
        for part, name in enumerate(FILES)
    }
    return contents | {"batches.meta": python2_names("label_names", NAMES)}, images, labels


def write_folder(folder, contents):
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def write_archive(path, contents, folder="cifar-10-batches-py", mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def written_again(images, labels, keys, protocol):
    """The contents as Python 3 writes them, with bytes or strings for names."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    parts = {name: slice(12 * part, 12 * part + 12) for part, name in enumerate(FILES)}
    records = {name: {"data": rows[part], "labels": labels[part].tolist()} for name, part in parts.items()}
    records["batches.meta"] = {"label_names": [keys(name) for name in NAMES]}
    return {
        name: pickle.dumps({keys(key): value for key, value in record.items()}, protocol)
        for name, record in records.items()
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("keys", [str, str.encode])
def test_batches_that_python_3_wrote(keys, protocol, release, tmp_path):
    _, images, labels = release
    contents = written_again(images, labels, keys, protocol)
    assert (b"_codecs" in contents["test_batch"]) == (protocol == 2)
    dataset = open_dataset(write_folder(tmp_path / "cifar-10-batches-py", contents))
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.class_names == tuple(NAMES)


@pytest.mark.slow
def test_a_network_trains_on_the_archive(release, cli, tmp_path):
    """The archive is small, so that a tenth of its training images calibrate, and not 500."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, strides=4), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Dense(3, activation="softmax")])
    model.save(tmp_path / "tiny.keras")
    write_archive(tmp_path / "cifar-10-python.tar.gz", release[0])
    words = "train", "tiny.keras", "--data", "cifar-10-python.tar.gz", "--epochs", 1, "--out"
    ran = cli(*words, "run")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("tiny on cifar-10-python.tar.gz: 1 epoch, best 1 with ")
    assert ran.out.splitlines()[0].endswith("% on 12 images")
    write_folder(tmp_path / "again" / "cifar-10-batches-py", written_again(*release[1:], str, 2))
    assert cli(*words[:3], "again", *words[4:], "again_run").status == 0
    first, second = (json.loads((tmp_path / run / "history.json").read_text()) for run in ("run", "again_run"))
    assert first == second


@pytest.mark.parametrize("layout", ["archive", "cached archive", "folder", "cached folder", "tar"])
def test_every_layout_of_cifar10(layout, release, tmp_path):
    contents, images, labels = release
    if layout == "archive":
        path = write_archive(tmp_path / "cifar-10-python.tar.gz", contents)
    elif layout == "cached archive":
        path = write_archive(tmp_path / "cifar-10-batches-py-target_archive", dict(reversed(contents.items())))
    elif layout == "tar":
        path = write_archive(tmp_path / "cifar.tar", contents, mode="w")
    else:
        path = write_folder(tmp_path / "cifar-10-batches-py-target" / "cifar-10-batches-py", contents)
        path = path.parent if layout == "cached folder" else path
    dataset = open_dataset(path)
    assert dataset.name == path.name
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.class_names == tuple(NAMES)
    assert dataset.preprocessing.mode == "standardize"
    assert dataset.select("test").tolist() == list(range(60, 72))
    assert {name: len(indices) for name, indices in dataset.splits.items()} == {
        "train": 54,
        "calibration": 6,
        "test": 12,
    }
    assert not dataset.divided


def test_cifar100_has_its_fine_labels(tmp_path):
    rows = np.random.RandomState(0).randint(0, 256, (3, 3072), dtype=np.uint8)
    contents = {name: python2_batch(rows, [4, 90, 7], "fine_labels") for name in ("train", "test")}
    path = write_archive(tmp_path / "cifar-100-python.tar.gz", contents, "cifar-100-python")
    dataset = open_dataset(path)
    assert dataset.labels.tolist() == [4, 90, 7] * 2
    assert dataset.class_names == ()


def encode_call(text, encoding):
    """The bytes of a pickle of what `_codecs.encode` returns."""
    return b"\x80\x02c_codecs\nencode\n" + b"".join(
        b"X" + struct.pack("<i", len(value)) + value.encode() for value in (text, encoding)
    ) + b"\x86R."  # fmt: skip


def many_texts(count):
    """The bytes of a pickle that names one text any number of times, each of which would be bytes of their own."""
    start = (
        b"\x80\x02]c_codecs\nencode\nq\x00X" + struct.pack("<i", 1000) + b"a" * 1000 + b"q\x01X\x06\0\0\0latin1q\x02"
    )
    return start + b"0000](" + b"h\x00h\x01h\x02\x86R" * count + b"e."


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("touch attacked",)


def replaced(**changes):
    return lambda contents: contents | changes


def without(*names):
    return lambda contents: {name: data for name, data in contents.items() if name not in names}


WRONG = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            replaced(test_batch=pickle.dumps(Attack())),
            "test_batch in .* to be a pickle of CIFAR's authors. .*system.*run",
        ),
        (replaced(test_batch=pickle.dumps({"data": open})), "a pickle of something else"),
        (replaced(test_batch=b"\x80\x02}(U\x04dataq\x01"), "a damaged file"),
        (replaced(test_batch=encode_call("abc", "rot13")), "_codecs.encode of something else than bytes"),
        (replaced(test_batch=b"r\xff\xff\xff\xff."), "a damaged file, or a pickle of something else .too large"),
        (replaced(test_batch=pickle.dumps([1])), "a dictionary with data, labels. Received: list"),
        (replaced(test_batch=python2_batch(WRONG, [1])), "a class index for each of 2 images. Received: 1"),
        (replaced(test_batch=python2_batch(WRONG[:, :99], [1, 2])), "hold images, uint8"),
        (replaced(test_batch=python2_batch(WRONG, [1, 2]).replace(b"u1", b"i1")), "hold images, uint8"),
        (without("data_batch_3", "data_batch_5"), "the batches of cifar-10-batches-py .*no data_batch_3, data_batch_5"),
    ],
)
def test_what_is_refused(change, message, release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = change(release[0])
    for path in (write_archive(tmp_path / "cifar.tar.gz", contents), write_folder(tmp_path / "folder", contents)):
        with pytest.raises(InputError, match=message) as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists()


def test_a_text_that_is_named_many_times_is_refused(release, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_nin.data.cifar_files._MAX_BATCH_BYTES", 100_000)
    for count, message in ((90, "a dictionary with data, labels. Received: list"), (110, "too large")):
        path = write_folder(tmp_path / str(count), release[0] | {"test_batch": many_texts(count)})
        with pytest.raises(InputError, match=message):
            open_dataset(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_damaged_archive(share, release, tmp_path):
    data = write_archive(tmp_path / "whole.tar.gz", release[0]).read_bytes()
    (tmp_path / "cifar.tar.gz").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="an archive of CIFAR-10 or CIFAR-100"):
        open_dataset(tmp_path / "cifar.tar.gz")


def test_archives_of_something_else(release, tmp_path):
    other = write_archive(tmp_path / "other.tar.gz", release[0], "photos")
    with pytest.raises(InputError, match="one of the folders cifar-10-batches-py, cifar-100-python in an archive"):
        open_dataset(other)
    with pytest.raises(InputError, match="Datasets: .* CIFAR's archive work too"):
        open_dataset(tmp_path / "missing.tar.gz")
