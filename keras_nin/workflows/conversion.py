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
from typing import TYPE_CHECKING, Any, Literal

from keras_nin import files, models
from keras_nin.errors import InputError, check_choice
from keras_nin.export.schemes import CONVERTERS, SCHEMES, Scheme, Tuning, parse_schemes
from keras_nin.files import AnyPath
from keras_nin.models.model_spec import RANDOM, random_kind
from keras_nin.workflows import SILENT, Progress, backends, inputs
from keras_nin.workflows.inputs import (
    FileOrModel,
    ImageSource,
    ImageSources,
    InputShape,
    ModelLike,
    PreprocessingLike,
)

if TYPE_CHECKING:
    import keras

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.export import Calibration, ConvertedModel, ParityLimits
    from keras_nin.models import LoadedModel
    from keras_nin.tflite.records import TFLiteModel
    from keras_nin.workflows.mixed_precision import TargetSearch

NOISE_CALIBRATION = "calibrated on noise"
BUNDLED_DATASETS = frozenset({"digits"})  # read without Keras and without a download
CALIBRATION_COUNT, NOISE_COUNT = 100, 8  # more noise changes neither the latency nor the operators
_TRAINING = {"qat": (), "qat_keras": ("weight_bits",), "pruned": ("sparsity",), "clustered": ("clusters",)}


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What decides the content of an exported file and of its record, besides the model and the scheme.

    The fields are the arguments of `keras_nin.export_model` with the same names and defaults.

    Raises:
        InputError: a preprocessing that there is not.
    """

    weights: AnyPath | None = None
    input_shape: InputShape | None = None
    builder_arguments: Mapping[str, Any] | None = None
    seed: int = 0
    imports: Sequence[AnyPath] = ()
    calibration: ImageSource = None
    calibration_count: int | None = None
    test: ImageSource = None
    test_count: int | Literal["all"] | None = None
    labels: str | None = None
    preprocessing: PreprocessingLike | None = None
    crop: float | None = None
    task: str | None = None
    limits: ParityLimits | None = None
    io: str | None = None
    batch: int = 1
    allow_float: bool = False
    tuning: Tuning | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    sparsity: float = 0.5
    clusters: int = 16
    target: str | None = None
    float_operators: Sequence[str] | None = None
    weight_bits: int = 8
    converter: str = "tensorflow"

    def __post_init__(self) -> None:
        check_choice("converter", self.converter, tuple(CONVERTERS))
        if self.preprocessing is not None:
            from keras_nin.data.preprocessing import parse_preprocessing

            object.__setattr__(self, "preprocessing", parse_preprocessing(self.preprocessing))

    def changed(self, ignored: Collection[str] = ()) -> list[str]:
        """Return the names of the options that differ from their defaults."""
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in ignored}
        return [
            field.name
            for field, value in values.items()
            if value is not field.default and not (type(value) is type(field.default) and value == field.default)
        ]

    def load(self, model: ModelLike, progress: Progress = SILENT) -> LoadedModel:
        """Load the model with the options that concern it; one in half precision is cast to float32."""
        if self.converter == "litert":
            backends.start_keras(progress, "jax")
        names = inputs.ModelOptions.__annotations__
        loaded = inputs.open_model(model, progress, **{name: getattr(self, name) for name in names})
        return models.cast_to_float32(loaded)

    def choose_preprocessing(self, loaded: LoadedModel, dataset: Dataset) -> Preprocessing | None:
        """Return the requested preprocessing, else the model's."""
        return inputs.choose_preprocessing(loaded.preprocessing, dataset, self.preprocessing, self.crop)

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

    def to_json(
        self, model: ModelLike, scheme: Scheme, sources: ImageSources, own_dataset: str | None
    ) -> dict[str, Any] | None:
        """Return the options that matter to one scheme, for its record; None for a model or images in memory."""
        from keras_nin.data import Preprocessing
        from keras_nin.export import ParityLimits

        images = {"test": sources.source("test", own_dataset)}
        calibration = sources.source("calibration", own_dataset)
        if scheme.calibrated or inputs.is_named(calibration):  # with it the test images are chosen again
            images["calibration"] = calibration
        if not all(map(inputs.is_named, (model, *images.values()))):
            return None
        document = {
            "model": str(model),
            "weights": None if self.weights is None else os.fspath(self.weights),
            "input_shape": list(self.input_shape) if self.input_shape else None,
            "builder_arguments": dict(self.builder_arguments or {}),
            "imports": [os.fspath(source) for source in self.imports],
            **{role: os.fspath(source) for role, source in images.items()},
        }
        names = ["seed", "labels", "test_count", "task", "preprocessing", "crop", "batch", "converter"]
        if scheme.integer_only:
            names += ["io", "allow_float"]
        if scheme.calibrated:
            names += ["calibration_count"]
        if scheme.mixed:
            names += ["target"]
        if scheme.trained:
            names += ["epochs", "learning_rate", *_TRAINING[scheme.trained]]
        document |= {name: getattr(self, name) for name in names}
        if isinstance(self.preprocessing, Preprocessing):
            document["preprocessing"] = self.preprocessing.to_json()
        if scheme.name in ("int8", "mixed", "qat_keras"):
            document |= dataclasses.asdict(self.tuning or Tuning())
        return document | dataclasses.asdict(self.limits or ParityLimits())


@dataclasses.dataclass(frozen=True, eq=False)
class Conversion:
    """A converted file, and the model that it computes, which has weights of its own where its scheme trains."""

    converted: ConvertedModel
    loaded: LoadedModel


@dataclasses.dataclass(frozen=True, eq=False)
class ConversionInputs:
    """What is converted: the model, images to train on, and those that calibrate, with their digests."""

    loaded: LoadedModel
    dataset: Dataset
    preprocessing: Preprocessing | None
    calibration: Calibration | None = None
    calibrated_on: frozenset[str] = frozenset()
    calibration_answers: Any = None  # labels but masks, as `Dataset.answers_of` returns them

    def calibrate(self, dataset: Dataset, shapes: inputs.Shapes, options: ExportOptions) -> ConversionInputs:
        """Return the inputs with calibration images of a dataset."""
        from keras_nin.export import load_calibration

        count = options.calibration_count or (NOISE_COUNT if dataset.noise else CALIBRATION_COUNT)
        calibration = load_calibration(
            dataset, shapes, count=count, seed=options.seed, preprocessing=self.preprocessing
        )
        indices = dataset.select("calibration", count, options.seed)
        digests = dataset.image_digests(indices)
        # Masks need the size of an output, and say nothing about classes of images.
        answers = None if "" in (dataset.targets or {}) else dataset.answers_of(indices)
        return dataclasses.replace(
            self, calibration=calibration, calibrated_on=frozenset(digests), calibration_answers=answers
        )


def convert(
    source: ConversionInputs,
    schemes: Sequence[Scheme],
    options: ExportOptions,
    progress: Progress = SILENT,
    search: TargetSearch | None = None,
) -> list[Conversion]:
    """Convert a model to several schemes, in this order; those that train are trained on its dataset first.

    `search` chooses what the scheme mixed leaves in float, where the options do not say it.
    """
    from keras_nin.data import get_class_names
    from keras_nin.export import convert_optimized, convert_quantize_aware, convert_schemes, train_for_scheme
    from keras_nin.keras_graph import is_quantize_aware

    loaded, calibration = source.loaded, source.calibration
    classes = count_classes(loaded.model)
    arguments: dict[str, Any] = {
        "allow_float": options.allow_float,
        "batch": options.batch,
        "weights": loaded.weights,
        "preprocessing": source.preprocessing,
        "name": loaded.name,
        "classes": get_class_names(source.dataset, classes) if classes else (),
    }
    conversions = {}
    plain = [scheme for scheme in schemes if not scheme.trained]
    if plain:
        with progress.task(f"Converting {loaded.name} to {', '.join(scheme.name for scheme in plain)}"):
            if options.converter == "litert":
                from keras_nin.export.litert_conversion import convert_with_litert

                converted = convert_with_litert(loaded.model, plain, **arguments)
            elif is_quantize_aware(loaded.model):
                converted = convert_quantize_aware(loaded.model, plain, **arguments)
            else:
                tuning, kept = options.tuning or Tuning(), options.float_operators
                chosen = search if kept is None else kept
                converted = convert_schemes(
                    loaded.model, plain, calibration, tuning=tuning, float_operators=chosen, **arguments
                )
        conversions = {file.scheme.name: Conversion(file, loaded) for file in converted}
    for scheme in schemes:
        if not scheme.trained:
            continue
        optimized = train_for_scheme(
            loaded.model,
            scheme,
            source.dataset,
            preprocessing=source.preprocessing,
            name=loaded.name,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            seed=options.seed,
            sparsity=options.sparsity,
            clusters=options.clusters,
            weight_bits=options.weight_bits,
            calibration=calibration,
            tuning=options.tuning,
            on_epoch=progress.epochs(scheme.name),
        )
        images = calibration if scheme.calibrated else None
        with progress.task(f"Converting {loaded.name} to {scheme.name}"):
            tuning = options.tuning if scheme.name == "qat_keras" else None
            file = convert_optimized(
                optimized, images, original=loaded.model, scheme=scheme, tuning=tuning, **arguments
            )
        conversions[scheme.name] = Conversion(file, dataclasses.replace(loaded, model=optimized.model, random=False))
    return [conversions[scheme.name] for scheme in schemes]


def count_classes(model: keras.Model) -> int | None:
    """Return the length of the one vector in which a network ends, otherwise None."""
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    return shapes[0][1] if len(shapes) == 1 and len(shapes[0]) == 2 else None


@dataclasses.dataclass(frozen=True)
class TFLiteSource:
    """A .tflite file that a workflow reads: the caller's own, or a temporary export of a model.

    `notes` say how it differs from the trained network; `images` name those that calibrated it, None for noise;
    `temporary` says whether it is an export; `model` is the caller's file as a record, which has been checked.
    """

    path: str
    name: str
    notes: tuple[str, ...] = ()
    images: str | None = None
    temporary: bool = False
    model: TFLiteModel | None = None

    @property
    def file(self) -> str | TFLiteModel:
        """What the functions that read files take."""
        return self.model or self.path


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
    ignored: Collection[str] = (),
    progress: Progress = SILENT,
) -> Iterator[TFLiteSource]:
    """Yield the .tflite file of a path, or of a model, which is exported to int8 in a temporary folder.

    The options are for a model; those that are `ignored` mean something for a .tflite file too.
    """
    if inputs.is_model(source):
        with files.temporary_folder() as folder:
            yield export_temporarily(source, folder, options, progress=progress)[0]
    else:
        from keras_nin.tflite.reader import read_checked_model

        check_no_export_options(source, options, ignored)
        path = os.fspath(source)  # type: ignore[arg-type]
        yield TFLiteSource(path, path, model=read_checked_model(path))


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
    from keras_nin.data import named_datasets

    options = options or ExportOptions()
    chosen = options.resolve_schemes(schemes)
    longer = [scheme.name for scheme in chosen if scheme.trained or scheme.mixed]
    if longer:
        expected = "post-training schemes" if any(scheme.trained for scheme in chosen) else "schemes without a target"
        raise InputError(
            f"Expected {expected}. Received: {', '.join(longer)}. Export the model first; pass the file",
            argument="scheme",
        )
    loaded = options.load(model, progress)
    shapes = inputs.input_shapes(loaded.model)
    own = loaded.dataset if not loaded.random and loaded.dataset in BUNDLED_DATASETS else None
    source = next((entry for entry in (options.calibration, own, options.test) if entry is not None), "random")
    # An export tests on the model's own dataset, so that other images all calibrate.
    tested = loaded.dataset if loaded.dataset and named_datasets.is_at_hand(loaded.dataset) else None
    test = tested if options.test is None else options.test
    sources = ImageSources(source, test, options.labels, options.seed, preprocessing=options.preprocessing)
    dataset = sources.dataset("calibration", None, shapes)
    job = ConversionInputs(loaded, dataset, options.choose_preprocessing(loaded, dataset))
    images = source if inputs.is_named(source) and not dataset.noise else None
    sources = []
    for conversion in convert(job.calibrate(dataset, shapes, options), chosen, options, progress):
        scheme = conversion.converted.scheme
        path = folder / f"{inputs.model_stem(model)}_{scheme.name}.tflite"
        files.write_files(conversion.converted.contents(path))
        notes = [f"{random_kind(loaded.weights) or RANDOM} weights"] * loaded.random
        notes += [NOISE_CALIBRATION] * (scheme.calibrated and dataset.noise)
        sources.append(TFLiteSource(str(path), path.name, tuple(notes), images, temporary=True))
    return sources
