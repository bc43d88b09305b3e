"""The images that say which channels of a network matter, those to fine-tune it on, and those to test it on."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from keras_nin.errors import DatasetUnavailableError, InputError
from keras_nin.workflows import inputs
from keras_nin.workflows.inputs import ImageSource, ImageSources, PreprocessingLike, TestImages

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.models import LoadedModel


@dataclasses.dataclass(frozen=True, eq=False)
class PruningImages:
    """Calibration images with their indices, what to fine-tune on, and what to test on."""

    calibration: Dataset
    indices: np.ndarray
    preprocessing: Preprocessing | None
    shapes: inputs.Shapes
    train: Dataset | None
    test: TestImages | None
    notes: tuple[str, ...] = ()

    def labels(self) -> np.ndarray | None:
        """Return the labels of the calibration images, where they are class indices."""
        dataset = self.calibration
        return None if dataset.labels is None or dataset.targets else dataset.labels_of(self.indices)

    def load(self, count: int | None = None) -> Any:
        """Return the first calibration images as the network takes them."""
        from keras_nin.data import split_image_shape

        return self.calibration.load(self.indices[:count], *split_image_shape(self.shapes), self.preprocessing)


def open_images(
    loaded: LoadedModel,
    given: tuple[ImageSource, ImageSource, ImageSource],
    calibration_count: int,
    test_count: int | Literal["all"] | None,
    seed: int,
    *,
    epochs: int,
    train_count: int | None,
    labels: str | None,
    preprocessing: PreprocessingLike | None,
    crop: float | None,
) -> PruningImages:
    """Open what was given to calibrate, train and test on, else the model's own dataset."""
    from keras_nin.data import named_datasets

    calibration, train, test = given
    shapes = inputs.input_shapes(loaded.model)
    own = loaded.dataset if loaded.dataset and named_datasets.is_at_hand(loaded.dataset) else None
    sources = ImageSources(calibration, test, labels, seed, preprocessing=preprocessing)
    source = next((source for source in (calibration, own, train, test) if source is not None), None)
    if source is None:
        raise InputError(
            "This model has no dataset of its own at hand. Pass `calibration`: a dataset name, a folder of images, an "
            ".npz file, or 'random' for noise",
            argument="calibration",
        )
    dataset = sources.open(source, shapes, "calibration" if source is calibration and test is not None else None)
    chosen = inputs.choose_preprocessing(loaded.preprocessing, dataset, preprocessing, crop)
    indices = dataset.select("calibration", calibration_count, seed)
    notes = ["Calibrated on noise: which channels matter is not known."] if dataset.noise else []
    notes += ["The weights are random: which channels matter says nothing."] if loaded.random else []
    training = None
    if epochs:
        training = _open_training(sources, train, own, shapes, train_count, seed)
        if training is None:
            notes.append("Not fine-tuned: pass labeled images as `train`.")
    tested = test if test is not None else own
    test_images = None
    if tested is not None:
        test_data = sources.open(tested, shapes, "test" if test is not None and test is not source else None)
        if test_data.labels is not None and not test_data.targets and len(loaded.model.outputs) == 1:
            digests = dataset.image_digests(indices)
            test_images = inputs.select_test_images(
                test_data, shapes, chosen, calibrated_on=digests, count=test_count, seed=seed
            )
    return PruningImages(dataset, indices, chosen, shapes, training, test_images, tuple(notes))


def _open_training(
    sources: ImageSources,
    train: ImageSource,
    own: str | None,
    shapes: inputs.Shapes,
    train_count: int | None,
    seed: int,
) -> Dataset | None:
    """Return the dataset to fine-tune on with a training split alone; None where there is none."""
    from keras_nin.data import open_dataset

    source = train if train is not None else own
    if source is None:
        return None
    try:
        dataset = sources.open(source, shapes)
        if "train" not in dataset.splits:
            if source is sources.test or (inputs.is_named(source) and source == sources.test):
                raise InputError(
                    f"Expected other images to test on than to train on. Received: {dataset.name!r} for both",
                    argument="train",
                )
            dataset = open_dataset(source, split="train", seed=seed, input_shape=shapes, as_arrays=sources.as_arrays)
    except DatasetUnavailableError:
        if train is not None:
            raise
        return None
    chosen = dataset.select("train", train_count, seed)
    dataset.labels_of(chosen)  # says what is missing
    dataset = copy.copy(dataset)
    object.__setattr__(dataset, "splits", {"train": chosen})
    return dataset
