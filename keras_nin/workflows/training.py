"""Training a model, and importing third-party weights into one."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from keras_nin import files
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, backends, inputs
from keras_nin.workflows.inputs import ImageSource, ModelLike, ModelOptions, PreprocessingLike

if TYPE_CHECKING:
    from keras_nin.models.third_party import WeightImport
    from keras_nin.train import TrainResult
    from keras_nin.train.devices import Devices

IMPORT_SCHEMA = "keras_nin.import_weights/1"


def train_model(
    model: ModelLike,
    data: ImageSource = None,
    *,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    recipe: Mapping[str, Any] | None = None,
    devices: Devices = 1,
    out: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[ModelOptions],
) -> TrainResult:
    """Train a model on labeled images, keep the weights of the best or the last epoch, and test those.

    An interrupted run resumes when the same call is repeated. It runs on the backend of Keras that the environment
    variable KERAS_BACKEND names: tensorflow, jax or torch.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, or a keras.Model.
        data: images, as in `export_model`; None takes the model's own dataset. All of a source without splits of its
            own are for training, and the weights are not tested.
        labels, preprocessing, crop: as in `export_model`.
        epochs, batch_size, learning_rate: passes over the images, images in a step, and the highest rate; None takes
            the recipe's.
        recipe: other fields of `keras_nin.train.Recipe` that differ from the model's recipe, by name.
        devices: how many share each batch, or "all"; more than one with KERAS_BACKEND jax or tensorflow.
        out: folder to write to; None takes ``runs/<model>``.
        force, progress: start again, whatever the folder holds; what reports the progress.
        **options: `input_shape`, `builder_arguments` and `imports` as in `export_model`; `weights` to start from,
            without which a named model takes random ones; `seed` of the weights, the validation images, the order and
            the augmentation.

    Raises:
        InputError: no labeled train split, labels that do not fit the model, an invalid recipe, devices that are not
            there, or a finished or other run in the folder.
    """
    from keras_nin import train
    from keras_nin.export.conversion import image_input_shape

    seed = options.get("seed", 0)
    folder = pathlib.Path("runs") / inputs.model_stem(model) if out is None else pathlib.Path(out)
    files.check_output_folder(folder)
    inputs.check_model_name(model)
    sources = inputs.ImageSources(None, data, labels, seed, preprocessing=preprocessing)
    backends.start_keras(progress, backends.find_backend())

    from keras_nin.train.devices import prepared_backend, share_batches

    with prepared_backend(), share_batches(devices) as device_count:
        # A model by name starts from random weights, even where some are bundled; a saved or built model has its own.
        is_name = isinstance(model, str) and not model.endswith((".keras", ".h5"))
        weights = options.get("weights") or ("random" if is_name else None)
        loaded = inputs.open_model(model, progress, **options | {"weights": weights})
        shape = image_input_shape(loaded.model)
        dataset = sources.dataset("test", loaded.dataset, shape)
        if "train" not in dataset.splits:  # a source without splits of its own, all of which trains
            dataset = sources.open(sources.source("test", loaded.dataset), shape, "train")
        changes = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate} | dict(recipe or {})
        settings = train.get_recipe(loaded.name, dataset.name, **changes)
        return train.fit_model(
            loaded.model,
            dataset,
            settings,
            folder,
            name=loaded.name,
            preprocessing=inputs.choose_preprocessing(loaded.preprocessing, dataset, preprocessing, crop),
            seed=seed,
            devices=device_count,
            force=force,
            on_epoch=progress.epochs(loaded.name, settings.epochs),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class ImportResult(Result):
    """Third-party weights, imported into a model.

    Attributes:
        file, path: of the third-party file, and of the weight file that was written.
        imported: what became of each tensor.
        weights_sha256: of the model's weights afterwards.
        state: ``"written"`` or ``"up to date"``.
    """

    model: str
    file: str
    imported: WeightImport
    weights_sha256: str
    path: str
    state: str

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.import_weights/1``)."""
        return {
            "schema": IMPORT_SCHEMA,
            "model": self.model,
            "file": self.file,
            "convention": self.imported.convention,
            "tensors": self._rows(),
            "notes": list(self.imported.notes),
            "weights_sha256": self.weights_sha256,
            "path": self.path,
            "state": self.state,
        }

    def summary(self) -> str:
        """Return the result in one line."""
        rows = self.imported.rows
        placed = sum(row.layer is not None for row in rows)
        skipped = f", {len(rows) - placed} left out as declared" if placed < len(rows) else ""
        tensors = format_count(len(rows), "tensor")
        return f"{self.file}: {self.imported.convention} names, {tensors}, {placed} placed{skipped}"

    _summary = summary

    def _rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(row) for row in self.imported.rows]


def import_weights(
    model: ModelLike,
    file: AnyPath,
    out: AnyPath,
    *,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[ModelOptions],
) -> ImportResult:
    """Turn third-party weights into a Keras 3 weight file of a model.

    Args:
        model: zoo name, ``keras:NAME``, path of a saved model, or a keras.Model.
        file: a legacy Keras .h5, a .safetensors, or a PyTorch state dictionary (.pt or .pth).
        out: path of the weight file, ending in .weights.h5.
        force: replace a file with different content.
        progress: what reports the progress.
        **options: `input_shape`, `builder_arguments` and `imports`, as in `export_model`.

    Raises:
        InputError: not such a file, or weights that do not fit the model, all of them listed.
    """
    from keras_nin import models
    from keras_nin.models import registry

    source, target = pathlib.Path(file), pathlib.Path(out)
    _check_import_paths(source, target)
    weights = "random" if inputs.is_named(model) else None
    spec = registry.REGISTRY.get(model) if isinstance(model, str) else None
    fits = inputs.is_named(model) and not options.get("imports")
    with backends.keras_for_structure(progress, fits=fits), files.temporary_folder() as folder:
        loaded = inputs.open_model(model, progress, **options | {"weights": weights})
        with progress.task(f"Reading {source.name}"):
            imported = models.load_weights(loaded.model, source, layer_names=spec.layer_names if spec else None)
        if imported is None:
            raise _not_third_party(source)
        temporary = folder / "imported.weights.h5"
        models.save_weights(loaded.model, temporary)
        content, digest = temporary.read_bytes(), models.hash_weights(loaded.model)
    state = "written" if files.write_files({target: content}, force) else "up to date"
    return ImportResult(loaded.name, os.fspath(file), imported, digest, str(target), state)


def _check_import_paths(source: pathlib.Path, target: pathlib.Path) -> None:
    """Raise `InputError` for paths that cannot be, before Keras starts."""
    from keras_nin.models import weight_files

    if not source.is_file():
        problem = "is a folder" if source.is_dir() else "does not exist"
        raise InputError(f"Expected a weight file. Received: {str(source)!r}, which {problem}", path=source)
    if not source.name.endswith(weight_files.THIRD_PARTY_SUFFIXES):
        raise _not_third_party(source)
    if not target.name.endswith(".weights.h5"):
        raise InputError(
            f"Expected `out` to end in .weights.h5. Received: {str(target)!r}", argument="out", path=target
        )
    files.check_output_folder(target.parent)


def _not_third_party(source: pathlib.Path) -> InputError:
    from keras_nin.models import weight_files

    return InputError(
        f"Expected third-party weights ({', '.join(weight_files.THIRD_PARTY_SUFFIXES)}). Received: {source.name!r}. "
        "Keras 3 and .npz weights need no import: pass them as `weights`",
        path=source,
    )
