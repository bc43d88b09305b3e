"""The layers of a twin: for each operation of a Keras 3 model one or two tf_keras layers."""

import keras
import numpy as np
import tf_keras

from keras_nin.export.twin import configs, foreign
from keras_nin.export.twin.configs import NoTwin
from keras_nin.export.twin.steps import Slot

_MERGES = {
    "Add": tf_keras.layers.Add,
    "Subtract": tf_keras.layers.Subtract,
    "Multiply": tf_keras.layers.Multiply,
    "Maximum": tf_keras.layers.Maximum,
    "Minimum": tf_keras.layers.Minimum,
}
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "Silu": "silu"}


def layers_of(operation, steps, names):
    """Return the tf_keras layers that compute `operation`, one after the other.

    Args:
        operation: keras.Operation of a flat model.
        steps: its `Step`s.
        names: function from a suffix to a legal name that nothing else has.

    Raises:
        NoTwin: there are none such.
    """
    if isinstance(operation, keras.layers.Layer):
        return _of_layer(operation, steps, names)
    if len(steps) == 1 and (found := _of_operation(operation, steps[0], names(""))):
        return [found]
    return [_computed_by_keras3(operation, steps, names(""))]


def _of_layer(layer, steps, names):
    kind = type(layer).__name__
    if not configs.is_standard(layer):
        return [_computed_by_keras3(layer, steps, names(""))]
    if kind == "Rescaling":
        return _rescaling(layer.scale, layer.offset, names, layer.dtype_policy.name)
    if kind == "Normalization":
        return _normalization(layer, names)
    if kind == "Activation":
        return _activation(layer.activation, layer, names, "")
    activation = configs.fused_activation(layer)
    changes = {} if activation is None else {"activation": "linear"}
    if kind == "SeparableConv2D":
        made = _separable(layer, names, changes)
    else:
        made = [configs.build(layer, names(""), **changes)]
    if kind == "BatchNormalization":
        made[0].fused = False  # the same sums as Keras 3, in the same order, also of a batch's variance
    return made if activation is None else [*made, *_activation(activation, layer, names, "activation")]


def _activation(activation, layer, names, part):
    """Return the layers that apply an activation function of a layer; the last is called by `part`."""
    known, policy, name = configs.activation_name(activation), layer.dtype_policy.name, names(part)
    if known == "relu6":
        return [tf_keras.layers.ReLU(6.0, name=name, dtype=policy)]
    if known == "hard_sigmoid":  # in steps that an int8 file can have
        shift = foreign.Rescaling(1.0, 3.0, name=names("shift"), dtype=policy)
        clip = tf_keras.layers.ReLU(6.0, name=names("clip"), dtype=policy)
        return [shift, clip, foreign.Rescaling(1 / 6, name=name, dtype=policy)]
    if known in configs.SAME_ACTIVATIONS:
        return [tf_keras.layers.Activation(known, name=name, dtype=policy)]
    return [_computed_by_keras3(keras.layers.Activation(activation, name=name, dtype=layer.dtype_policy), (), name)]


def _rescaling(scale, offset, names, policy):
    """Return one layer that multiplies and one that adds, each where it changes anything: int8 has no step for both."""
    made = []
    if np.any(np.asarray(offset) != 0):
        made.append(foreign.Rescaling(1.0, offset, name=names(""), dtype=policy))
    if np.any(np.asarray(scale) != 1) or not made:
        made.insert(0, foreign.Rescaling(scale, name=names("scale" if made else ""), dtype=policy))
    return made


def _separable(layer, names, changes):
    """Return a depthwise and a 1x1 convolution: tensorflow-model-optimization does the same, under other names."""
    config = layer.get_config()
    if layer.strides[0] != layer.strides[1]:  # which tf_keras's DepthwiseConv2D does not compute
        raise NoTwin(f"its strides are {layer.strides}")
    of_depthwise = {key: config[key] for key in config if key.startswith("depthwise_")}
    shared = {key: config[key] for key in ("trainable", "dtype", "data_format")}
    place = {key: config[key] for key in ("kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")}
    depthwise = configs.make(
        tf_keras.layers.DepthwiseConv2D, type(layer), shared | place | of_depthwise | {"use_bias": False},
        names("depthwise"),
    )  # fmt: skip
    own = {key.replace("pointwise", "kernel"): config[key] for key in config if "pointwise" in key}
    rest = {key: config[key] for key in ("filters", "use_bias", "activation", "bias_regularizer", "bias_constraint")}
    pointwise = configs.make(
        tf_keras.layers.Conv2D, type(layer), shared | own | rest | {"kernel_size": 1} | changes, names("")
    )
    return [depthwise, pointwise]


def _normalization(layer, names):
    """Return the scaling that a Normalization is."""
    if layer.axis not in ((), (-1,), (len(layer._build_input_shape) - 1,)):
        raise NoTwin(f"its axis is {layer.axis}, not the last")
    if layer.mean is None:
        layer.finalize_state()
    mean, spread = (np.asarray(each, np.float64).reshape(-1) for each in (layer.mean, layer.variance))
    spread = np.maximum(np.sqrt(spread), keras.config.epsilon())
    scale, offset = (spread, mean) if layer.invert else (1 / spread, -mean / spread)
    return _rescaling(scale.tolist(), offset.tolist(), names, layer.dtype_policy.name)


def _of_operation(operation, step, name):
    """Return the standard layer that computes a call of keras.ops, None where there is none."""
    kind = type(operation).__name__
    values = [*step.args, *step.kwargs.values()]
    tensors = [isinstance(value, Slot) for value in values]
    if kind in _MERGES and tensors == [True, True]:
        return _MERGES[kind](name=name)
    if len(values) == 2 and sum(tensors) == 1 and (linear := _linear(kind, values, tensors[0])):
        return foreign.Rescaling(*linear, name=name)
    if tensors != [True]:
        return None
    if kind in ("Relu", "Relu6"):
        return tf_keras.layers.ReLU(6.0 if kind == "Relu6" else None, name=name)
    if kind in _ACTIVATIONS and getattr(operation, "axis", -1) == -1:
        return tf_keras.layers.Activation(_ACTIVATIONS[kind], name=name)
    return None


def _linear(kind, values, tensor_first):
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


def _computed_by_keras3(operation, steps, name):
    """Return the layer of the twin that lets Keras 3 compute an operation without weights."""
    variables = getattr(operation, "variables", [])
    if variables:
        raise NoTwin(f"tf_keras has no such layer, and it has {len(variables)} variables")
    calls = [_arguments(step) for step in steps] or [([{"tensor": 0}], {})]
    if any(call != calls[0] for call in calls):
        raise NoTwin("it is called in several ways")
    try:
        arguments = keras.saving.serialize_keras_object(calls[0])
        made = foreign.Keras3(operation, arguments, len(steps[0].outputs) if steps else 1, name=name)
        return foreign.Keras3.from_config(made.get_config())
    except Exception as error:  # what Keras raises for what it cannot write down
        raise NoTwin(f"Keras cannot write it down ({str(error).splitlines()[0]})") from error


def _arguments(step):
    return foreign.empty([list(step.args), step.kwargs], [], Slot)
