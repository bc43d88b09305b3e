"""Which range of values the 8 bits of an activation stand for."""

import numpy as np

# Operators that copy or compare integers: their inputs and outputs share one scale.
# https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
_TIED = """
    AVERAGE_POOL_2D BATCH_TO_SPACE_ND CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS GATHER MAX_POOL_2D MAXIMUM MINIMUM
    MIRROR_PAD PACK PAD PADV2 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SELECT SELECT_V2 SLICE
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE STRIDED_SLICE TILE TRANSPOSE UNPACK
"""
TIED = frozenset(_TIED.split())
# Operators whose output has a scale of its own, whatever values it takes.
FIXED = frozenset(("L2_NORMALIZATION", "LOG_SOFTMAX", "LOGISTIC", "SOFTMAX", "TANH"))
BINS = 2048
LEVELS = 255
_SHARES = np.linspace(0.3, 1, 71)


class Histogram:
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


def histograms(file):
    """Return an empty `Histogram` for each set of tensors of a file that share a range and may be given another.

    Left out are scales that the operator fixes and what the network's answer is read from, the outputs and what goes
    into a softmax or sigmoid: its largest value is the answer, and two that are cut off are the same.

    Args:
        file: `keras_nin.export.float_file.FloatFile`.
    """
    main, limits = file.graph.main, file.ranges()
    fixed = {index for operator in main.operators if operator.op in FIXED for index in _flowing(main, operator)}
    found = []
    for tensors in _tied(main):
        known = [index for index in tensors if index in limits and main.tensors[index].dtype == "float32"]
        least, largest = min((0, *(limits[i][0] for i in known))), max((0, *(limits[i][1] for i in known)))
        # Beyond the reach of float32 a step is 0 or infinite.
        if 1e-30 < largest - least < 1e30 and not fixed.union(main.outputs).intersection(tensors):
            found.append(Histogram(known, least, largest))
    return found


def _flowing(main, operator):
    """Return the tensors that an operator reads and writes, without constants."""
    indexes = (*operator.inputs, *operator.outputs)
    return [index for index in indexes if index >= 0 and not main.tensors[index].is_constant]


def _tied(main):
    """Return the tensors that are computed, or given to the network, in lists of those that share a scale."""
    together = {}
    for operator in main.operators:
        flowing = _flowing(main, operator)
        for index in flowing:
            together.setdefault(index, [index])
        for index in flowing[1:] if operator.op in TIED else ():
            first, other = together[flowing[0]], together[index]
            if first is not other:
                first += other
                together |= dict.fromkeys(other, first)
    return list({id(tensors): tensors for tensors in together.values()}.values())


def square_error(histogram, least, largest):
    """Return the mean square error of 8 bits that stand for `least` to `largest`."""
    values = histogram.centres()
    step = (largest - least) / LEVELS
    rounded = np.clip(np.round((values - least) / step), 0, LEVELS) * step + least
    return float(((rounded - values) ** 2 * histogram.counts).sum() / histogram.counts.sum())


def least_square_error(histogram):
    """Return the part of a histogram's range, 0 in it, with the least mean square error of rounding and cutting off."""
    low = high = 1.0
    for _ in range(2):  # one side after the other
        errors = [square_error(histogram, low * histogram.least, share * histogram.largest) for share in _SHARES]
        high = _SHARES[np.argmin(errors)] if histogram.largest > 0 else high
        errors = [square_error(histogram, share * histogram.least, high * histogram.largest) for share in _SHARES]
        low = _SHARES[np.argmin(errors)] if histogram.least < 0 else low
    return low * histogram.least, high * histogram.largest


def set_ranges(file, filled, choose=least_square_error):
    """Give the tensors of each filled `Histogram` the range that `choose` returns for it."""
    for histogram in filled:
        least, largest = choose(histogram)
        for index in histogram.tensors:
            file.set_range(index, least, largest)
