"""Evaluation: the accuracy of a .tflite file or a model on labeled images."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin import schemas
from keras_nin.errors import InputError
from keras_nin.formatting import format_count, format_percent
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.inputs import FileOrModel, ImageSource, ImageSources, TestImages

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.benchmark.devices import DeviceSession
    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.report.accuracy import ClassificationScores

_IMAGENET_WITH_BACKGROUND = 1001
EVALUATION_LIMITS = tuple(LimitItem(name, Unit.SHARE, at_least=True) for name in ("top1", "top5"))


@dataclasses.dataclass(frozen=True, repr=False)
class EvaluateResult(Result):
    """Accuracy of a .tflite file or a model.

    Attributes:
        file, data, weights: path of the file or name of the model; names of the images, and of the weights if known.
        scores: top-1, top-5, and the confusion matrix.
        label_offset: output of label 0.
        speed: images per second with batch, threads, runs and host; None for a Keras model.
        notes: what a reader should know.
    """

    file: str
    scores: ClassificationScores
    data: str
    preprocessing: Preprocessing
    weights: str | None
    random_weights: bool
    label_offset: int
    speed: dict[str, Any] | None
    notes: tuple[str, ...] = ()

    @property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self.scores.top1

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy, 0 to 1; None with 5 classes or fewer."""
        return self.scores.top5

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.evaluate/1``)."""
        return {
            "schema": schemas.EVALUATE,
            "file": self.file,
            **self.scores.to_json(),
            "data": self.data,
            "preprocessing": self.preprocessing.to_json(),
            "weights": self.weights,
            "label_offset": self.label_offset,
            "speed": self.speed,
        }

    def _summary(self) -> str:
        top5 = "" if self.top5 is None else f", top-5 {format_percent(self.top5)}"
        count = format_count(self.scores.images, "image")
        return f"{self.file}: top-1 {format_percent(self.top1)}{top5} on {count} of {self.data}"

    def _rows(self) -> list[dict[str, Any]]:
        return self.scores.to_json()["per_class"]


def evaluate_model(
    model: FileOrModel,
    test: ImageSource = None,
    *,
    test_count: int | None = None,
    labels: str | None = None,
    preprocessing: str | None = None,
    crop: float | None = None,
    label_offset: int | None = None,
    output: int | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    python: str | None = None,
    progress: Progress = SILENT,
) -> EvaluateResult:
    """Measure the accuracy of a .tflite file or a model on labeled images.

    Images and preprocessing come from the arguments, else from the export record beside the file, else from the model.

    Args:
        model: path of a .tflite file, or a model as in `export_model`.
        test, test_count, labels, preprocessing, crop, seed: as in `export_model`; the images have labels.
        label_offset: output of label 0, such as 1 where output 0 is a background class; None takes 0.
        output: index of the output, for a file with several.
        threads, progress: of the LiteRT runtime; what reports the progress.
        device, python: ``ssh://[user@]host[:port]`` of a machine that runs the file, and its interpreter; None takes
            this machine, and python3.

    Raises:
        InputError: no classifier of images, no labels, labels that do not fit the outputs, or a device that cannot be
            used.
    """
    if device is not None and not os.fspath(model if isinstance(model, str | os.PathLike) else "").endswith(".tflite"):
        raise InputError("a `device` runs .tflite files; pass such a file", argument="device")
    with inputs.open_session(device, python) as session:
        image_options = (test, test_count, labels, preprocessing, crop, label_offset, seed)
        return _evaluate(model, *image_options, output, threads, session, progress)


def _evaluate(
    model: FileOrModel,
    test: ImageSource,
    test_count: int | None,
    labels: str | None,
    preprocessing: str | None,
    crop: float | None,
    label_offset: int | None,
    seed: int,
    output: int | None,
    threads: int,
    session: DeviceSession | None,
    progress: Progress,
) -> EvaluateResult:
    import numpy as np

    from keras_nin.report.accuracy import score_outputs
    from keras_nin.tflite.host import describe_host

    sources = ImageSources(None, test, labels, seed)
    classifier = _open_classifier(model, threads, seed, output, session, progress)
    dataset = sources.dataset("test", classifier.dataset, classifier.input_shape)
    chosen = inputs.choose_preprocessing(classifier.preprocessing, dataset, preprocessing, crop)
    test_images = inputs.select_test_images(dataset, classifier.input_shape, chosen, count=test_count, seed=seed)
    offset, notes = _resolve_label_offset(label_offset, dataset, test_images, classifier.classes)
    outputs, truth, seconds = [], [], 0.0
    for batch, batch_labels in test_images.batches("Evaluating", progress):
        start = time.perf_counter()
        outputs.append(np.asarray(classifier.predict(batch)))
        seconds += time.perf_counter() - start
        truth.append(batch_labels)
    names = ("",) * offset + tuple(dataset.class_names) if dataset.class_names else ()
    scores = score_outputs(np.concatenate(outputs), np.concatenate(truth) + offset, names)
    speed = None
    if classifier.threads is not None:  # a Keras model runs larger batches
        rate = float(f"{scores.images / (session.seconds if session else seconds):.4g}")
        speed = {"images_per_second": rate, "batch": 1, "threads": classifier.threads, "runs": scores.images}
        speed["host"] = session.host if session else describe_host()
    return EvaluateResult(
        classifier.name,
        scores,
        dataset.name,
        chosen,
        classifier.weights,
        classifier.random_weights,
        offset,
        speed,
        notes,
    )


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A network from images to classes, and what is known of its images and weights; a .tflite file has `threads`."""

    name: str
    predict: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int, ...]
    classes: int
    preprocessing: str | dict[str, Any] | None
    dataset: str | None
    weights: str | None
    random_weights: bool = False
    threads: int | None = None


def _open_classifier(
    model: FileOrModel, threads: int, seed: int, output: int | None, session: DeviceSession | None, progress: Progress
) -> _Classifier:
    if isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".tflite"):
        return _open_file(os.fspath(model), threads, output, session)
    if output is not None:
        raise InputError("`output` chooses one of the outputs of a .tflite file; pass such a file", argument="output")
    from keras_nin.export.conversion import image_input_shape

    loaded = inputs.open_model(model, progress, seed=seed)
    return _Classifier(
        os.fspath(model) if isinstance(model, str | os.PathLike) else loaded.name,
        loaded.model.predict_on_batch,
        image_input_shape(loaded.model),
        _count_classes(tuple(loaded.model.outputs[0].shape)[1:]),
        loaded.preprocessing,
        loaded.dataset,
        loaded.weights,
        loaded.random,
    )


def _open_file(path: str, threads: int, output: int | None, session: DeviceSession | None) -> _Classifier:
    from keras_nin.tflite.runner import TFLiteRunner

    runner = (session.runner_class() if session else TFLiteRunner)(path, threads, output)
    record = inputs.read_export_record(path)
    shape = runner.input.shape[1:]
    if len(shape) != 3:
        raise InputError(f"Expected a network on images (height, width, channels). Received: input {shape}", path=path)
    classes = _count_classes(runner.output.shape[1:])
    return _Classifier(
        path,
        lambda batch: runner.predict(batch).reshape(len(batch), classes),
        shape,
        classes,
        record.get("preprocessing"),
        inputs.recorded_test_source(record),
        record.get("weights"),
        threads=threads,
    )


def _count_classes(shape: tuple[int | None, ...]) -> int:
    """Return the number of classes of an output of shape (classes,) or (1, 1, classes)."""
    if not shape or shape[-1] in (None, 1) or any(size != 1 for size in shape[:-1]):
        raise InputError(f"Expected a network that ends in classes. Received: output {shape}")
    return shape[-1]  # type: ignore[return-value]


def _resolve_label_offset(
    requested: int | None, dataset: Dataset, test: TestImages, classes: int
) -> tuple[int, tuple[str, ...]]:
    """Return the output of label 0, and a note where outputs and classes differ in number."""
    from keras_nin.export.parity import check_labels

    labels = dataset.labels_of(test.indices)
    known = len(dataset.class_names) or None
    largest = int(labels.max())
    has_background = classes == (known or 0) + 1 or (classes == _IMAGENET_WITH_BACKGROUND and known is None)
    if requested is None and has_background and largest < classes - 1:
        raise InputError(
            f"{classes} outputs, but labels up to {largest} in {dataset.name!r}. Pass `label_offset`: 1 where output 0 "
            "is a background class, 0 where it is the first label's",
            argument="label_offset",
        )
    offset = requested or 0
    check_labels(labels + offset, classes, dataset.name)
    if known is None or known + offset == classes:
        return offset, ()
    return offset, (
        f"{classes} outputs, but {known} classes in {dataset.name}: make sure that both number the classes alike.",
    )


def parse_evaluation_limits(text: str, *, argument: str = "require") -> tuple[Limit, ...]:
    """Return limits such as ``"top1=95%,top5=99%"``; see `keras_nin.limits`."""
    return parse_limits(text, EVALUATION_LIMITS, argument=argument)


def check_evaluation_limits(result: EvaluateResult, limits: Sequence[Limit]) -> tuple[LimitCheck, ...]:
    """Compare accuracies with limits on `EVALUATION_LIMITS`; what was not measured does not pass."""
    values = {"top1": result.top1, "top5": result.top5}
    reason = "measured for a vector of classes, top 5 with more than 5"
    return tuple(check_limit(limit, values[limit.name], reason=reason, subject=result.file) for limit in limits)
