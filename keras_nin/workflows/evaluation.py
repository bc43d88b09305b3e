"""Evaluation: the scores of a .tflite file or a model on labeled images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from keras_nin import files, schemas
from keras_nin.errors import InputError, check_whole_number
from keras_nin.files import AnyPath
from keras_nin.formatting import format_count
from keras_nin.limits import Limit, LimitCheck, LimitItem, Unit, check_limit, parse_limits
from keras_nin.models.model_spec import random_kind
from keras_nin.results import Result
from keras_nin.workflows import SILENT, Progress, inputs
from keras_nin.workflows.evaluation_parts import (
    EvaluationJob,
    Evaluator,
    Part,
    PartialResults,
    ScoredOutput,
    run_here,
    start_workers,
)
from keras_nin.workflows.inputs import (
    FileOrModel,
    ImageSource,
    ImageSources,
    PreprocessingLike,
    TestImages,
    is_tflite,
)
from keras_nin.workflows.scored_network import ScoredNetwork, open_network

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.heads import Head
    from keras_nin.report.accuracy import ClassificationScores, OutputScores

_IMAGENET_WITH_BACKGROUND = 1001
_IMAGES_PER_WORKER = 500  # fewer are done before further processes have started
_BATCH_VALUES = 1 << 24
_SHARES = ("top1", "top5", "accuracy", "f1", "mean_iou", "pixel_accuracy")
EVALUATION_LIMITS = (
    *(LimitItem(name, Unit.SHARE, at_least=True) for name in _SHARES),
    LimitItem("r2", Unit.NUMBER, at_least=True),
    *(LimitItem(name, Unit.NUMBER) for name in ("mae", "rmse")),
)


@dataclasses.dataclass(frozen=True, repr=False)
class EvaluateResult(Result):
    """Scores of a .tflite file or a model.

    Attributes:
        file, data, weights: path of the file or name of the model; names of the images, and of the weights if known.
        outputs: the scores of each output.
        preprocessing: None for arrays that are fed as they are.
        label_offset: output of label 0.
        speed: images per second with batch, threads, runs and host; None for a Keras model.
        notes: what a reader should know.
        division: how the source was divided between calibration and tests; None where all of it tested, or its own test
            split.
        sha256: hash of the file; None for a Keras model.
    """

    file: str
    outputs: tuple[OutputScores, ...]
    data: str
    preprocessing: Preprocessing | None
    weights: str | None
    random_weights: bool
    label_offset: int
    speed: dict[str, Any] | None
    notes: tuple[str, ...] = ()
    division: str | None = None
    sha256: str | None = None

    @property
    def scores(self) -> ClassificationScores | None:
        """Top-1, top-5 and the confusion matrix of the first output; None where that holds no classes."""
        return self.outputs[0].classification

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy, 0 to 1; None for another task, and where the outputs carry no information."""
        return self.scores.top1 if self.scores else None

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy, 0 to 1; None with 5 classes or fewer."""
        return self.scores.top5 if self.scores else None

    @property
    def passed(self) -> bool:
        """Whether the outputs carry information, without which there are no scores."""
        return all(output.no_information is None for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON-ready dictionary (schema ``keras_nin.evaluate/1``)."""
        none = {"images": self.outputs[0].images, "top1": None, "top5": None, "per_class": []}
        none["confusion"] = {"classes": [], "matrix": []}
        return {
            "schema": schemas.EVALUATE,
            "file": self.file,
            "sha256": self.sha256,
            **(self.scores.to_json() if self.scores else none),
            "data": self.data,
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else None,
            "weights": self.weights,
            "label_offset": self.label_offset,
            "speed": self.speed,
            "outputs": [output.to_json() for output in self.outputs],
        }

    def _summary(self) -> str:
        from keras_nin.report.accuracy import format_output_scores

        scores = "; ".join(map(format_output_scores, self.outputs))
        return f"{self.file}: {scores} on {format_count(self.outputs[0].images, 'image')} of {self.data}"

    def _rows(self) -> list[dict[str, Any]]:
        if self.scores:
            return self.scores.to_json()["per_class"]
        return [{"output": output.output, "task": output.task, **output.scores} for output in self.outputs]


def evaluate_model(
    model: FileOrModel,
    test: ImageSource = None,
    *,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    task: str | None = None,
    label_offset: int | None = None,
    output: int | None = None,
    seed: int = 0,
    imports: Sequence[AnyPath] = (),
    threads: int = 1,
    workers: int | None = None,
    partial: AnyPath | None = None,
    device: str | None = None,
    python: str | None = None,
    progress: Progress = SILENT,
) -> EvaluateResult:
    """Measure the scores of a .tflite file or a model on labeled images.

    Images and preprocessing come from the arguments, else from the export record beside the file, else from the model.
    The scores are the same for any number of workers.

    Args:
        model: path of a .tflite file, or a model as in `export_model`.
        test, test_count, labels, preprocessing, crop, task, seed, imports: as in `export_model`; the images have
            labels.
        label_offset: output of label 0, such as 1 where output 0 is a background class; None takes 0.
        output: index of the output, for a file with several and labels that do not name theirs.
        threads, progress: of the LiteRT runtime; what reports the progress.
        workers: processes that read, prepare and run the images of a .tflite file, each with a runtime of its own. None
            takes one for every 500 images, but no more than there are cores for their threads; 1 for a model, a device,
            and images that are objects.
        partial: a file in which the results of a .tflite file are kept as they come; made where there is none. The same
            evaluation continues from it. Without it an interrupted one starts again.
        device, python: ``ssh://[user@]host[:port]`` of a machine that runs the file, and its interpreter, or
            ``qemu://CPU``, an emulated one whose time is not reported; None takes this machine, and python3.

    Raises:
        InputError: no labels, labels that do not fit the outputs, a device that cannot be used, workers or `partial`
            for something else than a file, or a `partial` of another evaluation.
    """
    if workers is not None and check_whole_number("workers", workers) > 1 and (device or not is_tflite(model)):
        raise _no_workers()
    if partial is not None and not is_tflite(model):
        raise InputError("`partial` keeps the results of a .tflite file; pass such a file", argument="partial")
    if device is not None and not is_tflite(model):
        raise InputError("a `device` runs .tflite files; pass such a file", argument="device")
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(inputs.open_session(device, python))
        from keras_nin.heads import make_heads
        from keras_nin.tflite.host import describe_host

        network = open_network(stack, model, threads, seed, imports, output, session, progress)
        record = inputs.read_export_record(model) if is_tflite(model) else {}
        calibration = inputs.recorded_calibration_source(record)
        requested = inputs.recorded_preprocessing(record) if preprocessing is None else preprocessing
        sources = ImageSources(calibration, test, labels, seed, preprocessing=requested, recorded=True)
        dataset = sources.dataset("test", network.dataset, network.shapes)
        chosen = inputs.choose_preprocessing(network.preprocessing, dataset, requested, crop)
        test_images = inputs.select_test_images(dataset, network.shapes, chosen, count=test_count, seed=seed)
        test_images = test_images.fit_masks(network.outputs)
        dataset = test_images.dataset
        if network.tflite is not None:
            test_images = test_images.sample_for(network.tflite, test_count, seed)
        answers = dataset.answers_of(test_images.indices)
        if answers is None:
            answers = dataset.labels_of(test_images.indices)  # says what is missing
        names = [name for name, _, _ in network.outputs]
        if output is not None and isinstance(answers, dict):
            answers = {name: values for name, values in answers.items() if name in ("", *names)}
        if len(names) > 1 and not isinstance(answers, dict):
            listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(names))
            raise InputError(
                f"Expected `output` to choose one of the outputs of {network.name}: {listed}; or labels_NAME for each "
                "in the .npz. Received: none",
                argument="output",
            )
        heads = make_heads(network.outputs, task, answers)
        scored = tuple(
            ScoredOutput(position, names[position], head)
            for position, head in enumerate(heads)
            if not isinstance(answers, dict) or {names[position], ""} & set(answers)
        )
        offset, notes = 0, ()
        if heads[0].task == "classification" and not isinstance(answers, dict):
            offset, notes = _resolve_label_offset(label_offset, dataset, test_images, network.classes)
        images = (dataset, chosen, network.shapes)
        evaluator = Evaluator(network.predict, *images, scored, offset, digests=partial is not None)
        targets = evaluator.targets(test_images.indices)
        job = None
        reopening = sources.reopening("test", network.dataset, network.shapes)
        if network.tflite is not None and session is None and reopening is not None:
            settings = (*reopening, chosen, network.shapes, scored, offset, partial is not None)
            job = EvaluationJob(network.name, threads, output, *settings)
        processes = _choose_workers(workers, job, threads, len(test_images.indices))
        identity = None if partial is None else _identify(network, evaluator, test_images, chosen, scored, offset)
        parts, seconds, measured = _evaluate_parts(
            evaluator, job, processes, test_images, network, partial, identity, progress
        )
        class_names = ("",) * offset + tuple(dataset.class_names) if dataset.class_names else ()
        is_trained = not network.random_weights and random_kind(network.weights or "") is None
        outputs = tuple(
            _score(entry.head, parts, place, truth, class_names, is_trained)
            for place, (entry, truth) in enumerate(zip(scored, targets, strict=True))
        )
        speed = None
        is_emulated = session is not None and session.host.get("emulated")
        if network.threads is not None and measured and not is_emulated:  # a Keras model runs larger batches
            rate = float(f"{measured * processes / (session.seconds if session else seconds):.4g}")
            speed = {"images_per_second": rate, "batch": 1, "threads": network.threads, "runs": measured}
            speed |= {"workers": processes, "host": session.host if session else describe_host()}
        if test_images.drawn_from:
            drawn = f"{len(test_images.indices):,} of {test_images.drawn_from:,} test images"
            notes = (*notes, f"int16 operators run in slow kernels: scored on {drawn}; `test_count` all takes all.")
        return EvaluateResult(
            network.name,
            outputs,
            dataset.name,
            chosen,
            network.weights,
            network.random_weights,
            offset,
            speed,
            (
                *inputs.scaling_notes(network.input_scaling, chosen),
                *notes,
                *inputs.device_notes(session if is_emulated else None),
                *inputs.guessing_notes("The", outputs),
            ),
            dataset.describe_division() if dataset.divided else None,
            sha256=None if network.threads is None else files.sha256(files.read_bytes(os.fspath(model))),
        )


def _choose_workers(requested: int | None, job: EvaluationJob | None, threads: int, images: int) -> int:
    """Return the number of processes that evaluate."""
    from keras_nin.data import named_datasets

    if job is None:
        if requested not in (None, 1):
            raise _no_workers()
        return 1
    if requested is not None:
        return min(requested, -(-images // inputs.BATCH))
    if named_datasets.needs_keras(job.source):  # starting it in each process takes longer than it saves
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // threads, images // _IMAGES_PER_WORKER))


def _no_workers() -> InputError:
    expected = "`workers` for a .tflite file on this machine, and images by name or path"
    return InputError(f"Expected {expected}. Received: others", argument="workers")


def _identify(
    network: ScoredNetwork,
    evaluator: Evaluator,
    test: TestImages,
    preprocessing: Preprocessing | None,
    scored: Sequence[ScoredOutput],
    offset: int,
) -> dict[str, Any]:
    """Return what partial results are of."""
    import importlib.metadata

    assert network.tflite is not None
    targets = "".join(files.sha256(targets.tobytes()) for targets in evaluator.targets(test.indices))
    images = json.dumps([test.dataset.names_of(test.indices), targets])
    return {
        "file": files.sha256(network.tflite.content),
        "images": len(test.indices),
        "data": files.sha256(images.encode()),
        "preprocessing": preprocessing.to_json() if preprocessing else None,
        "outputs": [{**dataclasses.asdict(entry), "label_offset": offset} for entry in scored],
        "threads": network.threads,
        "litert": importlib.metadata.version("ai-edge-litert"),
    }


def _evaluate_parts(
    evaluator: Evaluator,
    job: EvaluationJob | None,
    workers: int,
    test: TestImages,
    network: ScoredNetwork,
    partial: AnyPath | None,
    identity: dict[str, Any] | None,
    progress: Progress,
) -> tuple[list[Part], float, int]:
    """Return the parts of all images in order, and the seconds that the network ran now, on how many images."""
    values = sum(math.prod(size or 1 for size in shape) for _, shape, _ in network.outputs)
    size = max(1, min(inputs.BATCH, _BATCH_VALUES // values))  # masks of 32 photographs take gigabytes
    batches = {
        number: test.indices[start : start + size] for number, start in enumerate(range(0, len(test.indices), size))
    }
    name = os.path.basename(network.name)
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(PartialResults(partial, identity or {})) if partial is not None else None
        parts = {} if kept is None else dict(kept.parts)
        if kept is not None and parts:
            with progress.task(f"Comparing the images of {len(parts):,} batches with {os.fspath(partial or '')!r}"):
                kept.check_images(evaluator, batches)
        left = {number: indices for number, indices in batches.items() if number not in parts}
        images = sum(map(len, left.values()))
        if workers > 1 and left and job is not None:
            with progress.task(f"Starting {workers} processes"):
                run = stack.enter_context(start_workers(job, workers))
            computed = run(left)
        else:
            computed = run_here(evaluator, left)
        seconds = 0.0
        total = "" if images == len(test.indices) else f" remaining of {len(test.indices):,}"
        drawn = f" of {test.drawn_from:,}" if test.drawn_from else ""
        message = f"Evaluating {name} on {images:,}{total}{drawn} images"
        for part in progress.track(computed, message, len(left), done_by=workers):
            seconds += part.seconds
            parts[part.number] = part
            if kept is not None:
                kept.add(part)
    return [parts[number] for number in batches], seconds, images


def _score(
    head: Head, parts: Sequence[Part], place: int, targets: np.ndarray, class_names: Sequence[str], is_trained: bool
) -> OutputScores:
    """Return the scores of the output at `place` in the parts, none where it carries no information."""
    import numpy as np

    from keras_nin.heads import describe_guessing_of_parts
    from keras_nin.report.accuracy import OutputScores, score_predictions

    information = [part.information[place] for part in parts]
    silent = head.describe_missing_information(information, targets)
    if silent:
        return OutputScores(head.name, head.task, len(targets), {}, silent)
    summaries = [part.summaries[place] for part in parts]
    scores, classification = head.scores_of_parts(summaries, targets), None
    if head.task == "classification":
        predicted = np.concatenate([summary["predicted"] for summary in summaries])
        classes = math.prod(size or 1 for size in head.shape)
        classes = head.count_classes(predicted, targets) if head.is_index else classes
        classification = score_predictions(predicted, targets, classes, scores["top1"], scores["top5"], class_names)
    guessing = describe_guessing_of_parts(head, summaries, information, targets) if is_trained else None
    return OutputScores(head.name, head.task, len(targets), scores, classification=classification, guessing=guessing)


def _resolve_label_offset(
    requested: int | None, dataset: Dataset, test: TestImages, classes: int | None
) -> tuple[int, tuple[str, ...]]:
    """Return the output of label 0, and a note where outputs and classes differ in number."""
    from keras_nin.heads import check_labels

    labels = dataset.labels_of(test.indices)
    if classes is None:
        return requested or 0, ()
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
    """Compare scores with limits on `EVALUATION_LIMITS`, of several outputs the worst; unmeasured ones do not pass."""
    checks = []
    for limit in limits:
        scores = [output.scores[limit.name] for output in result.outputs if limit.name in output.scores]
        known = [score for score in scores if score is not None]
        worst = (min if limit.item.at_least else max)(known) if known and len(known) == len(scores) else None
        reason = "measured for outputs of another task, top 5 with more than 5 classes"
        checks.append(check_limit(limit, worst, reason=reason, subject=result.file))
    return tuple(checks)
