"""Training batches: shuffled, shifted and mirrored by a seed and the number of the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from keras_nin.train.training import Recipe


class TrainingBatches(keras.utils.PyDataset):
    """Batches of (images (n, H, W, C), labels (n,)); order and random changes depend only on seed and epoch."""

    def __init__(self, images: npt.NDArray[Any], labels: npt.NDArray[Any], recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.images, self.labels, self.recipe, self.seed = images, labels, recipe, seed
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
        return augment_images(self.images[indices], self.recipe, rng), self.labels[indices]


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
