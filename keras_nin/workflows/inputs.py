"""What workflows take: models by name, path or object, and images, of which none both calibrates and tests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeGuard, Unpack, cast

from keras_nin import files, models
from keras_nin._compat.keras import variables_without_values
from keras_nin.errors import DatasetUnavailableError, InputError
from keras_nin.files import AnyPath
from keras_nin.formatting import format_host
from keras_nin.models.model_spec import HE, MODEL_SUFFIXES, RANDOM
from keras_nin.workflows import SILENT, Progress, backends

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_nin.benchmark.devices import DeviceSession, RunnerDevice
    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.export import Parity
    from keras_nin.keras_graph import InputScaling
    from keras_nin.models import LoadedModel
    from keras_nin.report.accuracy import OutputScores
    from keras_nin.tflite.records import TFLiteModel

ModelLike: TypeAlias = "str | os.PathLike[str] | keras.Model | LoadedModel"
FileOrModel: TypeAlias = ModelLike  # a path may be that of a .tflite file
InputShape: TypeAlias = tuple[int, int, int]
Shapes: TypeAlias = "tuple[int, ...] | dict[str, tuple[int, ...]]"  # of one image, or of each input by name
# What `keras_nin.data.open_dataset` takes: a dataset name, folder, .npz, array, tf.data.Dataset, keras.utils.PyDataset.
ImageSource: TypeAlias = Any
# Name of a preset, "none", path of a JSON file, record, or dictionary of constants: see `parse_preprocessing`.
PreprocessingLike: TypeAlias = "str | os.PathLike[str] | Preprocessing | Mapping[str, Any]"
Role: TypeAlias = Literal["calibration", "test"]
BATCH = 32
_WEIGHTED_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# A file in reference kernels is scored on so many images that they take two minutes or so, at 1e9 MACs a second; on 100
# images an accuracy is known to about 5 points.
_SLOW_MACS, _SLOW_IMAGES = 100_000_000_000, 100


class ModelOptions(TypedDict, total=False):
    """How a model is built and loaded: arguments of `export_model`."""

    weights: AnyPath | None
    input_shape: InputShape | None
    builder_arguments: Mapping[str, Any] | None
    seed: int
    imports: Sequence[AnyPath]


def is_named(source: object) -> bool:
    """Whether a model or image source is a name or a path, so that a record of it can be opened again."""
    return isinstance(source, str | os.PathLike)


def model_stem(model: ModelLike) -> str:
    """Return what the files of a model are named after."""
    named = isinstance(model, str | os.PathLike)
    return files.safe_stem(pathlib.Path(os.fspath(model).removeprefix("keras:")).stem if named else model.name)


def check_model_name(model: ModelLike) -> None:
    """Raise `InputError` for an unknown name of the zoo, before Keras starts."""
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if not text.startswith("keras:") and not text.endswith(MODEL_SUFFIXES) and not os.path.exists(text):
            models.get_spec(text)


def is_tflite(model: FileOrModel) -> TypeGuard[AnyPath]:
    """Whether `model` is the path of a .tflite file."""
    return isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".tflite")


def is_model(source: FileOrModel) -> bool:
    """Whether `source` is a model, otherwise a .tflite file; `InputError` for a missing file or an unknown name."""
    if not isinstance(source, str | os.PathLike):
        return True
    text = os.fspath(source)
    if text.startswith("keras:"):
        return True
    if text.endswith(MODEL_SUFFIXES):
        if not os.path.isfile(text):
            raise InputError(f"Expected an existing file. Received: {text!r}", path=text)
        return True
    if os.path.isfile(text):
        return False
    if text.endswith(".tflite") or os.path.exists(text):
        problem = "is a folder" if os.path.isdir(text) else "does not exist"
        raise InputError(f"Expected a .tflite file or a model. Received: {text!r}, which {problem}", path=text)
    models.get_spec(text)
    return True


def open_model(model: ModelLike, progress: Progress = SILENT, **options: Unpack[ModelOptions]) -> LoadedModel:
    """Load a network by name or path, or wrap a keras.Model, which takes no options."""
    check_model_name(model)
    if isinstance(model, models.LoadedModel):
        return model.recognize_scaling()
    backends.start_keras(progress)
    builder_arguments = options.pop("builder_arguments", None) or {}
    if isinstance(model, str | os.PathLike):
        return models.load_model(os.fspath(model), **options, **builder_arguments).recognize_scaling()
    from keras_nin import keras_graph
    from keras_nin.models import custom_layers

    is_changed = options.get("input_shape") is not None and keras_graph.graph_of(model) is not None
    if builder_arguments or options.get("weights") is not None or is_changed:
        raise InputError(
            "Expected no `weights`, `input_shape` or `builder_arguments` for a keras.Model, which is built."
        )
    model = custom_layers.make_functional(model, options.get("input_shape"))
    loaded = models.LoadedModel(model=model, name=model.name, weights="as given", random=False)
    return loaded.recognize_scaling()


@contextlib.contextmanager
def open_structure(
    *sources: ModelLike, progress: Progress = SILENT, **options: Unpack[ModelOptions]
) -> Iterator[list[LoadedModel]]:
    """Yield models for a block that counts and runs nothing; `options` are for the first, `seed` and `imports` for all.

    Random weights have no values. Keras starts on the lightest backend, see `backends.keras_for_structure`.
    """
    for source in sources:
        check_model_name(source)
    is_run = options.get("imports") or options.get("weights") == HE or not all(map(is_named, sources))
    with backends.keras_for_structure(progress, fits=not is_run):
        loaded = []
        for source in sources:
            loaded.append(_load_structure(source, progress, options))
            options = {"seed": options.get("seed", 0), "imports": options.get("imports", ())}
        yield loaded


def _load_structure(model: ModelLike, progress: Progress, options: ModelOptions) -> LoadedModel:
    weights = options.get("weights")
    is_saved = not isinstance(model, str | os.PathLike) or os.fspath(model).endswith(MODEL_SUFFIXES)
    if is_saved or weights not in (None, RANDOM):
        return open_model(model, progress, **options)
    arguments: dict[str, Any] = {**options, "weights": RANDOM}
    arguments |= arguments.pop("builder_arguments", None) or {}
    with variables_without_values():
        return models.load_model(os.fspath(model), **arguments)


def input_shapes(model: keras.Model) -> Shapes:
    """Return (height, width, channels) of a model on one image, otherwise the shape of each input by its name."""
    from keras_nin.keras_graph import input_specs

    specs = input_specs(model)
    if len(specs) == 1 and len(specs[0].shape) == 3:
        return cast(InputShape, specs[0].shape)
    return {spec.name: cast(tuple[int, ...], spec.shape) for spec in specs}


def choose_preprocessing(
    known: str | dict[str, Any] | None,
    dataset: Dataset,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
) -> Any:
    """Return the `Preprocessing` to use: the requested one, else the known one of the model, else the dataset's.

    None for arrays that are fed as they are; `InputError` where another one was requested for these.
    """
    from keras_nin import data
    from keras_nin.data.preprocessing import parse_preprocessing

    requested = parse_preprocessing(preprocessing)
    if dataset.preprocessing is None:
        if requested not in (None, data.AS_ARRAYS) or crop is not None:
            raise InputError("`preprocessing` and `crop` apply to images. Received: arrays that are fed as they are")
        return None
    if requested == data.AS_ARRAYS:
        expected = f"arrays that are what the network takes, for preprocessing {data.AS_ARRAYS!r}"
        received = f"{dataset.name!r}, which holds images; preprocessing 'raw' feeds them from 0 to 255"
        raise InputError(f"Expected {expected}. Received: {received}", argument="preprocessing")
    if isinstance(requested, data.Preprocessing):
        record = requested
    elif known is None:
        record = dataset.preprocessing
    else:
        record = data.get_preset(known) if isinstance(known, str) else data.Preprocessing.from_json(known)
    if isinstance(requested, dict):
        record = record.with_constants(**requested)
    return record if crop is None else dataclasses.replace(record, crop_fraction=crop)


def scaling_notes(scaling: InputScaling | None, preprocessing: Preprocessing | None) -> tuple[str, ...]:
    """Return what a layer that scales the pixels means for a preprocessing."""
    from keras_nin import data

    if scaling is None or preprocessing is None:
        return ()
    layer, expected = f"The model starts with {scaling.layer}", data.get_preset(scaling.preset)
    if preprocessing.preset == scaling.preset:
        return (f"{layer}, so it gets pixels as {expected}.",)
    return (f"{layer}, which expects pixels as {expected}. Received: {preprocessing}.",)


def guessing_notes(subject: str, outputs: Iterable[Parity | OutputScores]) -> tuple[str, ...]:
    """Return what it most likely means that an output matches the labels no better than guesses do."""
    return tuple(
        f"{subject} {output.guessing}{'' if output.output is None else f' (output {output.output!r})'}: check "
        "`preprocessing` and the labels."
        for output in outputs
        if output.guessing
    )


class ImageSources:
    """The images that a workflow calibrates and tests on, each source opened once.

    A source that serves for both is divided between them, where it has no splits of its own; otherwise it serves whole.
    `own` is the model's own dataset, the default of both; what was given for the other role takes its place where it is
    not available. Folders and .npz files are opened or checked at once, for their errors.

    Args:
        calibration, test: what was given for each; None where nothing was.
        labels, seed: labels file of a folder that is tested on, and seed of noise.
        preprocessing: with "none" arrays of images are what the network takes.
        recorded: whether `calibration` is what an export record names: it may be missing, and where the record names
            nothing, all of a source tests.
    """

    def __init__(
        self,
        calibration: ImageSource,
        test: ImageSource,
        labels: str | None = None,
        seed: int = 0,
        *,
        preprocessing: PreprocessingLike | None = None,
        recorded: bool = False,
    ) -> None:
        from keras_nin.data import AS_ARRAYS, npz_files

        self.calibration, self.test, self.labels, self.seed = calibration, test, labels, seed
        self.as_arrays = isinstance(preprocessing, str) and preprocessing == AS_ARRAYS
        self.recorded = recorded
        self.notes: tuple[str, ...] = ()
        self._unavailable: str | None = None
        self._opened: dict[object, Dataset] = {}
        for source in (None if recorded else calibration, test):
            if isinstance(source, str | os.PathLike) and not _is_dataset_name(source):
                if os.fspath(source).lower().endswith(".npz"):
                    npz_files.check_npz(source)
                elif not self.as_arrays:
                    self.open(source, None)

    def source(self, role: Role, own: str | None) -> ImageSource:
        """Return what to calibrate or test on: what was given for it, else `own`, else what was given for the other."""
        given, other = (self.test, self.calibration) if role == "test" else (self.calibration, self.test)
        for source in (given, None if own == self._unavailable else own, other):
            if source is not None:
                return source
        raise InputError(
            f"This model has no dataset of its own to {'test' if role == 'test' else 'calibrate'} on. Pass `{role}`: a "
            "dataset name, a folder of images, an .npz file, or 'random' for noise",
            argument=role,
        )

    def dataset(self, role: Role, own: str | None, shapes: Shapes) -> Dataset:
        """Return the dataset to calibrate or test on."""
        return self.open(self.source(role, own), shapes, self._split(role, own))

    def reopening(self, role: Role, own: str | None, shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
        """Return the arguments of `open_dataset` that give another process the same images; None for objects."""
        source = self.source(role, own)
        return (
            (os.fspath(source), self._arguments(source, shapes, self._split(role, own))) if is_named(source) else None
        )

    def _split(self, role: Role, own: str | None) -> str | None:
        calibrates = not self.recorded or self.calibration is not None
        shared = calibrates and _identity(self.source("calibration", own)) == _identity(self.source("test", own))
        return None if shared else role

    def check_own(self, own: str | None, shapes: Shapes, given: Sequence[ImageSource]) -> None:
        """Replace the model's own dataset where it is needed but not available; `given` has None for what needs it."""
        if own is None or None not in given or self.calibration is self.test is None:
            return
        try:
            self.open(own, shapes)
        except DatasetUnavailableError as error:
            self._unavailable = own
            self.notes = (f"{error} What was given serves for calibration and tests.",)

    def open(self, source: ImageSource, shapes: Shapes | None, split: str | None = None) -> Dataset:
        """Return the dataset of a source; `split` takes all of one that has no splits of its own."""
        from keras_nin import data

        arguments = self._arguments(source, shapes, split)
        key = (_identity(source), isinstance(shapes, dict), arguments["split"])
        if key not in self._opened:
            self._opened[key] = data.open_dataset(source, **arguments)
        return self._opened[key]

    def _arguments(self, source: ImageSource, shapes: Shapes | None, split: str | None) -> dict[str, Any]:
        from keras_nin.data import cifar_files

        # A labels file belongs to the folder that is tested on; named datasets have labels and splits of their own.
        is_name = _is_dataset_name(source)
        has_splits = is_name or (isinstance(source, str | os.PathLike) and cifar_files.is_cifar(source))
        tested = self.calibration if self.test is None else self.test
        return {
            "split": None if has_splits else split,
            "labels": self.labels if _identity(source) == _identity(tested) and not is_name else None,
            "seed": self.seed,
            "input_shape": shapes,
            "as_arrays": self.as_arrays,
        }


def _identity(source: ImageSource) -> tuple[str, object]:
    """Return what is equal for two sources that are one: the same dataset name, path or object."""
    if _is_dataset_name(source):
        return "name", source
    return ("path", os.path.realpath(source)) if is_named(source) else ("object", id(source))


def _is_dataset_name(source: ImageSource) -> bool:
    """Whether `source` is the name of a dataset; some of them need Keras, so they are opened late."""
    from keras_nin import data

    return source in data.list_datasets() if isinstance(source, str) else False


@dataclasses.dataclass(frozen=True, eq=False)
class TestImages:
    """The images of a test: their dataset and which of them, int64 (N,).

    Attributes:
        preprocessing: how pixels become input; None for arrays that are fed as they are.
        shapes: the network's (height, width, channels), or the shapes of its inputs by name.
        excluded: how many images of the test split were left out because they calibrated.
        drawn_from: from how many the images were drawn, because a file is slow; 0 where all are there.
    """

    __test__ = False  # the name is no test of pytest's

    dataset: Dataset
    indices: np.ndarray
    preprocessing: Preprocessing | None
    shapes: Shapes
    excluded: int = 0
    drawn_from: int = 0

    def sample_for(self, file: TFLiteModel, count: int | Literal["all"] | None, seed: int = 0) -> TestImages:
        """Return a sample of the images for a file that runs in slow kernels, all where a `count` was chosen.

        How many depends on the file alone, so that the same command gives the same figures on every machine.
        """
        from keras_nin.data.dataset import draw_indices

        macs = count_slow_macs(file)
        size = max(_SLOW_IMAGES, _SLOW_MACS // macs) if macs else len(self.indices)
        if count is not None or size >= len(self.indices):
            return self
        drawn, _ = draw_indices(len(self.indices), size, seed)
        return dataclasses.replace(self, indices=self.indices[drawn], drawn_from=len(self.indices))

    def fit_masks(self, outputs: Sequence[tuple[str, tuple[int | None, ...], str | None]]) -> TestImages:
        """Return the same images with the masks of a folder in the size of a network's output.

        Args:
            outputs: (name, shape without the batch, activation) of each.

        Raises:
            InputError: there are masks, and the network has another output than one map.
        """
        from keras_nin.data.image_folder import MaskFiles

        masks = (self.dataset.targets or {}).get("")
        if not isinstance(masks, MaskFiles):
            return self
        shapes = [shape for _, shape, _ in outputs]
        if len(shapes) != 1 or len(shapes[0]) != 3 or isinstance(self.shapes, dict) or self.preprocessing is None:
            expected = f"a network with one output (height, width, classes) for the masks of {self.dataset.name!r}"
            raise InputError(f"Expected {expected}. Received: {', '.join(map(str, shapes))}")
        height, width, _ = self.shapes
        map_size = shapes[0][0] or height, shapes[0][1] or width
        fitted = dataclasses.replace(masks, fit=((height, width), self.preprocessing.crop_fraction, map_size))
        return dataclasses.replace(self, dataset=self.dataset.with_targets({"": fitted}))

    def batches(self, message: str, progress: Progress = SILENT) -> Iterable[tuple[Any, Any]]:
        """Yield (images, labels)."""
        from keras_nin.data import split_image_shape

        size, channels = split_image_shape(self.shapes)
        batches = self.dataset.batches(self.indices, size, channels, preprocessing=self.preprocessing)
        total = f" of {self.drawn_from:,}" if self.drawn_from else ""
        message = f"{message} on {len(self.indices):,}{total} images"
        return progress.track(batches, message, -(-len(self.indices) // BATCH))


def open_session(device: str | None, python: str | None) -> AbstractContextManager[DeviceSession | None]:
    """Return a block in which files run on a device; it has None where `device` is this machine."""
    if device is None:
        if python is not None:
            raise InputError("`python` is for a `device` ssh://", argument="python")
        return contextlib.nullcontext()
    from keras_nin.benchmark.devices import DeviceSession

    opened = find_device(device, python)
    if python is not None and opened.url.startswith("qemu://"):
        raise InputError("`python` is for a `device` ssh://", argument="python")
    return DeviceSession(opened)


def find_device(device: str, python: str | None = None) -> RunnerDevice:
    """Return the device of ``ssh://[user@]host[:port]``, ``qemu://CPU`` or a name; `python` is that of ssh."""
    from keras_nin.benchmark.devices import SshDevice, find_named_device
    from keras_nin.benchmark.emulator import SCHEME, emulated_device

    found = find_named_device(device, python)
    if found.url.startswith(SCHEME):
        return emulated_device(found.url)
    return SshDevice(found.url, found.python or "python3")


def device_notes(session: DeviceSession | None) -> tuple[str, ...]:
    """Return a note on where a file ran, unless it was here."""
    return (f"The file ran on {session.device.url}: {format_host(session.host)}",) if session else ()


def select_test_images(
    dataset: Dataset,
    shapes: Shapes,
    preprocessing: Preprocessing | None,
    *,
    calibrated_on: Collection[str] = frozenset(),
    count: int | Literal["all"] | None = None,
    seed: int = 0,
) -> TestImages:
    """Draw images of a dataset's test split, all without a count, but none with a digest in `calibrated_on`."""
    import numpy as np

    chosen = kept = dataset.select("test", None if count == "all" else count, seed)
    if calibrated_on:
        is_kept = [not dataset.image_digests([index]) & set(calibrated_on) for index in chosen]
        kept = np.asarray(chosen, np.int64)[is_kept]
    if len(kept) == 0:
        raise InputError(
            f"Every test image of {dataset.name!r} was used for calibration. Pass other images as `test`",
            argument="test",
        )
    return TestImages(dataset, kept, preprocessing, shapes, len(chosen) - len(kept))


def count_slow_macs(file: TFLiteModel) -> int:
    """Return the MACs of layers on 16-bit values, for which LiteRT has reference kernels only."""
    macs = 0
    for operator in file.main.operators:
        output = file.main.tensors[operator.outputs[0]] if operator.outputs else None
        weights = file.main.stored_constant(operator.inputs[1]) if len(operator.inputs) > 1 else None
        if output and weights and output.dtype == "int16" and operator.op in _WEIGHTED_OPERATORS and output.shape:
            macs += output.elements * weights.elements // output.shape[-1]
    return macs


def read_export_record(file: AnyPath) -> dict[str, Any]:
    """Return the record that an export wrote beside a .tflite file, or an empty dictionary."""
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


def recorded_preprocessing(record: dict[str, Any]) -> str | None:
    """Return "none" where a file was exported with arrays that are fed as they are."""
    from keras_nin.data import AS_ARRAYS

    options = record.get("options")
    return AS_ARRAYS if isinstance(options, dict) and options.get("preprocessing") == AS_ARRAYS else None


def recorded_calibration_source(record: dict[str, Any]) -> str | None:
    """Return the name or path of the images that calibrated a file when it was exported, or None."""
    options = record.get("options")
    source = options.get("calibration") if isinstance(options, dict) else None
    return source if isinstance(source, str) else None


def recorded_test_source(record: dict[str, Any]) -> str | None:
    """Return the name or path of the images that a file was tested on when it was exported, or None."""
    for part, key in (("options", "test"), ("parity", "source")):
        entry = record.get(part)
        if isinstance(entry, dict) and isinstance(entry.get(key), str):
            return entry[key]
    return None
