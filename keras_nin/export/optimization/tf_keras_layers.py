"""The layers of a Keras 3 model in tf_keras: for each operation one or more tf_keras layers."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_nin._compat.keras import build_input_shape
from keras_nin.errors import first_line
from keras_nin.keras_graph import GraphCall, TensorSlot

# A function from a suffix to a legal name that nothing else has.
Names = Callable[[str], str]

# Fused into a convolution or dense layer, tensorflow-model-optimization knows only these; the others become a layer.
FUSED_ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh")
# Functions of the same name that compute the same in both; hard_sigmoid, for one, does not.
_OTHER_ACTIVATIONS = ("elu", "exponential", "gelu", "mish", "selu", "silu", "softplus", "softsign", "swish")
SAME_ACTIVATIONS = FUSED_ACTIVATIONS + _OTHER_ACTIVATIONS
_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "Silu": "silu"}
_RENAMED_ARGUMENTS = {"LeakyReLU": {"negative_slope": "alpha"}}


class UnsupportedLayerError(Exception):
    """A layer has no counterpart; the message says why."""


def convert_operation(operation: keras.Operation, calls: Sequence[GraphCall], names: Names) -> list[Any]:
    """Return the tf_keras layers that compute an operation of a flat model with its calls, one after the other.

    Raises:
        UnsupportedLayerError: tf_keras has none.
    """
    if isinstance(operation, keras.layers.Layer):
        return _convert_layer(operation, calls, names)
    if len(calls) == 1 and (layer := _convert_function(operation, calls[0], names(""))):
        return [layer]
    return [_wrap_in_keras3_layer(operation, calls, names(""))]


def is_standard_layer(layer: Any) -> bool:
    """Return whether a layer is one that Keras 3 and tf_keras both have."""
    kind = type(layer).__name__
    return type(layer) is getattr(keras.layers, kind, None) and hasattr(tf_keras.layers, kind)


def _convert_layer(layer: Any, calls: Sequence[GraphCall], names: Names) -> list[Any]:
    kind = type(layer).__name__
    if not is_standard_layer(layer):
        return [_wrap_in_keras3_layer(layer, calls, names(""))]
    if kind == "Rescaling":
        return _rescaling(layer.scale, layer.offset, names, layer.dtype_policy.name)
    if kind == "Normalization":
        return _normalization(layer, names)
    if kind == "Activation":
        return _activation(layer.activation, layer, names, "")
    activation = getattr(layer, "activation", None)
    if (
        isinstance(layer, keras.layers.RNN)
        or not callable(activation)
        or _activation_name(activation) in FUSED_ACTIVATIONS
    ):
        activation = None
    changes = {} if activation is None else {"activation": "linear"}
    if kind == "SeparableConv2D":
        layers = _separable(layer, names, changes)
    else:
        target = getattr(tf_keras.layers, kind)
        layers = [_layer_from_config(target, type(layer), layer.get_config() | changes, names(""))]
    if kind == "BatchNormalization":
        layers[0].fused = False  # the same sums as Keras 3, in the same order, also for a batch's variance
    return layers if activation is None else [*layers, *_activation(activation, layer, names, "activation")]


def _activation_name(activation: Callable[..., Any]) -> str | None:
    """Return the name by which Keras 3 knows an activation function; None for a user's own function."""
    name = keras.activations.serialize(activation)
    return name if isinstance(name, str) else None


def _activation(activation: Callable[..., Any], layer: Any, names: Names, part: str) -> list[Any]:
    """Return the layers that apply an activation function of a layer; the last one is named by `part`."""
    known, policy, name = _activation_name(activation), layer.dtype_policy.name, names(part)
    if known == "relu6":
        return [tf_keras.layers.ReLU(6.0, name=name, dtype=policy)]
    if known == "hard_sigmoid":  # in steps that an int8 file can have
        shift = PrunableRescaling(1.0, 3.0, name=names("shift"), dtype=policy)
        clip = tf_keras.layers.ReLU(6.0, name=names("clip"), dtype=policy)
        return [shift, clip, PrunableRescaling(1 / 6, name=name, dtype=policy)]
    if known in SAME_ACTIVATIONS:
        return [tf_keras.layers.Activation(known, name=name, dtype=policy)]
    activation_layer = keras.layers.Activation(activation, name=name, dtype=layer.dtype_policy)
    return [_wrap_in_keras3_layer(activation_layer, (), name)]


def _rescaling(scale: Any, offset: Any, names: Names, policy: str) -> list[Any]:
    """Return one layer that multiplies and one that adds, each where it changes anything: int8 has no step for both."""
    layers = []
    if np.any(np.asarray(offset) != 0):
        layers.append(PrunableRescaling(1.0, offset, name=names(""), dtype=policy))
    if np.any(np.asarray(scale) != 1) or not layers:
        layers.insert(0, PrunableRescaling(scale, name=names("scale" if layers else ""), dtype=policy))
    return layers


def _normalization(layer: Any, names: Names) -> list[Any]:
    """Return the scaling that a Normalization is."""
    if layer.axis not in ((), (-1,), (len(build_input_shape(layer)) - 1,)):
        raise UnsupportedLayerError(f"its axis is {layer.axis}, not the last")
    if layer.mean is None:
        layer.finalize_state()
    mean, variance = (np.asarray(value, np.float64).reshape(-1) for value in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    return _rescaling(scale.tolist(), offset.tolist(), names, layer.dtype_policy.name)


def _separable(layer: Any, names: Names, changes: dict[str, Any]) -> list[Any]:
    """Return a depthwise and a 1x1 convolution: tensorflow-model-optimization does the same, under other names."""
    if layer.strides[0] != layer.strides[1]:  # which tf_keras's DepthwiseConv2D does not compute
        raise UnsupportedLayerError(f"its strides are {layer.strides}")
    config, shared = layer.get_config(), ("trainable", "dtype", "data_format")
    window = ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
    rest = ("filters", "use_bias", "activation", "bias_regularizer", "bias_constraint")
    depthwise = {key: config[key] for key in config if key in shared + window or key.startswith("depthwise_")}
    pointwise = {key.replace("pointwise", "kernel"): config[key] for key in config if "pointwise" in key}
    pointwise |= {key: config[key] for key in shared + rest} | {"kernel_size": 1} | changes
    return [
        _layer_from_config(
            tf_keras.layers.DepthwiseConv2D, type(layer), depthwise | {"use_bias": False}, names("depthwise")
        ),
        _layer_from_config(tf_keras.layers.Conv2D, type(layer), pointwise, names("")),
    ]


def _convert_function(operation: keras.Operation, call: GraphCall, name: str) -> Any:
    """Return the standard layer that computes a call of keras.ops; None where there is none."""
    kind = type(operation).__name__
    values = [*call.args, *call.kwargs.values()]
    tensors = [isinstance(value, TensorSlot) for value in values]
    if kind in _MERGES and tensors == [True, True]:
        return getattr(tf_keras.layers, kind)(name=name)
    if len(values) == 2 and sum(tensors) == 1 and (linear := _scale_and_offset(kind, values, tensors[0])):
        return PrunableRescaling(*linear, name=name)
    if tensors != [True]:
        return None
    if kind in ("Relu", "Relu6"):
        return tf_keras.layers.ReLU(6.0 if kind == "Relu6" else None, name=name)
    if kind in _ACTIVATIONS and getattr(operation, "axis", -1) == -1:
        return tf_keras.layers.Activation(_ACTIVATIONS[kind], name=name)
    return None


def _scale_and_offset(kind: str, values: Sequence[Any], tensor_first: bool) -> tuple[float, float] | None:
    """Return the scale and the offset of an operation on a tensor and a number; None where it is not linear."""
    number = values[1 if tensor_first else 0]
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
        return None
    number = float(number)
    subtract = (1.0, -number) if tensor_first else (-1.0, number)
    table = {"Add": (1.0, number), "Subtract": subtract, "Multiply": (number, 0.0)}
    if tensor_first and number:
        table |= dict.fromkeys(("Divide", "TrueDivide"), (1 / number, 0.0))
    return table.get(kind)


# From the configuration of a layer


def _layer_from_config(target: Any, source: Any, config: dict[str, Any], name: str) -> Any:
    """Return a layer of the tf_keras class `target` from a `config` of the Keras 3 class `source`.

    Raises:
        UnsupportedLayerError: an argument that is not the default has no counterpart.
    """
    accepted, defaults = _accepted_arguments(target), _default_arguments(source)
    renamed = _RENAMED_ARGUMENTS.get(target.__name__, {})
    arguments = {}
    for key, value in config.items():
        if key.endswith("_initializer"):
            continue  # the weights are copied
        if renamed.get(key, key) in accepted:
            arguments[renamed.get(key, key)] = _config_value(key, value)
        elif key not in defaults or keras.tree.flatten(value) != keras.tree.flatten(defaults[key]):
            raise UnsupportedLayerError(f"tf_keras's {target.__name__} has no {key} = {value!r}")
    try:
        return target(**arguments | {"name": name})
    except (TypeError, ValueError) as error:
        raise UnsupportedLayerError(first_line(error)) from error


def _accepted_arguments(kind: type) -> set[str]:
    """Return the names of the arguments that a class takes, its base classes' included where it passes them on."""
    names = {"name", "trainable", "dtype", "activity_regularizer"}  # those of every layer
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _default_arguments(kind: type) -> dict[str, Any]:
    # What a layer's own signature does not name is left at what it always is.
    defaults: dict[str, Any] = {"autocast": True, "rms_scaling": False}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            defaults |= {name: given.default for name, given in parameters.items() if given.default is not given.empty}
    return defaults | {"data_format": "channels_last"}


def _config_value(key: str, value: Any) -> Any:
    """Return the tf_keras form of a value in a Keras 3 configuration."""
    if key == "dtype":
        if not isinstance(value, dict):
            return getattr(value, "name", value)
        if value.get("class_name") != "DTypePolicy":
            raise UnsupportedLayerError(f"its dtype is a {value.get('class_name')}")
        return value["config"]["name"]
    if key.endswith("activation"):
        if value is not None and value not in SAME_ACTIVATIONS:
            described = value if isinstance(value, str) else "a function of its own"
            raise UnsupportedLayerError(f"its {key} is {described!r}")
        return value
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    namespace = {"regularizer": tf_keras.regularizers, "constraint": tf_keras.constraints}.get(key.rpartition("_")[2])
    counterpart = getattr(namespace, value["class_name"], None)
    if counterpart is None:
        raise UnsupportedLayerError(f"its {key} is a {value['class_name']}")
    return counterpart(**value["config"])


# Layers that tf_keras or tensorflow-model-optimization does not have


class _Weightless(tfmot.sparsity.keras.PrunableLayer, tfmot.clustering.keras.ClusterableLayer):
    """Says that there is nothing to prune and nothing to cluster."""

    def get_prunable_weights(self) -> list[Any]:
        """Return no weights."""
        return []

    def get_clusterable_weights(self) -> list[Any]:
        """Return no weights."""
        return []


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class PrunableRescaling(_Weightless, tf_keras.layers.Rescaling):
    """tf_keras's own, in a form that a pruned model may contain, without the part that changes nothing."""

    def call(self, inputs: Any) -> Any:
        """Return `inputs * scale + offset`."""
        dtype: Any = self.compute_dtype
        outputs = tf.cast(inputs, dtype)
        if self.scale != 1:
            outputs *= tf.cast(self.scale, dtype)
        if self.offset != 0:
            outputs += tf.cast(self.offset, dtype)
        return outputs


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class Keras3Layer(_Weightless, tf_keras.layers.Layer):
    """A layer or operation of Keras 3 without weights, computed by Keras 3 itself.

    Takes the tensors of the call in order, one or a list; returns one tensor or a list of `results`. The operation may
    be as Keras serializes it; so are `arguments`, (args, kwargs) with `{"tensor": i}` for the i-th tensor.
    """

    def __init__(self, operation: Any, arguments: Any, results: int = 1, **options: Any) -> None:
        super().__init__(**options)
        is_serialized = isinstance(operation, dict)
        self.serialized = operation if is_serialized else keras.saving.serialize_keras_object(operation)
        # tf_keras would take a Keras 3 layer among the attributes for one of its own.
        self._operation = (keras.saving.deserialize_keras_object(operation) if is_serialized else operation,)
        self.arguments, self.results = arguments, results
        self._call_arguments = keras.saving.deserialize_keras_object(arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("serialized", "arguments", "_operation", "_call_arguments"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def call(self, inputs: Any) -> Any:
        """Return what the operation gives."""
        return tf.autograph.experimental.do_not_convert(self._compute)(inputs)

    def _compute(self, inputs: Any) -> Any:
        tensors = list(inputs) if isinstance(inputs, list | tuple) else [inputs]

        def insert(part: Any) -> Any:
            return tensors[part["tensor"]] if isinstance(part, dict) and set(part) == {"tensor"} else None

        args, kwargs = keras.tree.traverse(insert, self._call_arguments)
        outputs = keras.tree.flatten(self._operation[0](*args, **kwargs))
        return outputs[0] if self.results == 1 else outputs

    def get_config(self) -> dict[str, Any]:
        """Return the operation and its arguments."""
        own = {"operation": self.serialized, "arguments": self.arguments, "results": self.results}
        return {**super().get_config(), **own}


def _wrap_in_keras3_layer(operation: Any, calls: Sequence[GraphCall], name: str) -> Keras3Layer:
    """Return the tf_keras layer that lets Keras 3 compute an operation without weights."""
    variables = getattr(operation, "variables", [])
    if variables:
        raise UnsupportedLayerError(f"tf_keras has no such layer, and it has {len(variables)} variables")
    arguments = [_number_tensors([list(call.args), call.kwargs]) for call in calls] or [[[{"tensor": 0}], {}]]
    if any(other != arguments[0] for other in arguments):
        raise UnsupportedLayerError("it is called in several ways")
    try:
        serialized = keras.saving.serialize_keras_object(arguments[0])
        layer = Keras3Layer(operation, serialized, len(calls[0].outputs) if calls else 1, name=name)
        return Keras3Layer.from_config(layer.get_config())
    except Exception as error:  # what Keras raises for what it cannot serialize
        raise UnsupportedLayerError(f"Keras cannot serialize it ({first_line(error)})") from error


def _number_tensors(value: Any) -> Any:
    """Return `value` with `{"tensor": i}` for the i-th `TensorSlot`."""
    numbers = itertools.count()
    return keras.tree.map_structure(
        lambda leaf: {"tensor": next(numbers)} if isinstance(leaf, TensorSlot) else leaf, value
    )
