"""Structured pruning: channels removed from a network until its file is measured to be faster, then fine-tuned."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

from keras_nin import files, models, schemas
from keras_nin.errors import InputError, check_whole_number, expected_error
from keras_nin.files import AnyPath
from keras_nin.formatting import format_percent, format_us
from keras_nin.prune.records import PrunedGroup, PruneResult, PruneScores
from keras_nin.prune.selection import PruneTarget, parse_target
from keras_nin.workflows import SILENT, Progress, backends, inputs
from keras_nin.workflows.fine_tuning import BATCH_SIZE, DEFAULT_EPOCHS, FineTuning, fine_tune
from keras_nin.workflows.inputs import ImageSource, ModelLike, ModelOptions, PreprocessingLike
from keras_nin.workflows.pruning_images import PruningImages, open_images

if TYPE_CHECKING:
    import keras

    from keras_nin.benchmark import BenchmarkResult
    from keras_nin.benchmark.comparison import LatencyRatio
    from keras_nin.export import ConvertedModel
    from keras_nin.keras_graph import TensorSlot
    from keras_nin.models import LoadedModel
    from keras_nin.prune import ChannelGraph, Moments, RankedGroup
    from keras_nin.prune.selection import Cost, Selection, TimedOperator, Widths
    from keras_nin.tflite.records import TFLiteModel

SCHEMES = ("int8", "float32")
DEFAULT_IMAGES = 256
_CALIBRATION_BATCH = 32
_INT8_IMAGES = 100
_WIDTH_SECONDS, _WIDTH_PROCESSES = 0.06, 3  # for each width of an operator, in so many processes together
_FILE_SECONDS, _FILE_PROCESSES = 9.0, 3
_PROBE_IMAGES = 128  # half of them to fit a narrowed network, half to compare its answers
_FIT_IMAGES, _FIT_VALUES = 16, 1 << 26  # the least images, and the values of the largest activation of all of them
_MAX_TRIES = 6  # of a selection that is corrected by what the whole file measures
_MOST_MARGIN = 0.01  # of the latency: so much less than the target at most, for what is not known of it
_SLACK = 0.01  # how much less than that is no reason to remove less


def prune_channels(
    model: ModelLike,
    target: str | PruneTarget,
    calibration: ImageSource = None,
    train: ImageSource = None,
    test: ImageSource = None,
    *,
    scheme: str = "int8",
    multiple: int = 8,
    calibration_count: int = DEFAULT_IMAGES,
    epochs: int = DEFAULT_EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float | None = None,
    train_count: int | None = None,
    distill: bool = True,
    kept: Mapping[str, Sequence[int]] | AnyPath | None = None,
    test_count: int | Literal["all"] | None = None,
    labels: str | None = None,
    preprocessing: PreprocessingLike | None = None,
    crop: float | None = None,
    threads: int = 1,
    out: AnyPath | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[ModelOptions],
) -> PruneResult:
    """Remove channels from a network until it costs no more than a target, and fine-tune what is left.

    The channels that matter least, by activations and gradients on the calibration images, go first, from the layers
    where that saves the most; what a layer loses is compensated in its weights. The result is a plain Keras model.

    Args:
        model: as in `export_model`.
        target: such as ``"latency=-30%"``, ``"macs=-40%"``, ``"params=500k"`` or ``"latency=2ms"``.
        calibration: images that say which channels matter, and that calibrate int8; their labels are used where there
            are some. None takes the calibration split of the model's own dataset.
        train: labeled images to fine-tune on; None takes the model's own dataset where it is at hand, else the network
            is not fine-tuned.
        test: labeled images for top-1 before and after; None takes the model's own dataset where it is at hand.
        scheme: of the files whose latency is measured, int8 or float32.
        multiple: numbers of channels are multiples of that.
        calibration_count, test_count: number of images; the first 100 of the former calibrate int8.
        epochs, batch_size, learning_rate, train_count: of the fine-tuning: passes, 0 for none; images in a step; the
            highest rate, None takes a tenth of the recipe's; images, None takes all.
        distill: whether the targets of the fine-tuning are the answers of the original network, on mixed images;
            False takes the labels.
        kept: which channels to keep, by the layer: `PruneResult.kept` or the path of a record. The target chooses them
            without it, from measurements, which differ a little each time.
        labels, preprocessing, crop: as in `export_model`.
        threads: of the runtime.
        out, force: folder for <model>_pruned.keras and its record, None writes nothing; replace existing files.
        progress: what reports the progress.
        **options: `weights`, `input_shape`, `builder_arguments`, `seed` and `imports`, as in `export_model`.

    Raises:
        InputError: a target that is no saving, or that cannot be reached: the message has the best that can; a network
            without channels that can be removed; images that are missing or do not fit; another backend than
            TensorFlow.
    """
    parsed = parse_target(target)
    if scheme not in SCHEMES:
        raise expected_error("scheme", f"to be one of {', '.join(SCHEMES)}", scheme)
    tuning = FineTuning(epochs, batch_size, learning_rate, train_count, distill)
    for name, value, least in (("multiple", multiple, 1), ("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        check_whole_number(name, value, least)
    chosen = None if kept is None else _read_kept(kept)
    path = None if out is None else pathlib.Path(out) / f"{inputs.model_stem(model)}_pruned.keras"
    if path is not None:
        files.check_output_folder(path.parent)
        if path.exists() and not force:
            files.needs_writing(path, b"")
    backend = backends.find_backend()
    if backend != "tensorflow":
        raise InputError(f"Expected Keras on TensorFlow, which prune needs. Received: KERAS_BACKEND={backend}")
    inputs.check_model_name(model)
    loaded = models.cast_to_float32(inputs.open_model(model, progress, **options))
    images = open_images(
        loaded, (calibration, train, test), calibration_count, test_count, options.get("seed", 0),
        epochs=epochs, train_count=train_count, labels=labels, preprocessing=preprocessing, crop=crop,
    )  # fmt: skip
    pruning = _Pruning(loaded, parsed, scheme, multiple, threads, images, progress)
    pruned, selection = pruning.run(chosen)
    training = None
    if images.train is not None and epochs:
        from keras_nin.prune import pair_features

        pair = pair_features(pruning.graph, pruning.kept(selection), pruned) if distill else (None, None)
        training = fine_tune(pruned, loaded, images, tuning, pair, options.get("seed", 0), progress)
    told: dict[str, Any] = {
        "model": str(model) if inputs.is_named(model) else None,
        "weights": loaded.weights,
        "weights_sha256": models.hash_weights(loaded.model),
        **{"calibration": images.calibration.name, "calibration_count": len(images.indices), "multiple": multiple},
        "train": None if training is None else training["dataset"],
        "kept": os.fspath(kept) if inputs.is_named(kept) else None,  # type: ignore[arg-type]
        **{"seed": options.get("seed", 0), "threads": threads, **dataclasses.asdict(tuning)},
        "preprocessing": images.preprocessing.to_json() if images.preprocessing else None,
        "dataset": loaded.dataset or images.calibration.name,
    }
    result = pruning.report(pruned, selection, training, told)
    return result if path is None else _save(result, path, force)


def _read_kept(kept: Mapping[str, Sequence[int]] | AnyPath) -> Mapping[str, Sequence[int]]:
    """Return which channels each layer keeps, from a record where that is what was given."""
    if isinstance(kept, Mapping):
        return kept
    document = files.read_json(kept)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != schemas.PRUNE:
        raise InputError(f"Expected a record of prune ({schemas.PRUNE}). Received: {str(kept)!r}", argument="kept")
    return schemas.typed_value(dict[str, tuple[int, ...]], document.get("kept"), "kept")


class _Pruning:
    """One network on its way to a target."""

    def __init__(
        self,
        loaded: LoadedModel,
        target: PruneTarget,
        scheme: str,
        multiple: int,
        threads: int,
        images: PruningImages,
        progress: Progress,
    ) -> None:
        self.loaded, self.target, self.scheme, self.multiple = loaded, target, scheme, multiple
        self.threads, self.images, self.progress = threads, images, progress

    def run(self, kept: Mapping[str, Sequence[int]] | None) -> tuple[keras.Model, Selection]:
        """Return the pruned network before any fine-tuning, and what was removed: for the target, or all but `kept`."""
        from keras_nin.audit.api import audit_model
        from keras_nin.prune import find_channels
        from keras_nin.prune.selection import CountedCost, Selection, Widths, check_prunable

        self.graph: ChannelGraph = find_channels(self.loaded.model)
        check_prunable(self.graph, self.multiple)
        self.ranked: list[RankedGroup] = self.rank()
        widths = Widths(self.graph, self.ranked)
        if kept is not None:
            selection = Selection(self.ranked, lambda kept: 0.0, self.multiple)
            selection.keep_only(self.graph, kept)
            return self.rebuild(selection), selection
        if self.target.item != "latency":
            cost: Cost = CountedCost(widths, audit_model(self.loaded.model), self.target.item)
            original = cost(widths.sizes)
            self.check_saving(original)
            self.ranked = self.scale(self.ranked)
            selection = Selection(self.ranked, cost, self.multiple)
            if not selection.reach(self.target.limit(original)):
                raise self.unreachable(f"{cost(selection.kept):,.0f} of {original:,.0f}")
            return self.rebuild(selection), selection
        self.ranked = self.scale(self.ranked)
        return self.reach_latency(widths)

    def rank(self) -> list[RankedGroup]:
        """Return the groups with their channels in the order in which they are removed."""
        from keras_nin.prune import measure_moments, rank_channels

        with self.progress.task(f"Measuring which channels of {self.loaded.name} matter"):
            samples, labels, count = self.images.load(), self.images.labels(), len(self.images.indices)
            batches = [
                (_part(samples, start, start + _CALIBRATION_BATCH), _part(labels, start, start + _CALIBRATION_BATCH))
                for start in range(0, count, _CALIBRATION_BATCH)
            ]
            self.moments: dict[TensorSlot, Moments] = measure_moments(self.graph, batches)
            return [rank_channels(self.graph, group, self.moments) for group in self.graph.groups]

    def scale(self, ranked: list[RankedGroup]) -> list[RankedGroup]:
        """Return the groups with their saliency as what half of the channels of each change, measured."""
        from keras_nin.prune import scale_saliency

        count = min(self.fitted_images, _PROBE_IMAGES)
        if count < 2:
            return ranked
        samples = self.images.load(count)
        halves = _part(samples, 0, count // 2), _part(samples, count // 2, count)
        with self.progress.task(f"Narrowing each layer of {self.loaded.name} alone") as update:
            return scale_saliency(self.graph, ranked, self.moments, halves, self.multiple, update)

    @functools.cached_property
    def original(self) -> ConvertedModel:
        """The file of the network as it was."""
        with self.progress.task(f"Converting {self.loaded.name} to {self.scheme}"):
            return self.convert(self.loaded.model)

    def reach_latency(self, widths: Widths) -> tuple[keras.Model, Selection]:
        """Remove as few channels as make the whole file fast enough, measured.

        The times of the operators say what to remove. That they do not add up to the time of the file is corrected.
        """
        import numpy as np

        from keras_nin.prune.selection import LatencyCost, Selection

        cost = LatencyCost(widths, self.time_operators(widths))
        wanted = self.target.share
        if wanted is None:
            benchmark, _ = self.compare(self.original.tflite)
            self.check_saving(benchmark.profiles[0].total.median)
            wanted = (self.target.most or 0) / benchmark.profiles[0].total.median
        limit = wanted * cost(widths.sizes)
        found, best, is_tightened = None, "", False
        for _ in range(_MAX_TRIES):
            selection = Selection(self.ranked, cost, self.multiple)
            is_left = selection.reach(limit)
            if found is not None and np.array_equal(found.kept, selection.kept):
                break
            reached, best = self.measure(selection, wanted)
            if reached <= wanted:
                found = selection
                if is_tightened or reached > wanted - _SLACK:
                    break
            elif found is not None:
                break
            elif not is_left:
                raise self.unreachable(best)
            is_tightened = is_tightened or reached > wanted
            limit = cost(selection.kept) * wanted / reached * (0.995 if is_tightened else 1)
        if found is None:
            raise self.unreachable(best)
        return self.rebuild(found), found

    def measure(self, selection: Selection, wanted: float) -> tuple[float, str]:
        """Return the latency of a selection as a share of the original's, with what noise may add, and a text."""
        pruned = self.rebuild(selection, fit=False)
        with self.progress.task(f"Converting a pruned {self.loaded.name} to {self.scheme}"):
            file = self.convert(pruned).tflite
        benchmark, ratio = self.compare(file)
        self.progress.line(f"{self.loaded.name}: latency {ratio.ratio:.3f} of the original, target {wanted:.3f}")
        margin = min((ratio.high or ratio.ratio) - ratio.ratio, _MOST_MARGIN)
        best = f"{format_us(benchmark.profiles[1].total.median)}, {format_percent(1 - ratio.ratio)} less"
        return ratio.ratio + margin, best

    def check_saving(self, original: float) -> None:
        if self.target.limit(original) >= original:
            value = format_us(original) if self.target.item == "latency" else f"{original:,.0f}"
            raise expected_error("target", f"to be less than the {value} of the network itself", str(self.target))

    def unreachable(self, best: str) -> InputError:
        return InputError(
            f"Expected `target` to be within reach: every group keeps {self.multiple} channels or more. Received: "
            f"{str(self.target)!r}; the best is {best}",
            argument="target",
        )

    def time_operators(self, widths: Widths) -> list[TimedOperator]:
        """Return the times of the operators of the original file at several widths."""
        import itertools

        from keras_nin.benchmark import single_operators
        from keras_nin.benchmark.measurement import run_job
        from keras_nin.prune.selection import TimedOperator, measured_widths

        calls = {"/".join(call.path): call for call in self.graph.trace.calls}
        calls |= {"/".join(call.unique_path): call for call in self.graph.trace.calls}
        main, wanted = self.original.tflite.main, {}
        by_operator = [calls.get(layer or "") for layer in self.original.layers]
        for operator, call in zip(main.operators, by_operator, strict=True):
            if call is None or not single_operators.is_narrowable(operator):
                continue
            sides = [widths.of_slot(slot) for slot in (call.inputs[0], call.outputs[0])]
            shapes = [main.tensors[index].shape for index in (operator.inputs[0], operator.outputs[0])]
            known = [
                (slope, base, shape[-1]) for (slope, base), shape in zip(filter(None, sides), shapes, strict=False)
            ]
            if len(known) < 2 or any(round(float(slope @ widths.sizes) + base) != size for slope, base, size in known):
                continue
            grid = [
                measured_widths(size, self.multiple * max(1, round(slope.max())), base) if slope.any() else [size]
                for slope, base, size in known
            ]
            if operator.op == "DEPTHWISE_CONV_2D":
                grid[0] = [0]
            wanted[operator.index] = list(itertools.product(*grid))
        points = len(main.operators) + sum(map(len, wanted.values()))
        with self.progress.task(f"Timing the operators of {self.loaded.name} at {points} widths"):
            seconds = _WIDTH_SECONDS * points / _WIDTH_PROCESSES
            # Where the weights of an operator come to lie in memory changes its time; each process is another draw.
            repeats = [
                single_operators.time_widths(self.original.tflite, wanted, self.threads, seconds, run_job)
                for _ in range(_WIDTH_PROCESSES)
            ]
        operators = []
        for index in repeats[0]:
            entry = {pair: min(times[index][pair] for times in repeats) for pair in repeats[0][index]}
            grid = entry if index in wanted and len(entry) == len(wanted[index]) else {}
            operators.append(TimedOperator(by_operator[index], max(entry.values()), grid))
        return operators

    def rebuild(self, selection: Selection, *, fit: bool = True) -> keras.Model:
        """Return the network without what was removed, its layers fitted to the original ones on some images."""
        from keras_nin.prune import remove_channels

        if not fit:
            return remove_channels(self.graph, selection.removed)
        samples = self.images.load(self.fitted_images)
        with self.progress.task(f"Fitting the layers of the pruned {self.loaded.name}"):
            return remove_channels(self.graph, selection.removed, self.moments, samples)

    @property
    def fitted_images(self) -> int:
        """On how many images the layers are fitted: as many as their activations leave memory for."""
        shapes = [shape[1:] for call in self.graph.trace.calls for shape in call.shapes]
        largest = max(math.prod(size or 1 for size in shape) for shape in shapes)
        return min(len(self.images.indices), max(_FIT_IMAGES, _FIT_VALUES // largest))

    def convert(self, model: keras.Model) -> ConvertedModel:
        """Return the file of a network in the scheme that is measured."""
        from keras_nin.export import Tuning, convert_model

        images = self.images.load(_INT8_IMAGES) if self.scheme == "int8" else None
        return convert_model(model, self.scheme, images, tuning=Tuning.plain(), allow_float=True)

    def compare(self, file: TFLiteModel) -> tuple[BenchmarkResult, LatencyRatio]:
        """Measure a file and the original one in turns."""
        from keras_nin.benchmark.comparison import compute_ratios
        from keras_nin.benchmark.measurement import BenchmarkFile, measure_files

        named = [BenchmarkFile(self.original.tflite, name="original"), BenchmarkFile(file, name="pruned")]
        with self.progress.task("Measuring the latency") as update:
            benchmark = measure_files(
                named,
                threads=(self.threads,),
                seconds=_FILE_SECONDS,
                processes=_FILE_PROCESSES,
                layers=False,
                interleave=True,
                progress=update,
            )
        return benchmark, compute_ratios(benchmark.profiles)[0]

    def report(
        self, pruned: keras.Model, selection: Selection, training: dict[str, Any] | None, options: dict[str, Any]
    ) -> PruneResult:
        """Return the result, with the latency and the scores of the network as it is now."""

        from keras_nin.audit.api import audit_model

        file = self.convert(pruned).tflite
        benchmark, ratio = self.compare(file)
        groups = tuple(
            PrunedGroup(entry.group.layers, len(entry.order), int(count))
            for entry, count in zip(self.ranked, selection.kept, strict=True)
        )
        return PruneResult(
            name=self.loaded.name,
            model=pruned,
            target=self.target,
            scheme=self.scheme,
            groups=groups,
            audits=(audit_model(self.loaded.model), audit_model(pruned)),
            latency=ratio,
            benchmark=benchmark,
            scores=self.score(pruned, file),
            kept=self.kept(selection),
            blocked=self.graph.blocked,
            training=training,
            options=options,
            notes=(*self.images.notes, *self.missed(benchmark, ratio)),
        )

    def kept(self, selection: Selection) -> dict[str, list[int]]:
        """Return which of its channels each layer keeps, for those that lose some."""
        import numpy as np

        stays = {
            entry.name: ~np.isin(entry.outputs, selection.removed)
            for entry in self.graph.layers.values()
            if entry.outputs is not None
        }
        return {name: np.flatnonzero(mask).tolist() for name, mask in stays.items() if not mask.all()}

    def missed(self, benchmark: BenchmarkResult, ratio: LatencyRatio) -> list[str]:
        """Return a note where the last measurement misses a target that the selection met."""
        share, after = self.target.share, benchmark.profiles[1].total.median
        is_met = after <= self.target.limit(0) if share is None else ratio.ratio <= share
        if self.target.item != "latency" or is_met:
            return []
        return [f"Measured again at the end, the latency is {ratio.ratio - 1:+.1%}, which misses {self.target}."]

    def score(self, pruned: keras.Model, file: TFLiteModel) -> PruneScores | None:
        from keras_nin.tflite.runner import TFLiteRunner

        test = self.images.test
        if test is None or len(pruned.outputs) != 1 or len(pruned.output_shape) != 2:
            return None
        import numpy as np

        from keras_nin.metrics import top_k_accuracy

        runners = [TFLiteRunner(content, self.threads) for content in (self.original.tflite, file)]
        predict = [lambda x, net=net: net.predict_on_batch(x) for net in (self.loaded.model, pruned)]
        predict += [runner.predict for runner in runners]
        outputs: list[list[Any]] = [[] for _ in predict]
        labels = []
        for batch, answers in test.batches("Testing the original and the pruned network", self.progress):
            labels.append(answers)
            for part, run in zip(outputs, predict, strict=True):
                part.append(np.asarray(run(batch)))
        truth = np.concatenate(labels)
        scores = [top_k_accuracy(np.concatenate(part), truth, 1) or 0.0 for part in outputs]
        return PruneScores(test.dataset.name, len(truth), (scores[0], scores[1]), (scores[2], scores[3]))


def _part(values: Any, start: int, stop: int) -> Any:
    """Return some of the images, of the arrays by the name of the input, or of the labels, where there are any."""
    if isinstance(values, dict):
        return {name: array[start:stop] for name, array in values.items()}
    return None if values is None else values[start:stop]


def _save(result: PruneResult, path: pathlib.Path, force: bool) -> PruneResult:
    """Write the network and its record."""
    result = dataclasses.replace(result, path=path)
    with files.temporary_folder() as folder:
        result.model.save(folder / path.name)
        data = (folder / path.name).read_bytes()
    record = files.dump_json(result.to_json()).encode()
    files.write_files({path: data, path.with_suffix(".json"): record}, force)
    return result
