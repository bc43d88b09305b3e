"""`preprocess_input` and `decode_predictions` of every family, as in keras.applications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_nin.errors import InputError, check_choice, expected_error, first_line, input_error
from keras_nin.models.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_IMAGENET_CLASSES = 1000
# Of keras.applications, which downloads it into Keras's cache.
_IMAGENET_NAMES = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"


def family_functions(specs: Sequence[ModelSpec]):
    """Return `preprocess_input` and `decode_predictions` for the variants of a family."""

    def select(variant: str | None) -> list[ModelSpec]:
        if variant is not None:
            check_choice("variant", variant, [spec.name for spec in specs])
        return [spec for spec in specs if variant in (None, spec.name)]

    def preprocess_input(
        images: npt.ArrayLike, variant: str | None = None, weights: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Scale images of the network's size to the values that its weights were trained on.

        Args:
            images: array (B, H, W, C) with values from 0 to 255, RGB or grayscale.
            variant: the model's name; may be omitted where all models of this family expect the same.
            weights: the name of downloadable weights, whose publisher may scale otherwise.
        """
        from keras_nin.data.preprocessing import Preprocessing, get_preset
        from keras_nin.models.downloads import find_download

        specs = select(variant)
        if weights is None:
            return get_preset(_single("preprocessing", specs)).normalize(images)
        downloads = [download for spec in specs if (download := find_download(spec.name, weights))]
        if not downloads:
            names = ", ".join(spec.name for spec in specs)
            raise expected_error("weights", f"to be downloadable weights of {names}", weights)
        # All variants of a family have them from one publisher, who scales for all of them alike.
        return Preprocessing.from_json(downloads[0].preprocessing).normalize(images)

    def decode_predictions(
        predictions: npt.ArrayLike, top: int = 5, variant: str | None = None
    ) -> list[list[tuple[str, str, float]]]:
        """Return the most probable classes of each image, best first.

        Args:
            predictions: array (B, classes), the output of a network.
            top: how many classes for each image.
            variant: the model's name; may be omitted where the number of classes identifies the dataset.

        Returns:
            A list for each image of (class id, class name, score). The id is the WordNet id for ImageNet, as in
            keras.applications, which downloads its list on first use, else the index of the class.
        """
        import numpy as np

        from keras_nin.data.named_datasets import CLASS_NAMES, cache_folder, redirect_progress

        scores = np.asarray(predictions)
        if scores.ndim != 2:
            raise expected_error("predictions", "of shape (batch, classes)", scores.shape)
        candidates = [spec for spec in select(variant) if spec.classes == scores.shape[1]]
        dataset = _single("dataset", candidates) if candidates else None
        if dataset is None and scores.shape[1] == _IMAGENET_CLASSES:
            from keras.applications import imagenet_utils

            try:
                with redirect_progress():
                    return imagenet_utils.decode_predictions(scores, top=top)
            except Exception as error:  # Keras raises a bare Exception where the download fails
                path = str(cache_folder("models") / _IMAGENET_NAMES.rpartition("/")[2])
                expected = "the class names of ImageNet in Keras's cache or a network"
                received = f"{first_line(error)}. Save {_IMAGENET_NAMES} as {path!r}"
                raise input_error(expected, received, path=path) from error
        names = CLASS_NAMES.get(dataset or "") or tuple(f"class {index}" for index in range(scores.shape[1]))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return [
            [(str(index), names[index], float(row[index])) for index in indices]
            for row, indices in zip(scores, order.tolist(), strict=True)
        ]

    return preprocess_input, decode_predictions


def _single(attribute: str, specs: Sequence[ModelSpec]) -> str:
    """Return the one value that an attribute has in all of `specs`."""
    values = {getattr(spec, attribute) for spec in specs}
    if len(values) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"Expected `variant` to be one of {names}, which differ in {attribute}", argument="variant")
    return values.pop()
