import itertools

import numpy as np
import pytest
from PIL import Image

from keras_nin.data import open_dataset
from keras_nin.errors import InputError

_grey = itertools.count()


def fill(folder, *names):
    """Write a small image of its own grey under every name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (next(_grey) % 256,) * 3).save(path)


def names_of(photos, split):
    paths = photos.images.paths
    return [f"{paths[index].parent.name}/{paths[index].name}" for index in photos.select(split)]


def test_flat_with_numbers_in_the_names(tmp_path):
    fill(tmp_path, *(f"{index:04}_x.png" for index in range(2, 26, 2)))
    photos = open_dataset(tmp_path)
    assert photos.name == tmp_path.name
    assert photos.labels.tolist() == list(range(2, 26, 2))
    assert photos.select("calibration").tolist() == [0, 5, 10]
    assert photos.names_of([1, 0]) == ["0004_x.png", "0002_x.png"]
    assert photos.select("test").tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert photos.class_names == ()
    assert (photos.preprocessing.mode, photos.preprocessing.crop_fraction) == ("unit", 0.875)
    with pytest.raises(InputError, match="pass a folder with train/ and test/"):
        photos.select("train")


def test_flat_without_numbers_has_no_labels(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    photos = open_dataset(tmp_path)
    assert photos.labels is None
    images, labels = next(photos.batches(photos.select("test"), (4, 4), 3))
    assert (images.shape, labels) == ((1, 4, 4, 3), None)


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "truth.txt"])
def test_flat_with_a_labels_file(tmp_path, name):
    fill(tmp_path, "0_b.png", "1_a.png", "2_c.png")
    (tmp_path / name).write_text("1_a.png,cat\n0_b.png,dog\n2_c.png,cat\n")
    photos = open_dataset(tmp_path, labels=tmp_path / name if name == "truth.txt" else None)
    assert photos.labels.tolist() == [1, 0, 0]
    assert photos.class_names == ("cat", "dog")


def test_a_folder_beside_flat_images_may_hold_other_things(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "notes").mkdir()
    assert len(open_dataset(tmp_path).images) == 1


def test_class_folders(tmp_path):
    fill(tmp_path, *(f"{name}/{index}.png" for name in ["dog", "cat"] for index in range(4)))
    (tmp_path / "readme.txt").write_text("not an image")
    photos = open_dataset(tmp_path)
    assert photos.class_names == ("cat", "dog")
    assert photos.labels.tolist() == [0] * 4 + [1] * 4
    assert names_of(photos, "calibration") == photos.names_of([0, 5]) == ["cat/0.png", "dog/1.png"]
    assert len(photos.select("test")) == 6


def test_numbered_class_folders(tmp_path):
    fill(tmp_path, "536_dock/a.png", "7_cock/a.png")
    photos = open_dataset(tmp_path)
    assert photos.labels.tolist() == [536, 7]
    assert photos.class_names == ()


def test_one_numbered_class_folder(tmp_path):
    fill(tmp_path, "536_dock/a.png")
    assert open_dataset(tmp_path).labels.tolist() == [536]


@pytest.mark.parametrize("tests", ["test", "val"])
def test_train_and_test(tmp_path, tests):
    fill(tmp_path, *(f"train/{name}/{index}.png" for name in "ba" for index in range(6)))
    fill(tmp_path, f"{tests}/b/0.png", f"{tests}/b/1.png")
    photos = open_dataset(tmp_path)
    assert names_of(photos, "calibration") == ["a/0.png", "a/5.png", "b/4.png"]
    assert len(photos.select("train")) == 9
    assert names_of(photos, "test") == ["b/0.png", "b/1.png"]
    assert photos.labels.tolist() == [0] * 6 + [1] * 6 + [1] * 2  # class b is 1, though test has no a
    assert photos.class_names == ("a", "b")


def test_numbered_classes_of_train_and_test_agree(tmp_path):
    fill(tmp_path, "train/3_x/0.png", "train/9_y/0.png", "test/9_y/1.png")
    assert open_dataset(tmp_path).labels.tolist() == [3, 9, 9]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "bus/0.png", "train/0.png")
    assert open_dataset(tmp_path).class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "Expected images .* directly or in class folders. Received: none"),
        (["a.png", "cat/b.png"], "either directly .* or in class folders. Received: both"),
        (["train/a/0.png"], r"Expected test/ or val/ beside '.*train'. Received: train"),
        (["train/a/0.png", "test/c/0.png"], "to be in train/ too. Received: 'c'"),
        (["train/0_a.png", "test/0_a.png"], "Expected images .* in class folders in '.*train'"),
        (["train/a/0.png", "test/0.png"], "Expected images .* in class folders in '.*test'"),
        (["x/y/0.png"], "Expected images .* in class folders"),
        (["photos/0.png"], "Expected several class folders .* Received: one. Pass '.*photos'"),
        (["1_a/0.png", "01_b/0.png"], "different numbers"),
    ],
)
def test_a_folder_of_no_layout_is_refused(tmp_path, files, message):
    fill(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path)


def test_a_labels_file_goes_with_flat_images(tmp_path):
    fill(tmp_path, "cat/a.png")
    with pytest.raises(InputError, match="to go with a labels file. Received: class folders"):
        open_dataset(tmp_path, labels="labels.csv")


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(b"")
    photos = open_dataset(tmp_path)
    photos.load(photos.select("calibration"), (4, 4), 3)
    with pytest.raises(InputError, match=r"b\.png"):
        photos.load(photos.select("test"), (4, 4), 3)


@pytest.mark.external
def test_imagenet_samples(external_data):
    photos = open_dataset(external_data / "images" / "imagenet_samples")
    calibration, test = photos.select("calibration"), photos.select("test")
    assert (len(calibration), len(test)) == (100, 400)
    assert photos.labels.tolist() == list(range(0, 1000, 2))
    digests = photos.image_digests(calibration), photos.image_digests(test)
    assert [len(each) for each in digests] == [100, 400]
    assert digests[0].isdisjoint(digests[1])
    # Their short side is 256: 224 at 0.875 is a crop without resampling.
    image = photos.images[0]
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    expected = image[top : top + 224, left : left + 224] / np.float32(255)
    np.testing.assert_array_equal(photos.load([0], (224, 224), 3)[0], expected)
