"""Files and models on the Edge TPU, Ethos-U and TFLite Micro."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import files
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.workflows import SILENT, Progress, conversion, inputs
from keras_nin.workflows.conversion import NOISE_CALIBRATION, ExportOptions, open_tflite
from keras_nin.workflows.inputs import FileOrModel, ImageSource, ImageSources, PreprocessingLike

if TYPE_CHECKING:
    from keras_nin.edge.edgetpu.records import EdgeTPUResult
    from keras_nin.edge.ethosu.records import EthosUResult
    from keras_nin.edge.fit import FitResult
    from keras_nin.edge.micro.measurement import MicroInputs
    from keras_nin.edge.micro.records import MicroResult
    from keras_nin.tflite.records import TFLiteModel

MIB = 2**20
MICRO_IMAGES = 100  # that `measure_micro` and `check_fit` compare at most
NOISE = "random"
_MICRO_IGNORED = ("seed", "test", "test_count", "labels", "preprocessing", "crop")


def check_edgetpu(
    model: FileOrModel,
    *,
    multiple_subgraphs: bool = False,
    require: str | None = None,
    compile: bool = False,
    timeout: float = 180.0,
    export: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> EdgeTPUResult:
    """Predict for each operator of an int8 file whether the Edge TPU compiler maps it, and why not.

    Args:
        model: path of an int8 .tflite file, or a model, which is exported to int8 first with the options `export`.
        multiple_subgraphs: whether several subgraphs may be mapped, as the compiler's ``-a`` does.
        require: smallest share of mapped operators: ``"full"`` or ``"95%"``.
        compile, timeout: whether to run edgetpu_compiler too and compare, and the seconds that it may take.
        progress: what reports the progress.

    Raises:
        InputError: an unreadable file, an unknown model, or a compiler that is not installed.
    """
    from keras_nin.edge.edgetpu import verdict

    limits = verdict.parse_edgetpu_limits(require) if require else ()
    if compile:
        from keras_nin.edge.edgetpu import compiler

        compiler.find_compiler()
    with open_tflite(model, export, progress=progress) as source:
        result = verdict.check_edgetpu(source.file, multiple_subgraphs=multiple_subgraphs)
        compilation, differences = None, ()
        if compile:
            from keras_nin.edge.edgetpu import compiler

            with progress.task("Running edgetpu_compiler"):
                compilation = compiler.run_compiler(source.path, multiple_subgraphs=multiple_subgraphs, timeout=timeout)
            differences = compiler.compare_with_compiler(result, compilation.rows) if compilation.rows else ()
    notes = (f"{', '.join(source.notes)}: the verdict does not depend on it",) if source.notes else ()
    return dataclasses.replace(
        result,
        model=source.name,
        checks=verdict.check_edgetpu_limits(result, limits),
        compilation=compilation,
        differences=tuple(differences),
        notes=notes,
    )


def estimate_ethosu(
    model: FileOrModel,
    accelerators: str | Sequence[str] = "ethos-u55-128",
    *,
    system_config: str | None = None,
    memory_mode: str | None = None,
    config: Sequence[str] = (),
    require: str | None = None,
    timeout: float = 600.0,
    out: AnyPath | None = None,
    plot: AnyPath | None = None,
    force: bool = False,
    export: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> EthosUResult:
    """Compile an int8 file with Arm's compiler Vela and estimate every layer on Ethos-U NPUs.

    Args:
        model, export, progress: as in `check_edgetpu`.
        accelerators: names such as ``"ethos-u55-128"``, or ``"all"``.
        system_config, memory_mode: sections of `config`: clock and memories, and what lies in which memory; None takes
            Vela's default.
        config: paths of Vela configuration files.
        require: limits such as ``"full,time=1ms,sram=64KiB"``, checked on each accelerator.
        timeout: seconds that Vela may take for an accelerator.
        out, plot, force: paths for the compiled file, of one accelerator, and for a PNG figure of where the time goes
            on each; whether to replace files with different content.

    Raises:
        InputError: Vela is not installed, refuses the file on every accelerator, or takes too long.
    """
    from keras_nin.edge.ethosu import estimate, records, vela

    chosen = records.parse_accelerators([accelerators] if isinstance(accelerators, str) else accelerators)
    limits = records.parse_ethosu_limits(require) if require else ()
    if out is not None and len(chosen) > 1:
        raise InputError(f"`out` keeps the file of one accelerator. Received: {', '.join(chosen)}", argument="out")
    compiled_path = None if out is None else files.check_output_file(out, ".tflite", argument="out")
    plot_path = None if plot is None else files.check_output_file(plot, ".png", argument="plot")
    if inputs.is_model(model):
        vela.find_vela()  # before Keras starts, which takes longer
    with open_tflite(model, export, progress=progress) as source:
        result = estimate.estimate_ethosu(
            source.file,
            chosen,
            options=vela.VelaOptions(system_config, memory_mode, tuple(config)),
            timeout=timeout,
            track=lambda items: progress.track(items, "Compiling", len(items)),
        )
    contents = {}
    if compiled_path is not None:
        contents[compiled_path] = result.estimates[0].compiled
    if plot_path is not None:
        from keras_nin import figures

        contents[plot_path] = figures.render_png(result.plot())
    files.write_files(contents, force)
    return dataclasses.replace(
        result,
        checks=records.check_ethosu_limits(result, limits),
        notes=(*result.notes, *map(_ethosu_note, source.notes)),
    )


def _ethosu_note(note: str) -> str:
    """Return a note of a temporary export with what it means for the figures."""
    if note == NOISE_CALIBRATION:
        return f"{note}: good for times only; pass images as `calibration`"
    return f"{note}: compressed sizes, and times that wait for weights, are not a trained network's"


def measure_micro(
    model: FileOrModel,
    test: ImageSource = None,
    *,
    max_arena: int = 2 * MIB,
    require: str | None = None,
    test_count: int = MICRO_IMAGES,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    seed: int = 0,
    seconds: float = 20.0,
    timeout: float = 300.0,
    c_array: AnyPath | None = None,
    force: bool = False,
    export: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> MicroResult:
    """Find the smallest tensor arena in which TFLite Micro runs a file, and compare its outputs with LiteRT's.

    Args:
        model, export, progress: as in `check_edgetpu`.
        test: images to compare on, as in `export_model`; None takes those that calibrated the model, or that the
            export record names, where they are found without a download, otherwise noise, and says why.
        max_arena: largest arena to try, in bytes.
        require: limits such as ``"arena=256KiB,flash=1MiB"``.
        test_count, labels, preprocessing, crop, seed: as in `export_model`; what is not given is that of `export`.
        seconds: each runtime starts no further image after so many seconds.
        timeout: seconds after which a runtime is ended.
        c_array, force: path without suffix for a .cc and a .h file that hold the model, and whether to replace them.

    Raises:
        InputError: TFLite Micro is not installed, an unreadable file, or images that do not fit.
    """
    from keras_nin.edge.micro import measurement, records
    from keras_nin.edge.micro.cpp import c_array_paths, format_c_array
    from keras_nin.tflite.reader import read_model

    measurement.require_tflite_micro()
    limits = records.parse_micro_limits(require) if require else ()
    for path in () if c_array is None else c_array_paths(c_array):
        files.check_output_folder(path.parent)
    given: dict[str, Any] = {"test": test, "labels": labels, "preprocessing": preprocessing, "crop": crop}
    given = {name: value for name, value in (given | {"seed": seed or None}).items() if value is not None}
    options = dataclasses.replace(export or ExportOptions(), **given)
    with open_tflite(model, options, ignored=_MICRO_IGNORED, progress=progress) as source:
        parsed = read_model(source.file)
        images, noise_note = _load_micro_inputs(source, parsed, options, test_count)
        with progress.task(f"Searching the arena of {source.name}"):
            result = measurement.measure_micro(
                parsed, max_arena=max_arena, inputs=images, seconds=seconds, timeout=timeout
            )
        if c_array is not None:
            contents = {path: text.encode() for path, text in format_c_array(result, parsed, c_array).items()}
            files.write_files(contents, force)
    note = "the outputs say nothing about accuracy, and a trained network may use other operators"
    notes = [f"{', '.join(source.notes)}: {note}"] * bool(source.notes) + (
        [f"{noise_note}. Pass others as `test`"] if noise_note else []
    )
    return dataclasses.replace(result, notes=(*result.notes, *notes), checks=records.check_micro_limits(result, limits))


@dataclasses.dataclass(frozen=True)
class _MicroImages:
    """Which samples a file is run on with TFLite Micro: `test` as in `export_model`, None is noise, and why it is.

    `calibration` names what calibrated the file, or is None.
    """

    test: ImageSource
    note: str | None = None
    calibration: ImageSource = None

    def load(self, model: TFLiteModel, record: dict[str, Any], options: ExportOptions, count: int) -> MicroInputs:
        """Return at most `count` test samples in whole batches."""
        import numpy as np

        from keras_nin.edge.micro.measurement import prepare_samples

        tensors = [model.main.tensors[index] for index in model.main.inputs]
        names = {index: name for signature in model.signatures for name, index in signature.inputs}
        if any(not tensor.shape or tensor.shape[0] < 1 for tensor in tensors) or not tensors:
            received = [tensor.shape for tensor in tensors]
            raise InputError(f"Expected inputs with a batch for `test`. Received: {received}", argument="test")
        is_image = len(tensors) == 1 and len(tensors[0].shape) == 4
        shapes: inputs.Shapes = {names.get(tensor.index, tensor.name): tensor.shape[1:] for tensor in tensors}
        shapes = tensors[0].shape[1:] if is_image else shapes
        requested = options.preprocessing or inputs.recorded_preprocessing(record)
        sources = ImageSources(
            self.calibration, self.test, options.labels, options.seed, preprocessing=requested, recorded=True
        )
        dataset = sources.dataset("test", None, shapes)
        known = record.get("preprocessing")
        preprocessing = inputs.choose_preprocessing(known, dataset, requested, options.crop)
        batch = tensors[0].shape[0]
        indices = dataset.select("test", -(-count // batch) * batch, options.seed)
        indices = indices[: max(len(indices) // batch, 1) * batch]
        size, channels = (shapes[:2], shapes[2]) if isinstance(shapes, tuple) else (None, None)
        loaded = dataset.load(indices, size, channels, preprocessing)
        arrays = list(loaded.values()) if isinstance(loaded, dict) else [np.asarray(loaded)]
        mode = f", preprocessing: {preprocessing}" if preprocessing else ""
        return prepare_samples(model, arrays, f"test images of {dataset.name}{mode}")


def _choose_micro_images(source: conversion.TFLiteSource, record: dict[str, Any], test: ImageSource) -> _MicroImages:
    """Return what was asked for, else the images of the export, where they are found without a download."""
    recorded = inputs.recorded_test_source(record)
    chosen = next((entry for entry in (test, source.images, recorded) if entry is not None), None)
    if chosen is None or (isinstance(chosen, str) and chosen == NOISE):
        return _MicroImages(None)
    if recorded is not None and chosen is recorded and not _is_at_hand(recorded):
        return _MicroImages(None, f"the images that the export was tested on, {recorded!r}, are not found")
    return _MicroImages(chosen, calibration=source.images or inputs.recorded_calibration_source(record))


def _is_at_hand(source: str) -> bool:
    from keras_nin.data import list_datasets
    from keras_nin.data.named_datasets import is_at_hand

    return is_at_hand(source) if source in list_datasets() else os.path.exists(source)


def _load_micro_inputs(
    source: conversion.TFLiteSource, model: TFLiteModel, options: ExportOptions, test_count: int
) -> tuple[MicroInputs | None, str | None]:
    """Return test samples in whole batches; None for noise, with a note where the export's own cannot be used."""
    record = inputs.read_export_record(source.path)
    images = _choose_micro_images(source, record, options.test)
    note = images.note
    if images.test is not None:
        try:
            return images.load(model, record, options, test_count), None
        except InputError as error:
            if options.test is not None:
                raise
            note = f"the images of the export, {images.test!r}, do not fit: {error}"
    elif not source.temporary and (options.labels or options.preprocessing or options.crop is not None):
        raise InputError("`labels`, `preprocessing` and `crop` apply to images; pass them as `test`", argument="test")
    return None, note and f"{source.name} was compared on noise: {note}"


def check_fit(
    models: Sequence[FileOrModel],
    targets: str | Sequence[str] = ("cpu", "edgetpu", "ethosu", "micro"),
    *,
    require: str | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    accelerator: str = "ethos-u55-128",
    max_arena: int = 2 * MIB,
    timeout: float = 300.0,
    device: str | None = None,
    python: str | None = None,
    export: ExportOptions | None = None,
    progress: Progress = SILENT,
) -> FitResult:
    """Show what files cost on this CPU, the Edge TPU, Ethos-U and TFLite Micro.

    Args:
        models: paths of .tflite files, or models, which are exported to int8 first with the options `export`.
        targets: which of cpu, edgetpu, ethosu, micro; a sequence or comma-separated.
        require: limits such as ``"cpu=5ms,edgetpu=full,arena=256KiB"``.
        threads, seconds: of the runtime on this CPU, and the longest measurement of a file on it.
        accelerator, max_arena: the Ethos-U, and the largest arena of TFLite Micro to try, in bytes.
        timeout: seconds after which Vela, or a runtime of TFLite Micro, is ended.
        device, python: as in `benchmark_models`: where the latency is measured instead of this CPU.
        progress: what reports the progress.

    Returns:
        `keras_nin.edge.fit.FitResult`; a target without figures has the reason in their place.

    Raises:
        InputError: an unknown target, a limit on a target that is not asked for, or an unreadable file.
    """
    from keras_nin.edge import fit

    chosen = fit.parse_targets(targets.split(",") if isinstance(targets, str) else targets)
    limits = fit.parse_fit_limits(require, chosen) if require else ()
    settings = fit.FitSettings(threads, seconds, accelerator, max_arena, timeout, device)
    run = None
    if device is not None:
        from keras_nin.benchmark.devices import open_device

        if fit.CPU not in chosen:
            raise InputError("`device` measures the target cpu, which is not among `targets`", argument="device")
        run = open_device(device, python)
    elif python is not None:
        raise InputError("`python` is for a `device` ssh://", argument="python")
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open_tflite(model, export, progress=progress)) for model in models]
        by_path = {pathlib.Path(source.path): source for source in sources}
        notes: list[str] = []

        def load_inputs(parsed: TFLiteModel) -> MicroInputs | None:
            source = by_path[pathlib.Path(str(parsed.path))]
            loaded, note = _load_micro_inputs(source, parsed, export or ExportOptions(), MICRO_IMAGES)
            notes.extend([note] if note else [])
            return loaded

        with progress.task("Starting") as update:
            read = [source.file for source in sources]
            result = fit.check_fit(read, chosen, settings, update, load_inputs, run)
    return dataclasses.replace(result, checks=fit.check_fit_limits(result, limits), notes=(*result.notes, *notes))
