"""The dataset record, its splits, and the names of its classes."""

import numpy as np
import pytest

from keras_nin.data import Dataset, Preprocessing, get_class_names, open_dataset, split_image_shape
from keras_nin.data.dataset import draw_indices, seeded_generator, take_every
from keras_nin.errors import InputError

UNIT = Preprocessing("unit")


def dataset(labeled=True, **changes):
    images = np.random.RandomState(0).randint(0, 256, (20, 6, 6, 3), dtype=np.uint8)
    fields = {
        "name": "photos",
        "images": images,
        "labels": np.arange(20) % 4 if labeled else None,
        "class_names": tuple("abcd"),
        "preprocessing": UNIT,
        "splits": {"train": np.arange(10)[::-1], "calibration": [15, 11, 13], "test": [16, 17, 18, 19]},
    }
    return Dataset(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"train": [0, 1], "test": [1, 2]}}, "share or repeat"),
        ({"splits": {"test": [1, 1]}}, "share or repeat"),
        ({"splits": {"validation": [1]}}, "must be among"),
        ({"splits": {"test": [20]}}, "outside 0 to 19"),
        ({"splits": {"test": [-1]}}, "outside 0 to 19"),
        ({"labels": np.zeros(19)}, "20 images, but labels of shape"),
        ({"names": ("a", "b")}, "20 images, but 2 names"),
    ],
)
def test_a_record_that_contradicts_itself_is_a_defect(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        dataset(**changes)
    assert not isinstance(caught.value, InputError)


def test_select_gives_the_whole_split_in_its_order():
    assert dataset().select("calibration").tolist() == [15, 11, 13]
    assert dataset().select("calibration", count=3).tolist() == [15, 11, 13]
    assert dataset().select("calibration", count=400).tolist() == [15, 11, 13]


def test_select_draws_a_seeded_sample_without_repetition_sorted():
    one = dataset().select("train", 6, seed=1)
    assert one.tolist() == sorted(set(one.tolist()))
    assert len(one) == 6
    assert set(one.tolist()) <= set(range(10))
    np.testing.assert_array_equal(one, dataset().select("train", 6, seed=1))
    assert tuple(dataset().select("calibration", 2)) in {(11, 13), (11, 15), (13, 15)}
    assert len({tuple(dataset().select("train", 6, seed=seed)) for seed in range(5)}) > 1


def test_select_cannot_change_the_split():
    with pytest.raises(ValueError, match="read-only"):
        dataset().select("train")[0] = 5


@pytest.mark.parametrize("count", [0, -3, 2.5, "10", True])
def test_select_refuses_a_count_that_is_none(count):
    with pytest.raises(InputError, match=f"Expected `count` .* Received: {count!r}"):
        dataset().select("test", count)


def test_select_says_what_there_is_and_how_to_supply_the_rest():
    photos = dataset(splits={"calibration": [0], "test": []})
    with pytest.raises(
        InputError, match=r"train split of 'photos'. Received: calibration 1, test 0. .*train/ and test/"
    ):
        photos.select("train")
    with pytest.raises(InputError, match="test split of 'photos'"):
        photos.select("test")
    with pytest.raises(InputError, match="Expected `split` to be one of train, calibration, test"):
        photos.select("validation")


def test_batches_cover_the_indices_in_order_with_their_labels():
    photos = dataset()
    batches = list(photos.batches([9, 3, 5, 0, 7], size=(6, 6), channels=3, batch=2))
    assert [len(images) for images, _ in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), photos.labels[[9, 3, 5, 0, 7]])
    images = np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(images, photos.images[[9, 3, 5, 0, 7]] / np.float32(255))
    np.testing.assert_array_equal(images, photos.load([9, 3, 5, 0, 7], (6, 6), 3))


def test_a_models_preprocessing_replaces_the_datasets():
    photos = dataset()
    images, _ = next(photos.batches([0], (6, 6), 3, preprocessing=Preprocessing("raw")))
    np.testing.assert_array_equal(images[0], photos.images[0])


def test_images_are_read_one_batch_at_a_time():
    class Counting:
        reads = 0

        def __len__(self):
            return 20

        def __getitem__(self, index):
            self.reads += 1
            return np.zeros((6, 6, 3), np.uint8)

    photos = dataset(images=Counting())
    next(photos.batches(range(20), (6, 6), 3, batch=4))
    assert photos.images.reads == 4


def test_without_labels():
    photos = dataset(labeled=False)
    assert next(photos.batches([0], (6, 6), 3))[1] is None
    with pytest.raises(InputError, match=r"'photos', which has no labels\. .*class folders"):
        photos.labels_of([0])
    assert dataset().labels_of([5, 2]).tolist() == [1, 2]


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_a_batch_of_no_images_is_refused(batch):
    with pytest.raises(InputError, match="Expected `batch`"):
        next(dataset().batches([0], (6, 6), 3, batch=batch))


def test_the_digest_names_pixels_and_order_and_nothing_else():
    photos = dataset()
    renamed = dataset(labeled=False, name="other", preprocessing=Preprocessing("raw"), splits={}, class_names=())
    assert len(photos.digest([1, 2])) == 64
    assert photos.digest([1, 2]) == renamed.digest(np.array([1, 2]))
    assert photos.digest([1, 2]) != photos.digest([2, 1])
    assert photos.digest([1, 2]) != photos.digest([1])
    changed = photos.images.copy()
    changed[2, 5, 5, 2] ^= 1
    assert photos.digest([1, 2]) != dataset(images=changed).digest([1, 2])
    turned = [image.reshape(9, 4, 3) for image in photos.images]
    assert photos.digest([1]) != dataset(images=turned).digest([1])


def test_image_digests_find_a_shared_image_under_another_index():
    photos = dataset()
    doubled = photos.images.copy()
    doubled[16] = doubled[15]
    copy = dataset(images=doubled)
    assert photos.image_digests([15, 11, 13]).isdisjoint(photos.image_digests([16, 17]))
    assert len(copy.image_digests([15, 11, 13]) & copy.image_digests([16, 17])) == 1


def test_every_takes_from_the_first_and_leaves_the_rest_in_order():
    taken, rest = take_every(12, 5)
    assert taken.tolist() == [0, 5, 10]
    assert rest.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 11]
    assert take_every(12, 5, limit=2)[0].tolist() == [0, 5]


def test_draw_is_a_seeded_partition():
    taken, rest = draw_indices(50, 10, seed=3)
    assert len(taken) == 10
    assert sorted([*taken, *rest]) == list(range(50))
    assert np.all(np.diff(taken) > 0)
    np.testing.assert_array_equal(taken, draw_indices(50, 10, seed=3)[0])
    assert taken.tolist() != draw_indices(50, 10, seed=4)[0].tolist()


def test_a_seed_gives_these_numbers_for_ever():
    assert seeded_generator(0).permutation(10).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", None, True])
def test_a_seed_outside_the_range_is_refused(seed):
    with pytest.raises(InputError, match="Expected `seed`"):
        seeded_generator(seed)


def named(names, labels, class_names=()):
    """A dataset of which the names are known, and no images."""
    return Dataset("names", [None] * len(names), labels, class_names, Preprocessing("unit"), {}, names)


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("2_boat/a.png", "2_boat/b.png", "0_fish/1.png"), (2, 2, 0), ("fish", "class 1", "boat", "class 3")),
        (("train/1/a.png", "train/3 - sea  lion/b.png"), (1, 3), ("class 0", "class 1", "class 2", "sea  lion")),
        (("0_n01440764.jpg", "3_n02.jpg"), (0, 3), ("n01440764", "class 1", "class 2", "class 3")),
        (("0_boat.jpg", "2_sea lion_1.jpg", "2_sea lion_2.jpg"), (0, 2, 2), ("boat", "class 1", "sea lion", "class 3")),
        (("0_boat.jpg", "0_fish.jpg", "2_cat.jpg"), (0, 0, 2), ("class 0", "class 1", "cat", "class 3")),
        (("0_IMG_123.jpg", "1_IMG_124.jpg"), (0, 1), ("class 0", "class 1", "class 2", "class 3")),
        (("0_DSC123.jpg", "1_DSC124.jpg"), (0, 1), ("class 0", "class 1", "class 2", "class 3")),
        (("0_boat.jpg", "1_fish.jpg"), (1, 0), ("class 0", "class 1", "class 2", "class 3")),  # of a labels file
        (("a.png", "b.png"), (0, 1), ("class 0", "class 1", "class 2", "class 3")),
    ],
)
def test_names_of_classes_from_names_of_files(names, labels, expected):
    assert get_class_names(named(names, labels), 4) == expected


def test_names_of_classes_are_the_datasets_where_it_counts_as_the_network_does():
    names, labels = ("cat/a.png", "dog/a.png"), (0, 1)
    assert get_class_names(named(names, labels, ("cat", "dog")), 2) == ("cat", "dog")
    assert get_class_names(named(names, labels, ("cat", "dog")), 3) == ("class 0", "class 1", "class 2")
    assert get_class_names(open_dataset("digits"), 10) == tuple("0123456789")
    assert get_class_names(open_dataset("random", input_shape=(2, 2, 1)), 2) == ("class 0", "class 1")


def test_a_name_is_one_line():
    assert get_class_names(named(("a/a", "b/b"), (0, 1), ("two\nlines", " ")), 2) == ("two\\nlines", "class 1")


def test_the_size_of_an_image():
    assert split_image_shape((4, 5, 3)) == ((4, 5), 3)
    assert split_image_shape({"picture": (4, 5, 3)}) == (None, None)
