"""Certification: run .tflite files on several devices and compare every operator's outputs with this machine's."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from keras_nin import files, schemas
from keras_nin.errors import DatasetUnavailableError, InputError, check_choice
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count, format_table
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.inputs import ImageSource, ImageSources, PreprocessingLike

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.benchmark.certification import Certificate, CertifyResult, FileToCertify
    from keras_nin.benchmark.devices import DeviceSession, RunnerDevice
    from keras_nin.benchmark.qemu_root import QemuRoot
    from keras_nin.tflite.runner import TFLiteRunner

# Emulated kernels compute some 1e8 products a second, the reference kernels far fewer.
_MAX_IMAGES, _MACS = 50, 2_000_000_000


def certify_files(
    sources: Sequence[AnyPath],
    devices: Sequence[str] = (),
    *,
    kernels: Sequence[str] = (),
    test: ImageSource = None,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    task: str | None = None,
    threads: int = 1,
    seed: int = 0,
    python: str | None = None,
    require: str | None = None,
    progress: Progress = SILENT,
) -> CertifyResult:
    """Run files on this machine and other devices in all kernels, and compare the outputs of every operator.

    Images and preprocessing are chosen as in `evaluate_model`; a file without any runs on noise.

    Args:
        sources: paths of .tflite files.
        devices: ``qemu://CPU`` and ``ssh://[user@]host[:port]``; none takes all CPUs that QEMU emulates here.
        kernels: of "xnnpack", "builtin" and "reference"; none takes all.
        test, labels, preprocessing, crop, task, seed: as in `evaluate_model`.
        test_count: number of images; None takes as many as run in seconds, up to 50.
        threads, python: of the LiteRT runtime; the interpreter on ssh devices.
        require: limits on every run on another device: "bit-exact", or "lsb=1".
        progress: what reports the progress.

    Raises:
        InputError: a device that cannot be used, or a file that does not run here. One that does not run elsewhere, or
            in some kernels, has the error in place of the figures.
    """
    from keras_nin.benchmark import certification
    from keras_nin.benchmark.emulator import EMULATED_CPUS, SCHEME, this_machine

    limits = certification.parse_certify_limits(require) if require else ()
    for name in kernels:
        check_choice("kernels", name, certification.KERNELS)
    kernels = tuple(name for name in certification.KERNELS if name in kernels or not kernels)
    urls = tuple(dict.fromkeys(devices or (f"{SCHEME}{cpu}" for cpu in EMULATED_CPUS)))
    opened = {url: inputs.find_device(url, python) for url in urls}
    opened = {certification.HOST: this_machine(), **opened}
    images = _ImageOptions(test, test_count, labels, preprocessing, crop, task, seed)
    prepared = [_prepare(os.fspath(source), images, threads, progress) for source in sources]
    runs: list[list[certification.CertifiedRun]] = [[] for _ in prepared]
    hosts: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(_Sessions(opened[certification.HOST]))
        for url, device in opened.items():
            others = host if url == certification.HOST else stack.enter_context(_Sessions(device))
            hosts[url] = others.current().host
            tracked = progress.track(list(zip(prepared, runs, strict=True)), f"Running on {url}", len(prepared))
            for (_, file), file_runs in tracked:
                for name in kernels:
                    file_runs.append(file.certify(url, name, others.current(), host.current()))
                    if url == certification.HOST and name == kernels[0] and file_runs[-1].error:
                        raise InputError(str(file_runs[-1].error), path=file.model.path)
            if others is not host:
                others.close()
    result = certification.CertifyResult(
        devices=hosts,
        kernels=kernels,
        files=tuple(_certificate(*entry, file_runs) for entry, file_runs in zip(prepared, runs, strict=True)),
        notes=tuple(note for data, _ in prepared for note in data.notes),
    )
    return dataclasses.replace(result, checks=certification.check_certify_limits(result, limits))


class _Sessions(contextlib.AbstractContextManager["_Sessions"]):
    """Sessions on a device, one at a time: a new one where a crash ended the last one."""

    def __init__(self, device: RunnerDevice) -> None:
        self._device, self._stack = device, contextlib.ExitStack()
        self._session: DeviceSession | None = None

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()
        self._session = None

    def current(self) -> DeviceSession:
        from keras_nin.benchmark.devices import DeviceSession

        if self._session is None or self._session.has_ended:
            self._stack.close()
            self._session = self._stack.enter_context(DeviceSession(self._device))
        return self._session


@dataclasses.dataclass(frozen=True)
class _ImageOptions:
    test: ImageSource
    count: int | Literal["all"] | None
    labels: str | None
    preprocessing: PreprocessingLike | None
    crop: float | None
    task: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class _Data:
    """The name of a file's images, how many there are, and notes."""

    name: str
    count: int
    notes: tuple[str, ...] = ()


def _prepare(path: str, options: _ImageOptions, threads: int, progress: Progress) -> tuple[_Data, FileToCertify]:
    """Open a file, which must run here, and its images."""
    from keras_nin.benchmark.certification import FileToCertify
    from keras_nin.heads import make_heads
    from keras_nin.tflite.isolated import IsolatedRunner
    from keras_nin.tflite.reader import read_checked_model

    with IsolatedRunner(read_checked_model(path), threads) as runner:
        heads = make_heads(runner.describe_outputs(), options.task)
        data, arrays = _load_inputs(path, runner, options, progress)
    batches = [[array[index : index + 1] for array in arrays] for index in range(data.count)]
    for batch in batches:  # an input without a batch, such as a threshold
        for position, details in enumerate(runner.inputs):
            batch[position] = batch[position].reshape(details.shape)
    return data, FileToCertify(runner.model, batches, heads, threads)


def _load_inputs(
    path: str, runner: TFLiteRunner, options: _ImageOptions, progress: Progress
) -> tuple[_Data, list[np.ndarray]]:
    """Return the array (N, ...) of each input in its type: of images, or noise where a file has none."""
    import numpy as np

    from keras_nin.tflite.isolated import estimate_macs

    count = options.count or max(1, min(_MAX_IMAGES, _MACS // max(1, estimate_macs(runner.model))))
    record = inputs.read_export_record(path)
    own, calibration = inputs.recorded_test_source(record), inputs.recorded_calibration_source(record)
    note = ()
    if any(source is not None for source in (options.test, own, calibration)):
        requested = inputs.recorded_preprocessing(record) if options.preprocessing is None else options.preprocessing
        sources = ImageSources(
            calibration, options.test, options.labels, options.seed, preprocessing=requested, recorded=True
        )
        shapes = runner.sample_shapes()
        try:
            dataset = sources.dataset("test", own, shapes)
        except DatasetUnavailableError as error:
            note = (f"{os.path.basename(path)} ran on noise: {error}",)
        else:
            chosen = inputs.choose_preprocessing(record.get("preprocessing"), dataset, requested, options.crop)
            images = inputs.select_test_images(dataset, shapes, chosen, count=count, seed=options.seed)
            parts = [
                runner.quantize_inputs(batch)
                for batch, _ in images.batches(f"Reading the images of {os.path.basename(path)}", progress)
            ]
            return _Data(dataset.name, len(images.indices)), [
                np.concatenate(arrays) for arrays in zip(*parts, strict=True)
            ]
    count = count if isinstance(count, int) else _MAX_IMAGES
    generator = np.random.default_rng(options.seed)
    arrays = [_draw_noise((count, *details.shape[1:]), details.dtype, generator) for details in runner.inputs]
    return _Data("noise", count, note), arrays


def _draw_noise(shape: tuple[int, ...], dtype: str, generator: np.random.Generator) -> np.ndarray:
    """Return uniform noise: over all values of integers of 8 and 16 bits, 0 or 1 of others, floats from -1 to 1."""
    import numpy as np

    if dtype in ("int8", "uint8", "int16"):
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max + 1, shape).astype(dtype)
    if dtype.startswith(("float", "complex")):
        return generator.uniform(-1, 1, shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _certificate(data: _Data, file: FileToCertify, runs: Sequence[Any]) -> Certificate:
    from keras_nin.benchmark.certification import Certificate

    model = file.model
    name = "" if model.path is None else model.path.name
    return Certificate(
        name, files.sha256(model.content), model.size_bytes, data.name, data.count, len(file.operators), tuple(runs)
    )


@dataclasses.dataclass(frozen=True, repr=False)
class DeviceList(Result):
    """Devices by what `--on` takes: for each its URL or processor, and whether it is ready."""

    devices: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.devices/1``)."""
        return {"schema": schemas.DEVICES, "devices": list(self.devices)}

    def format(self) -> str:
        """Return the devices as a table."""
        columns = ("device", "what", "state")
        return format_table(columns, [tuple(device[column] for column in columns) for device in self.devices])

    def _summary(self) -> str:
        return format_count(len(self.devices), "device")

    def _rows(self) -> list[dict[str, Any]]:
        return list(self.devices)


def list_devices() -> DeviceList:
    """Return the user's devices by name, and the emulated CPUs."""
    from keras_nin.benchmark.devices import named_devices_path, read_named_devices
    from keras_nin.benchmark.emulator import EMULATED_CPUS, SCHEME, is_installed

    state = "installed" if is_installed() else "not installed: keras-nin devices install qemu"
    named = [(name, device.url, f"in {named_devices_path()}") for name, device in read_named_devices().items()]
    emulated = [(f"{SCHEME}{cpu}", f"{name}, emulated", state) for cpu, name in EMULATED_CPUS.items()]
    columns = ("device", "what", "state")
    return DeviceList(tuple(dict(zip(columns, row, strict=True)) for row in (*named, *emulated)))


def install_emulator(say: Callable[[str], object] = print, update: Callable[[str], object] | None = None) -> QemuRoot:
    """Install QEMU and an ARM root file system; see `keras_nin.benchmark.qemu_root.install_qemu`."""
    from keras_nin.benchmark.qemu_root import install_qemu

    return install_qemu(say=say, update=update)
