"""Training batches: shuffled, shifted and mirrored by a seed and the number of the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from keras_nin.data.dataset import Indices

if TYPE_CHECKING:
    from keras_nin.train.training import Recipe

# The images at some positions, as the input "image" of a `TrainingModel`.
ImageLoader = Callable[[Indices], npt.NDArray[Any]]


class TrainingBatches(keras.utils.PyDataset):
    """Batches of (images (n, H, W, C), targets); order and random changes depend only on seed and epoch.

    Targets are the labels (n,). With `answers`, a function from images to targets (n, classes), the images are mixed in
    pairs, and the targets are its answers to the mixtures: for the images on which it was trained, a network answers
    little more than their labels.
    """

    def __init__(
        self,
        images: npt.NDArray[Any],
        labels: npt.NDArray[Any],
        recipe: Recipe,
        seed: int,
        answers: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.images, self.labels, self.recipe, self.seed, self.answers = images, labels, recipe, seed, answers
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Take the order and the random changes of `epoch` (from 0)."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))

    def __len__(self) -> int:
        return -(-len(self.images) // self.recipe.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        size = self.recipe.batch_size
        indices = self.order[index * size : (index + 1) * size]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        images = augment_images(self.images[indices], self.recipe, rng)
        if self.answers is None:
            return images, self.labels[indices]
        share = rng.uniform(size=(len(images), 1, 1, 1)).astype(images.dtype)
        images = share * images + (1 - share) * images[::-1]
        return images, self.answers(images)


class StepBatches(keras.utils.PyDataset):
    """Training batches of a `TrainingModel`: (its inputs, one-hot labels (B, classes)).

    Order and random changes depend only on the seed and the epoch. The images that do not fill a last batch are left
    out of an epoch, other ones in each.

    Args:
        load: returns the images at some positions.
        labels, classes: class indices (N,), and how many classes there are.
        size: (H, W) in pixels.
        recipe, seed: what is random, and its seed.
        share: (number of this process, number of processes): which part of every batch is this process's.
    """

    def __init__(
        self,
        load: ImageLoader,
        labels: Indices,
        classes: int,
        size: tuple[int, int],
        recipe: Recipe,
        seed: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.load, self.labels, self.classes = load, labels, classes
        self.size, self.recipe, self.seed = size, recipe, seed
        self.process = share
        self.batch_size = recipe.step_size(len(labels))
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Draw the order and the random changes of `epoch` (from 0)."""
        self.epoch = epoch
        recipe, count, rng = self.recipe, len(self.labels), np.random.default_rng((self.seed, epoch))
        self.order = rng.permutation(count)
        mirrored = rng.integers(0, 1 + recipe.flip, count)
        shifts = rng.integers(-recipe.shift, recipe.shift + 1, (2, count))
        corners = [rng.integers(0, side, count) - recipe.cutout // 2 for side in self.size]
        # The columns of `training_model.TRANSFORM`.
        self.transform = np.stack([mirrored, *shifts, *corners], axis=1).astype(np.int32)
        self.mixed_share = np.repeat(rng.beta(recipe.mixup, recipe.mixup, -(-count // 2)), 2) if recipe.mixup else None

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __getitem__(self, index: int) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
        part = _slice_batch(index, self.batch_size, self.process)
        positions = self.order[part]
        inputs = {"image": self.load(positions), "transform": self.transform[part]}
        targets = _one_hot(self.labels[positions], self.classes)
        if self.mixed_share is not None:
            inputs["share"] = self.mixed_share[part].astype(np.float32)
            share: Any = inputs["share"][:, None]
            neighbors = targets.reshape(-1, 2, targets.shape[1])[:, ::-1].reshape(targets.shape)
            targets = share * targets + (1 - share) * neighbors
        return inputs, targets


class FixedBatches(keras.utils.PyDataset):
    """All images in their order without random changes, as `StepBatches`; the last batch may be smaller."""

    def __init__(
        self,
        load: ImageLoader,
        labels: Indices,
        classes: int,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.load, self.labels, self.classes = load, labels, classes
        self.batch_size, self.process = batch_size, share

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]:
        count = len(self.labels)
        size = min(self.batch_size, count - index * self.batch_size)
        start = index * self.batch_size
        positions = np.arange(count)[start : start + size][_slice_batch(0, size, self.process)]
        return {"image": self.load(positions)}, _one_hot(self.labels[positions], self.classes)


def _one_hot(labels: Indices, classes: int) -> npt.NDArray[np.float32]:
    targets = np.zeros((len(labels), classes), np.float32)
    targets[np.arange(len(labels)), labels] = 1
    return targets


def _slice_batch(index: int, size: int, share: tuple[int, int]) -> slice:
    """Return which items of batch `index` belong to process `share[0]` of `share[1]`."""
    number, processes = share
    part = size // processes
    return slice(index * size + number * part, index * size + (number + 1) * part)


def augment_images(images: npt.NDArray[Any], recipe: Recipe, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Return `images` (N, H, W, C), each shifted by up to `recipe.shift` pixels and perhaps mirrored.

    Pixels that a shift uncovers repeat the image's edge.
    """
    images = images.copy()
    if recipe.flip:
        mirrored = rng.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
    if not recipe.shift:
        return images
    height, width = images.shape[1:3]
    margin = recipe.shift
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    tops, lefts = rng.integers(0, 2 * margin + 1, (2, len(images)))
    for image, source, top, left in zip(images, padded, tops, lefts, strict=True):
        image[...] = source[top : top + height, left : left + width]
    return images
