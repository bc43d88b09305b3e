"""Which images are for what: reproducible draws, and every n-th image of a list."""

import collections.abc
import dataclasses
import hashlib
import numbers

import numpy as np

from keras_nin.data.preprocessing import Preprocessing
from keras_nin.errors import InputError, check_choice

SPLITS = ("train", "calibration", "test")


def seeded_generator(seed):
    """Return the random generator of `seed` (0 to 2**32 - 1); `InputError` for any other seed.

    RandomState and not `default_rng`: NumPy promises that its numbers never change between versions (NEP 19), so a
    published calibration set or accuracy names the same images for ever.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"Expected `seed` to be a whole number from 0 to 4294967295. Received: {seed!r}")
    return np.random.RandomState(int(seed))


def take_every(count, step, limit=None):
    """Return (taken, rest) of the indices 0 to `count` - 1: 0, `step`, 2 * `step`, ..., at most `limit` of them."""
    indices = np.arange(count, dtype=np.int64)
    taken = indices[::step][:limit]
    return taken, np.setdiff1d(indices, taken)


def draw_indices(count, number, seed):
    """Return (taken, rest), both sorted: `number` of the indices 0 to `count` - 1 at random, without repetition."""
    shuffled = seeded_generator(seed).permutation(count).astype(np.int64)
    return np.sort(shuffled[:number]), np.sort(shuffled[number:])


# MERGED The one record that images, labels, splits and preprocessing travel in.

_SUPPLY = {
    "train": "To train, pass a folder with train/ and test/ (class folders in each) or an .npz with "
    "x_train, y_train, x_test and y_test.",
    "calibration": "Every fifth image of a folder or an .npz is for calibration: pass one with images.",
    "test": "Every fifth image of a folder or an .npz is for calibration, the others for tests: pass at least two.",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images with what belongs to them. Images of different splits are different images.

    Args:
        name: what reports call it.
        images: sequence of uint8 arrays (h, w, c), RGB or grey: an array (N, H, W, C), or one that decodes on demand.
        labels: class indices, int64 (N,), or None.
        class_names: tuple indexed by label; may be empty.
        preprocessing: the `Preprocessing` to use where a model brings none of its own.
        splits: index arrays by name, among train, calibration and test.
        names: what each image is called, such as its path in a folder; None where they have numbers alone.
        noise: whether the images are random numbers, which say nothing of what a network is for.

    Raises:
        ValueError: splits that overlap, repeat or leave the images; another number of labels or names than of images (a
            defect, not bad input).
    """

    name: str
    images: collections.abc.Sequence
    labels: np.ndarray | None
    class_names: tuple
    preprocessing: Preprocessing
    splits: collections.abc.Mapping
    names: tuple | None = None
    noise: bool = False

    def __post_init__(self):
        if self.labels is not None:
            object.__setattr__(self, "labels", np.asarray(self.labels, np.int64))
            if self.labels.shape != (len(self.images),):
                raise ValueError(f"{len(self.images)} images, but labels of shape {self.labels.shape}")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.names is not None and len(self.names) != len(self.images):
            raise ValueError(f"{len(self.images)} images, but {len(self.names)} names")
        splits = {name: np.array(indices, np.int64) for name, indices in self.splits.items()}
        for indices in splits.values():
            indices.setflags(write=False)  # `select` hands them out
        object.__setattr__(self, "splits", splits)
        if not set(splits) <= set(SPLITS):
            raise ValueError(f"splits must be among {SPLITS}, not {tuple(splits)}")
        used = np.concatenate([*splits.values(), np.empty(0, np.int64)])
        if len(np.unique(used)) != len(used):
            raise ValueError("the splits share or repeat images")
        if len(used) and not 0 <= used.min() <= used.max() < len(self.images):
            raise ValueError(f"the splits name images outside 0 to {len(self.images) - 1}")

    def __repr__(self):
        return f"Dataset({self.name!r}, {len(self.images)} images: {self._split_sizes()})"

    def _split_sizes(self):
        return ", ".join(f"{name} {len(indices)}" for name, indices in self.splits.items()) or "no splits"

    def select(self, split, count=None, seed=0):
        """Return the indices of `count` images of `split`: a seeded draw without repetition, sorted.

        None, or more than there are, gives the whole split in its own order.

        Raises:
            InputError: a count that is not positive; a split that this dataset does not have, or that is empty.
        """
        indices = self.splits.get(check_choice("split", split, SPLITS), ())
        if len(indices) == 0:
            has = self._split_sizes()
            raise InputError(
                f"Expected images in the {split} split of {self.name!r}. Received: {has}. {_SUPPLY[split]}"
            )
        if count is None:
            return indices
        if _check_count("count", count) >= len(indices):
            return indices
        taken, _ = draw_indices(len(indices), count, seed)
        return np.sort(indices[taken])

    def names_of(self, indices):
        """Return what the images of `indices` are called, in a list: their names, else their indices."""
        return [int(index) if self.names is None else self.names[index] for index in indices]

    def labels_of(self, indices):
        """Return the labels of `indices`, int64; `InputError` where the dataset has none."""
        if self.labels is None:
            raise InputError(
                f"Expected labelled images. Received: {self.name!r}, which has no labels. Put the images in class "
                "folders, start the file names with the class index (0536_dog.jpg), add a labels.csv, or put `labels` "
                "into the .npz."
            )
        return self.labels[indices]

    def batches(self, indices, size, channels, batch=32, preprocessing=None):
        """Yield (images, labels) for `indices` in their order, `batch` at a time.

        Args:
            indices: which images.
            size: (H, W) in pixels.
            channels: 1 or 3.
            batch: images at a time; the last batch may be smaller.
            preprocessing: a `Preprocessing`; the dataset's own where None.

        Yields:
            float32 (n, H, W, channels), and int64 (n,) or None for a dataset without labels.

        Raises:
            InputError: an image that cannot be read, or that does not fit the preprocessing.
        """
        for start in range(0, len(indices), _check_count("batch", batch)):
            part = np.asarray(indices[start : start + batch], np.int64)
            labels = None if self.labels is None else self.labels[part]
            yield self.load(part, size, channels, preprocessing), labels

    def load(self, indices, size, channels, preprocessing=None):
        """Return the images of `indices` as one float32 array (N, H, W, `channels`); arguments as in `batches`."""
        images = (self.images[int(index)] for index in indices)
        return (preprocessing or self.preprocessing).apply(images, size, channels)

    def digest(self, indices):
        """Return the SHA-256 that names these images in this order: their shapes and pixels, and nothing else."""
        whole = hashlib.sha256()
        for index in indices:
            whole.update(_image_digest(self.images[int(index)]))
        return whole.hexdigest()

    def image_digests(self, indices):
        """Return the set of each image's own SHA-256: where two sets are disjoint, so are the images."""
        return {_image_digest(self.images[int(index)]).hex() for index in indices}


def _image_digest(image):
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _check_count(name, value):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value <= 0:
        raise InputError(f"Expected `{name}` to be a number of images, at least 1. Received: {value!r}")
    return int(value)
