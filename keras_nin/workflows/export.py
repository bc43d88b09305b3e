"""Export: convert a model, verify the files against it, time them, and write them with their records."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from keras_nin import files, schemas
from keras_nin.errors import InputError, expected_error
from keras_nin.export.schemes import DEFAULT_SCHEMES
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count, format_percent
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.conversion import Conversion, ConversionInputs, ExportOptions, convert
from keras_nin.workflows.inputs import ImageSource, ImageSources, InputShape, ModelLike, PreprocessingLike, TestImages

if TYPE_CHECKING:
    from keras_nin.benchmark import Profile
    from keras_nin.export import ConvertedModel, Parity, ParityLimits, Tuning
    from keras_nin.export.schemes import Scheme
    from keras_nin.models import LoadedModel
    from keras_nin.workflows.mixed_precision import TargetSearch
    from keras_nin.workflows.reproduction import OriginalExport, Reproduction

_LATENCY_SECONDS = 1.0
_KEPT_UNTRAINED = (
    "qat_keras kept the untrained network: on held-out images no epoch came nearer to the model's own probabilities."
)
_FILE_LIMITS = (LimitItem("flash", Unit.BYTES), LimitItem("latency", Unit.TIME))


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedFile:
    """One exported file: the bytes, everything that made them, and the latency of the whole file on this machine.

    Attributes:
        contents: the bytes of the file and of what is written beside it, by file name; the .tflite first.
        folder: where they were written; None where they were not.
        state: ``"written"``, ``"up to date"`` or ``"not written"``.
    """

    converted: ConvertedModel
    latency: Profile
    contents: Mapping[str, bytes] = dataclasses.field(repr=False)
    folder: pathlib.Path | None = None
    state: str = "not written"

    @property
    def name(self) -> str:
        """Name of the .tflite file."""
        return next(iter(self.contents))

    @property
    def data(self) -> bytes:
        """Content of the .tflite file."""
        return self.converted.data

    @property
    def path(self) -> pathlib.Path | None:
        """Path of the .tflite file; None where it was not written."""
        return None if self.folder is None else self.folder / self.name

    @property
    def parity(self) -> Parity:
        """How the file compares with its model."""
        assert self.converted.parity is not None
        return self.converted.parity

    def to_json(self) -> dict[str, Any]:
        """Return the export record with the path, the state and the latency."""
        total = self.latency.total
        return self.converted.export_record() | {
            "path": None if self.path is None else str(self.path),
            "state": self.state,
            "latency": {
                "median_us": total.median,
                "mean_us": total.mean,
                "p90_us": total.p90,
                "runs": self.latency.runs,
                "threads": self.latency.threads,
            },
        }


@dataclasses.dataclass(frozen=True, repr=False)
class ExportResult(Result):
    """Exported files, each verified against the model.

    Attributes:
        model, weights: names of the model and of its weights.
        random_weights: whether accuracies say nothing.
        files: an `ExportedFile` for each scheme.
        test: images that the files were verified on.
        reproduction: how the file compares with the one that is reproduced, or None.
        notes: what a reader should know of the model and its images.
    """

    model: str
    weights: str
    random_weights: bool
    files: tuple[ExportedFile, ...]
    test: TestImages
    host: dict[str, Any]
    reproduction: Reproduction | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every file passes its parity checks, and a reproduction gives the same bytes."""
        reproduced = self.reproduction is None or self.reproduction.passed
        return reproduced and all(file.parity.passed for file in self.files)

    @property
    def original_top1(self) -> float | None:
        """Top-1 accuracy of the model, before any training for a scheme; None without labels."""
        first = self.files[0].converted
        return (
            first.training["original_top1"]
            if first.scheme.trained and first.training
            else self.files[0].parity.model_top1
        )

    def __getitem__(self, scheme: str) -> ExportedFile:
        return {file.converted.scheme.name: file for file in self.files}[scheme]

    def __iter__(self) -> Iterator[ExportedFile]:
        return iter(self.files)

    def save(self, folder: AnyPath, force: bool = False) -> ExportResult:
        """Write the files and their records to a folder, all or none, and return the result with their paths.

        Raises:
            InputError: a file with different content exists, or the folder is not writable.
        """
        folder = pathlib.Path(folder)
        contents = {folder / name: data for file in self.files for name, data in file.contents.items()}
        written = set(files.write_files(contents, force))
        saved = tuple(
            dataclasses.replace(
                file,
                folder=folder,
                state="written" if any(folder / name in written for name in file.contents) else "up to date",
            )
            for file in self.files
        )
        return dataclasses.replace(self, files=saved)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.export/1``)."""
        reproduced = {} if self.reproduction is None else {"reproduced": self.reproduction.same}
        return {
            "schema": schemas.EXPORT,
            "files": [file.to_json() for file in self.files],
            "host": self.host,
            **reproduced,
        }

    def _summary(self) -> str:
        silent = any(file.parity.no_verdict for file in self.files)
        verdict = "no verdict" if silent else "pass" if self.passed else "FAIL"
        return f"{self.model} ({self.weights}): {format_count(len(self.files), 'file')}, parity {verdict}"

    def _rows(self) -> list[dict[str, Any]]:
        def percent(share: float | None) -> str:
            return "-" if share is None else format_percent(share)

        return [
            {
                "file": file.name,
                "bytes": len(file.data),
                "top-1": percent(file.parity.file_top1),
                "top-1 match": percent(file.parity.top1_match),
                "max abs diff (LSB)": file.parity.max_abs_diff_lsb,
                "SNR (dB)": file.parity.snr_db,
                "latency (us)": file.latency.total.median,
                "parity": "pass" if file.parity.passed else "FAIL",
            }
            for file in self.files
        ]


def export_model(
    model: ModelLike,
    scheme: str | Scheme | Sequence[str | Scheme] | None = "int8",
    calibration: ImageSource = None,
    test: ImageSource = None,
    *,
    weights: AnyPath | None = None,
    input_shape: InputShape | None = None,
    builder_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    imports: Sequence[AnyPath] = (),
    calibration_count: int | None = None,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    tuning: Tuning | None = None,
    io: str | None = None,
    batch: int = 1,
    allow_float: bool = False,
    epochs: int | None = None,
    learning_rate: float | None = None,
    sparsity: float = 0.5,
    clusters: int = 16,
    target: str | None = None,
    float_operators: Sequence[str] | None = None,
    weight_bits: int = 8,
    converter: str = "tensorflow",
    task: str | None = None,
    limits: ParityLimits | None = None,
    threads: int = 1,
    runs: int | None = None,
    out: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Convert a model to .tflite files and verify each against the model, on images that did not calibrate it.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, or a Functional or Sequential keras.Model.
        scheme: one or several of float32, float16, dynamic, int8, int16x8, mixed, qat, qat_keras, pruned, clustered;
            ``"all"`` is every post-training scheme without a target. None is float32 and int8, or int8 alone for a
            quantize-aware model.
        calibration: representative images: a dataset name, a folder, an .npz file, an array (N, H, W, C), a
            tf.data.Dataset or keras.utils.PyDataset, or ``"random"``. uint8 images are preprocessed, floats are fed as
            they are. None takes the calibration split of the model's own dataset.
        test: images to verify on, with or without labels: as `calibration`, or (images, labels). None takes the test
            split of the model's own dataset. One source for both is split: every fifth image calibrates. Two are used
            whole.
        weights: name of bundled weights, ``"random"``, or a path; None takes the bundled ones, or random ones.
        input_shape: (height, width, channels), where the network leaves it open.
        builder_arguments: further arguments of the model's builder.
        seed: of whatever is random: weights, noise, and which images are drawn.
        imports: names of modules or paths of .py files that define the custom layers of a saved model; their code runs.
        calibration_count, test_count: number of images; None takes 100 to calibrate, or 8 of noise, and all to test,
            except that files in slow kernels (int16x8) are compared on a sample, unless `test_count` is "all".
        labels: path of a labels file, for a folder of images.
        preprocessing: how pixels become input: name of a preset, a `keras_nin.data.Preprocessing`, a dictionary of
            constants such as ``{"scale": 1 / 255, "mean": (0.5,), "channels": "bgr"}``, or the path of a JSON file with
            them; ``"none"`` feeds arrays as they are. None takes the model's own; a model that starts with Rescaling
            or Normalization gets the pixels that this layer takes.
        crop: share of the short side that the center crop keeps.
        tuning: how int8 ranges, weights and biases are chosen; None takes `Tuning()`.
        io: input and output type of the integer schemes: int8, uint8 or float32.
        batch: static batch size of the files.
        allow_float: whether operators without an integer kernel may compute in floating point.
        epochs, learning_rate: of a scheme that trains; None takes 20, and a fifth of the rate that trained the network.
        sparsity, clusters: share of zero weights in a layer of the scheme pruned; distinct weights of clustered.
        target: of the scheme mixed, on the calibration images: ``"match=98%"`` (top-1 classes of the model),
            ``"top1_drop=0.5pp"`` (with labels) or ``"snr=30dB"``; with ``slowdown=1.25x`` and ``flash=2MiB`` no file
            that is slower relative to int8, or larger, is chosen.
        float_operators: of the scheme mixed, the operators that stay in float32, by name; None searches for those with
            which the target is met at the lowest latency on this machine.
        weight_bits: bits of the weights of the scheme qat_keras, 2 to 8; an int8 file holds fewer as small integers.
        converter: "tensorflow", or "litert", experimental, which needs no TensorFlow: float32 alone, with Keras on JAX,
            and only where each operator is the one of TensorFlow's converter.
        task: what the outputs mean: classification, binary, multilabel, regression or segmentation; for several
            outputs ``"mask=segmentation,age=regression"``. None infers it from shape, activation and labels.
        limits: what the parity is checked against; None takes the defaults.
        threads, runs: of the latency measurement; None measures until the median is stable.
        out: folder to write to; None writes nothing, see `ExportResult.save`.
        force: replace files with different content.
        progress: what reports the progress.

    Raises:
        InputError: an unknown model or scheme, images that are missing or do not fit, a network that does not convert,
            or an existing file with different content.
        UnreachableTargetError: an `InputError`; no file that was tried meets the target.
    """
    arguments = locals()
    options = ExportOptions(**{field.name: arguments[field.name] for field in dataclasses.fields(ExportOptions)})
    return run_export(model, scheme, options, threads=threads, runs=runs, out=out, force=force, progress=progress)


def run_export(
    model: ModelLike,
    scheme: str | Scheme | Sequence[str | Scheme] | None,
    options: ExportOptions,
    *,
    threads: int = 1,
    runs: int | None = None,
    out: AnyPath | None = None,
    force: bool = False,
    original: OriginalExport | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export with the options in one record; `original` is the export that is reproduced. See `export_model`."""
    from keras_nin.benchmark.measurement import BenchmarkFile, measure_files
    from keras_nin.keras_graph import is_quantize_aware
    from keras_nin.tflite.host import describe_host

    with_litert = options.converter == "litert"
    default = "float32" if with_litert else DEFAULT_SCHEMES
    schemes = options.resolve_schemes(default if scheme is None else scheme)
    _check_target(schemes, options)
    if with_litert:
        from keras_nin.export.litert_conversion import check_litert_converter

        check_litert_converter(schemes)
    if out is not None:
        files.check_output_folder(out)
        _check_no_mixed_file(model, schemes, options, pathlib.Path(out), force)
    job, test, sources = open_inputs(model, schemes, options, progress)
    if scheme is None and not with_litert and is_quantize_aware(job.loaded.model):
        schemes = options.resolve_schemes("int8")
    if original:
        original.check_inputs(job)
    search = _open_search(job, schemes, options, threads, progress)
    conversions = convert(job, schemes, options, progress, search)
    for position, conversion in enumerate(conversions):
        scheme = conversion.converted.scheme
        recorded = options.to_json(model, scheme, sources, job.loaded.dataset)
        if scheme.mixed:
            kept = {"float_operators": conversion.converted.flags["float_operators"]}
            recorded = None if recorded is None else recorded | kept
            found = search.result if search is not None else original.mixed if original is not None else None
            conversion = dataclasses.replace(
                conversion, converted=dataclasses.replace(conversion.converted, mixed=found)
            )
        converted = dataclasses.replace(conversion.converted, options=recorded)
        conversions[position] = dataclasses.replace(conversion, converted=converted)
    reproduction = original.compare(conversions[0].converted.data) if original else None
    for conversion in conversions if out is not None else ():
        converted = conversion.converted
        files.needs_writing(pathlib.Path(out or "") / f"{converted.stem}.tflite", converted.data, force)
    conversions = _verify(conversions, job.loaded, test, options, threads, progress)
    timed = [
        BenchmarkFile(conversion.converted.tflite, name=f"{conversion.converted.stem}.tflite")
        for conversion in conversions
    ]
    with progress.task("Measuring the latency") as update:  # in the loop of `benchmark`, which gives the same
        profiles = measure_files(
            timed, threads=(threads,), runs=runs, seconds=_LATENCY_SECONDS, layers=False, progress=update
        ).profiles
    exported = tuple(
        ExportedFile(conversion.converted, profile, _contents(conversion))
        for conversion, profile in zip(conversions, profiles, strict=True)
    )
    loaded = job.loaded
    own = conversions[0].converted.parity
    notes = (
        *inputs.scaling_notes(loaded.input_scaling, job.preprocessing),
        *sources.notes,
        *inputs.guessing_notes("The model's own", (own.outputs or (own,)) if own else ()),
        *(_KEPT_UNTRAINED for file in exported if (file.converted.training or {}).get("best_epoch") == 0),
    )
    result = ExportResult(
        loaded.name, loaded.weights, loaded.random, exported, test, describe_host(), reproduction, notes
    )
    return result if out is None else result.save(out, force)


def _check_target(schemes: Sequence[Scheme], options: ExportOptions) -> None:
    """Raise `InputError` where a target and the scheme mixed do not come together."""
    from keras_nin.export.mixed_precision import parse_target

    mixed = [scheme for scheme in schemes if scheme.mixed]
    named = [name for name in ("target", "float_operators") if getattr(options, name) is not None]
    if named and not mixed:
        raise InputError(f"`{named[0]}` is for the scheme mixed", argument=named[0])
    if mixed and not named:
        raise InputError("The scheme mixed needs a `target`, such as match=99% or top1_drop=0.5pp", argument="target")
    if options.target is not None:
        parse_target(options.target)
    if isinstance(options.float_operators, str):
        raise expected_error("float_operators", "to be a list of names", options.float_operators)


def _check_no_mixed_file(
    model: ModelLike, schemes: Sequence[Scheme], options: ExportOptions, folder: pathlib.Path, force: bool
) -> None:
    """Raise `InputError` where a file of an earlier search exists: with other latencies a new one may choose others."""
    path = folder / f"{inputs.model_stem(model)}_mixed.tflite"
    if not force and options.float_operators is None and any(scheme.mixed for scheme in schemes) and path.exists():
        raise InputError(
            f"{str(path)!r} exists, and a new search may choose other operators. Repeat its export from the record "
            "beside it, or replace it with `force`",
            argument="force",
            path=path,
        )


def _open_search(
    job: ConversionInputs, schemes: Sequence[Scheme], options: ExportOptions, threads: int, progress: Progress
) -> TargetSearch | None:
    """Return the search for what the scheme mixed leaves in float; None where the options say it."""
    mixed = next((scheme for scheme in schemes if scheme.mixed), None)
    if mixed is None or options.float_operators is not None or options.target is None:
        return None
    if options.batch != 1:
        raise expected_error("batch", "to be 1 for a search for a `target`", options.batch)
    from keras_nin.workflows.mixed_precision import TargetSearch

    float_io = mixed.io_type == "float32"
    return TargetSearch(options.target, job, float_io=float_io, task=options.task, threads=threads, progress=progress)


def open_inputs(
    model: ModelLike, schemes: Sequence[Scheme], options: ExportOptions, progress: Progress = SILENT
) -> tuple[ConversionInputs, TestImages, ImageSources]:
    """Return the model with the images that calibrate it, the images of the test, and the sources of both."""
    from keras_nin.export.verification import model_heads
    from keras_nin.heads import fitting_targets, targets_of
    from keras_nin.keras_graph import describe_outputs, is_quantize_aware

    sources = ImageSources(
        options.calibration,
        options.test,
        options.labels,
        options.seed,
        preprocessing=options.preprocessing,
    )
    loaded = options.load(model, progress)
    shapes = inputs.input_shapes(loaded.model)
    # A quantize-aware network has its ranges.
    calibrates = any(scheme.calibrated for scheme in schemes) and not is_quantize_aware(loaded.model)
    sources.check_own(loaded.dataset, shapes, [options.test, *([options.calibration] if calibrates else [])])
    dataset = sources.dataset("test", loaded.dataset, shapes)
    job = ConversionInputs(loaded, dataset, options.choose_preprocessing(loaded, dataset))
    if calibrates:
        job = job.calibrate(sources.dataset("calibration", loaded.dataset, shapes), shapes, options)
    test = inputs.select_test_images(
        dataset, shapes, job.preprocessing, calibrated_on=job.calibrated_on, count=options.test_count, seed=options.seed
    )
    outputs = describe_outputs(loaded.model)
    test = test.fit_masks(outputs)
    answers = test.dataset.answers_of(test.indices)
    names = [name for name, _, _ in outputs]
    for name, head in zip(names, model_heads(loaded.model, options.task, answers), strict=True):
        targets = fitting_targets(head, targets_of(answers, name, names))
        if targets is not None:
            head.check_targets(targets, dataset.name)  # before what takes long
    return job, test, sources


def _verify(
    conversions: Sequence[Conversion],
    loaded: LoadedModel,
    test: TestImages,
    options: ExportOptions,
    threads: int,
    progress: Progress,
) -> list[Conversion]:
    """Return the conversions with their parity; those that compute one model on the same images in one pass."""
    from keras_nin.export import verify_files
    from keras_nin.export.parity import DROP_ENDINGS
    from keras_nin.tflite.runner import TFLiteRunner

    def compare(original: LoadedModel, runners: Sequence[TFLiteRunner]) -> dict[TFLiteRunner, Parity]:
        groups: dict[int, tuple[TestImages, list[TFLiteRunner]]] = {}
        for runner in runners:  # those in slow kernels on a sample
            images = test.sample_for(runner.model, options.test_count, options.seed)
            groups.setdefault(len(images.indices), (images, []))[1].append(runner)
        parities = {}
        for images, group in groups.values():
            message = f"Comparing {format_count(len(group), 'file')} with {original.name}"
            compared = verify_files(
                original.model,
                group,
                images.batches(message, progress),
                source=test.dataset.name,
                random_weights=original.random,
                limits=options.limits,
                task=options.task,
            )
            parities |= zip(group, compared, strict=True)
        return parities

    runners = [TFLiteRunner(conversion.converted.tflite, threads, batch=options.batch) for conversion in conversions]
    pairs = list(zip(conversions, runners, strict=True))
    plain = [runner for conversion, runner in pairs if not conversion.converted.scheme.trained]
    parities = compare(loaded, plain)
    verified = []
    for conversion, runner in pairs:
        converted = conversion.converted
        if converted.scheme.trained:  # compared with the model as trained, but in accuracy with the original one
            parity, original = compare(conversion.loaded, [runner])[runner], compare(loaded, [runner])[runner]
            checks = [check for check in parity.checks if not check.name.endswith(DROP_ENDINGS)]
            checks += [check for check in original.checks if check.name.endswith(DROP_ENDINGS)]
            parity = dataclasses.replace(parity, checks=tuple(checks))
            training = {"original_top1": original.model_top1, "top1_match_with_original": original.top1_match}
            converted = dataclasses.replace(converted, training=(converted.training or {}) | training)
        else:
            parity = parities[runner]
        verified.append(dataclasses.replace(conversion, converted=converted.with_parity(parity)))
    return verified


def _contents(conversion: Conversion) -> dict[str, bytes]:
    """Return what belongs to a file by name: the file, what goes beside it, and weights that were trained for it."""
    contents = {path.name: data for path, data in conversion.converted.contents(pathlib.Path()).items()}
    if conversion.converted.mixed is not None:
        from keras_nin.figures import render_png
        from keras_nin.plots.mixed_precision import plot_front

        contents[f"{conversion.converted.stem}.png"] = render_png(plot_front(conversion.converted.mixed))
    if conversion.converted.scheme.trained:
        from keras_nin.models import save_weights

        with files.temporary_folder() as folder:
            path = folder / "trained.weights.h5"
            save_weights(conversion.loaded.model, path)
            contents[f"{conversion.converted.stem}.weights.h5"] = path.read_bytes()
    return contents


def parse_export_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits such as ``"top1_match=95%,snr=30dB,flash=100KiB,latency=1ms"``; see `keras_nin.limits`."""
    from keras_nin.export.parity import PARITY_LIMITS

    return parse_limits(text, (*PARITY_LIMITS, *_FILE_LIMITS), argument=argument)


def check_export_limits(result: ExportResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare every file with limits on its parity, its size and its latency on this machine."""
    return tuple(_check_file_limit(file, limit) for file in result.files for limit in limits)


def _check_file_limit(file: ExportedFile, limit: Limit) -> LimitCheck:
    from keras_nin.export.parity import check_parity_limit

    if limit.item not in _FILE_LIMITS:
        return check_parity_limit(file.parity, limit, subject=file.name)
    value = len(file.data) if limit.name == "flash" else file.latency.total.median
    return check_limit(limit, value, subject=file.name)
