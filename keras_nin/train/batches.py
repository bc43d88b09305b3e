"""Training batches: shuffled, shifted and mirrored by a seed and the number of the epoch."""

import keras
import numpy as np


class TrainingBatches(keras.utils.PyDataset):
    """Batches of (images (n, H, W, C), labels (n,)); order and random changes depend on seed and epoch alone."""

    def __init__(self, images, labels, recipe, seed):
        super().__init__()
        self.images, self.labels, self.recipe, self.seed = images, labels, recipe, seed
        self.start(0)

    def start(self, epoch):
        """Take the order and the random changes of `epoch` (from 0)."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))

    def __len__(self):
        return -(-len(self.images) // self.recipe.batch_size)

    def __getitem__(self, index):
        size = self.recipe.batch_size
        chosen = self.order[index * size : (index + 1) * size]
        rng = np.random.default_rng((self.seed, self.epoch, index))
        return augment(self.images[chosen], self.recipe, rng), self.labels[chosen]


def augment(images, recipe, rng):
    """Return `images` (N, H, W, C), each shifted by up to `recipe.shift` pixels and perhaps mirrored.

    What a shift uncovers takes the image's own edge values.
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


# MERGED What happens around every epoch.


class EpochCallback(keras.callbacks.Callback):
    """Order the batches by epoch, and keep the state after it."""

    def __init__(self, state, batches, on_epoch=None):
        super().__init__()
        self.state, self.batches, self.on_epoch = state, batches, on_epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Give the batches the order of this epoch, also where a run is taken up again."""
        self.batches.start(epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Store the state first, so that nothing is lost where `on_epoch` ends in an exception."""
        entry = self.state.add(self.model, logs)
        if self.on_epoch:
            self.on_epoch(epoch + 1, entry)
