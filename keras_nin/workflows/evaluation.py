"""Evaluation: the scores of a .tflite file or a model on labeled images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

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
from keras_nin.workflows.inputs import FileOrModel, ImageSource, ImageSources, PreprocessingLike, TestImages

if TYPE_CHECKING:
    import numpy as np

    from keras_nin.audit.comparison import OutputDifference
    from keras_nin.benchmark.devices import DeviceSession
    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.heads import Head
    from keras_nin.keras_graph import InputScaling
    from keras_nin.report.accuracy import ClassificationScores, OutputScores
    from keras_nin.tflite.records import TFLiteModel

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
    if workers is not None and check_whole_number("workers", workers) > 1 and (device or not _is_file(model)):
        raise _no_workers()
    if partial is not None and not _is_file(model):
        raise InputError("`partial` keeps the results of a .tflite file; pass such a file", argument="partial")
    if device is not None and not os.fspath(model if isinstance(model, str | os.PathLike) else "").endswith(".tflite"):
        raise InputError("a `device` runs .tflite files; pass such a file", argument="device")
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(inputs.open_session(device, python))
        from keras_nin.heads import make_heads
        from keras_nin.tflite.host import describe_host

        network = _open_network(stack, model, threads, seed, imports, output, session, progress)
        record = inputs.read_export_record(model) if _is_file(model) else {}
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


def compare_file_outputs(
    first: str,
    second: str,
    test: ImageSource,
    *,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: Any = None,
    crop: float | None = None,
    task: str | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress = SILENT,
) -> tuple[OutputDifference, ...]:
    """Run two .tflite files on the same images and return how each of their outputs differs.

    Each file gets its own input size and the preprocessing of its record, unless one is chosen; where one was exported
    with arrays as they are, so does a file without a record. Outputs are paired by name, else in their order. Arguments
    are those of `keras_nin.compare_models`.

    Raises:
        InputError: images that do not fit, or outputs that cannot be compared.
    """
    import numpy as np

    from keras_nin.heads import fitting_targets, make_heads, targets_of

    records = [inputs.read_export_record(path) for path in (first, second)]
    recorded = [inputs.recorded_preprocessing(record) for record in records]
    if preprocessing is None and not all(records):  # arrays that are fed as they are can be fed in no other way
        preprocessing = next(filter(None, recorded), None)
    with contextlib.ExitStack() as stack:
        networks = [_open_file(stack, path, threads, None, None) for path in (first, second)]
        order = _pair_outputs(*networks)
        images = []
        for network, own in zip(networks, recorded, strict=True):
            requested = own if preprocessing is None else preprocessing
            sources = ImageSources(None, test, labels, seed, preprocessing=requested, recorded=True)
            dataset = sources.dataset("test", None, network.shapes)
            chosen = inputs.choose_preprocessing(network.preprocessing, dataset, requested, crop)
            selected = inputs.select_test_images(dataset, network.shapes, chosen, count=test_count, seed=seed)
            selected = selected.fit_masks(network.outputs)
            images.append(selected.sample_for(network.tflite, test_count, seed) if network.tflite else selected)
        indices = min((selected.indices for selected in images), key=len)
        images = [dataclasses.replace(selected, indices=indices) for selected in images]
        received = []
        for network, selected in zip(networks, images, strict=True):
            message = f"Running {os.path.basename(network.name)}"
            parts = [network.predict(batch) for batch, _ in selected.batches(message, progress)]
            received.append([np.concatenate(values) for values in zip(*parts, strict=True)])
    answers = images[0].dataset.answers_of(indices)
    names = [name for name, _, _ in networks[0].outputs]
    differences = []
    for position, head in enumerate(make_heads(networks[0].outputs, task, answers)):
        a, b = received[0][position], received[1][order[position]].reshape(received[0][position].shape)
        targets = fitting_targets(head, targets_of(answers, names[position], names))
        targets = None if targets is None else head.check_targets(targets, images[0].dataset.name)
        differences.append(_compare_output(head, a, b, targets))
    return tuple(differences)


def _pair_outputs(first: _Network, second: _Network) -> list[int]:
    """Return for each output of the first network the position of the second's that it is compared with."""
    names, others = ([name for name, _, _ in network.outputs] for network in (first, second))
    order = list(range(len(names)))
    if len(names) > 1 and set(names) == set(others):
        order = [others.index(name) for name in names]
    shapes = [[[size for size in shape if size != 1] for _, shape, _ in network.outputs] for network in (first, second)]
    if len(names) != len(others) or shapes[0] != [shapes[1][position] for position in order]:
        listed = [", ".join(f"{name!r} {shape}" for name, shape, _ in network.outputs) for network in (first, second)]
        raise InputError(
            f"Expected files with the same outputs: {listed[0]}. Received: {second.name!r} with {listed[1]}"
        )
    return order


def _compare_output(head: Head, a: np.ndarray, b: np.ndarray, targets: np.ndarray | None) -> OutputDifference:
    import numpy as np

    from keras_nin.audit.comparison import OutputDifference
    from keras_nin.metrics import snr_db

    reasons = {"a": head.describe_missing_information(a), "b": head.describe_missing_information(b)}
    silent = [f"{side}: {reason}" for side, reason in reasons.items() if reason]
    decided = head.decisions(a), head.decisions(b)
    known = [decisions for decisions in decided if decisions is not None]
    with np.errstate(all="ignore"):
        difference = b.astype(np.float64) - a
        return OutputDifference(
            head.name,
            head.task,
            len(a),
            float(np.mean((known[0] == known[1]) & (known[0] >= 0))) if known and not silent else None,
            float(np.abs(difference).max()),
            float(np.sqrt(np.mean(difference**2))),
            snr_db(a, b),
            None if targets is None else {side: head.scores(values, targets) for side, values in (("a", a), ("b", b))},
            "; ".join(silent) or None,
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
    network: _Network,
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
    network: _Network,
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


@dataclasses.dataclass(frozen=True)
class _Network:
    """A network whose outputs are scored, and what is known of its images and weights; a .tflite file has `threads`.

    `outputs` has (name, shape without the batch, activation) of each, in the order of what `predict` returns.
    """

    name: str
    predict: Callable[[Any], Sequence[Any]]
    shapes: inputs.Shapes
    outputs: tuple[tuple[str, tuple[int | None, ...], str | None], ...]
    preprocessing: str | dict[str, Any] | None
    dataset: str | None
    weights: str | None
    random_weights: bool = False
    threads: int | None = None
    tflite: TFLiteModel | None = None
    input_scaling: InputScaling | None = None

    @property
    def classes(self) -> int | None:
        """Number of values of the first output; None for indices of an unknown number of classes."""
        _, shape, activation = self.outputs[0]
        return None if activation == "argmax" and shape[-1] is None else math.prod(size or 1 for size in shape)


def _is_file(model: FileOrModel) -> TypeGuard[AnyPath]:
    return isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".tflite")


def _open_network(
    stack: contextlib.ExitStack,
    model: FileOrModel,
    threads: int,
    seed: int,
    imports: Sequence[AnyPath],
    output: int | None,
    session: DeviceSession | None,
    progress: Progress,
) -> _Network:
    if _is_file(model):
        return _open_file(stack, os.fspath(model), threads, output, session)
    if output is not None:
        raise InputError("`output` chooses one of the outputs of a .tflite file; pass such a file", argument="output")
    loaded = inputs.open_model(model, progress, seed=seed, imports=imports)
    from keras_nin import keras_graph

    network = loaded.model

    def predict(batch: Any) -> list[Any]:
        import keras

        return keras.tree.flatten(network.predict_on_batch(keras_graph.pack_inputs(network, batch)))

    return _Network(
        os.fspath(model) if isinstance(model, str | os.PathLike) else loaded.name,
        predict,
        inputs.input_shapes(network),
        keras_graph.describe_outputs(network),
        loaded.preprocessing,
        loaded.dataset,
        loaded.weights,
        loaded.random,
        input_scaling=loaded.input_scaling,
    )


def _open_file(
    stack: contextlib.ExitStack, path: str, threads: int, output: int | None, session: DeviceSession | None
) -> _Network:
    from keras_nin.tflite.isolated import IsolatedRunner
    from keras_nin.tflite.reader import read_checked_model

    runner_class = session.runner_class() if session else IsolatedRunner
    runner = stack.enter_context(runner_class(read_checked_model(path), threads, output))
    record = inputs.read_export_record(path)
    outputs = runner.describe_outputs()
    return _Network(
        path,
        runner.predict_outputs if output is None else lambda batch: [runner.predict(batch)],
        runner.sample_shapes(),
        outputs if output is None else outputs[output : output + 1],
        record.get("preprocessing"),
        inputs.recorded_test_source(record),
        record.get("weights"),
        threads=threads,
        tflite=runner.model,
    )


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
