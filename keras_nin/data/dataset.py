"""The record that images, labels, splits and preprocessing travel in, and the splits themselves."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import hashlib
import numbers
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_nin.data.preprocessing import Preprocessing, fit_image
from keras_nin.errors import check_choice, expected_error, input_error
from keras_nin.formatting import escape_unprintable

Indices: TypeAlias = npt.NDArray[np.int64]
# What a network takes: an array (N, ...), or one for each input by its name.
Samples: TypeAlias = npt.NDArray[Any] | dict[str, npt.NDArray[Any]]
Arrays: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Splits: TypeAlias = Mapping[str, Indices]
# Labels (N, ...) that are no class indices, by the name of the network's output; "" stands for the only one. Arrays, or
# what reads a part of them on demand, as `image_folder.MaskFiles`.
Targets: TypeAlias = Mapping[str, Any]
# (H, W, C), or the shapes without the batch by the name of the input.
InputShape: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]
IndexSequence: TypeAlias = Sequence[int] | Indices
ImageSize: TypeAlias = Sequence[int] | None

SPLITS = ("train", "calibration", "test")
_SPLIT_SOURCES = {
    "train": "To train, pass a folder with train/ and test/ (class folders in each) or an .npz with "
    "x_train, y_train, x_test and y_test.",
    "calibration": "Every fifth image of a folder or an .npz is for calibration: pass one with images.",
    "test": "Every fifth image of a folder or an .npz is for calibration, the others for tests: pass at least two.",
}
_LABEL_SOURCES = (
    "Put the images in class folders, start the file names with the class index (0536_dog.jpg), add a labels.csv, or "
    "put `labels` into the .npz."
)
# "0536_boat": a class index that starts a file's or folder's name, and what the class is called.
_NUMBERED_NAME = re.compile(r"(?P<number>[0-9]{1,5})(?:[ ._-]+(?P<name>.*))?", re.DOTALL)
_COUNTER = re.compile(r"[ ._-]+[0-9]+$")
# What may be the name of a class in a file's name: words, or the number of a noun in WordNet; and not DSC0123.
_WORDS = re.compile(r"[^\W\d_]+(?:[ ._-][^\W\d_]+)*|n[0-9]{8}")


class ImageSequence(Protocol):
    """Images by index; an array (N, H, W, C) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images, their labels and splits. Images of different splits are different images.

    Args:
        name: what reports call it.
        images: uint8 arrays (h, w, c), RGB or grayscale: an array (N, H, W, C), or a sequence that decodes on demand.
        labels, class_names: class indices, int64 (N,), or None; names by label, may be empty.
        preprocessing: the `Preprocessing` to use where a model brings none of its own; None for samples that are what
            a network takes.
        splits: index arrays by name, among train, calibration and test.
        names: what each image is called, such as its path in a folder; None where they have only numbers.
        noise: whether the images are random numbers, which say nothing about a network's accuracy.
        divided: whether the splits are those of `split_calibration`, because the source has none of its own.
        targets: labels that are no class indices, such as numbers and masks; see `with_targets`.

    Raises:
        ValueError: splits that overlap, repeat or leave the images; another number of labels or names than of images (a
            defect, not bad input).
    """

    name: str
    images: ImageSequence
    labels: Indices | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    splits: Splits
    names: tuple[str, ...] | None = None
    noise: bool = False
    divided: bool = False
    targets: Targets | None = None

    def __post_init__(self) -> None:
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.images)} images: {self._describe_splits()})"

    def _describe_splits(self) -> str:
        return ", ".join(f"{name} {len(indices)}" for name, indices in self.splits.items()) or "no splits"

    def describe_division(self) -> str:
        """Return how one source was divided between calibration and tests: "Split: every fifth of the 12 images..."."""
        calibration, test = (len(self.splits.get(name, ())) for name in ("calibration", "test"))
        total = f"{calibration + test:,} images of {self.name}"
        return f"Split: every fifth of the {total} is for calibration ({calibration:,}), the others test ({test:,})."

    def select(self, split: str, count: int | None = None, seed: int = 0) -> Indices:
        """Return the indices of `count` images of `split`: a seeded draw without repetition, sorted.

        None, or more than there are, gives the whole split in its own order.

        Raises:
            InputError: a count that is not positive; a split that this dataset does not have, or that is empty.
        """
        check_choice("split", split, SPLITS)
        indices = self.splits.get(split)
        if indices is None or len(indices) == 0:
            received = f"{self._describe_splits()}. {_SPLIT_SOURCES[split]}"
            raise input_error(f"images in the {split} split of {self.name!r}", received)
        if count is None or _check_count("count", count) >= len(indices):
            return indices
        drawn, _ = draw_indices(len(indices), count, seed)
        return np.sort(indices[drawn])

    def names_of(self, indices: Iterable[int]) -> list[str | int]:
        """Return what the images of `indices` are called: their names, else their indices."""
        return [int(index) if self.names is None else self.names[index] for index in indices]

    def with_targets(self, targets: Targets | None) -> Self:
        """Return the same images with labels that are no class indices: numbers, rows of them, or masks.

        Args:
            targets: arrays (N, ...) by the name of the network's output; "" stands for the only one.
        """
        dataset = copy.copy(self)
        object.__setattr__(dataset, "targets", targets or None)
        return dataset

    def answers_of(self, indices: npt.ArrayLike) -> Indices | dict[str, npt.NDArray[Any]] | None:
        """Return the labels of `indices`, those by the name of an output as a dictionary; None without labels."""
        part = np.asarray(indices, np.int64)
        if self.targets is not None:
            return {name: values[part] for name, values in self.targets.items()}
        return None if self.labels is None else self.labels[part]

    def labels_of(self, indices: npt.ArrayLike) -> Indices:
        """Return the labels of `indices`, int64; `InputError` where the dataset has none."""
        if self.labels is None:
            raise input_error("labeled images", f"{self.name!r}, which has no labels. {_LABEL_SOURCES}")
        return self.labels[np.asarray(indices)]

    def batches(
        self,
        indices: IndexSequence,
        size: ImageSize,
        channels: int | None,
        batch: int = 32,
        preprocessing: Preprocessing | None = None,
    ) -> Iterator[tuple[Samples, Any]]:
        """Yield (images, labels) for `indices` in their order, `batch` at a time; the last batch may be smaller.

        Args:
            indices: which images.
            size, channels: (H, W) in pixels, and 1 or 3.
            batch, preprocessing: images at a time; a `Preprocessing`, the dataset's own where None.

        Yields:
            float32 (n, H, W, channels), and the labels as `answers_of` returns them. An image that cannot be
            read, or that does not fit the preprocessing, is an `InputError`.
        """
        for start in range(0, len(indices), _check_count("batch", batch)):
            part = np.asarray(indices[start : start + batch], np.int64)
            yield self.load(part, size, channels, preprocessing), self.answers_of(part)

    def load(
        self, indices: IndexSequence, size: ImageSize, channels: int | None, preprocessing: Preprocessing | None = None
    ) -> Samples:
        """Return the images of `indices` as one float32 array (N, H, W, `channels`); arguments as in `batches`."""
        preprocessing = preprocessing or self.preprocessing
        if preprocessing is None or size is None or channels is None:
            raise ValueError("images need a preprocessing, a size and a number of channels")
        return preprocessing.apply((self.images[int(index)] for index in indices), size, channels)

    def load_pixels(
        self, indices: IndexSequence, size: ImageSize, channels: int | None, preprocessing: Preprocessing | None = None
    ) -> npt.NDArray[Any]:
        """Return the images of `indices` before the arithmetic of their preprocessing, uint8 (N, H, W, `channels`).

        Arrays that are fed as they are stay so.
        """
        if isinstance(self.images, np.ndarray) and self.images.shape[1:] == (*(size or ()), channels):
            return self.images[np.asarray(indices)]
        preprocessing = preprocessing or self.preprocessing
        if preprocessing is None or size is None or channels is None:
            return np.asarray(self.load(indices, size, channels))
        height, width = size
        crop = preprocessing.crop_fraction
        images = [fit_image(self.images[int(index)], (height, width), channels, crop) for index in indices]
        return np.stack(images) if images else np.empty((0, height, width, channels), np.uint8)

    def digest(self, indices: Iterable[int]) -> str:
        """Return the SHA-256 that names these images in this order: their shapes and pixels, and nothing else."""
        return hashlib.sha256(b"".join(map(self._hash, map(int, indices)))).hexdigest()

    def stored_digest(self, indices: Iterable[int]) -> str:
        """Return the SHA-256 over these images as they are stored, such as the bytes of their files; decodes none."""
        read = getattr(self.images, "read_stored", None)
        digest = hashlib.sha256()
        for index in map(int, indices):
            digest.update(_hash_image(self.images[index]) if read is None else hashlib.sha256(read(index)).digest())
        return digest.hexdigest()

    def image_digests(self, indices: Iterable[int]) -> set[str]:
        """Return the set of each image's own SHA-256: where two sets are disjoint, so are the images."""
        return {self._hash(int(index)).hex() for index in indices}

    @functools.cached_property
    def _hashes(self) -> dict[int, bytes]:
        return {}

    def _hash(self, index: int) -> bytes:
        """Return the SHA-256 of an image, which is decoded for it once."""
        if index not in self._hashes:
            self._hashes[index] = _hash_image(self.images[index])
        return self._hashes[index]


class NamedArrays(Dataset):
    """A `Dataset` of float32 arrays (N, ...) by the name of the network's input, to which no preprocessing applies."""

    images: _FlatSamples

    def __init__(
        self,
        name: str,
        arrays: Arrays,
        labels: Indices | None,
        splits: Splits,
        noise: bool = False,
        divided: bool = False,
    ) -> None:
        super().__init__(name, _FlatSamples(arrays), labels, (), None, splits, noise=noise, divided=divided)

    def load(self, indices, size=None, channels=None, preprocessing=None) -> Samples:
        """Return the samples of `indices`: a dictionary of arrays, or the array where there is one input."""
        samples = {name: array[np.asarray(indices)] for name, array in self.images.arrays.items()}
        return samples if len(samples) > 1 else next(iter(samples.values()))


class _FlatSamples:
    """Samples by index, each as one row of numbers, over which `Dataset.digest` takes its hash."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return np.concatenate([np.ravel(array[index]) for array in self.arrays.values()])


def get_class_names(dataset: Dataset, classes: int) -> tuple[str, ...]:
    """Return what each of the `classes` outputs of a network is called, "class 12" where the dataset does not say it.

    Names come from the dataset's own where it has one for each output, from class folders such as "0536_boat", and
    from file names such as "0536_boat.jpg" and "0536_boat_2.jpg", where those of a class agree on a word that no other
    class has. A dataset with other class names may number its classes differently from the network.
    """
    if len(dataset.class_names) == classes:
        known = dict(enumerate(dataset.class_names))
    elif dataset.labels is None or dataset.names is None:
        known = {}
    else:
        labeled_names = list(zip(dataset.labels.tolist(), map(pathlib.PurePath, dataset.names), strict=True))
        folders = ((label, _NUMBERED_NAME.fullmatch(path.parent.name)) for label, path in labeled_names)
        known = {label: match["name"] or "" for label, match in folders if match and int(match["number"]) == label}
        known = known or _class_names_by_file(labeled_names)
    return tuple(escape_unprintable(known.get(number, "").strip()) or f"class {number}" for number in range(classes))


def _class_names_by_file(labeled_names: list[tuple[int, pathlib.PurePath]]) -> dict[int, str]:
    candidates: dict[int, set[str]] = collections.defaultdict(set)
    for label, path in labeled_names:
        match = _NUMBERED_NAME.fullmatch(path.stem)
        if match is None or int(match["number"]) != label:
            return {}
        candidates[label].add(_COUNTER.sub("", match["name"] or ""))
    names = {label: words.pop() for label, words in candidates.items() if len(words) == 1}
    frequency = collections.Counter(names.values())
    return {label: name for label, name in names.items() if frequency[name] == 1 and _WORDS.fullmatch(name)}


def _hash_image(image: npt.NDArray[Any]) -> bytes:
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()


def _check_count(argument: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value <= 0:
        raise expected_error(argument, "to be a number of images, at least 1", value)
    return int(value)


def check_samples(
    what: str, array: npt.NDArray[Any], shape: Sequence[int] | None, **fields: Any
) -> npt.NDArray[np.float32]:
    """Return an array as float32 samples (N, *shape) of a network's input; `fields` are those of the `InputError`."""
    fits = array.ndim > 0 if shape is None else array.shape[1:] == tuple(shape)
    if array.dtype.kind not in "fiu" or not fits or array.size == 0:
        expected = "..." if shape is None else ", ".join(map(str, shape))
        raise input_error(f"{what} to be numbers (N, {expected})", f"{array.dtype} {array.shape}", **fields)
    samples = array.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise input_error(f"{what} to be finite numbers", "NaN or infinity", **fields)
    return samples


def is_class_indices(labels: npt.NDArray[Any], count: int) -> bool:
    """Whether labels are one class index, a whole number from 0, for each of `count` samples."""
    fits = labels.shape in ((count,), (count, 1)) and labels.dtype.kind in "iu"
    return fits and (count == 0 or int(labels.min()) >= 0)


def check_targets(what: str, array: npt.ArrayLike, count: int, **fields: Any) -> npt.NDArray[Any]:
    """Return labels (count, ...) of an output as an array of finite numbers; `fields` are those of the `InputError`."""
    targets = np.asarray(array)
    if targets.dtype.kind not in "fiub" or targets.ndim == 0 or len(targets) != count:
        expected = f"{what} to be numbers, class indices, rows or masks of {count} samples"
        raise input_error(expected, f"{targets.dtype} {targets.shape}", **fields)
    if targets.dtype.kind == "f" and not np.isfinite(targets).all():
        raise input_error(f"{what} to be finite numbers", "NaN or infinity", **fields)
    return targets


def split_image_shape(shape: InputShape) -> tuple[tuple[int, ...], int] | tuple[None, None]:
    """Return ((H, W), C) of an input (H, W, C), as `Dataset.load` takes it; (None, None) for inputs by name."""
    return (None, None) if isinstance(shape, Mapping) else (tuple(shape[:-1]), shape[-1])


def seeded_generator(seed: int) -> np.random.RandomState:
    """Return the random generator of `seed` (0 to 2**32 - 1); `InputError` for any other seed.

    RandomState and not `default_rng`: NumPy promises that its numbers never change between versions (NEP 19), so a
    published calibration set or accuracy names the same images forever.
    """
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise expected_error("seed", "to be a whole number from 0 to 4294967295", seed)
    return np.random.RandomState(int(seed))


def take_every(count: int, step: int, limit: int | None = None) -> tuple[Indices, Indices]:
    """Return (taken, rest) of the indices 0 to `count` - 1: 0, `step`, 2 * `step`, ..., at most `limit` of them."""
    indices = np.arange(count, dtype=np.int64)
    taken = indices[::step][:limit]
    return taken, np.setdiff1d(indices, taken)


def split_calibration(count: int, split: str | None = None) -> dict[str, Indices]:
    """Return the splits of `count` images without training: every fifth for calibration, the others for tests.

    A `split` takes all of them.
    """
    if split is not None:
        return {split: np.arange(count, dtype=np.int64)}
    calibration, test = take_every(count, 5)
    return {"calibration": calibration, "test": test}


def draw_indices(count: int, number: int, seed: int) -> tuple[Indices, Indices]:
    """Return (drawn, rest), both sorted: `number` of the indices 0 to `count` - 1 at random, without repetition."""
    shuffled = seeded_generator(seed).permutation(count).astype(np.int64)
    return np.sort(shuffled[:number]), np.sort(shuffled[number:])
