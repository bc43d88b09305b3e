"""The images that calibrate a file and those that test it: never the same ones."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_nin.errors import InputError
from keras_nin.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.data import Dataset, Preprocessing

# What `keras_nin.data.open_dataset` takes: a dataset name, folder, .npz, array, tf.data.Dataset, keras.utils.PyDataset.
ImageSource: TypeAlias = Any
Shapes: TypeAlias = "tuple[int, ...] | dict[str, tuple[int, ...]]"
BATCH = 32


class ImageSources:
    """The image sources of a workflow, each opened once. Folders and .npz files are opened at once, for their errors.

    Args:
        calibration: images to calibrate on, or None.
        test: images to test on, or None.
        labels: path of a labels file, for a folder that is tested on.
        seed: of noise.
    """

    def __init__(self, calibration: ImageSource, test: ImageSource, labels: str | None = None, seed: int = 0) -> None:
        self.calibration, self.test, self.labels, self.seed = calibration, test, labels, seed
        self._opened: dict[object, Dataset] = {}
        for source in (calibration, test):
            if is_named(source) and not _is_dataset_name(source) and _holds_images(source):
                self.open(source, None)

    def calibration_source(self, own: str | None) -> ImageSource:
        """Return what to calibrate on: `calibration`, else the model's own dataset, else what is tested on."""
        return _first(self.calibration, own, self.test, argument="calibration", purpose="to calibrate on")

    def test_source(self, own: str | None) -> ImageSource:
        """Return what to test on: `test`, else the model's own dataset, else what is calibrated on."""
        return _first(self.test, own, self.calibration, argument="test", purpose="to test on")

    def calibration_set(self, own: str | None, shapes: Shapes) -> Dataset:
        """Return the dataset to calibrate on."""
        return self.open(self.calibration_source(own), shapes, "calibration")

    def test_set(self, own: str | None, shapes: Shapes) -> Dataset:
        """Return the dataset to test on."""
        return self.open(self.test_source(own), shapes, "test")

    def open(self, source: ImageSource, shapes: Shapes | None, split: str | None = None) -> Dataset:
        """Return a dataset; one in memory that both calibrates and tests is split, otherwise it serves whole."""
        from keras_nin import data

        key = (os.fspath(source) if is_named(source) else id(source), isinstance(shapes, dict))
        if key not in self._opened:
            shared = self.calibration is None or self.test is None or self.calibration is self.test
            # A labels file belongs to the folder that is tested on; named datasets have labels of their own.
            tested = self.calibration if self.test is None else self.test
            labels = self.labels if source is tested and not _is_dataset_name(source) else None
            self._opened[key] = data.open_dataset(
                source, split=None if shared else split, labels=labels, seed=self.seed, input_shape=shapes
            )
        return self._opened[key]


def is_named(source: ImageSource) -> bool:
    """Whether a source is a name or a path, so that a record of it can be opened again."""
    return isinstance(source, str | os.PathLike)


def _is_dataset_name(source: ImageSource) -> bool:
    """Whether `source` is the name of a dataset; some of them need Keras, so they are opened late."""
    from keras_nin import data

    return source in data.list_datasets() if isinstance(source, str) else False


def _holds_images(source: str) -> bool:
    """Whether a path holds images, as far as that is known before the model is."""
    from keras_nin.data import npz_files

    return not os.fspath(source).lower().endswith(".npz") or npz_files.holds_images(source)


def _first(*sources: ImageSource, argument: str, purpose: str) -> ImageSource:
    for source in sources:
        if source is not None:
            return source
    raise InputError(
        f"This model has no dataset of its own {purpose}. Pass `{argument}`: a dataset name, a folder of images, an "
        ".npz file, or 'random' for noise",
        argument=argument,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TestImages:
    """The images of a test, and how they are preprocessed.

    Attributes:
        dataset: where they come from.
        indices: which of them, int64 (N,).
        preprocessing: how pixels become input; None for arrays that are fed as they are.
        shapes: the network's (height, width, channels), or the shapes of its inputs by name.
        excluded: how many images of the test split were left out because they calibrated.
    """

    __test__ = False  # the name is no test of pytest's

    dataset: Dataset
    indices: np.ndarray
    preprocessing: Preprocessing | None
    shapes: Shapes
    excluded: int = 0

    def batches(self, message: str, progress: Progress = SILENT) -> Iterable[tuple[Any, Any]]:
        """Yield (images, labels)."""
        from keras_nin.data import split_image_shape

        size, channels = split_image_shape(self.shapes)
        batches = self.dataset.batches(self.indices, size, channels, preprocessing=self.preprocessing)
        return progress.track(batches, message, -(-len(self.indices) // BATCH))


def select_test_images(
    dataset: Dataset,
    shapes: Shapes,
    preprocessing: Preprocessing | None,
    *,
    calibrated_on: Collection[str] = frozenset(),
    count: int | None = None,
    seed: int = 0,
) -> TestImages:
    """Return images of a dataset's test split, without those that calibrated.

    Args:
        dataset: `keras_nin.data.Dataset`.
        shapes: (height, width, channels), or the shapes of the inputs by name.
        preprocessing: how pixels become input, or None.
        calibrated_on: digests of the images that calibrated; images with the same content are left out.
        count: how many to draw; None takes all.
        seed: of the draw.

    Raises:
        InputError: no image is left, or `count` is below 1.
    """
    import numpy as np

    chosen = dataset.select("test", count, seed)
    kept = chosen
    if calibrated_on:
        kept = np.array(
            [index for index in chosen if not dataset.image_digests([index]) & set(calibrated_on)], np.int64
        )
    if len(kept) == 0:
        raise InputError(
            f"Every test image of {dataset.name!r} was used for calibration. Pass other images as `test`",
            argument="test",
        )
    return TestImages(dataset, kept, preprocessing, shapes, len(chosen) - len(kept))


def read_export_record(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record that an export wrote beside a .tflite file, or an empty dictionary.

    Raises:
        InputError: the JSON file beside it holds something else.
    """
    from keras_nin import files

    path = pathlib.Path(file).with_suffix(".json")
    if not path.exists():
        return {}
    document = files.read_json(path)
    if not isinstance(document, dict):
        raise InputError(
            f"Expected the record of an export beside {os.fspath(file)!r}. Received: {str(path)!r} with a "
            f"{type(document).__name__}",
            path=path,
        )
    return document


def recorded_test_source(record: dict[str, Any]) -> str | None:
    """Return the name or path of the images that a file was tested on when it was exported, or None."""
    for part, key in (("options", "test"), ("parity", "source")):
        entry = record.get(part)
        if isinstance(entry, dict) and isinstance(entry.get(key), str):
            return entry[key]
    return None
