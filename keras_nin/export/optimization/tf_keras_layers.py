"""The tf_keras counterpart of one Keras 3 layer, from its configuration."""

import inspect

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_nin.export.optimization.tf_keras_model import TensorSlot

# Fused into a convolution or dense layer, tensorflow-model-optimization knows only these; the others become a layer.
FUSED_ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh")
# Functions of the same name that compute the same in both; hard_sigmoid, for one, does not.
SAME_ACTIVATIONS = FUSED_ACTIVATIONS + (
    "elu",
    "exponential",
    "gelu",
    "mish",
    "selu",
    "silu",
    "softplus",
    "softsign",
    "swish",
)
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_OF_EVERY_LAYER = frozenset({"name", "trainable", "dtype", "activity_regularizer"})


class UnsupportedLayer(Exception):
    """A layer has no counterpart; the message says why."""


def is_standard_layer(layer):
    """Return whether a layer is one that Keras 3 and tf_keras both have."""
    kind = type(layer).__name__
    return type(layer) is getattr(keras.layers, kind, None) and hasattr(tf_keras.layers, kind)


def fused_activation(layer):
    """Return the name of a layer's activation where it has to be a layer of its own, None where it need not."""
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Activation | keras.layers.RNN) or not callable(activation):
        return None
    return None if activation_name(activation) in FUSED_ACTIVATIONS else activation


def activation_name(activation):
    """Return the name by which Keras 3 knows an activation function; the name of a foreign one is no name of these."""
    name = keras.activations.serialize(activation)
    return name if isinstance(name, str) else None


def build_layer(layer, name, **changes):
    """Return the tf_keras layer with the configuration of a standard Keras 3 layer, under `name`.

    Args:
        layer: keras.Layer of a class that `is_standard`.
        name: of the result.
        **changes: arguments that replace those of the configuration.

    Raises:
        NoTwin: an argument that is not the default has no counterpart.
    """
    kind = type(layer).__name__
    return layer_from_config(getattr(tf_keras.layers, kind), type(layer), layer.get_config() | changes, name)


def layer_from_config(target, source, config, name):
    """Return a layer of the tf_keras class `target` from a `config` of the Keras 3 class `source`."""
    accepted, defaults = _parameters(target) | _OF_EVERY_LAYER, _defaults(source)
    renamed = _RENAMED.get(target.__name__, {})
    arguments = {}
    for key, value in config.items():
        if key.endswith("_initializer"):
            continue  # the weights are copied
        if renamed.get(key, key) in accepted:
            arguments[renamed.get(key, key)] = _config_value(key, value)
        elif key not in defaults or not _same_value(value, defaults[key]):
            raise UnsupportedLayer(f"tf_keras's {target.__name__} has no {key} = {value!r}")
    try:
        return target(**arguments | {"name": name})
    except (TypeError, ValueError) as error:
        raise UnsupportedLayer(str(error).splitlines()[0]) from error


def _parameters(kind):
    """Return the names of the arguments that a class takes, its base classes' included where it passes them on."""
    names = set()
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(each.__init__).parameters
        names |= set(parameters)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _defaults(kind):
    # What a layer's own signature does not name is left at what it always is.
    found = {"autocast": True, "rms_scaling": False}
    for each in reversed(kind.__mro__):
        if "__init__" in vars(each):
            parameters = inspect.signature(each.__init__).parameters
            found |= {name: given.default for name, given in parameters.items() if given.default is not given.empty}
    return found | {"data_format": "channels_last"}


def _same_value(value, default):
    as_list = [list(each) if isinstance(each, tuple) else each for each in (value, default)]
    return as_list[0] == as_list[1]


def _config_value(key, value):
    """Return the tf_keras form of a value in a Keras 3 configuration."""
    if key == "dtype":
        return _policy_name(value)
    if key.endswith("activation"):
        if value is not None and value not in SAME_ACTIVATIONS:
            raise UnsupportedLayer(f"its {key} is {value if isinstance(value, str) else 'a function of its own'!r}")
        return value
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    namespace = {"regularizer": tf_keras.regularizers, "constraint": tf_keras.constraints}.get(key.rpartition("_")[2])
    found = getattr(namespace, value["class_name"], None)
    if found is None:
        raise UnsupportedLayer(f"its {key} is a {value['class_name']}")
    return found(**value["config"])


def _policy_name(value):
    """Return the name of a dtype policy."""
    if isinstance(value, dict):
        if value.get("class_name") != "DTypePolicy":
            raise UnsupportedLayer(f"its dtype is a {value.get('class_name')}")
        return value["config"]["name"]
    return getattr(value, "name", value)


# MERGED Layers of a twin that tf_keras or tensorflow-model-optimization does not have.


class _Weightless(tfmot.sparsity.keras.PrunableLayer, tfmot.clustering.keras.ClusterableLayer):
    """Says that there is nothing to prune and nothing to cluster."""

    def get_prunable_weights(self):
        """Return no weights."""
        return []

    def get_clusterable_weights(self):
        """Return no weights."""
        return []


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class PrunableRescaling(_Weightless, tf_keras.layers.Rescaling):
    """tf_keras's own, which can be in a model that is pruned, without the part that changes nothing."""

    def call(self, inputs):
        """Return `inputs * scale + offset`."""
        outputs = tf.cast(inputs, self.compute_dtype)
        if self.scale != 1:
            outputs *= tf.cast(self.scale, self.compute_dtype)
        if self.offset != 0:
            outputs += tf.cast(self.offset, self.compute_dtype)
        return outputs


@tf_keras.utils.register_keras_serializable(package="keras_nin")
class Keras3Layer(_Weightless, tf_keras.layers.Layer):
    """A layer or operation of Keras 3 without weights, computed by Keras 3 itself.

    Takes the tensors of the call in order, one or a list; gives one tensor or a list.

    Args:
        operation: the keras.Operation, or what `keras.saving.serialize_keras_object` makes of it.
        arguments: (args, kwargs) of the call with `{"tensor": i}` for the i-th tensor, as keras serialises them.
        results: number of tensors that come out.
    """

    def __init__(self, operation, arguments, results=1, **options):
        super().__init__(**options)
        serialized = isinstance(operation, dict)
        self.serialized = operation if serialized else keras.saving.serialize_keras_object(operation)
        # tf_keras would take a Keras 3 layer among the attributes for one of its own.
        self._computed = (keras.saving.deserialize_keras_object(operation) if serialized else operation,)
        self.arguments, self.results = arguments, results
        self._call_arguments = keras.saving.deserialize_keras_object(arguments)

    def __setattr__(self, name, value):
        if name in ("serialized", "arguments", "_computed", "_call_arguments"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def call(self, inputs):
        """Return what the operation gives."""
        return tf.autograph.experimental.do_not_convert(self._compute)(inputs)

    def _compute(self, inputs):
        tensors = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        args, kwargs = insert_tensors(self._call_arguments, tensors)
        outputs = keras.tree.flatten(self._computed[0](*args, **kwargs))
        return outputs[0] if self.results == 1 else outputs

    def get_config(self):
        """Return the operation and its arguments."""
        own = {"operation": self.serialized, "arguments": self.arguments, "results": self.results}
        return {**super().get_config(), **own}


def insert_tensors(value, tensors):
    """Return `value` (nested lists and dictionaries) with the tensor for every `{"tensor": i}`."""
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: insert_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(insert_tensors(item, tensors) for item in value)
    return value


def extract_tensors(value, slots, kind):
    """Return `value` with `{"tensor": i}` for every instance of `kind`, which is appended to the list `slots`."""
    if isinstance(value, kind):
        slots.append(value)
        return {"tensor": len(slots) - 1}
    if isinstance(value, dict):
        return {key: extract_tensors(item, slots, kind) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(extract_tensors(item, slots, kind) for item in value)
    return value


# MERGED The layers of a twin: for each operation of a Keras 3 model one or two tf_keras layers.

_MERGES = {
    "Add": tf_keras.layers.Add,
    "Subtract": tf_keras.layers.Subtract,
    "Multiply": tf_keras.layers.Multiply,
    "Maximum": tf_keras.layers.Maximum,
    "Minimum": tf_keras.layers.Minimum,
}
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "Silu": "silu"}


def convert_operation(operation, steps, names):
    """Return the tf_keras layers that compute `operation`, one after the other.

    Args:
        operation: keras.Operation of a flat model.
        steps: its `Step`s.
        names: function from a suffix to a legal name that nothing else has.

    Raises:
        NoTwin: there are none such.
    """
    if isinstance(operation, keras.layers.Layer):
        return _convert_layer(operation, steps, names)
    if len(steps) == 1 and (found := _convert_function(operation, steps[0], names(""))):
        return [found]
    return [_wrap_in_keras3_layer(operation, steps, names(""))]


def _convert_layer(layer, steps, names):
    kind = type(layer).__name__
    if not is_standard_layer(layer):
        return [_wrap_in_keras3_layer(layer, steps, names(""))]
    if kind == "Rescaling":
        return _rescaling(layer.scale, layer.offset, names, layer.dtype_policy.name)
    if kind == "Normalization":
        return _normalization(layer, names)
    if kind == "Activation":
        return _activation(layer.activation, layer, names, "")
    activation = fused_activation(layer)
    changes = {} if activation is None else {"activation": "linear"}
    if kind == "SeparableConv2D":
        made = _separable(layer, names, changes)
    else:
        made = [build_layer(layer, names(""), **changes)]
    if kind == "BatchNormalization":
        made[0].fused = False  # the same sums as Keras 3, in the same order, also of a batch's variance
    return made if activation is None else [*made, *_activation(activation, layer, names, "activation")]


def _activation(activation, layer, names, part):
    """Return the layers that apply an activation function of a layer; the last is called by `part`."""
    known, policy, name = activation_name(activation), layer.dtype_policy.name, names(part)
    if known == "relu6":
        return [tf_keras.layers.ReLU(6.0, name=name, dtype=policy)]
    if known == "hard_sigmoid":  # in steps that an int8 file can have
        shift = PrunableRescaling(1.0, 3.0, name=names("shift"), dtype=policy)
        clip = tf_keras.layers.ReLU(6.0, name=names("clip"), dtype=policy)
        return [shift, clip, PrunableRescaling(1 / 6, name=name, dtype=policy)]
    if known in SAME_ACTIVATIONS:
        return [tf_keras.layers.Activation(known, name=name, dtype=policy)]
    return [_wrap_in_keras3_layer(keras.layers.Activation(activation, name=name, dtype=layer.dtype_policy), (), name)]


def _rescaling(scale, offset, names, policy):
    """Return one layer that multiplies and one that adds, each where it changes anything: int8 has no step for both."""
    made = []
    if np.any(np.asarray(offset) != 0):
        made.append(PrunableRescaling(1.0, offset, name=names(""), dtype=policy))
    if np.any(np.asarray(scale) != 1) or not made:
        made.insert(0, PrunableRescaling(scale, name=names("scale" if made else ""), dtype=policy))
    return made


def _separable(layer, names, changes):
    """Return a depthwise and a 1x1 convolution: tensorflow-model-optimization does the same, under other names."""
    config = layer.get_config()
    if layer.strides[0] != layer.strides[1]:  # which tf_keras's DepthwiseConv2D does not compute
        raise UnsupportedLayer(f"its strides are {layer.strides}")
    of_depthwise = {key: config[key] for key in config if key.startswith("depthwise_")}
    shared = {key: config[key] for key in ("trainable", "dtype", "data_format")}
    place = {key: config[key] for key in ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")}
    depthwise = layer_from_config(
        tf_keras.layers.DepthwiseConv2D, type(layer), shared | place | of_depthwise | {"use_bias": False},
        names("depthwise"),
    )  # fmt: skip
    own = {key.replace("pointwise", "kernel"): config[key] for key in config if "pointwise" in key}
    rest = {key: config[key] for key in ("filters", "use_bias", "activation", "bias_regularizer", "bias_constraint")}
    pointwise = layer_from_config(
        tf_keras.layers.Conv2D, type(layer), shared | own | rest | {"kernel_size": 1} | changes, names("")
    )
    return [depthwise, pointwise]


def _normalization(layer, names):
    """Return the scaling that a Normalization is."""
    if layer.axis not in ((), (-1,), (len(layer._build_input_shape) - 1,)):
        raise UnsupportedLayer(f"its axis is {layer.axis}, not the last")
    if layer.mean is None:
        layer.finalize_state()
    mean, spread = (np.asarray(each, np.float64).reshape(-1) for each in (layer.mean, layer.variance))
    spread = np.maximum(np.sqrt(spread), keras.config.epsilon())
    scale, offset = (spread, mean) if layer.invert else (1 / spread, -mean / spread)
    return _rescaling(scale.tolist(), offset.tolist(), names, layer.dtype_policy.name)


def _convert_function(operation, step, name):
    """Return the standard layer that computes a call of keras.ops, None where there is none."""
    kind = type(operation).__name__
    values = [*step.args, *step.kwargs.values()]
    tensors = [isinstance(value, TensorSlot) for value in values]
    if kind in _MERGES and tensors == [True, True]:
        return _MERGES[kind](name=name)
    if len(values) == 2 and sum(tensors) == 1 and (linear := _scale_and_offset(kind, values, tensors[0])):
        return PrunableRescaling(*linear, name=name)
    if tensors != [True]:
        return None
    if kind in ("Relu", "Relu6"):
        return tf_keras.layers.ReLU(6.0 if kind == "Relu6" else None, name=name)
    if kind in _ACTIVATIONS and getattr(operation, "axis", -1) == -1:
        return tf_keras.layers.Activation(_ACTIVATIONS[kind], name=name)
    return None


def _scale_and_offset(kind, values, tensor_first):
    """Return the scale and the offset of an operation on a tensor and a number, None where it has none such."""
    number = values[1 if tensor_first else 0]
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
        return None
    number = float(number)
    table = {
        "Add": (1.0, number),
        "Subtract": (1.0, -number) if tensor_first else (-1.0, number),
        "Multiply": (number, 0.0),
    }
    if tensor_first and number:
        table |= dict.fromkeys(("Divide", "TrueDivide"), (1 / number, 0.0))
    return table.get(kind)


def _wrap_in_keras3_layer(operation, steps, name):
    """Return the layer of the twin that lets Keras 3 compute an operation without weights."""
    variables = getattr(operation, "variables", [])
    if variables:
        raise UnsupportedLayer(f"tf_keras has no such layer, and it has {len(variables)} variables")
    calls = [_call_arguments(step) for step in steps] or [([{"tensor": 0}], {})]
    if any(call != calls[0] for call in calls):
        raise UnsupportedLayer("it is called in several ways")
    try:
        arguments = keras.saving.serialize_keras_object(calls[0])
        made = Keras3Layer(operation, arguments, len(steps[0].outputs) if steps else 1, name=name)
        return Keras3Layer.from_config(made.get_config())
    except Exception as error:  # what Keras raises for what it cannot write down
        raise UnsupportedLayer(f"Keras cannot write it down ({str(error).splitlines()[0]})") from error


def _call_arguments(step):
    return extract_tensors([list(step.args), step.kwargs], [], TensorSlot)
