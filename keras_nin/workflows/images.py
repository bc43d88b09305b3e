"""Which images calibrate and which test: never the same ones."""

import dataclasses

from keras_nin.errors import InputError
from keras_nin.workflows import models


class ImageSources:
    """The datasets that a command's options name, each opened once; folders and files at once, for their errors.

    Args:
        calibration, data: the options' values, or None.
        labels, seed: as `keras_nin.data.open_dataset` takes them.
    """

    def __init__(self, calibration, data, labels, seed):
        self.calibration, self.data, self.labels, self.seed = calibration, data, labels, seed
        self._open = {}
        for source in (calibration, data):
            if source is not None and not _is_dataset_name(source) and _holds_images(source):
                self._dataset(source, None)

    def calibration_source(self, own):
        """Return what to calibrate on: the option's, else the model's own, else what is to be tested on."""
        return _required(self.calibration or own or self.data, "--calibration", "to calibrate on")

    def test_source(self, own):
        """Return what to test on: the option's, else the model's own, else what is to be calibrated on."""
        return _required(self.data or own or self.calibration, "--data", "to test on")

    def calibration_set(self, own, input_shape):
        """Return the dataset of `calibration_source`."""
        return self._dataset(self.calibration_source(own), input_shape)

    def test_set(self, own, input_shape):
        """Return the dataset of `test_source`."""
        return self._dataset(self.test_source(own), input_shape)

    def named(self, source, input_shape):
        """Return the dataset that a record names."""
        return self._dataset(source, input_shape)

    def _dataset(self, source, input_shape):
        from keras_nin import data

        if isinstance(input_shape, dict):
            return data.open_dataset(source, seed=self.seed, input_shape=input_shape)
        if source not in self._open:
            # A labels file belongs to the folder that is tested on; data sets with names have their own labels.
            labels = self.labels if source == (self.data or self.calibration) and not _is_dataset_name(source) else None
            self._open[source] = data.open_dataset(source, labels=labels, seed=self.seed, input_shape=input_shape)
        return self._open[source]


def _is_dataset_name(source):
    """Whether `source` names a dataset; those are opened late, because some take Keras to open."""
    from keras_nin import data

    return source in data.list_datasets()


def _holds_images(source):
    """Whether `source` holds images, as far as it can be told before the model is known."""
    from keras_nin.data import npz_files

    return not source.lower().endswith(".npz") or npz_files.holds_images(source)


def _required(source, option, purpose):
    if source is None:
        raise InputError(
            f"Expected {option} DATASET|DIR|FILE.npz: this model has no dataset of its own {purpose}. "
            "Received: none. Pass a folder of images, or 'random' for noise"
        )
    return source


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationImages:
    """The images of a test: which, and how they are prepared.

    Attributes:
        dataset: `keras_nin.data.Dataset`.
        indices: int64 (N,).
        preprocessing: `keras_nin.data.Preprocessing`.
        input_shape: the network's (H, W, C), or the shapes of its inputs by name.
        dropped: how many images of the test split served to calibrate and were left out.
    """

    dataset: object
    indices: object
    preprocessing: object
    input_shape: tuple | dict
    dropped: int

    def batches(self, message):
        """Yield (images, labels) with progress on a terminal."""
        from keras_nin.data import split_image_shape

        size, channels = split_image_shape(self.input_shape)
        batches = self.dataset.batches(self.indices, size, channels, preprocessing=self.preprocessing)
        return models.track(batches, message, -(-len(self.indices) // 32))


def evaluation_images(dataset, input_shape, preprocessing, calibrated_on=frozenset(), count=None, seed=0):
    """Return the `EvaluationImages` of a dataset's test split.

    Args:
        dataset: `keras_nin.data.Dataset`.
        input_shape: (H, W, C), or the shapes of the inputs by name.
        preprocessing: `keras_nin.data.Preprocessing`.
        calibrated_on: digests of the images that served to calibrate; images with the same content are left out.
        count, seed: draw so many; None takes all.

    Raises:
        InputError: no images are left, or a count below 1.
    """
    import numpy as np

    chosen = dataset.select("test", count, seed)
    kept = chosen
    if calibrated_on:
        kept = np.array([index for index in chosen if not dataset.image_digests([index]) & calibrated_on], np.int64)
    if len(kept) == 0:
        raise InputError(f"Expected test images that did not serve to calibrate. Received: none in {dataset.name!r}")
    return EvaluationImages(dataset, kept, preprocessing, input_shape, len(chosen) - len(kept))
