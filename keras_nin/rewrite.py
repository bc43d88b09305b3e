"""The two exact rewrites of 1x1 layers, on a Keras model: collapse linear ones, and move one behind an average.

Collapse: (x W1 + b1) W2 + b2 = x W + b with W = W1 W2 and b = b1 W2 + b2. A BatchNormalization after the first is the
map z -> z s + t with s = gamma / sqrt(variance + epsilon) and t = beta - mean s; W1 becomes W1 diag(s) and b1 becomes
b1 s + t first.

Commute: the mean over places of x W + b is (the mean of x) W + b.
"""

import math
from dataclasses import dataclass

from keras_nin.audit.findings import linear
from keras_nin.audit.findings.network import FindingsNetwork, is_identity, output_channels
from keras_nin.audit.records import Finding
from keras_nin.errors import InputError

# Relative to the largest output: float32 rounds at 6e-8, and the rewrites only change the order of its sums.
SIMPLIFY_TOLERANCE = 1e-5
_CHECK_BATCH = 2
# Of the last layer's config; its initializers and regularizers serve who trains the result further.
_KEPT_CONFIG = frozenset(
    {"name", "trainable", "dtype", "activation"}
    | {f"{of}_{what}" for of in ("kernel", "bias") for what in ("initializer", "regularizer", "constraint")}
    | {"activity_regularizer"}
)
_CHECK_SEED = 0


@dataclass(frozen=True)
class SimplifyResult:
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


def simplify_model(model):
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
    from keras_nin.audit.api import audit_model

    simplified, steps = model, []
    while (site := _find_next_site(simplified)) is not None:
        simplified = _rewrite_site(simplified, site)
        steps.append(site.finding)
    before, after = audit_model(model).total, audit_model(simplified).total
    difference = _largest_difference(model, simplified) if steps else 0.0
    return SimplifyResult(
        simplified, tuple(steps), difference, (before.params, after.params), (before.macs, after.macs)
    )


def _find_next_site(model):
    """The first place of `model` (`linear.Run` or `linear.Average`) that can be rewritten, or None."""
    from keras_nin.audit import keras_reader

    network = FindingsNetwork(keras_reader.read_keras_graph(model))
    layers = {layer.name: layer for layer in model.layers}
    sites = (*linear.find_linear_runs(network), *linear.find_average_sites(network))
    return next((site for site in sites if all(_is_rewritable(part, layers) for part in site.parts)), None)


def _is_rewritable(part, layers):
    import keras

    layer = None if part.scope else layers.get(part.name)
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense):
        plain = len(layer.weights) == 1 + layer.use_bias and layer.compute_dtype in ("float32", "float64")
        return plain and layer.dtype == layer.compute_dtype
    if type(layer) is keras.layers.BatchNormalization:
        return layer.axis in (-1, len(part.inputs[0].shape) - 1)
    return isinstance(layer, keras.layers.Layer)


def _rewrite_site(model, site):
    """Return a copy of `model` in which `site` is rewritten."""
    import keras

    # Sequential models know no other order than their own.
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name) if _is_sequential(model) else model
    edit = _Collapse(graph, site) if isinstance(site, linear.LinearRun) else _Commute(graph, site)
    copies = {}

    def clone(layer):
        if layer.name not in copies:
            copies[layer.name] = edit.clone(layer) or _copy_layer(layer)
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


def _copy_layer(layer, **changed):
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
        kernel, bias = _multiply_layers([(part, graph.get_layer(part.name)) for part in run.parts])
        shape = (1,) * (len(run.parts[0].inputs[0].shape) - 2)
        self.weights = {self.last: [kernel.reshape(*shape, *kernel.shape), *([bias] if run.use_bias else [])]}

    def clone(self, layer):
        """The layer that stands for `layer` if it is the last of the run, else None."""
        import keras

        if layer.name != self.last:
            return None
        config = {key: value for key, value in layer.get_config().items() if key in _KEPT_CONFIG}
        strides = [math.prod(steps) for steps in zip(*(part.strides for part in self.run.layers), strict=True)]
        filters, use_bias = output_channels(self.run.parts[-1]), self.run.use_bias
        if len(self.run.parts[0].inputs[0].shape) == 3:
            return keras.layers.Conv1D(filters, 1, strides=strides[1], use_bias=use_bias, **config)
        return keras.layers.Conv2D(filters, 1, strides=strides, use_bias=use_bias, **config)

    def call(self, layer, *args, **kwargs):
        """What leaves `layer` in the copy: its own input, where it is taken away."""
        return args[0] if layer.name in self.removed else layer(*args, **kwargs)


def _multiply_layers(parts):
    """Kernel (inputs, outputs) and bias of all `parts` (record and Keras layer) in a row."""
    import numpy as np

    kernel, bias = 1.0, 0.0
    for part, layer in parts:
        if is_identity(part):
            continue
        if part.op == "BatchNormalization":
            scale, shift = _norm_scale_shift(layer)
            kernel, bias = kernel * scale, bias * scale + shift
            continue
        weights = layer.get_weights()
        factor = weights[0].reshape(weights[0].shape[-2:]).astype(np.float64)
        added = weights[1] if layer.use_bias else 0.0
        kernel = factor if part is parts[0][0] else kernel @ factor
        bias = (bias @ factor if np.ndim(bias) else 0.0) + added
    return kernel, bias


def _norm_scale_shift(norm):
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
        return _copy_layer(layer, keepdims=True) if self.is_flat else _copy_layer(layer)

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

    generator = np.random.default_rng(_CHECK_SEED)
    images = keras.tree.map_structure(lambda tensor: _random_input(tensor, generator), simplified.input)
    pairs = zip(*(keras.tree.flatten(network(images, training=False)) for network in (model, simplified)), strict=True)
    pairs = [tuple(keras.ops.convert_to_numpy(tensor) for tensor in pair) for pair in pairs]
    difference = max(float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny)) for a, b in pairs)
    if not difference <= SIMPLIFY_TOLERANCE:
        raise RuntimeError(
            f"The simplified {model.name!r} differs from the model by {difference:.1e} of the largest output, more "
            f"than {SIMPLIFY_TOLERANCE:.0e}. This is an error of `keras_nin.audit.simplify_model`, please report it."
        )
    return difference


def _random_input(tensor, generator):
    shape = [_CHECK_BATCH if extent is None else extent for extent in tensor.shape]
    if "int" in str(tensor.dtype):
        return generator.integers(0, 2, shape)  # what is an index into a table has at least two rows
    return generator.standard_normal(shape).astype("float32")


# MERGED Dense layers as the convolutions that they are, so that a classifier also runs on larger images.

# Layers that treat every position, or every vector, alike: they stay as they are between the layers that change.
_PER_VECTOR_LAYERS = (
    "Dropout",
    "Activation",
    "ReLU",
    "LeakyReLU",
    "ELU",
    "PReLU",
    "Softmax",
    "BatchNormalization",
    "Add",
)
_POOL_COUNTERPARTS = {"GlobalAveragePooling2D": "AveragePooling2D", "GlobalMaxPooling2D": "MaxPooling2D"}


def convert_dense_to_conv(model, input_shape=None):
    """Turn the dense head of a classifier into the equal convolutions.

    A fully connected layer is a convolution whose kernel covers its whole input: a Dense on a flattened map of
    (h, w, C) becomes an h x w convolution, a Dense on a vector a 1x1 convolution, and a global pooling a pooling with
    the size that the map has in training, stride 1. On the training size the outputs are the same; a larger image
    gives a map of scores, one for every place of the training size in it (Sermanet et al., "OverFeat",
    arXiv:1312.6229).

    Args:
        model: keras.Model, Functional or Sequential, from (B, H, W, C) to (B, classes), H and W known.
        input_shape: (H, W, C) of the new model; None leaves height and width open.

    Returns:
        keras.Model from (B, H', W', C) to (B, h, w, classes); h = w = 1 on the training size. Its layers have the names
        and a copy of the weights of `model`.

    Raises:
        InputError: `model` is no such model, has no dense head or global pooling to turn, or a Dense cannot be turned;
            the message names it and says why.
    """
    import keras

    shape = _training_shape(model)
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential as a Functional
    changes = _find_head_layers(graph)
    inputs = keras.Input(input_shape or (None, None, shape[2]), name="input")
    turned = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=lambda layer: _convert_layer(layer, changes)
    )
    for layer in graph.layers:
        _copy_weights(layer, turned.get_layer(layer.name) if layer.weights else None, changes)
    return turned


def _training_shape(model):
    import keras

    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1:
        raise InputError(f"Expected a built keras.Model with one input. Received: {model!r}")
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or None in shape:
        raise InputError(f"Expected a model on images of a known size. Received: {model.name!r} with input {shape}")
    return shape


def _find_head_layers(graph):
    """Return the size of the map that each layer to be turned covers, by the layer's name."""
    sizes, changes = {}, {}  # sizes: of the map that a vector tensor is a flattened or pooled view of
    for operation in _layers_in_order(graph):
        kind = type(operation).__name__
        entering = operation.input if not isinstance(operation.input, list) else operation.input[0]
        if kind == "Flatten" and len(entering.shape) == 4:
            changes[operation.name] = None
            sizes[id(operation.output)] = tuple(entering.shape[1:])
        elif kind in _POOL_COUNTERPARTS and not operation.keepdims:
            changes[operation.name] = tuple(entering.shape[1:3])
            sizes[id(operation.output)] = (1, 1, entering.shape[-1])
        elif kind == "Dense" and len(entering.shape) == 2:
            if id(entering) not in sizes:
                raise InputError(
                    f"Expected every Dense on a vector to follow Flatten or a global pooling of a map. Received: layer "
                    f"{operation.name!r}, whose input comes from {_producer_name(entering)}"
                )
            changes[operation.name] = sizes[id(entering)]
            sizes[id(operation.output)] = (1, 1, operation.units)
        elif len(operation.output.shape) == 2:
            _carry_map_size(operation, sizes)
    if not changes:
        raise InputError(f"Expected a model with a Flatten, Dense or global pooling head. Received: {graph.name!r}")
    return changes


def _layers_in_order(graph):
    """Yield the layers in execution order, without the input."""
    for layer in graph.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        if isinstance(layer.output, list | tuple | dict):
            raise InputError(f"Expected layers with one output. Received: {layer.name!r}")
        yield layer


def _carry_map_size(operation, sizes):
    """Carry the size along through a layer that treats every vector alike; refuse any other between turned layers."""
    entering = operation.input if isinstance(operation.input, list) else [operation.input]
    known = {sizes.get(id(tensor)) for tensor in entering}
    if known == {None}:
        return
    if type(operation).__name__ not in _PER_VECTOR_LAYERS or len(known) != 1:
        raise InputError(
            f"Expected only {', '.join(_PER_VECTOR_LAYERS)} and Dense after Flatten or a global pooling. "
            f"Received: {type(operation).__name__} {operation.name!r}"
        )
    sizes[id(operation.output)] = known.pop()


def _producer_name(tensor):
    layer = tensor._keras_history.operation
    return f"{type(layer).__name__} {layer.name!r}"


def _convert_layer(layer, changes):
    """Return the layer of the new model that stands for `layer`."""
    import keras

    if layer.name not in changes:
        return layer.__class__.from_config(layer.get_config())
    kind, size = type(layer).__name__, changes[layer.name]
    if kind == "Flatten":
        return keras.layers.Identity(name=layer.name)  # the convolution after it takes the map as it is
    if kind in _POOL_COUNTERPARTS:
        return getattr(keras.layers, _POOL_COUNTERPARTS[kind])(size, strides=1, padding="valid", name=layer.name)
    config = layer.get_config()
    kept = ("activation", "use_bias", "kernel_initializer", "bias_initializer", "trainable", "name", "dtype")
    return keras.layers.Conv2D(layer.units, size[:2], padding="valid", **{key: config[key] for key in kept})


def _copy_weights(layer, turned, changes):
    if turned is None:
        return
    weights = layer.get_weights()
    if type(layer).__name__ == "Dense" and layer.name in changes:
        height, width, channels = changes[layer.name]
        weights[0] = weights[0].reshape(height, width, channels, layer.units)
    turned.set_weights(weights)
