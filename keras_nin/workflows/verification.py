"""Verification: compare a .tflite file with the model that it was made from."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

from keras_nin import files, models, schemas
from keras_nin.errors import InputError
from keras_nin.files import AnyPath
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.inputs import (
    ImageSource,
    ImageSources,
    ModelLike,
    ModelOptions,
    PreprocessingLike,
    TestImages,
)

if TYPE_CHECKING:
    from keras_nin.export import Parity, ParityLimits
    from keras_nin.export.layer_noise import LayerNoiseTable
    from keras_nin.models import LoadedModel
    from keras_nin.tflite.runner import TFLiteRunner

_FLASH = LimitItem("flash", Unit.BYTES)


@dataclasses.dataclass(frozen=True, repr=False)
class VerifyResult(Result):
    """How a .tflite file compares with a model.

    Attributes:
        model, weights: names of the model and of its weights.
        random_weights: whether accuracies say nothing.
        test: images that both ran on.
        layer_noise: quantization noise of every layer, where it was requested.
        preprocessing_mismatch: how the preprocessing of the file's record differs from the model's; None where it
            does not, or where somebody chose it.
        notes: what a reader should know of the file and its record.
        device: the machine that ran the file, as `keras_nin.tflite.host.describe_host` returns it; None for this one.
    """

    model: str
    weights: str
    random_weights: bool
    file: str
    file_bytes: int
    parity: Parity
    test: TestImages
    layer_noise: LayerNoiseTable | None = None
    preprocessing_mismatch: str | None = None
    notes: tuple[str, ...] = ()
    device: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether every parity check passes and the preprocessing is the model's."""
        return self.parity.passed and self.preprocessing_mismatch is None

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.verify/1``)."""
        document = {
            "schema": schemas.VERIFY,
            "model": self.model,
            "file": self.file,
            "weights": self.weights,
            "parity": self.parity.to_json(),
            "preprocessing": self.test.preprocessing.to_json() if self.test.preprocessing else None,
            "same_preprocessing": self.preprocessing_mismatch is None,
            "device": self.device,
        }
        if self.layer_noise is not None:
            worst = self.layer_noise.worst
            document |= {
                "layers": self.layer_noise.to_json(),
                "worst_layer": worst.layer if worst else None,
                "delegate_diff_lsb": float(f"{self.layer_noise.delegate_diff_lsb:.5g}"),
            }
        return document

    def _summary(self) -> str:
        verdict = "no verdict" if self.parity.no_verdict else "pass" if self.passed else "FAIL"
        return f"{self.file} against {self.model}: parity {verdict}"

    def _rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(check) for check in self.parity.checks]


def verify_model(
    model: ModelLike,
    file: AnyPath,
    test: ImageSource = None,
    *,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    task: str | None = None,
    limits: ParityLimits | None = None,
    per_layer: bool = False,
    threads: int = 1,
    device: str | None = None,
    python: str | None = None,
    progress: Progress = SILENT,
    **options: Unpack[ModelOptions],
) -> VerifyResult:
    """Run a model and a .tflite file on the same images and compare their outputs.

    What the export record beside the file says of images and preprocessing is the default. Images that calibrated the
    file are left out.

    Args:
        model: zoo name, ``keras:NAME``, path of a .keras or .h5 file, or a keras.Model.
        file: path of the .tflite file.
        test, test_count, labels, preprocessing, crop, task: as in `export_model`.
        limits: what the parity is checked against; None takes the defaults.
        per_layer: whether to measure the quantization noise of every layer.
        threads, progress: of the LiteRT runtime; what reports the progress.
        device, python: ``ssh://[user@]host[:port]`` of a machine that runs the file, and its interpreter, or
            ``qemu://CPU``, an emulated one; the model runs here. None takes this machine, and python3.
        **options: `weights`, `input_shape`, `builder_arguments`, `seed` and `imports`, as in `export_model`.

    Raises:
        InputError: an unknown model, a file that does not run or does not fit, no images, or a device that cannot be
            used.
    """
    inputs.check_model_name(model)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(inputs.open_session(device, python))
        from keras_nin.export import verify_files
        from keras_nin.keras_graph import describe_outputs
        from keras_nin.tflite.isolated import IsolatedRunner
        from keras_nin.tflite.reader import read_checked_model

        seed = options.get("seed", 0)
        record = inputs.read_export_record(file)
        requested = inputs.recorded_preprocessing(record) if preprocessing is None else preprocessing
        calibration = inputs.recorded_calibration_source(record)
        sources = ImageSources(calibration, test, labels, seed, preprocessing=requested, recorded=True)
        runner_class = session.runner_class() if session else IsolatedRunner
        runner = stack.enter_context(runner_class(read_checked_model(file), threads, batch=record.get("batch") or 1))
        loaded = models.cast_to_float32(inputs.open_model(model, progress, **options))  # as the export did
        shapes = inputs.input_shapes(loaded.model)
        dataset = sources.dataset("test", inputs.recorded_test_source(record) or loaded.dataset, shapes)
        known = record.get("preprocessing") or loaded.preprocessing
        chosen = inputs.choose_preprocessing(known, dataset, requested, crop)
        calibrated_on, notes = _calibration_digests(record, sources, shapes)
        test_images = inputs.select_test_images(
            dataset, shapes, chosen, calibrated_on=calibrated_on, count=test_count, seed=seed
        )
        test_images = test_images.fit_masks(describe_outputs(loaded.model))
        test_images = test_images.sample_for(runner.model, test_count, seed)
        (parity,) = verify_files(
            loaded.model,
            [runner],
            test_images.batches(f"Comparing {os.path.basename(file)} with {loaded.name}", progress),
            source=dataset.name,
            random_weights=loaded.random,
            limits=limits,
            task=task,
        )
        noise = None
        if per_layer:
            from keras_nin.export.layer_noise import measure_layer_noise

            noise = measure_layer_noise(
                loaded.model, runner, test_images.batches(f"Comparing the layers of {loaded.name}", progress)
            )
        explicit = preprocessing is not None or crop is not None
        return VerifyResult(
            loaded.name,
            loaded.weights,
            loaded.random,
            os.fspath(file),
            os.path.getsize(file),
            parity,
            test_images,
            noise,
            None if explicit else _preprocessing_mismatch(record, loaded, test_images),
            (
                *inputs.scaling_notes(loaded.input_scaling, chosen),
                *notes,
                *_origin_notes(record, loaded, runner),
                *inputs.device_notes(session),
                *inputs.guessing_notes("The model's own", parity.outputs or (parity,)),
            ),
            session and session.host,
        )


def _calibration_digests(
    record: dict[str, Any], sources: ImageSources, shapes: inputs.Shapes
) -> tuple[set[str], tuple[str, ...]]:
    """Return the digests of the images that calibrated a file, and a note where they are not found."""
    calibration = record.get("calibration")
    if not isinstance(calibration, dict):
        return set(), ()
    try:
        source = inputs.recorded_calibration_source(record) or calibration["source"]
        for split in ("calibration", None):  # all of it, or the part of one that tested too
            dataset = sources.open(source, shapes, split)
            indices = dataset.select("calibration", calibration["count"], calibration["seed"])
            if dataset.digest(indices) == calibration["sha256"]:
                return dataset.image_digests(indices), ()
        problem = "the images there are others now"
    except (InputError, KeyError) as error:
        problem = str(error)
    return set(), (f"The images that calibrated the file are not found, so none is left out: {problem}",)


def _origin_notes(record: dict[str, Any], loaded: LoadedModel, runner: TFLiteRunner) -> list[str]:
    """Return notes on a record that describes another file or other weights."""
    from keras_nin.models import hash_weights

    notes = []
    weights_sha256, file_sha256 = record.get("weights_sha256"), record.get("sha256")
    if weights_sha256 and weights_sha256 != hash_weights(loaded.model):
        notes.append(f"The file was made from other weights ({record.get('weights')}) than {loaded.weights}.")
    if file_sha256 and file_sha256 != files.sha256(runner.model.content):
        notes.append("The file has changed since the record beside it was written.")
    return notes


def _preprocessing_mismatch(record: dict[str, Any], loaded: LoadedModel, test: TestImages) -> str | None:
    """Say how the record's preprocessing differs from the model's, such as by a swapped channel order."""
    options = record.get("options")
    options = options if isinstance(options, dict) else {}
    explicit = options.get("preprocessing") is not None or options.get("crop") is not None
    if loaded.preprocessing is None or not record.get("preprocessing") or explicit or test.preprocessing is None:
        return None
    own = inputs.choose_preprocessing(loaded.preprocessing, test.dataset)
    if own == test.preprocessing:
        return None
    return f"the file's record has the preprocessing {test.preprocessing}; the model takes {own}"


def parse_verification_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits such as ``"top1_match=95%,snr=30dB,flash=100KiB"``; see `keras_nin.limits`."""
    from keras_nin.export.parity import PARITY_LIMITS

    return parse_limits(text, (*PARITY_LIMITS, _FLASH), argument=argument)


def check_verification_limits(result: VerifyResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare a file with limits on its parity and its size."""
    from keras_nin.export.parity import check_parity_limit

    return tuple(
        check_limit(limit, result.file_bytes, subject=result.file)
        if limit.item == _FLASH
        else check_parity_limit(result.parity, limit, subject=result.file)
        for limit in limits
    )
