"""From a model to .tflite files: the options that decide their content, and the conversion itself.

`export_model` and the temporary exports behind `benchmark_model`, `check_edgetpu`, `estimate_ethosu` and
`measure_micro` all convert here, so one model and the same images give the same bytes everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files
from keras_nin.errors import InputError, check_choice
from keras_nin.export.schemes import SCHEMES, Scheme, Tuning, parse_schemes
from keras_nin.workflows.images import ImageSource, ImageSources, is_named
from keras_nin.workflows.models import (
    FileOrModel,
    InputShape,
    ModelLike,
    choose_preprocessing,
    input_shapes,
    is_model,
    model_stem,
    open_model,
)
from keras_nin.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.export import Calibration, ConvertedModel, ParityLimits
    from keras_nin.models import LoadedModel

RANDOM_WEIGHTS, NOISE_CALIBRATION = "random weights", "calibrated on noise"
# Datasets that are read without Keras and without a download.
BUNDLED_DATASETS = frozenset({"digits"})
CALIBRATION_COUNT, NOISE_COUNT = 100, 8  # more noise changes neither the latency nor the operators
_TRAINING = ("epochs", "learning_rate")
_TRAINING_OF = {"pruned": ("sparsity",), "clustered": ("clusters",)}


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What decides the content of an exported file and of its record, besides the model and the scheme.

    The fields are the arguments of `keras_nin.export_model` with the same names and defaults.
    """

    weights: str | os.PathLike[str] | None = None
    input_shape: InputShape | None = None
    builder_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    calibration: ImageSource = None
    calibration_count: int | None = None
    test: ImageSource = None
    test_count: int | None = None
    labels: str | None = None
    preprocessing: str | None = None
    crop: float | None = None
    limits: ParityLimits | None = None
    io: str | None = None
    batch: int = 1
    allow_float: bool = False
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    epochs: int | None = None
    learning_rate: float | None = None
    sparsity: float = 0.5
    clusters: int = 16

    def changed(self, ignored: Collection[str] = ()) -> list[str]:
        """Return the names of the options that differ from their defaults."""
        default = ExportOptions()
        pairs = (
            (field.name, getattr(self, field.name), getattr(default, field.name)) for field in dataclasses.fields(self)
        )
        return [
            name
            for name, value, plain in pairs
            if name not in ignored and value is not plain and not (isinstance(value, type(plain)) and value == plain)
        ]

    def load(self, model: ModelLike, progress: Progress = SILENT) -> LoadedModel:
        """Load the model with the options that concern it."""
        return open_model(
            model,
            weights=self.weights,
            input_shape=self.input_shape,
            builder_arguments=self.builder_arguments,
            seed=self.seed,
            progress=progress,
        )

    def resolve_schemes(self, scheme: str | Scheme | Sequence[str | Scheme]) -> list[Scheme]:
        """Return the schemes of a name, a comma-separated list, a record or a sequence of them, with the type `io`."""
        if isinstance(scheme, str):
            schemes = parse_schemes(scheme)
        else:
            entries = [scheme] if isinstance(scheme, Scheme) else list(scheme)
            schemes = [
                entry if isinstance(entry, Scheme) else SCHEMES[check_choice("scheme", entry, tuple(SCHEMES))]
                for entry in entries
            ]
        return [entry.with_io(self.io) if self.io else entry for entry in schemes]

    def to_json(self, model: str, scheme: Scheme, sources: ImageSources, own_dataset: str | None) -> dict[str, Any]:
        """Return the options that matter to one scheme, as the export record keeps them."""
        from keras_nin.export import ParityLimits

        document = {
            "model": model,
            "weights": None if self.weights is None else os.fspath(self.weights),
            "input_shape": list(self.input_shape) if self.input_shape else None,
            "builder_arguments": dict(self.builder_arguments),
            "test": sources.test_source(own_dataset),
        }
        names = ["seed", "labels", "test_count", "preprocessing", "crop", "batch"]
        if scheme.integer_only:
            names += ["io", "allow_float"]
        if scheme.calibrated:
            document["calibration"] = sources.calibration_source(own_dataset)
            names += ["calibration_count"]
        if scheme.trained:
            names += [*_TRAINING, *_TRAINING_OF.get(scheme.name, ())]
        document |= {name: getattr(self, name) for name in names}
        if scheme.name == "int8":
            document |= dataclasses.asdict(self.tuning)
        return document | dataclasses.asdict(self.limits or ParityLimits())


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A converted file and the model that it computes.

    Attributes:
        converted: `keras_nin.export.ConvertedModel`.
        loaded: the model; its weights are trained ones where the scheme trains.
        trained: whether it was trained for its scheme.
    """

    converted: ConvertedModel
    loaded: LoadedModel
    trained: bool = False


def draw_calibration(
    dataset: Dataset, shapes: Any, options: ExportOptions, preprocessing: Preprocessing | None
) -> tuple[Calibration, set[str]]:
    """Return the calibration images of a dataset, and their digests."""
    from keras_nin.export import load_calibration

    count = options.calibration_count or (NOISE_COUNT if dataset.noise else CALIBRATION_COUNT)
    calibration = load_calibration(dataset, shapes, count=count, seed=options.seed, preprocessing=preprocessing)
    return calibration, dataset.image_digests(dataset.select("calibration", count, options.seed))


def convert(
    loaded: LoadedModel,
    schemes: Sequence[Scheme],
    options: ExportOptions,
    *,
    calibration: Calibration | None,
    preprocessing: Preprocessing | None,
    dataset: Dataset,
    progress: Progress = SILENT,
) -> list[Conversion]:
    """Convert a model to several schemes; those that train are trained on `dataset` first.

    Returns:
        The conversions in the order of `schemes`.
    """
    from keras_nin.export import convert_schemes

    arguments = {
        "allow_float": options.allow_float,
        "batch": options.batch,
        "weights": loaded.weights,
        "preprocessing": preprocessing,
        "name": loaded.name,
        "classes": _class_names(loaded.model, dataset),
    }
    conversions = {}
    plain = [scheme for scheme in schemes if not scheme.trained]
    if plain:
        with progress.task(f"Converting {loaded.name} to {', '.join(scheme.name for scheme in plain)}"):
            files = convert_schemes(loaded.model, plain, calibration, tuning=options.tuning, **arguments)
        conversions = {file.scheme.name: Conversion(file, loaded) for file in files}
    for scheme in schemes:
        if scheme.trained:
            conversions[scheme.name] = _train_and_convert(
                loaded, scheme, options, calibration, preprocessing, dataset, arguments, progress
            )
    return [conversions[scheme.name] for scheme in schemes]


def _train_and_convert(
    loaded: LoadedModel,
    scheme: Scheme,
    options: ExportOptions,
    calibration: Calibration | None,
    preprocessing: Preprocessing | None,
    dataset: Dataset,
    arguments: dict[str, Any],
    progress: Progress,
) -> Conversion:
    from keras_nin.export import convert_optimized, train_for_scheme

    optimized = train_for_scheme(
        loaded.model,
        scheme,
        dataset,
        preprocessing=preprocessing,
        name=loaded.name,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        seed=options.seed,
        sparsity=options.sparsity,
        clusters=options.clusters,
        on_epoch=progress.epochs(scheme.name),
    )
    with progress.task(f"Converting {loaded.name} to {scheme.name}"):
        converted = convert_optimized(
            optimized, calibration if scheme.calibrated else None, original=loaded.model, scheme=scheme, **arguments
        )
    return Conversion(converted, dataclasses.replace(loaded, model=optimized.model, random=False), trained=True)


def _class_names(model: Any, dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the classes that a model predicts, as far as its dataset has them."""
    from keras_nin.data import get_class_names

    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return get_class_names(dataset, shapes[0][1]) if len(shapes) == 1 and len(shapes[0]) == 2 else ()


@dataclasses.dataclass(frozen=True)
class TFLiteSource:
    """A .tflite file that a workflow reads: the caller's own, or a temporary export of a model.

    Attributes:
        path: of the file; the record beside it names the layers.
        name: what to call it.
        notes: how it differs from the trained network: `RANDOM_WEIGHTS`, `NOISE_CALIBRATION`.
        images: name or path of images like those that calibrated it; None for noise.
    """

    path: str
    name: str
    notes: tuple[str, ...] = ()
    images: str | None = None


def check_no_export_options(source: object, options: ExportOptions | None, ignored: Collection[str] = ()) -> None:
    """Raise `InputError` where export options come with a .tflite file, which is exported already."""
    changed = (options or ExportOptions()).changed(ignored)
    if changed:
        names = ", ".join(f"`{name}`" for name in changed)
        raise InputError(f"{source!r} is exported already, so {names} cannot apply to it", argument=changed[0])


@contextlib.contextmanager
def open_tflite(
    source: FileOrModel,
    options: ExportOptions | None = None,
    *,
    schemes: str | Sequence[str] = "int8",
    ignored: Collection[str] = (),
    progress: Progress = SILENT,
) -> Iterator[list[TFLiteSource]]:
    """Yield the .tflite files of a path or of a model, which is exported to a temporary folder.

    Args:
        source: path of a .tflite file, or a model.
        options: of the export; only for a model.
        schemes: of the export.
        ignored: names of options that mean something for a .tflite file too.
        progress: what reports the progress.
    """
    if not is_model(source):
        check_no_export_options(source, options, ignored)
        path = os.fspath(source)  # type: ignore[arg-type]
        yield [TFLiteSource(path, path)]
        return
    with files.temporary_folder() as folder:
        yield export_temporarily(source, folder, options, schemes=schemes, progress=progress)


def export_temporarily(
    model: ModelLike,
    folder: pathlib.Path,
    options: ExportOptions | None = None,
    *,
    schemes: str | Sequence[str] = "int8",
    progress: Progress = SILENT,
) -> list[TFLiteSource]:
    """Export a model to a folder without verifying it; the files have the bytes that `export_model` gives.

    Without `calibration` a trained network is calibrated on its own dataset where that is bundled, otherwise on `test`,
    otherwise on noise, which the notes of the result say.

    Raises:
        InputError: the model does not load or convert, a scheme trains, or the images do not fit.
    """
    options = options or ExportOptions()
    chosen = options.resolve_schemes(schemes)
    trained = [scheme.name for scheme in chosen if scheme.trained]
    if trained:
        raise InputError(
            f"Expected post-training schemes. Received: {', '.join(trained)}. Export the model first; pass the file",
            argument="scheme",
        )
    loaded = options.load(model, progress)
    shapes = input_shapes(loaded.model)
    own = loaded.dataset if not loaded.random and loaded.dataset in BUNDLED_DATASETS else None
    source = next((each for each in (options.calibration, own, options.test) if each is not None), "random")
    dataset = ImageSources(source, options.test, options.labels, options.seed).calibration_set(None, shapes)
    preprocessing = choose_preprocessing(loaded.preprocessing, dataset, options.preprocessing, options.crop)
    calibration, _ = draw_calibration(dataset, shapes, options, preprocessing)
    conversions = convert(
        loaded,
        chosen,
        options,
        calibration=calibration,
        preprocessing=preprocessing,
        dataset=dataset,
        progress=progress,
    )
    sources = []
    for conversion in conversions:
        scheme = conversion.converted.scheme
        path = folder / f"{model_stem(model)}_{scheme.name}.tflite"
        files.write_files(conversion.converted.contents(path))
        notes = [RANDOM_WEIGHTS] if loaded.random else []
        if scheme.calibrated and dataset.noise:
            notes.append(NOISE_CALIBRATION)
        images = source if is_named(source) and not dataset.noise else None
        sources.append(TFLiteSource(str(path), path.name, tuple(notes), images))
    return sources
