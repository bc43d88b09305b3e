"""The handwritten digits that come with scikit-learn: small, offline, the default of the embedded examples."""

import numpy as np

from keras_nin.data.dataset import Dataset
from keras_nin.data.preprocessing import preset
from keras_nin.data.splits import generator

_SPLIT_SEED = 0
_CALIBRATION_PER_CLASS = 10


def digits():
    """Return scikit-learn's digits: 1,797 images 8x8x1, ten classes, values 0 to 16 scaled to 0 to 255.

    Splits, the same at every call and even over the classes: test a fifth (359), calibration 100, train the other
    1,338. Preprocessing: unit.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = source.target.astype(np.int64)
    names = tuple(str(name) for name in source.target_names)
    return Dataset("digits", images, labels, names, preset("unit"), _split(labels))


def _split(labels):
    random = generator(_SPLIT_SEED)
    parts = {"train": [], "calibration": [], "test": []}
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        test = round(len(members) / 5)
        parts["test"].append(members[:test])
        parts["calibration"].append(members[test : test + _CALIBRATION_PER_CLASS])
        parts["train"].append(members[test + _CALIBRATION_PER_CLASS :])
    return {name: np.sort(np.concatenate(indices)) for name, indices in parts.items()}
