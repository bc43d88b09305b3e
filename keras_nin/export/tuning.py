"""Tuning a calibrated float file before it is quantized: activation ranges, weight rounding and bias correction."""

import concurrent.futures
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin.export.schemes import ROUNDING_REACH, Tuning
from keras_nin.tflite.float_file import FloatFile, WeightedOperator

if TYPE_CHECKING:
    from keras_nin.tflite.records import TFLiteOperator, TFLiteSubgraph

# Gives the values of a tensor, by its index, after an inference.
ReadTensor = Callable[[int], np.ndarray]
# Second moments kept at a time: 2**26 float64 are 512 MiB. More operators take more runs over the samples.
_MAX_MOMENT_ELEMENTS = 2**26
_WINDOW_OPTIONS = ("stride_h", "stride_w", "dilation_h", "dilation_w", "padding")

# Operators that copy or compare integers: their inputs and outputs share one scale.
# https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
SAME_SCALE_OPERATORS = frozenset(
    ("AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "MAX_POOL_2D")
    + ("MAXIMUM", "MINIMUM", "MIRROR_PAD", "PACK", "PAD", "PADV2", "RESHAPE", "RESIZE_BILINEAR")
    + ("RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "SELECT", "SELECT_V2", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH")
    + ("SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK")
)
# Operators whose output has a fixed scale, whatever its values.
FIXED_SCALE_OPERATORS = frozenset(("L2_NORMALIZATION", "LOG_SOFTMAX", "LOGISTIC", "SOFTMAX", "TANH"))

BINS = 2048
ACTIVATION_LEVELS = 255
_RANGE_SHARES = np.linspace(0.3, 1, 71)

WEIGHT_LEVELS = 127
# Added to the moment's diagonal, as a share of its mean: directions that the images do not show are not free.
_DAMPING = 0.01
_ON_GRID = 1e-5  # steps: what float32 makes of a weight on the grid
_BLOCK = 128
# Positions of a feature map per image: they resemble each other, and images are scarce.
POSITIONS_PER_IMAGE = 256


def tune_file(content: bytes, samples: Iterable[Any], tuning: Tuning, levels: int = WEIGHT_LEVELS) -> bytes:
    """Return a calibrated float file with other ranges, weights or biases.

    Args:
        content: a float .tflite file whose tensors carry the smallest and the largest value that they took.
        samples: as `keras_nin.export.conversion.Quantizer` takes them.
        tuning: what to choose how; `Tuning.plain()` returns `content`.
        levels: how many steps the largest weight of a channel is.
    """
    if tuning == Tuning.plain():
        return content
    file = FloatFile(content)
    histograms = build_histograms(file) if tuning.ranges == "mse" else []
    observers: list[InputMoments | ActivationHistogram] = list(histograms)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in list(_moment_batches(file, tuning)) or [{}]:
            observe_activations(file, samples, [*observers, *batch])
            observers = []  # the histograms are filled in the first run
            pairs = [(weighted, moments) for moments, readers in batch.items() for weighted in readers]
            list(pool.map(lambda pair: _round_operator(file, pair[0], pair[1], tuning, levels), pairs))
    set_activation_ranges(file, histograms)
    return file.content()


def _moment_batches(file: FloatFile, tuning: Tuning) -> "Iterator[dict[InputMoments, list[WeightedOperator]]]":
    """Yield the operators to round by the `InputMoments` that they share, as many at a time as memory allows."""
    if tuning.rounding == "nearest" and not tuning.bias_correction:
        return
    batch: dict[InputMoments, list[WeightedOperator]] = {}
    elements = 0
    for readers in _same_columns(file.weighted_operators):
        terms, groups = readers[0].terms, readers[0].groups
        has_second_moment = tuning.rounding == "adaptive" and terms**2 <= _MAX_MOMENT_ELEMENTS
        size = terms**2 * groups if has_second_moment else 0
        if batch and elements + size > _MAX_MOMENT_ELEMENTS:
            yield batch
            batch, elements = {}, 0
        batch[InputMoments(readers[0], has_second_moment)] = readers
        elements += size
    if batch:
        yield batch


def _same_columns(operators: Iterable[WeightedOperator]) -> list[list[WeightedOperator]]:
    """Return operators in lists of those whose weights are multiplied with the same values, as beside each other."""
    groups: dict[tuple[Any, ...], list[WeightedOperator]] = {}
    for weighted in operators:
        shape, options = weighted.weights.shape, weighted.operator.options
        window = tuple(options.get(name) for name in _WINDOW_OPTIONS)
        size = shape if weighted.kind == "depthwise" else shape[1:]
        groups.setdefault((weighted.source, weighted.kind, size, window), []).append(weighted)
    return list(groups.values())


def _round_operator(
    file: FloatFile, weighted: WeightedOperator, moments: "InputMoments", tuning: Tuning, levels: int
) -> None:
    """Round the weights of an operator and correct its bias."""
    mean = moments.mean()
    rows, bias = file.rows(weighted), weighted.bias if tuning.bias_correction else None
    if moments.has_second_moment:
        # What the bias compensates is no error: with a bias the covariance counts, not the second moment.
        means = mean[:, :, None] * mean[:, None] if bias else 0
        rounded = round_adaptively(rows, moments.second_moment() - means, levels)
    else:
        rounded = round_to_nearest(rows, levels)
    file.set_rows(weighted, rounded)
    if bias:
        file.set_values(bias, file.values(bias) + ((rows - rounded) * mean).sum(axis=1))


# What flows through the file


def observe_activations(
    file: FloatFile, samples: Iterable[Any], observers: Iterable[Callable[[ReadTensor], None]]
) -> None:
    """Run a float file as it came, without edits, on samples; call each observer with a `ReadTensor` after every one.

    An observer gets the samples in their order; different observers are called at the same time, by other threads. The
    samples are as `keras_nin.export.conversion.Quantizer` takes them.
    """
    from keras_nin._compat.litert import interpreter as open_interpreter
    from keras_nin.output_capture import capture_output

    observers, model = list(observers), file.model
    with capture_output():
        # One thread each, so that sums are taken in one order. One runs while the tensors of the other are read.
        interpreters = [open_interpreter(model.content, threads=1, keep_tensors=True) for _ in range(2)]
        for interpreter in interpreters:
            interpreter.allocate_tensors()

    def run(interpreter: Any, sample: Any) -> ReadTensor:
        by_index = zip(model.main.inputs, sample, strict=True)
        if isinstance(sample, dict):
            indexes = dict(model.signatures[0].inputs)
            by_index = ((indexes[name], values) for name, values in sample.items())
        for index, values in by_index:
            interpreter.set_tensor(index, np.asarray(values, np.float32))
        if model.variables:
            interpreter.reset_all_variables()
        interpreter.invoke()
        return interpreter.get_tensor

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def observe_all(read_tensor: ReadTensor) -> None:
            list(pool.map(lambda observe: observe(read_tensor), observers))

        running: concurrent.futures.Future[ReadTensor] | None = None
        for interpreter, sample in zip(itertools.cycle(interpreters), itertools.chain(samples, [None]), strict=False):
            read_tensor = running and running.result()
            running = None if sample is None else pool.submit(run, interpreter, sample)
            if read_tensor is not None:
                observe_all(read_tensor)


class InputMoments:
    """Observer of the mean and the second moment of what the weights of an operator are multiplied with.

    A convolution or dense layer has one group of terms for all its outputs, a depthwise convolution one per output.
    """

    def __init__(self, weighted: WeightedOperator, second_moment: bool = True) -> None:
        self.weighted = weighted
        self.has_second_moment = second_moment
        self._sum: Any = 0
        self._products: np.ndarray | None = None
        self._count = 0

    def __call__(self, read_tensor: ReadTensor) -> None:
        """Add the values of the operator's input."""
        columns = _input_columns(self.weighted, read_tensor(self.weighted.source))
        self._sum = self._sum + columns.sum(axis=1, dtype=np.float64)
        if self.has_second_moment:
            products = columns.transpose(0, 2, 1) @ columns
            if self._products is None:
                self._products = np.zeros(products.shape)
            self._products += products  # in place: a copy of some megabytes takes longer than the sum
        self._count += columns.shape[1]

    def mean(self) -> np.ndarray:
        """Return the mean of each term: (groups, terms)."""
        return self._per_output(self._sum / self._count)

    def second_moment(self) -> np.ndarray:
        """Return the mean of the product of every two terms: (groups, terms, terms)."""
        assert self._products is not None
        return self._per_output(self._products / self._count)

    def _per_output(self, moments: np.ndarray) -> np.ndarray:
        if self.weighted.kind == "depthwise":  # each input channel makes `depth_multiplier` outputs
            return np.repeat(moments, self.weighted.weights.shape[3] // len(moments), axis=0)
        return moments


def _input_columns(weighted: WeightedOperator, values: np.ndarray) -> np.ndarray:
    """Return what the rows of an operator's weights are multiplied with: float32 (groups, positions, terms)."""
    if weighted.kind == "dense":
        return values.reshape(1, -1, weighted.weights.shape[1])
    patches = np.concatenate([_patches(image, weighted) for image in values])
    if weighted.kind == "depthwise":
        return np.ascontiguousarray(np.moveaxis(patches, 2, 0))
    return patches.reshape(1, len(patches), -1)


def _patches(image: np.ndarray, weighted: WeightedOperator) -> np.ndarray:
    """Return the windows of an image (H, W, C) that a convolution sees, at some positions: (positions, h * w, C)."""
    options, (height, width) = weighted.operator.options, weighted.weights.shape[1:3]
    rows = _window_starts(image.shape[0], height, options["stride_h"], options["dilation_h"], options["padding"])
    columns = _window_starts(image.shape[1], width, options["stride_w"], options["dilation_w"], options["padding"])
    count = len(rows) * len(columns)
    chosen = np.arange(count)
    if count > POSITIONS_PER_IMAGE:
        # RandomState: its stream is the same in every NumPy.
        chosen = np.sort(np.random.RandomState(0).permutation(count)[:POSITIONS_PER_IMAGE])
    row = rows[chosen // len(columns), None, None] + options["dilation_h"] * np.arange(height)[:, None]
    column = columns[chosen % len(columns), None, None] + options["dilation_w"] * np.arange(width)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    patches = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)] * inside[..., None]
    return patches.reshape(len(chosen), height * width, image.shape[2])


def _window_starts(size: int, kernel: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """Return where the windows along one side start; below 0 where zeros are padded in front."""
    extent = (kernel - 1) * dilation + 1
    if padding == "VALID":
        return np.arange(0, size - extent + 1, stride)
    count = -(-size // stride)
    return np.arange(count) * stride - max((count - 1) * stride + extent - size, 0) // 2


# Weights: rows are (O, terms); a moment is (1, terms, terms) for all rows, or (O, terms, terms)


def weight_scales(rows: np.ndarray, levels: int = WEIGHT_LEVELS) -> np.ndarray:
    """Return the scale of each row, the largest weight being `levels` steps, in the converter 127: (O,)."""
    largest = np.abs(rows).max(axis=1)
    return np.where(largest > 0, largest, 1) / levels


def round_to_nearest(rows: np.ndarray, levels: int = WEIGHT_LEVELS) -> np.ndarray:
    """Return weights rounded to the grids of their rows."""
    scale = weight_scales(rows, levels)[:, None]
    return np.round(rows / scale) * scale


def round_adaptively(rows: np.ndarray, moment: np.ndarray, levels: int = WEIGHT_LEVELS) -> np.ndarray:
    """Return weights rounded one term after another, each rounding error compensated by the terms that follow.

    The mean squared error of an output is quadratic in the errors of its weights, so that the best values of the later
    terms are known in closed form: GPTQ (Frantar et al., arXiv:2210.17323). Here the largest weight of a row stays what
    it is, so that the grid stays the converter's, and a row for which the nearest integers do better takes those.

    `moment` is the second moment or the covariance of the terms.
    """
    nearest = round_to_nearest(rows, levels)
    compensated = _round_with_compensation(rows, np.stack([_inverse_cholesky(matrix) for matrix in moment]), levels)
    better = output_mse(compensated - rows, moment) < output_mse(nearest - rows, moment)
    return np.where(better[:, None], compensated, nearest)


def output_mse(difference: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return the mean squared change of each output for a difference of the weights: (O,)."""
    return (_multiply(difference, moment) * difference).sum(axis=1)


def _round_with_compensation(rows: np.ndarray, factor: np.ndarray, levels: int) -> np.ndarray:
    remaining, scale = rows.copy(), weight_scales(rows, levels)
    lowest, highest = (limit.clip(-levels, levels) for limit in _allowed_levels(rows / scale[:, None]))
    kept = np.abs(rows).argmax(axis=1)
    kept_level = np.sign(rows[np.arange(len(rows)), kept]) * levels
    rounded = np.empty_like(rows)
    for start in range(0, rows.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[1])
        errors = np.empty((len(rows), stop - start))
        for term in range(start, stop):
            level = np.clip(np.round(remaining[:, term] / scale), lowest[:, term], highest[:, term])
            rounded[:, term] = np.where(kept == term, kept_level, level) * scale
            error = (remaining[:, term] - rounded[:, term]) / factor[:, term, term]
            errors[:, term - start] = error
            remaining[:, term + 1 : stop] -= error[:, None] * factor[:, term, term + 1 : stop]
        remaining[:, stop:] -= _multiply(errors, factor[:, start:stop, stop:])
    return rounded


def _allowed_levels(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest level for each weight: `ROUNDING_REACH` beyond its two neighbors on the grid.

    So a weight stays recognizably that of the model. One that lies on the grid stays there: a 0 of a sparse layer, or a
    constant that is meant as it is.
    """
    on_grid = np.abs(levels - np.round(levels)) < _ON_GRID
    reach = np.where(on_grid, 0, ROUNDING_REACH)
    lowest = np.where(on_grid, np.round(levels), np.floor(levels)) - reach
    highest = np.where(on_grid, np.round(levels), np.ceil(levels)) + reach
    return lowest, highest


def _inverse_cholesky(moment: np.ndarray) -> np.ndarray:
    """Return the upper Cholesky factor of the inverse of a damped moment (terms, terms)."""
    damping, identity = _DAMPING * np.trace(moment) / len(moment), np.eye(len(moment))
    if not damping > 0:  # terms that are always 0
        return identity
    while True:
        # Moments of proportional terms are singular except for the damping, and rounding may make them indefinite.
        with contextlib.suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(np.linalg.inv(moment + damping * identity)).T
        damping *= 10


def _multiply(rows: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return each row times its matrix; a single matrix serves all rows."""
    if len(matrices) == 1:
        return rows @ matrices[0]
    return np.einsum("ot,otu->ou", rows, matrices)


# Activations


class ActivationHistogram:
    """Observer of how often the values of some tensors, by index, fall into each of `BINS` bins of a range with 0."""

    def __init__(self, tensors: list[int], minimum: float, maximum: float) -> None:
        self.tensors, self.minimum, self.maximum = tensors, minimum, maximum
        self.counts = np.zeros(BINS)

    def __call__(self, read_tensor: ReadTensor) -> None:
        """Add the values of the tensors."""
        per_unit = BINS / (self.maximum - self.minimum)
        for index in self.tensors:
            offsets = read_tensor(index).ravel() - np.float32(self.minimum)
            bins = (offsets * np.float32(per_unit)).astype(np.int32)
            self.counts += np.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    def centers(self) -> np.ndarray:
        """Return the middle of each bin."""
        return self.minimum + (self.maximum - self.minimum) / BINS * (np.arange(BINS) + 0.5)


def build_histograms(file: FloatFile) -> list[ActivationHistogram]:
    """Return an empty `ActivationHistogram` for each set of tensors that share a range and may get another one.

    Left out are scales that an operator fixes, and what the network's answer is read from: the outputs and the input of
    a softmax or sigmoid. Their largest value is the answer, and two values that are clipped would be equal.
    """
    main, ranges = file.model.main, file.ranges()
    fixed = {
        index
        for operator in main.operators
        if operator.op in FIXED_SCALE_OPERATORS
        for index in _activation_tensors(main, operator)
    }
    histograms = []
    for tensors in _same_scale_groups(main):
        known = [index for index in tensors if index in ranges and main.tensors[index].dtype == "float32"]
        minimum = min((0.0, *(ranges[index][0] for index in known)))
        maximum = max((0.0, *(ranges[index][1] for index in known)))
        # Beyond the reach of float32 a step is 0 or infinite.
        if 1e-30 < maximum - minimum < 1e30 and not fixed.union(main.outputs).intersection(tensors):
            histograms.append(ActivationHistogram(known, minimum, maximum))
    return histograms


def _activation_tensors(main: "TFLiteSubgraph", operator: "TFLiteOperator") -> list[int]:
    """Return the tensors that an operator reads and writes, without constants."""
    indexes = (*operator.inputs, *operator.outputs)
    return [index for index in indexes if index >= 0 and not main.tensors[index].is_constant]


def _same_scale_groups(main: "TFLiteSubgraph") -> list[list[int]]:
    """Return the inputs and the computed tensors of the network, in lists of those that share a scale."""
    groups: dict[int, list[int]] = {}
    for operator in main.operators:
        tensors = _activation_tensors(main, operator)
        for index in tensors:
            groups.setdefault(index, [index])
        for index in tensors[1:] if operator.op in SAME_SCALE_OPERATORS else ():
            first, other = groups[tensors[0]], groups[index]
            if first is not other:
                first += other
                groups |= dict.fromkeys(other, first)
    return list({id(group): group for group in groups.values()}.values())


def range_mse(histogram: ActivationHistogram, minimum: float, maximum: float) -> float:
    """Return the mean squared error of 8 bits that stand for `minimum` to `maximum`."""
    values = histogram.centers()
    scale = (maximum - minimum) / ACTIVATION_LEVELS
    rounded = np.clip(np.round((values - minimum) / scale), 0, ACTIVATION_LEVELS) * scale + minimum
    return float(((rounded - values) ** 2 * histogram.counts).sum() / histogram.counts.sum())


def find_mse_range(histogram: ActivationHistogram) -> tuple[float, float]:
    """Return the part of a histogram's range, with 0 in it, that has the smallest error of rounding and clipping."""
    low = high = 1.0
    for _ in range(2):  # one side after the other
        errors = [range_mse(histogram, low * histogram.minimum, share * histogram.maximum) for share in _RANGE_SHARES]
        high = float(_RANGE_SHARES[np.argmin(errors)]) if histogram.maximum > 0 else high
        errors = [range_mse(histogram, share * histogram.minimum, high * histogram.maximum) for share in _RANGE_SHARES]
        low = float(_RANGE_SHARES[np.argmin(errors)]) if histogram.minimum < 0 else low
    return low * histogram.minimum, high * histogram.maximum


def set_activation_ranges(
    file: FloatFile,
    histograms: Iterable[ActivationHistogram],
    find_range: Callable[[ActivationHistogram], tuple[float, float]] = find_mse_range,
) -> None:
    """Give the tensors of each filled histogram the range that `find_range` returns for it."""
    for histogram in histograms:
        minimum, maximum = find_range(histogram)
        for index in histogram.tensors:
            file.set_range(index, minimum, maximum)
