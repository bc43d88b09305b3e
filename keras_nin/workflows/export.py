"""Export: convert a model, verify the files against it, time them, and write them with their records."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files, schemas
from keras_nin.export.schemes import Scheme, Tuning
from keras_nin.formatting import format_count, format_percent
from keras_nin.results import Result
from keras_nin.workflows import images
from keras_nin.workflows.conversion import Conversion, ExportOptions, convert, draw_calibration
from keras_nin.workflows.models import InputShape, ModelLike, choose_preprocessing, input_shapes
from keras_nin.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    from keras_nin.benchmark import Profile
    from keras_nin.export import Calibration, ConvertedModel, Parity, ParityLimits
    from keras_nin.models import LoadedModel
    from keras_nin.workflows.reproduction import OriginalExport, Reproduction

_LATENCY_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedFile:
    """One exported file.

    Attributes:
        converted: `keras_nin.export.ConvertedModel`: the bytes and everything that made them.
        latency: `keras_nin.benchmark.Profile` of the whole file on this machine.
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
        model: name of the model.
        weights: what its weights are.
        random_weights: whether they are random, so that accuracies say nothing.
        files: an `ExportedFile` for each scheme.
        test: `keras_nin.workflows.images.TestImages` that the files were verified on.
        host: description of this machine.
        reproduction: how the file compares with the one that is reproduced, or None.
    """

    model: str
    weights: str
    random_weights: bool
    files: tuple[ExportedFile, ...]
    test: images.TestImages
    host: dict[str, Any]
    reproduction: Reproduction | None = None

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
        for file in self.files:
            if file.converted.scheme.name == scheme:
                return file
        raise KeyError(scheme)

    def __iter__(self) -> Iterator[ExportedFile]:
        return iter(self.files)

    def save(self, folder: str | os.PathLike[str], force: bool = False) -> ExportResult:
        """Write the files and their records to a folder, all or none, and return the result with their paths.

        Raises:
            InputError: a file with different content exists and `force` is not set, or the folder is not writable.
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
        verdict = "pass" if self.passed else "FAIL"
        return f"{self.model} ({self.weights}): {format_count(len(self.files), 'file')}, parity {verdict}"

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "file": file.name,
                "bytes": len(file.data),
                "top-1": format_percent(file.parity.file_top1) if file.parity.file_top1 is not None else "-",
                "top-1 match": format_percent(file.parity.top1_match) if file.parity.top1_match is not None else "-",
                "max abs diff (LSB)": file.parity.max_abs_diff_lsb,
                "SNR (dB)": file.parity.snr_db,
                "latency (us)": file.latency.total.median,
                "parity": "pass" if file.parity.passed else "FAIL",
            }
            for file in self.files
        ]


def export_model(
    model: ModelLike,
    scheme: str | Scheme | Sequence[str | Scheme] = "int8",
    calibration: images.ImageSource = None,
    test: images.ImageSource = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    input_shape: InputShape | None = None,
    builder_arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
    calibration_count: int | None = None,
    test_count: int | None = None,
    labels: str | None = None,
    preprocessing: str | None = None,
    crop: float | None = None,
    tuning: Tuning | None = None,
    io: str | None = None,
    batch: int = 1,
    allow_float: bool = False,
    epochs: int | None = None,
    learning_rate: float | None = None,
    sparsity: float = 0.5,
    clusters: int = 16,
    limits: ParityLimits | None = None,
    threads: int = 1,
    runs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Convert a model to .tflite files and verify each against the model, on images that did not calibrate it.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, or a Functional or Sequential keras.Model.
        scheme: one or several of float32, float16, dynamic, int8, int16x8, qat, pruned, clustered; ``"all"`` is every
            post-training scheme.
        calibration: representative images: a dataset name, a folder, an .npz file, an array (N, H, W, C), a
            tf.data.Dataset or keras.utils.PyDataset, or ``"random"``. uint8 images are preprocessed, floats are fed as
            they are. None takes the calibration split of the model's own dataset.
        test: images to verify on, with or without labels: as `calibration`, or (images, labels). None takes the test
            split of the model's own dataset. One source for both is split: every fifth image calibrates.
        weights: name of bundled weights, ``"random"``, or a path; None takes the bundled ones, or random ones.
        input_shape: (height, width, channels), where the network leaves it open.
        builder_arguments: further arguments of the model's builder.
        seed: of whatever is random: weights, noise, and which images are drawn.
        calibration_count: number of calibration images; None takes 100, or 8 of noise.
        test_count: number of test images; None takes all.
        labels: path of a labels file, for a folder of images.
        preprocessing: preset that turns pixels into input; None takes the model's own.
        crop: share of the short side that the center crop keeps.
        tuning: how int8 ranges, weights and biases are chosen; None takes `Tuning()`.
        io: input and output type of the integer schemes: int8, uint8 or float32.
        batch: static batch size of the files.
        allow_float: whether operators without an integer kernel may compute in floating point.
        epochs, learning_rate: of a scheme that trains; None takes 20, and a fifth of the rate that trained the network.
        sparsity, clusters: share of zero weights in a layer of the scheme pruned; distinct weights of clustered.
        limits: what the parity is checked against; None takes the defaults.
        threads, runs: of the latency measurement; None measures until the median is stable.
        out: folder to write to; None writes nothing, see `ExportResult.save`.
        force: replace files with different content.
        progress: what reports the progress.

    Returns:
        `ExportResult`.

    Raises:
        InputError: an unknown model or scheme, images that are missing or do not fit, a network that does not convert,
            or an existing file with different content.
    """
    options = ExportOptions(
        weights=weights,
        input_shape=input_shape,
        builder_arguments=builder_arguments or {},
        seed=seed,
        calibration=calibration,
        calibration_count=calibration_count,
        test=test,
        test_count=test_count,
        labels=labels,
        preprocessing=preprocessing,
        crop=crop,
        limits=limits,
        io=io,
        batch=batch,
        allow_float=allow_float,
        tuning=tuning or Tuning(),
        epochs=epochs,
        learning_rate=learning_rate,
        sparsity=sparsity,
        clusters=clusters,
    )
    return run_export(model, scheme, options, threads=threads, runs=runs, out=out, force=force, progress=progress)


def run_export(
    model: ModelLike,
    scheme: str | Scheme | Sequence[str | Scheme],
    options: ExportOptions,
    *,
    threads: int = 1,
    runs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    original: OriginalExport | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Export with the options in one record; `original` is the export that is reproduced. See `export_model`."""
    from keras_nin.tflite.host import describe_host

    schemes = options.resolve_schemes(scheme)
    if out is not None:
        files.check_output_folder(out)
    job = _prepare(model, schemes, options, progress)
    conversions = convert(
        job.loaded,
        schemes,
        options,
        calibration=job.calibration,
        preprocessing=job.test.preprocessing,
        dataset=job.test.dataset,
        progress=progress,
    )
    conversions = [_with_recorded_options(conversion, job) for conversion in conversions]
    reproduction = original.compare(conversions[0].converted) if original else None
    for conversion in conversions if out is not None else ():
        converted = conversion.converted
        files.needs_writing(pathlib.Path(out or "") / f"{converted.stem}.tflite", converted.data, force)
    conversions = _verify(conversions, job, threads, progress)
    profiles = _measure_latency([conversion.converted for conversion in conversions], threads, runs, progress)
    result = ExportResult(
        job.loaded.name,
        job.loaded.weights,
        job.loaded.random,
        tuple(
            ExportedFile(conversion.converted, profile, _contents(conversion))
            for conversion, profile in zip(conversions, profiles, strict=True)
        ),
        job.test,
        describe_host(),
        reproduction,
    )
    return result if out is None else result.save(out, force)


@dataclasses.dataclass(frozen=True, eq=False)
class _ExportJob:
    """The model and the images of an export."""

    model: ModelLike
    options: ExportOptions
    sources: images.ImageSources
    loaded: LoadedModel
    calibration: Calibration | None
    test: images.TestImages


def _prepare(model: ModelLike, schemes: Sequence[Scheme], options: ExportOptions, progress: Progress) -> _ExportJob:
    sources = images.ImageSources(options.calibration, options.test, options.labels, options.seed)
    loaded = options.load(model, progress)
    shapes = input_shapes(loaded.model)
    dataset = sources.test_set(loaded.dataset, shapes)
    preprocessing = choose_preprocessing(loaded.preprocessing, dataset, options.preprocessing, options.crop)
    calibration, digests = None, set()
    if any(scheme.calibrated for scheme in schemes):
        calibration_set = sources.calibration_set(loaded.dataset, shapes)
        calibration, digests = draw_calibration(calibration_set, shapes, options, preprocessing)
    test = images.select_test_images(
        dataset, shapes, preprocessing, calibrated_on=digests, count=options.test_count, seed=options.seed
    )
    return _ExportJob(model, options, sources, loaded, calibration, test)


def _with_recorded_options(conversion: Conversion, job: _ExportJob) -> Conversion:
    """Add the options to the record of a file; none where a model or images in memory cannot be named."""
    sources, own = job.sources, job.loaded.dataset
    named = all(map(images.is_named, (job.model, sources.test_source(own))))
    if conversion.converted.scheme.calibrated:
        named = named and images.is_named(sources.calibration_source(own))
    if not named:
        return conversion
    document = job.options.to_json(str(job.model), conversion.converted.scheme, sources, own)
    return dataclasses.replace(conversion, converted=dataclasses.replace(conversion.converted, options=document))


def _verify(conversions: Sequence[Conversion], job: _ExportJob, threads: int, progress: Progress) -> list[Conversion]:
    """Return the conversions with their parity; all that compute one model in one pass over the images."""
    from keras_nin.tflite.runner import TFLiteRunner

    runners = [
        TFLiteRunner(conversion.converted.tflite, threads, batch=job.options.batch) for conversion in conversions
    ]
    plain = [runner for conversion, runner in zip(conversions, runners, strict=True) if not conversion.trained]
    parities = iter(_compare(job.loaded, plain, job, progress) if plain else ())
    return [
        _verify_trained(conversion, runner, job, progress)
        if conversion.trained
        else _with_parity(conversion, next(parities))
        for conversion, runner in zip(conversions, runners, strict=True)
    ]


def _compare(loaded: LoadedModel, runners: Sequence[Any], job: _ExportJob, progress: Progress) -> list[Parity]:
    from keras_nin.export import verify_files

    return verify_files(
        loaded.model,
        runners,
        job.test.batches("Comparing", progress),
        source=job.test.dataset.name,
        random_weights=loaded.random,
        limits=job.options.limits,
    )


def _verify_trained(conversion: Conversion, runner: Any, job: _ExportJob, progress: Progress) -> Conversion:
    """Compare a file with the model as trained for its scheme; its accuracy is compared with the original model's."""
    (parity,) = _compare(conversion.loaded, [runner], job, progress)
    (original,) = _compare(job.loaded, [runner], job, progress)
    checks = [check for check in parity.checks if check.name != "top1_drop_pp"]
    checks += [check for check in original.checks if check.name == "top1_drop_pp"]
    training = (conversion.converted.training or {}) | {
        "original_top1": original.model_top1,
        "top1_match_with_original": original.top1_match,
    }
    converted = dataclasses.replace(conversion.converted, training=training)
    parity = dataclasses.replace(parity, checks=tuple(checks))
    return _with_parity(dataclasses.replace(conversion, converted=converted), parity)


def _with_parity(conversion: Conversion, parity: Parity) -> Conversion:
    return dataclasses.replace(conversion, converted=conversion.converted.with_parity(parity))


def _measure_latency(
    converted: Sequence[ConvertedModel], threads: int, runs: int | None, progress: Progress
) -> tuple[Profile, ...]:
    """Time whole files in the loop of `keras_nin.benchmark`, so that both give the same latency."""
    from keras_nin.benchmark.measurement import BenchmarkFile, measure_files

    sources = [BenchmarkFile(file.tflite, name=f"{file.stem}.tflite") for file in converted]
    with progress.task("Measuring the latency") as update:
        return measure_files(
            sources, threads=(threads,), runs=runs, seconds=_LATENCY_SECONDS, layers=False, progress=update
        ).profiles


def _contents(conversion: Conversion) -> dict[str, bytes]:
    """Return what belongs to a file by name: the file, what goes beside it, and weights that were trained for it."""
    contents = {path.name: data for path, data in conversion.converted.contents(pathlib.Path()).items()}
    if conversion.trained:
        with files.temporary_folder() as folder:
            path = folder / "trained.weights.h5"
            conversion.loaded.model.save_weights(path)
            contents[f"{conversion.converted.stem}.weights.h5"] = path.read_bytes()
    return contents
