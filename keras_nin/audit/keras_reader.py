"""The one file of the audit that touches Keras: a built model as a `Graph` of plain records."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass

from keras_nin.audit import classification
from keras_nin.audit.graph import ActivationTensor, LayerGraph, LayerInfo
from keras_nin.errors import InputError

_SEPARABLE_HALVES = {"SeparableConv1D": ("DepthwiseConv1D", "Conv1D"), "SeparableConv2D": ("DepthwiseConv2D", "Conv2D")}
_KERNEL_OPS = classification.CONVOLUTIONS | classification.DEPTHWISE | classification.TRANSPOSED
_AXIS_NORMS = frozenset({"BatchNormalization", "LayerNormalization", "RMSNormalization", "UnitNormalization"})
_EQUATION_ATTRIBUTES = {"EinsumDense": "equation", "Einsum": "subscripts"}
_PACKAGE_LAYERS = "keras_nin.layers."
WEIGHTS_OUTSIDE_GRAPH = "(weights outside the graph)"


def read_keras_graph(model):
    """Return the `Graph` of `model`, a built Functional or Sequential `keras.Model`, at batch 1.

    Nested models, and layers that hold their graph as the model `inner`, are opened; their layers carry the path.
    A weight counts at its first use; one that no layer of the graph owns goes to a last row, `OUTSIDE`.

    Raises:
        InputError: not such a model, not built, an input axis or a layer's output is open, or channels come first.
    """
    import keras

    function = _find_function(model) if isinstance(model, keras.Model) else None
    if function is None:
        raise InputError(
            "Expected a built Functional or Sequential keras.Model. "
            f"Received: {_describe_object(model)}. Build it with a fixed input shape, from keras.Input."
        )
    inputs = [_single_input(tensor) for tensor in function.inputs]
    return _KerasGraphReader(model).read(function, inputs)


def _describe_object(model):
    import keras

    if isinstance(model, keras.Sequential):
        return f"a Sequential model that has no input shape yet ({model.name!r})"
    kind = "a model without a graph of layers" if isinstance(model, keras.Model) else "an object"
    return f"{kind} of type {type(model).__module__}.{type(model).__name__}"


def _find_function(layer):
    """The graph of Keras operations that `layer` runs, or None where it does not hold one."""
    import keras

    if isinstance(layer, keras.Function):
        return layer
    if isinstance(layer, keras.Sequential):
        return layer._functional  # None until the model has an input shape
    inner = getattr(layer, "inner", None)
    return _find_function(inner) if isinstance(inner, keras.Model) else None


def _single_input(tensor):
    import keras

    axes = ("batch", "height", "width") if len(tensor.shape) == 4 else ("batch", "length")
    open_axes = [axis for axis, extent in enumerate(tensor.shape) if axis and extent is None]
    if open_axes:
        named = ", ".join(f"axis {axis}" + (f" ({axes[axis]})" if axis < len(axes) else "") for axis in open_axes)
        raise InputError(
            f"Expected every axis of the model's input after the batch to have a fixed size. Received: input "
            f"{tensor.name!r} of shape {tuple(tensor.shape)}, open at {named}. Build the model for one input_shape."
        )
    return keras.KerasTensor((1, *tensor.shape[1:]), dtype=tensor.dtype)


@dataclass(frozen=True)
class _LayerWeights:
    params: int
    trainable_params: int
    weight_bytes: int


class _KerasGraphReader:
    """Runs the model's graph on symbolic tensors and notes what each layer is called with and gives."""

    def __init__(self, model):
        self.model = model
        self.layers = []
        self.indices = itertools.count()
        self.tensors = {}  # id of a symbolic tensor -> (that tensor, kept so that its id stays its own; its record)
        self.uses = Counter()
        self.seen_weights = set()
        self.trainable = {id(weight) for weight in model.trainable_weights}

    def read(self, function, inputs):
        records = tuple(self._record(tensor) for tensor in inputs)
        outputs = self._run(function, inputs, scope="")
        rest = self._take(self.model.weights)
        if rest.params:
            self.layers.append(
                LayerInfo(name=WEIGHTS_OUTSIDE_GRAPH, type=type(self.model).__name__, op=None, **vars(rest))
            )
        return LayerGraph(self.model.name, records, tuple(self._record(t) for t in outputs), tuple(self.layers))

    def _run(self, function, inputs, scope):
        import keras

        def visit(operation, *args, **kwargs):
            return self._visit(operation, args, kwargs, scope)

        # Keras has no public walk over calls (a layer may be called twice); this one is how a model runs itself.
        return keras.tree.flatten(function._run_through_graph(inputs, call_fn=visit))

    def _visit(self, operation, args, kwargs, scope):
        import keras

        inputs = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, keras.KerasTensor)]
        name = self._name_of_use(operation, scope)
        function = _find_function(operation)
        if function is not None:
            return self._run(function, inputs, f"{scope}/{name}" if scope else name)
        outputs = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        # Copies, because an operation may hand back its input itself.
        outputs = [keras.KerasTensor(tensor.shape, dtype=tensor.dtype) for tensor in outputs]
        ends = [tuple(self._record(tensor, name) for tensor in tensors) for tensors in (inputs, outputs)]
        self.layers += self._infos(operation, name, scope, *ends)
        return outputs

    def _name_of_use(self, operation, scope):
        self.uses[scope, id(operation)] += 1
        use = self.uses[scope, id(operation)]
        return operation.name if use == 1 else f"{operation.name} ({use})"

    def _record(self, tensor, layer=None):
        """The record of a symbolic tensor, made when it is first met."""
        if None in tensor.shape:
            raise InputError(
                f"Expected every layer's output to have a fixed shape. Received: {tuple(tensor.shape)} from layer "
                f"{layer!r}. Give that layer a compute_output_shape that states it."
            )
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = (tensor, ActivationTensor(next(self.indices), tuple(map(int, tensor.shape))))
        return self.tensors[id(tensor)][1]

    def _infos(self, operation, name, scope, inputs, outputs):
        op = _standard_operation(operation)
        common = {"type": type(operation).__name__, "scope": scope}
        if op in _SEPARABLE_HALVES:
            return self._separable(operation, name, common, inputs, outputs)
        weights = self._take(getattr(operation, "weights", ()))
        use_bias = bool(getattr(operation, "use_bias", False))
        facts = {
            "activation": _activation_name(operation),
            "use_bias": use_bias,
            "equation": _einsum_equation(operation, op),
            "per_position": _normalizes_positions(operation, op, inputs),
            **_geometry(operation, op),
            **vars(weights),
        }
        return [LayerInfo(name=name, op=op, inputs=inputs, outputs=outputs, **common, **facts)]

    def _separable(self, operation, name, common, inputs, outputs):
        """The two convolutions of a separable one; the bias and the activation belong to the second."""
        first_op, second_op = _SEPARABLE_HALVES[type(operation).__name__]
        channels = inputs[0].shape[-1] * operation.depth_multiplier
        middle = ActivationTensor(next(self.indices), (*outputs[0].shape[:-1], channels))
        first = self._take([operation.depthwise_kernel])
        second = self._take(operation.weights)
        between = {"name": f"{name}/depthwise", "op": first_op, "inputs": inputs, "outputs": (middle,)}
        after = {"name": f"{name}/pointwise", "op": second_op, "inputs": (middle,), "outputs": outputs}
        return [
            LayerInfo(**between, **common, **_geometry(operation, first_op), **vars(first)),
            LayerInfo(
                **after,
                **common,
                kernel=(1, 1),
                padding="valid",
                use_bias=operation.use_bias,
                activation=_activation_name(operation),
                **vars(second),
            ),
        ]

    def _take(self, weights):
        """Count those of `weights` that were not counted before."""
        new = {id(weight): weight for weight in weights if id(weight) not in self.seen_weights}
        self.seen_weights.update(new)  # |= would copy the whole set: it has no method for the keys of a dict
        sizes = {key: math.prod(weight.shape) for key, weight in new.items()}
        return _LayerWeights(
            params=sum(sizes.values()),
            trainable_params=sum(size for key, size in sizes.items() if key in self.trainable),
            weight_bytes=sum(size * _bytes_per_item(new[key].dtype) for key, size in sizes.items()),
        )


def _standard_operation(operation):
    """The name of the standard operation, or None for a class that is not Keras's or ours and may compute anything."""
    module = type(operation).__module__
    return type(operation).__name__ if module.split(".")[0] == "keras" or module.startswith(_PACKAGE_LAYERS) else None


def _bytes_per_item(dtype):
    import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 and float8 by name only once this is imported
    import numpy as np

    return np.dtype(dtype).itemsize


def _activation_name(operation):
    activation = getattr(operation, "activation", None)
    return getattr(activation, "__name__", type(activation).__name__) if callable(activation) else None


def _einsum_equation(operation, op):
    attribute = _EQUATION_ATTRIBUTES.get(op)
    return attribute and getattr(operation, attribute)


def _normalizes_positions(operation, op, inputs):
    """Whether a normalisation works by or over the channels of one position, which are its input's last axis."""
    if op not in _AXIS_NORMS:
        return True
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    rank = len(inputs[0].shape)
    return [axis % rank for axis in axes] == [rank - 1]


def _geometry(operation, op):
    """Kernel, strides, dilation and groups of what slides over a map, as (height, width)."""
    sliding = op in _KERNEL_OPS or op in classification.WINDOW_POOLS
    if sliding or op in classification.GLOBAL_POOLS or op in classification.UPSAMPLING:
        _check_channels_last(operation)
    if op in classification.UPSAMPLING:
        return {
            "strides": _height_width(operation.size),
            "interpolation": getattr(operation, "interpolation", "nearest"),
        }
    if op in classification.WINDOW_POOLS:
        sizes = {"kernel": _height_width(operation.pool_size), "strides": _height_width(operation.strides)}
        return {**sizes, "padding": operation.padding}
    if op not in _KERNEL_OPS:
        return {}
    return {
        "kernel": _height_width(operation.kernel_size),
        "strides": _height_width(operation.strides),
        "dilation": _height_width(operation.dilation_rate),
        "groups": getattr(operation, "groups", 1) if op in classification.CONVOLUTIONS else 1,
        "padding": operation.padding,
    }


def _check_channels_last(operation):
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        raise InputError(
            f"Expected every layer to keep channels last (NHWC). Received: layer {operation.name!r} with data_format "
            f"{operation.data_format!r}. Build the model with data_format='channels_last'."
        )


def _height_width(value):
    """(height, width) of a setting that may be a number (one axis: height is 1)."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return (1, *map(int, values)) if len(values) == 1 else tuple(map(int, values))
