"""What flows through a float file while it sees the calibration images."""

import numpy as np

from keras_nin.data.splits import generator

POSITIONS = 256  # of a feature map, per image: they are alike, and images are what there are few of


def observe(file, samples, watchers):
    """Run a float file over the samples, and show each of `watchers` what its tensors hold.

    Args:
        file: `keras_nin.export.float_file.FloatFile`; it runs as it came.
        samples: as `keras_nin.export.quantizer.Quantizer` takes them.
        watchers: callables of a function from a tensor's index to its values.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from keras_nin.quiet import captured

    with captured():
        interpreter = Interpreter(
            model_content=file.graph.content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
            num_threads=1,  # so that sums are taken in one order
        )
        interpreter.allocate_tensors()
    for sample in samples:
        for index, values in _inputs(file.graph, sample):
            interpreter.set_tensor(index, np.asarray(values, np.float32))
        interpreter.invoke()
        for watch in watchers:
            watch(interpreter.get_tensor)


def _inputs(graph, sample):
    """Return pairs of an input's tensor index and its values."""
    if isinstance(sample, dict):
        named = dict(graph.signatures[0].inputs)
        return [(named[name], values) for name, values in sample.items()]
    return list(zip(graph.main.inputs, sample, strict=True))


class Moments:
    """Watcher: mean and second moment of what the weights of a layer are multiplied with.

    Args:
        layer: `keras_nin.export.float_file.Layer`.
        squares: whether the second moment is wanted.

    A layer has one group of terms for all its outputs; a depthwise convolution one for each output.
    """

    def __init__(self, layer, squares=True):
        self.layer, self.squares = layer, squares
        self._sum = self._products = 0
        self._count = 0

    def __call__(self, tensor):
        """Add what the layer's input holds."""
        columns = _columns(self.layer, tensor(self.layer.source))
        self._sum = self._sum + columns.sum(axis=1, dtype=np.float64)
        if self.squares:
            self._products = self._products + (columns.transpose(0, 2, 1) @ columns).astype(np.float64)
        self._count += columns.shape[1]

    def mean(self):
        """Return the mean of each term: (groups, terms)."""
        return self._of_outputs(self._sum / self._count)

    def second(self):
        """Return the mean of the product of every two terms: (groups, terms, terms)."""
        return self._of_outputs(self._products / self._count)

    def _of_outputs(self, moments):
        if self.layer.kind == "depthwise":  # each input channel makes `depth_multiplier` outputs
            return np.repeat(moments, self.layer.weights.shape[3] // len(moments), axis=0)
        return moments


def _columns(layer, values):
    """Return what the rows of a layer's weights are multiplied with: float32 (groups, positions, terms)."""
    if layer.kind == "dense":
        return values.reshape(1, -1, layer.weights.shape[1])
    patches = np.concatenate([_patches(image, layer) for image in values])
    if layer.kind == "depthwise":
        return np.ascontiguousarray(np.moveaxis(patches, 2, 0))
    return patches.reshape(1, len(patches), -1)


def _patches(image, layer):
    """Return the windows of an image (H, W, C) that a convolution sees, at some positions: (positions, h * w, C)."""
    options = layer.operator.options
    _, height, width, _ = layer.weights.shape
    rows = _starts(image.shape[0], height, options["stride_h"], options["dilation_h"], options["padding"])
    columns = _starts(image.shape[1], width, options["stride_w"], options["dilation_w"], options["padding"])
    count = len(rows) * len(columns)
    chosen = np.arange(count)
    if count > POSITIONS:
        chosen = np.sort(generator(0).permutation(count)[:POSITIONS])
    row = rows[chosen // len(columns), None, None] + options["dilation_h"] * np.arange(height)[:, None]
    column = columns[chosen % len(columns), None, None] + options["dilation_w"] * np.arange(width)
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    patches = image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)] * inside[..., None]
    return patches.reshape(len(chosen), height * width, image.shape[2])


def _starts(size, kernel, stride, dilation, padding):
    """Return where the windows along one side start; before 0 where zeros are put in front."""
    extent = (kernel - 1) * dilation + 1
    if padding == "VALID":
        return np.arange(0, size - extent + 1, stride)
    count = -(-size // stride)
    return np.arange(count) * stride - max((count - 1) * stride + extent - size, 0) // 2
