"""The two exact rewrites of 1x1 layers, on a Keras model: collapse linear ones, and move one behind an average.

Collapse: (x W1 + b1) W2 + b2 = x W + b with W = W1 W2 and b = b1 W2 + b2. A BatchNormalization after the first is the
map z -> z s + t with s = gamma / sqrt(variance + epsilon) and t = beta - mean s; W1 becomes W1 diag(s) and b1 becomes
b1 s + t first.

Commute: the mean over places of x W + b is (the mean of x) W + b.
"""

import math
from dataclasses import dataclass

from keras_nin.audit.findings import linear
from keras_nin.audit.findings.network import Network, channels_out, is_identity
from keras_nin.audit.records import Finding
from keras_nin.errors import InputError

# Relative to the largest output: float32 rounds at 6e-8, and the rewrites only change the order of its sums.
TOLERANCE = 1e-5
_BATCH = 2
# Of the last layer's config; its initializers and regularizers serve who trains the result further.
_KEPT = frozenset(
    {"name", "trainable", "dtype", "activation"}
    | {f"{of}_{what}" for of in ("kernel", "bias") for what in ("initializer", "regularizer", "constraint")}
    | {"activity_regularizer"}
)
_SEED = 0


@dataclass(frozen=True)
class Simplified:
    """A simplified model and the proof.

    `model` is a `keras.Model` with weights of its own; where there was nothing to do (`steps` is empty) it is the given
    model itself. `steps` are the findings that were applied, in order. `difference` is the largest difference between
    the outputs of the two models on random input, relative to the largest output. `params` and `macs` are the totals
    before and after.
    """

    model: object
    steps: tuple[Finding, ...]
    difference: float
    params: tuple[int, int]
    macs: tuple[int, int]


def simplify(model):
    """Apply the two exact rewrites to `model`, and prove on random input that its outputs stay the same.

    Collapses 1x1 layers with nothing non-linear between (where that saves), and moves a linear 1x1 layer behind the
    average pooling that follows it. A site stays as it is where the rewrite is not exact or cannot be seen to be: an
    activation between, an output that is read elsewhere or leaves the network, shared layers, strides before a pooling,
    layers inside nested models or of a user's own class, the half of a separable convolution, weights that are not
    float32 or float64. Dropout between collapsed layers goes: the outputs are equal when the network runs.

    Args:
        model: keras.Model, Functional or Sequential, with a fixed input size; it is not changed.

    Returns:
        `Simplified`. Its model is Functional, and the layers that stay keep their names.

    Raises:
        InputError: the audit cannot read `model`, or a layer of it cannot be rebuilt from its config.
        RuntimeError: the outputs differ by more than 1e-5 of the largest, which is an error of this function.
    """
    from keras_nin.audit.build import audit

    simplified, steps = model, []
    while (site := _next_site(simplified)) is not None:
        simplified = _rewritten(simplified, site)
        steps.append(site.finding)
    before, after = audit(model).total, audit(simplified).total
    difference = _largest_difference(model, simplified) if steps else 0.0
    return Simplified(simplified, tuple(steps), difference, (before.params, after.params), (before.macs, after.macs))


def _next_site(model):
    """The first place of `model` (`linear.Run` or `linear.Average`) that can be rewritten, or None."""
    from keras_nin.audit import keras_reader

    network = Network(keras_reader.read(model))
    layers = {layer.name: layer for layer in model.layers}
    sites = (*linear.runs(network), *linear.averages(network))
    return next((site for site in sites if all(_can_be_rewritten(part, layers) for part in site.parts)), None)


def _can_be_rewritten(part, layers):
    import keras

    layer = None if part.scope else layers.get(part.name)
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense):
        plain = len(layer.weights) == 1 + layer.use_bias and layer.compute_dtype in ("float32", "float64")
        return plain and layer.dtype == layer.compute_dtype
    if type(layer) is keras.layers.BatchNormalization:
        return layer.axis in (-1, len(part.inputs[0].shape) - 1)
    return isinstance(layer, keras.layers.Layer)


def _rewritten(model, site):
    """Return a copy of `model` in which `site` is rewritten."""
    import keras

    # Sequential models know no other order than their own.
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name) if _is_sequential(model) else model
    edit = _Collapse(graph, site) if isinstance(site, linear.Run) else _Commute(graph, site)
    copies = {}

    def clone(layer):
        if layer.name not in copies:
            copies[layer.name] = edit.clone(layer) or _copy(layer)
        return copies[layer.name]

    rewritten = keras.models.clone_model(graph, clone_function=clone, call_function=edit.call)
    kept = {layer.name: layer for layer in rewritten.layers}
    for layer in graph.layers:
        if layer.weights and layer.name in kept:
            kept[layer.name].set_weights(edit.weights.get(layer.name) or layer.get_weights())
    return rewritten


def _is_sequential(model):
    import keras

    return isinstance(model, keras.Sequential)


def _copy(layer, **changed):
    try:
        return type(layer).from_config(layer.get_config() | changed)
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"Expected layers that can be rebuilt from their config. Received: {type(layer).__name__} {layer.name!r} "
            f"({error}). Give it a get_config."
        ) from error


class _Collapse:
    """Puts one layer where the last of a `linear.Run` is, and takes the others away."""

    def __init__(self, graph, run):
        self.run = run
        *removed, self.last = (part.name for part in run.parts)
        self.removed = set(removed)
        kernel, bias = _product([(part, graph.get_layer(part.name)) for part in run.parts])
        shape = (1,) * (len(run.parts[0].inputs[0].shape) - 2)
        self.weights = {self.last: [kernel.reshape(*shape, *kernel.shape), *([bias] if run.use_bias else [])]}

    def clone(self, layer):
        """The layer that stands for `layer` if it is the last of the run, else None."""
        import keras

        if layer.name != self.last:
            return None
        config = {key: value for key, value in layer.get_config().items() if key in _KEPT}
        strides = [math.prod(steps) for steps in zip(*(part.strides for part in self.run.layers), strict=True)]
        filters, use_bias = channels_out(self.run.parts[-1]), self.run.use_bias
        if len(self.run.parts[0].inputs[0].shape) == 3:
            return keras.layers.Conv1D(filters, 1, strides=strides[1], use_bias=use_bias, **config)
        return keras.layers.Conv2D(filters, 1, strides=strides, use_bias=use_bias, **config)

    def call(self, layer, *args, **kwargs):
        """What leaves `layer` in the copy: its own input, where it is taken away."""
        return args[0] if layer.name in self.removed else layer(*args, **kwargs)


def _product(parts):
    """Kernel (inputs, outputs) and bias of all `parts` (record and Keras layer) in a row."""
    import numpy as np

    kernel, bias = 1.0, 0.0
    for part, layer in parts:
        if is_identity(part):
            continue
        if part.op == "BatchNormalization":
            scale, shift = _scale_and_shift(layer)
            kernel, bias = kernel * scale, bias * scale + shift
            continue
        weights = layer.get_weights()
        factor = weights[0].reshape(weights[0].shape[-2:]).astype(np.float64)
        added = weights[1] if layer.use_bias else 0.0
        kernel = factor if part is parts[0][0] else kernel @ factor
        bias = (bias @ factor if np.ndim(bias) else 0.0) + added
    return kernel, bias


def _scale_and_shift(norm):
    import numpy as np

    weights = {
        weight.name: np.asarray(value, np.float64)
        for weight, value in zip(norm.weights, norm.get_weights(), strict=True)
    }
    scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + norm.epsilon)
    return scale, weights.get("beta", 0.0) - weights["moving_mean"] * scale


class _Commute:
    """Puts the pooling of a `linear.Average` before its 1x1 layer."""

    weights = {}

    def __init__(self, graph, site):
        self.first, self.last = site.parts[0].name, site.parts[-1].name
        self.pool = graph.get_layer(self.last)
        self.is_flat = len(site.parts[-1].outputs[0].shape) == 2
        names = {layer.name for layer in graph.layers}
        self.flatten = f"{self.last}_flatten"
        while self.flatten in names:
            self.flatten += "_"

    def clone(self, layer):
        """The pooling, so that it gives a map; None for every other layer."""
        if layer.name != self.last:
            return None
        return _copy(layer, keepdims=True) if self.is_flat else _copy(layer)

    def call(self, layer, *args, **kwargs):
        """What leaves `layer` in the copy."""
        import keras

        if layer.name == self.first:
            return layer(self.clone(self.pool)(*args), **kwargs)
        if layer.name != self.last:
            return layer(*args, **kwargs)
        return keras.layers.Flatten(name=self.flatten)(args[0]) if self.is_flat else args[0]


def _largest_difference(model, simplified):
    """Return the largest difference of the outputs, relative to the largest output; RuntimeError where it is large."""
    import keras
    import numpy as np

    generator = np.random.default_rng(_SEED)
    images = keras.tree.map_structure(lambda tensor: _random(tensor, generator), simplified.input)
    pairs = zip(*(keras.tree.flatten(network(images, training=False)) for network in (model, simplified)), strict=True)
    pairs = [tuple(keras.ops.convert_to_numpy(tensor) for tensor in pair) for pair in pairs]
    difference = max(float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny)) for a, b in pairs)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The simplified {model.name!r} differs from the model by {difference:.1e} of the largest output, more "
            f"than {TOLERANCE:.0e}. This is an error of `keras_nin.audit.simplify`, please report it."
        )
    return difference


def _random(tensor, generator):
    shape = [_BATCH if extent is None else extent for extent in tensor.shape]
    if "int" in str(tensor.dtype):
        return generator.integers(0, 2, shape)  # what is an index into a table has at least two rows
    return generator.standard_normal(shape).astype("float32")
