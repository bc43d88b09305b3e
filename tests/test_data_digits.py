import numpy as np

from keras_nin.data import open_dataset


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
