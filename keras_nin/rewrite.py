"""Exact rewrites of Keras models: linear 1x1 layers collapsed or moved, and Dense layers as convolutions.

Collapse: (x W1 + b1) W2 + b2 = x W + b with W = W1 W2 and b = b1 W2 + b2. A BatchNormalization in between is the map
z -> z s + t with s = gamma / sqrt(variance + epsilon) and t = beta - mean s. Commute: the mean over positions of
x W + b is (the mean of x) W + b. A Dense on a flattened map is a convolution with a kernel that covers the map.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_nin import keras_graph
from keras_nin.audit.findings import linear
from keras_nin.audit.findings.linear import RewriteSite
from keras_nin.audit.findings.network import FindingsNetwork
from keras_nin.audit.graph import LayerInfo
from keras_nin.audit.records import Finding
from keras_nin.errors import InputError
from keras_nin.results import Result

if TYPE_CHECKING:
    import keras
    import numpy as np

# Relative to the largest output: float32 rounds at 6e-8, and the rewrites only change the order of its sums.
SIMPLIFY_TOLERANCE = 1e-5
# Of the last layer's config; its initializers and regularizers matter if the result is trained further.
_KEPT_CONFIG = frozenset(
    {"name", "trainable", "dtype", "activation", "activity_regularizer"}
    | {f"{weight}_{key}" for weight in ("kernel", "bias") for key in ("initializer", "regularizer", "constraint")}
)


@dataclass(frozen=True, repr=False)
class SimplifyResult(Result):
    """A simplified model (the original itself if there was nothing to do) and its verification.

    Attributes:
        steps: the findings that were applied, in order.
        max_rel_diff: largest difference of the outputs on random input, relative to the largest output.
        params, macs: totals before and after.
    """

    model: "keras.Model"
    steps: tuple[Finding, ...]
    max_rel_diff: float
    params: tuple[int, int]
    macs: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Return the result, without the model, as a JSON-ready dictionary."""
        totals = {"params": list(self.params), "macs": list(self.macs)}
        return {"model": self.model.name, "steps": self._rows(), "max_rel_diff": self.max_rel_diff, **totals}

    def _summary(self) -> str:
        (params, new_params), (macs, new_macs) = self.params, self.macs
        return f"{self.model.name}, {params:,} -> {new_params:,} params, {macs:,} -> {new_macs:,} MACs"

    def _rows(self) -> list[dict[str, Any]]:
        return [step.to_json() for step in self.steps]


def simplify_model(model: "keras.Model") -> SimplifyResult:
    """Apply the two exact rewrites of 1x1 layers to `model`, and verify on random input that its outputs stay the same.

    Collapses 1x1 layers with nothing nonlinear between them (if that saves something), and moves a linear 1x1 layer
    behind the average pooling that follows it, where that is exact: no activation in between, no output that is read
    elsewhere or leaves the network, no shared, nested or user-defined layers, no strides before a pooling, weights in
    float32 or float64. `model` is not changed; the result is Functional, and the layers that stay keep their names.

    Raises:
        InputError: the audit cannot read `model`, or one of its layers cannot be rebuilt from its config.
        RuntimeError: the outputs differ by more than 1e-5 of the largest, which is an error of this function.
    """
    from keras_nin.audit.api import audit_model

    simplified, steps = model, []
    while (site := _find_next_site(simplified)) is not None:
        simplified = _rewrite_site(simplified, site)
        steps.append(site.finding)
    before, after = audit_model(model).total, audit_model(simplified).total
    difference = _verify_outputs(model, simplified) if steps else 0.0
    params, macs = (before.params, after.params), (before.macs, after.macs)
    return SimplifyResult(simplified, tuple(steps), difference, params, macs)


def _find_next_site(model: "keras.Model") -> RewriteSite | None:
    """Return the first site of `model` that can be rewritten."""
    from keras_nin.audit.keras_reader import read_keras_graph

    network, layers = FindingsNetwork(read_keras_graph(model)), {layer.name: layer for layer in model.layers}
    sites = (*linear.find_linear_runs(network), *linear.find_average_sites(network))
    return next((site for site in sites if all(_is_rewritable(part, layers) for part in site.parts)), None)


def _is_rewritable(part: LayerInfo, layers: "dict[str, keras.Layer]") -> bool:
    import keras

    layer: Any = None if part.scope else layers.get(part.name)
    if type(layer) in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Dense):
        is_plain = len(layer.weights) == 1 + layer.use_bias and layer.compute_dtype in ("float32", "float64")
        return is_plain and layer.dtype == layer.compute_dtype
    if type(layer) is keras.layers.BatchNormalization:
        return layer.axis in (-1, len(part.inputs[0].shape) - 1)
    return isinstance(layer, keras.layers.Layer)


def _rewrite_site(model: "keras.Model", site: RewriteSite) -> "keras.Model":
    """Return a copy of `model` in which `site` is rewritten."""
    import keras

    graph = model
    if isinstance(model, keras.Sequential):  # which cannot reorder its layers
        graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    edit = (_Collapse if site.finding.rule == "collapsible-pointwise" else _Commute)(graph, site.parts)
    clone = functools.cache(edit.clone)  # a shared layer has one copy
    rewritten = keras.models.clone_model(graph, clone_function=clone, call_function=edit.call)
    kept = {layer.name: layer for layer in rewritten.layers}
    for layer in graph.layers:
        if layer.weights and layer.name in kept:
            kept[layer.name].set_weights(edit.weights.get(layer.name) or layer.get_weights())
    return rewritten


def copy_layer(layer: "keras.Layer", **changes: Any) -> "keras.Layer":
    """Return a layer with the config of another, and `changes`; `InputError` where it cannot be built from it."""
    try:
        return type(layer).from_config(layer.get_config() | changes)
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"Expected layers that can be rebuilt from their config. Received: {type(layer).__name__} {layer.name!r} "
            f"({error}). Give it a get_config.",
            argument="model",
            received=layer,
        ) from error


class _Collapse:
    """Puts one layer in the place of the last of the 1x1 layers in `parts`, and removes the others."""

    def __init__(self, graph: "keras.Model", parts: Sequence[LayerInfo]) -> None:
        *removed, self.last = (part.name for part in parts)
        self.removed = set(removed)
        kernel, bias = _multiply_layers([(part, graph.get_layer(part.name)) for part in parts])
        steps = zip(*(part.strides for part in parts if part.kind == "pointwise"), strict=True)
        self.rank = len(parts[0].inputs[0].shape) - 2
        use_bias, strides = linear.brings_bias(parts), tuple(map(math.prod, steps))[-self.rank :]
        self.config = {"filters": bias.size, "kernel_size": 1, "strides": strides, "use_bias": use_bias}
        self.weights = {self.last: [kernel.reshape(*(1,) * self.rank, *kernel.shape), *([bias] if use_bias else [])]}

    def clone(self, layer: "keras.Layer") -> "keras.Layer":
        import keras

        if layer.name != self.last:
            return copy_layer(layer)
        config = {key: value for key, value in layer.get_config().items() if key in _KEPT_CONFIG}
        return getattr(keras.layers, f"Conv{self.rank}D")(**self.config, **config)

    def call(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return args[0] if getattr(layer, "name", None) in self.removed else layer(*args, **kwargs)


def _multiply_layers(parts: "Sequence[tuple[LayerInfo, keras.Layer]]") -> "tuple[np.ndarray, np.ndarray]":
    """Return kernel (inputs, outputs) and bias (outputs,) of consecutive layers, in float64."""
    import numpy as np

    kernel = np.eye(parts[0][0].input_channels)
    bias = np.zeros(parts[0][0].input_channels)
    for part, layer in parts:
        norm: Any = layer
        weights = {weight.name: np.asarray(weight, np.float64) for weight in layer.weights}
        if part.op == "BatchNormalization":
            scale = weights.get("gamma", 1.0) / np.sqrt(weights["moving_variance"] + norm.epsilon)
            kernel, bias = kernel * scale, (bias - weights["moving_mean"]) * scale + weights.get("beta", 0.0)
        elif not part.is_identity:
            factor = weights["kernel"].reshape(weights["kernel"].shape[-2:])
            kernel, bias = kernel @ factor, bias @ factor + weights.get("bias", 0.0)
    return kernel, bias


class _Commute:
    """Puts the pooling that is the last of `parts` before the 1x1 layer that is the first."""

    def __init__(self, graph: "keras.Model", parts: Sequence[LayerInfo]) -> None:
        self.weights: dict[str, Any] = {}
        self.first, self.last = parts[0].name, parts[-1].name
        self.pool = graph.get_layer(self.last)
        self.is_flat = len(parts[-1].outputs[0].shape) == 2
        names = {layer.name for layer in graph.layers}
        self.flatten = f"{self.last}_flatten"
        while self.flatten in names:
            self.flatten += "_"

    def clone(self, layer: "keras.Layer") -> "keras.Layer":
        # The pooling gets a map as its output.
        return copy_layer(layer, **({"keepdims": True} if layer.name == self.last and self.is_flat else {}))

    def call(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        import keras

        name = getattr(layer, "name", None)
        if name == self.first:
            return layer(self.clone(self.pool)(*args), **kwargs)
        if name != self.last:
            return layer(*args, **kwargs)
        return keras.layers.Flatten(name=self.flatten)(args[0]) if self.is_flat else args[0]


def _verify_outputs(model: "keras.Model", simplified: "keras.Model") -> float:
    """Return the largest difference of the outputs, relative to the largest output."""
    import keras
    import numpy as np

    generator = np.random.default_rng(0)

    def make_input(tensor: "keras.KerasTensor") -> np.ndarray:
        shape = [2 if size is None else size for size in tensor.shape]  # an open batch
        if "int" in str(tensor.dtype):
            return generator.integers(0, 2, shape)  # an index into a table has at least two rows
        return generator.standard_normal(shape).astype("float32")

    images = keras.tree.map_structure(make_input, simplified.input)
    expected, received = (
        [np.asarray(tensor) for tensor in keras.tree.flatten(network(images, training=False))]
        for network in (model, simplified)
    )
    tiny = np.finfo(np.float32).tiny
    pairs = zip(expected, received, strict=True)
    difference = max(float(np.abs(a - b).max() / max(np.abs(a).max(), tiny)) for a, b in pairs)
    if not difference <= SIMPLIFY_TOLERANCE:
        raise RuntimeError(
            f"The simplified {model.name!r} differs from the model by {difference:.1e} of the largest output, more "
            f"than {SIMPLIFY_TOLERANCE:.0e}. This is an error of `keras_nin.simplify_model`, please report it."
        )
    return difference


# Dense to convolution

# Layers that treat every position, or every vector, alike: they stay as they are between the converted layers.
_PER_VECTOR_LAYERS = "Dropout Activation ReLU LeakyReLU ELU PReLU Softmax BatchNormalization Add".split()
_POOL_COUNTERPARTS = {"GlobalAveragePooling2D": "AveragePooling2D", "GlobalMaxPooling2D": "MaxPooling2D"}
_DENSE_CONFIG = ("activation", "use_bias", "kernel_initializer", "bias_initializer", "trainable", "name", "dtype")
_MapSize = tuple[int, ...]  # (height, width, channels), or (height, width) for a pooling


def convert_dense_to_conv(model: "keras.Model", input_shape: tuple[int | None, ...] | None = None) -> "keras.Model":
    """Convert the dense head of a classifier to the equivalent convolutions, so that it also runs on larger images.

    A fully connected layer is a convolution with a kernel that covers its whole input: a Dense on a flattened map of
    (h, w, C) becomes an h x w convolution, a Dense on a vector a 1x1 convolution, and a global pooling a pooling with
    the size that the map has in training, stride 1. On the training size the outputs are the same; a larger image
    gives a map of scores, one for every window of the training size in it (Sermanet et al., "OverFeat",
    arXiv:1312.6229).

    Args:
        model: Functional or Sequential, from (B, H, W, C) to (B, classes), H and W known.
        input_shape: (H, W, C) of the new model; None leaves height and width open.

    Returns:
        Model from (B, H', W', C) to (B, h, w, classes), with the names and a copy of the weights of `model`.

    Raises:
        InputError: `model` is not such a model, has nothing to convert, or has a Dense that cannot be converted.
    """
    import keras

    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1:
        raise _model_error("a built keras.Model with one input", repr(model))
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or None in shape:
        raise _model_error("a model on images of a known size", f"{model.name!r} with input {shape}")
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential as a Functional
    sizes = _find_map_sizes(graph)
    inputs = keras.Input(input_shape or (None, None, shape[2]), name="input")
    converted = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=lambda layer: _convert_layer(layer, sizes)
    )
    for layer in graph.layers:
        weights = layer.get_weights()
        if weights and layer.name in sizes:
            weights[0] = weights[0].reshape(*sizes[layer.name], layer.units)
        if weights:
            converted.get_layer(layer.name).set_weights(weights)
    return converted


def _model_error(expected: str, received: str) -> InputError:
    return InputError(f"Expected {expected}. Received: {received}", argument="model", received=received)


def _find_map_sizes(graph: "keras.Model") -> dict[str, _MapSize]:
    """Return, by its name, the size of the map that each layer to be converted covers; empty for a Flatten."""
    sizes: dict[str, _MapSize] = {}
    vector_sizes: dict[int, _MapSize] = {}  # of the map that a vector tensor is a flattened or pooled view of
    layers: list[Any] = [layer for layer in graph.layers if type(layer).__name__ != "InputLayer"]
    for layer in layers:
        if isinstance(layer.output, list | tuple | dict):
            raise _model_error("layers with one output", repr(layer.name))
        layer_type = type(layer).__name__
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        source = sources[0]
        if layer_type == "Flatten" and len(source.shape) == 4:
            sizes[layer.name] = ()
            vector_sizes[id(layer.output)] = tuple(source.shape[1:])
        elif layer_type in _POOL_COUNTERPARTS and not layer.keepdims:
            sizes[layer.name] = tuple(source.shape[1:3])
            vector_sizes[id(layer.output)] = (1, 1, source.shape[-1])
        elif layer_type == "Dense" and len(source.shape) == 2:
            if id(source) not in vector_sizes:
                producer = keras_graph.producer_of(source)
                raise _model_error(
                    "every Dense on a vector to follow Flatten or a global pooling of a map",
                    f"layer {layer.name!r}, which reads the output of {type(producer).__name__} {producer.name!r}",
                )
            sizes[layer.name] = vector_sizes[id(source)]
            vector_sizes[id(layer.output)] = (1, 1, layer.units)
        elif len(layer.output.shape) == 2 and any(id(tensor) in vector_sizes for tensor in sources):
            # A layer that treats every vector alike carries the size along; any other may not be between.
            covered = {vector_sizes.get(id(tensor)) for tensor in sources}
            size = covered.pop()
            if layer_type not in _PER_VECTOR_LAYERS or covered or size is None:
                allowed = f"only {', '.join(_PER_VECTOR_LAYERS)} and Dense after Flatten or a global pooling"
                raise _model_error(allowed, f"{layer_type} {layer.name!r}")
            vector_sizes[id(layer.output)] = size
    if not sizes:
        raise _model_error("a model with a Flatten, Dense or global pooling head", repr(graph.name))
    return sizes


def _convert_layer(layer: Any, sizes: dict[str, _MapSize]) -> "keras.Layer":
    """Return the layer of the new model that replaces `layer`."""
    import keras

    if layer.name not in sizes:
        return layer.__class__.from_config(layer.get_config())
    layer_type, size = type(layer).__name__, sizes[layer.name]
    if layer_type == "Flatten":
        return keras.layers.Identity(name=layer.name)  # the convolution after it takes the map as it is
    if layer_type in _POOL_COUNTERPARTS:
        pool = getattr(keras.layers, _POOL_COUNTERPARTS[layer_type])
        return pool(size, strides=1, padding="valid", name=layer.name)
    config = {key: value for key, value in layer.get_config().items() if key in _DENSE_CONFIG}
    return keras.layers.Conv2D(layer.units, size[:2], padding="valid", **config)
