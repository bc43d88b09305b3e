"""Weights on the grid of their integers, chosen so that what the layer computes changes least."""

import contextlib

import numpy as np

from keras_nin.export.schemes import ROUNDING_REACH

WEIGHT_LEVELS = 127
# Added to the moment's diagonal, as a share of its mean: directions that the images do not show are not free.
_DAMPING = 0.01
_ON_GRID = 1e-5  # levels: what float32 makes of a weight on the grid
_BLOCK = 128


def weight_scales(rows):
    """Return the step of each row's grid as the converter takes it, the largest weight being 127 steps: (O,)."""
    largest = np.abs(rows).max(axis=1)
    return np.where(largest > 0, largest, 1) / WEIGHT_LEVELS


def round_to_nearest(rows):
    """Return weights (O, terms) rounded to their grids."""
    step = weight_scales(rows)[:, None]
    return np.round(rows / step) * step


def round_adaptively(rows, moment):
    """Return weights rounded one term after another, each rounding error made good for by the terms that follow.

    The mean square error of an output is quadratic in the errors of its weights, so that the best answer of the later
    terms is known in closed form. Frantar et al., GPTQ, arXiv:2210.17323; here the largest weight of a row stays as it
    is, so that the grid stays the converter's, and a row for which rounding to the nearest does better takes that.

    Args:
        rows: (O, terms).
        moment: second moment or covariance of the terms: (1, terms, terms) for all rows, or (O, terms, terms).
    """
    plain, carried = round_to_nearest(rows), _round_with_compensation(rows, _inverse_choleskys(moment))
    better = output_mse(carried - rows, moment) < output_mse(plain - rows, moment)
    return np.where(better[:, None], carried, plain)


def _round_with_compensation(rows, factor):
    left, step = rows.copy(), weight_scales(rows)
    below, above = _bounds(rows / step[:, None])
    kept = np.abs(rows).argmax(axis=1)
    kept_level = np.sign(rows[np.arange(len(rows)), kept]) * WEIGHT_LEVELS
    rounded = np.empty_like(rows)
    for start in range(0, rows.shape[1], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[1])
        errors = np.empty((len(rows), stop - start))
        for term in range(start, stop):
            level = np.clip(np.round(left[:, term] / step), below[:, term], above[:, term])
            rounded[:, term] = np.where(kept == term, kept_level, level) * step
            error = (left[:, term] - rounded[:, term]) / factor[:, term, term]
            errors[:, term - start] = error
            left[:, term + 1 : stop] -= error[:, None] * factor[:, term, term + 1 : stop]
        left[:, stop:] -= _products(errors, factor[:, start:stop, stop:])
    return rounded


def _bounds(levels):
    """Return the least and the largest level that a weight may take: `REACH` beyond its two neighbours on the grid.

    So a weight stays recognisably that of the model. One that lies on the grid stays there: a 0 of a sparse layer, or a
    constant that is meant as it is.
    """
    exact = np.abs(levels - np.round(levels)) < _ON_GRID
    spread = np.where(exact, 0, ROUNDING_REACH)
    below = np.where(exact, np.round(levels), np.floor(levels)) - spread
    above = np.where(exact, np.round(levels), np.ceil(levels)) + spread
    return below.clip(-WEIGHT_LEVELS, WEIGHT_LEVELS), above.clip(-WEIGHT_LEVELS, WEIGHT_LEVELS)


def _inverse_choleskys(moment):
    """Return the upper Cholesky factor of the inverse of each moment, damped."""
    return np.stack([_inverse_cholesky(each) for each in moment])


def _inverse_cholesky(moment):
    damping, unit = _DAMPING * np.trace(moment) / len(moment), np.eye(len(moment))
    if not damping > 0:  # terms that are always 0
        return unit
    while True:
        # Moments of terms that go together are singular but for the damping, and in rounding may be less than that.
        with contextlib.suppress(np.linalg.LinAlgError):
            return np.linalg.cholesky(np.linalg.inv(moment + damping * unit)).T
        damping *= 10


def output_mse(difference, moment):
    """Return what a difference of the weights (O, terms) does to each output: the mean square, (O,)."""
    return (_products(difference, moment) * difference).sum(axis=1)


def _products(rows, matrices):
    """Return each row times its matrix; one matrix may serve all rows."""
    if len(matrices) == 1:
        return rows @ matrices[0]
    return np.einsum("ot,otu->ou", rows, matrices)


# MERGED Which range of values the 8 bits of an activation stand for.

# Operators that copy or compare integers: their inputs and outputs share one scale.
# https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
_SAME_SCALE_OPERATORS = """
    AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS GATHER MAX_POOL_2D MAXIMUM MINIMUM
    MIRROR_PAD PACK PAD PADV2 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SELECT_V2 SLICE
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK
"""
SAME_SCALE_OPERATORS = frozenset(_SAME_SCALE_OPERATORS.split())
# Operators whose output has a scale of its own, whatever values it takes.
FIXED_SCALE_OPERATORS = frozenset(("L2_NORMALIZATION", "LOG_SOFTMAX", "LOGISTIC", "SOFTMAX", "TANH"))
BINS = 2048
ACTIVATION_LEVELS = 255
_RANGE_SHARES = np.linspace(0.3, 1, 71)


class ActivationHistogram:
    """Watcher: how often the values of some tensors fall into each of `BINS` parts of one range.

    Args:
        tensors: indexes of the tensors.
        least, largest: the range; it holds 0.
    """

    def __init__(self, tensors, least, largest):
        self.tensors, self.least, self.largest = tensors, least, largest
        self.counts = np.zeros(BINS)

    def __call__(self, tensor):
        """Add the values of the tensors."""
        scale = BINS / (self.largest - self.least)
        for index in self.tensors:
            places = ((tensor(index).ravel() - np.float32(self.least)) * np.float32(scale)).astype(np.int32)
            self.counts += np.bincount(places.clip(0, BINS - 1), minlength=BINS)

    def centres(self):
        """Return the middle of each part."""
        return self.least + (self.largest - self.least) / BINS * (np.arange(BINS) + 0.5)


def build_histograms(file):
    """Return an empty `Histogram` for each set of tensors of a file that share a range and may be given another.

    Left out are scales that the operator fixes and what the network's answer is read from, the outputs and what goes
    into a softmax or sigmoid: its largest value is the answer, and two that are cut off are the same.

    Args:
        file: `keras_nin.export.float_file.FloatFile`.
    """
    main, limits = file.graph.main, file.ranges()
    fixed = {
        index
        for operator in main.operators
        if operator.op in FIXED_SCALE_OPERATORS
        for index in _activation_tensors(main, operator)
    }
    found = []
    for tensors in _same_scale_groups(main):
        known = [index for index in tensors if index in limits and main.tensors[index].dtype == "float32"]
        least, largest = min((0, *(limits[i][0] for i in known))), max((0, *(limits[i][1] for i in known)))
        # Beyond the reach of float32 a step is 0 or infinite.
        if 1e-30 < largest - least < 1e30 and not fixed.union(main.outputs).intersection(tensors):
            found.append(ActivationHistogram(known, least, largest))
    return found


def _activation_tensors(main, operator):
    """Return the tensors that an operator reads and writes, without constants."""
    indexes = (*operator.inputs, *operator.outputs)
    return [index for index in indexes if index >= 0 and not main.tensors[index].is_constant]


def _same_scale_groups(main):
    """Return the tensors that are computed, or given to the network, in lists of those that share a scale."""
    together = {}
    for operator in main.operators:
        flowing = _activation_tensors(main, operator)
        for index in flowing:
            together.setdefault(index, [index])
        for index in flowing[1:] if operator.op in SAME_SCALE_OPERATORS else ():
            first, other = together[flowing[0]], together[index]
            if first is not other:
                first += other
                together |= dict.fromkeys(other, first)
    return list({id(tensors): tensors for tensors in together.values()}.values())


def range_mse(histogram, least, largest):
    """Return the mean square error of 8 bits that stand for `least` to `largest`."""
    values = histogram.centres()
    step = (largest - least) / ACTIVATION_LEVELS
    rounded = np.clip(np.round((values - least) / step), 0, ACTIVATION_LEVELS) * step + least
    return float(((rounded - values) ** 2 * histogram.counts).sum() / histogram.counts.sum())


def find_mse_range(histogram):
    """Return the part of a histogram's range, 0 in it, with the least mean square error of rounding and cutting off."""
    low = high = 1.0
    for _ in range(2):  # one side after the other
        errors = [range_mse(histogram, low * histogram.least, share * histogram.largest) for share in _RANGE_SHARES]
        high = _RANGE_SHARES[np.argmin(errors)] if histogram.largest > 0 else high
        errors = [range_mse(histogram, share * histogram.least, high * histogram.largest) for share in _RANGE_SHARES]
        low = _RANGE_SHARES[np.argmin(errors)] if histogram.least < 0 else low
    return low * histogram.least, high * histogram.largest


def set_activation_ranges(file, filled, choose=find_mse_range):
    """Give the tensors of each filled `Histogram` the range that `choose` returns for it."""
    for histogram in filled:
        least, largest = choose(histogram)
        for index in histogram.tensors:
            file.set_range(index, least, largest)
