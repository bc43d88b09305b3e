import pytest

from keras_nin.data import Dataset, Preprocessing, open_dataset
from keras_nin.data.image_folder import get_class_names, index_classes, labels_from_file_names, read_labels_file
from keras_nin.errors import InputError

NAMES = ["a.jpg", "b.jpg", "c d.jpg"]


def read(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    labels, class_names = read_labels_file(path, NAMES)
    return labels.tolist(), class_names


def test_class_folders_are_numbered_in_sorted_order():
    assert index_classes(["dog", "Bird", "cat"]) == ({"Bird": 0, "cat": 1, "dog": 2}, ("Bird", "cat", "dog"))


def test_one_name_without_a_number_makes_all_of_them_names():
    assert index_classes(["3d", "cat"])[0] == {"3d": 0, "cat": 1}


def test_numbered_class_folders_keep_their_number():
    assert index_classes(["10_b", "9_a"]) == ({"10_b": 10, "9_a": 9}, ())
    assert index_classes(["1", "0", "02-c"]) == ({"0": 0, "02-c": 2, "1": 1}, ("0", "1", "02-c"))


def test_dates_are_names():
    assert index_classes(["20240101", "20240102"])[0] == {"20240101": 0, "20240102": 1}


def test_two_class_folders_with_one_number_are_refused():
    with pytest.raises(InputError, match="Received: '07_cat' and '7_dog'"):
        index_classes(["7_dog", "07_cat", "1_x"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0536_n03216828.jpg", "7-x.png", "12 y.jpg", "3.z.jpg"], [536, 7, 12, 3]),
        (["0001.jpg", "0002.jpg"], None),
        (["20240101_120000.jpg"], None),
        (["1_a.jpg", "b.jpg"], None),
        (["IMG_0001.jpg"], None),
    ],
)
def test_file_names(names, expected):
    labels = labels_from_file_names(names)
    assert (labels is None and expected is None) or labels.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,2\nb.jpg,0\nc d.jpg,11\n",
        "\ufeffc d.jpg 11\r\na.jpg 2\r\n\r\nb.jpg\t0",
        b'\xef\xbb\xbffilename,label\na.jpg, 2\nb.jpg ,0\n"c d.jpg",11\n',
    ],
)
def test_indices_from_a_file(tmp_path, text):
    assert read(tmp_path, text) == ([2, 0, 11], ())


def test_names_from_a_file(tmp_path):
    assert read(tmp_path, 'a.jpg,dog\nb.jpg,"cat, wild"\nc d.jpg,dog') == ([1, 0, 1], ("cat, wild", "dog"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,2\nb.jpg,0", r"no entry for 'c d\.jpg' \(1 images without entry, 0 entries"),
        ("a.jpg,2\nb.jpg,0\nc d.jpg,1\ne.jpg,1", r"an entry for 'e\.jpg', which is not there \(0 .*, 1 entries"),
        ("a.jpg,2\nb.jpg,0\na.jpg,1", r"line 3 .*a second entry"),
        ("a.jpg,2\nb.jpg", r"line 2 .*not a name and a label: 'b\.jpg'"),
        ("a.jpg,2\nb.jpg,", "line 2"),
        ("a.jpg,2,3", "line 1"),
        ("goldfish\ntench\n", "line 2"),
        ("a.jpg,2\nb.jpg,cat\nc d.jpg,1", "all whole numbers from 0, or all class names. Received: '2' and 'cat'"),
        ("a.jpg,-1\nb.jpg,0\nc d.jpg,1", "Received: '0' and '-1'"),
        ("", "no entry for 'a.jpg'"),
        (b"\xff\xfea", "UTF-8"),
    ],
)
def test_a_file_that_does_not_match_the_images_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert "labels.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt"):
        read_labels_file(tmp_path / "absent.txt", NAMES)


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
