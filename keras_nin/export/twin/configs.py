"""The tf_keras counterpart of one Keras 3 layer, from its configuration."""

import inspect

import keras
import tf_keras

# Fused into a convolution or dense layer, tensorflow-model-optimization knows only these; the others become a layer.
FUSED = ("linear", "relu", "softmax", "sigmoid", "tanh")
# Functions of the same name that compute the same in both; hard_sigmoid, for one, does not.
SAME_ACTIVATIONS = FUSED + ("elu", "exponential", "gelu", "mish", "selu", "silu", "softplus", "softsign", "swish")
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_OF_EVERY_LAYER = frozenset({"name", "trainable", "dtype", "activity_regularizer"})


class NoTwin(Exception):
    """A layer has no counterpart; the message says why."""


def is_standard(layer):
    """Return whether a layer is one that Keras 3 and tf_keras both have."""
    kind = type(layer).__name__
    return type(layer) is getattr(keras.layers, kind, None) and hasattr(tf_keras.layers, kind)


def fused_activation(layer):
    """Return the name of a layer's activation where it has to be a layer of its own, None where it need not."""
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Activation | keras.layers.RNN) or not callable(activation):
        return None
    return None if activation_name(activation) in FUSED else activation


def activation_name(activation):
    """Return the name by which Keras 3 knows an activation function; the name of a foreign one is no name of these."""
    name = keras.activations.serialize(activation)
    return name if isinstance(name, str) else None


def build(layer, name, **changes):
    """Return the tf_keras layer with the configuration of a standard Keras 3 layer, under `name`.

    Args:
        layer: keras.Layer of a class that `is_standard`.
        name: of the result.
        **changes: arguments that replace those of the configuration.

    Raises:
        NoTwin: an argument that is not the default has no counterpart.
    """
    kind = type(layer).__name__
    return make(getattr(tf_keras.layers, kind), type(layer), layer.get_config() | changes, name)


def make(target, source, config, name):
    """Return a layer of the tf_keras class `target` from a `config` of the Keras 3 class `source`."""
    accepted, defaults = _parameters(target) | _OF_EVERY_LAYER, _defaults(source)
    renamed = _RENAMED.get(target.__name__, {})
    arguments = {}
    for key, value in config.items():
        if key.endswith("_initializer"):
            continue  # the weights are copied
        if renamed.get(key, key) in accepted:
            arguments[renamed.get(key, key)] = _value(key, value)
        elif key not in defaults or not _same(value, defaults[key]):
            raise NoTwin(f"tf_keras's {target.__name__} has no {key} = {value!r}")
    try:
        return target(**arguments | {"name": name})
    except (TypeError, ValueError) as error:
        raise NoTwin(str(error).splitlines()[0]) from error


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


def _same(value, default):
    as_list = [list(each) if isinstance(each, tuple) else each for each in (value, default)]
    return as_list[0] == as_list[1]


def _value(key, value):
    """Return the tf_keras form of a value in a Keras 3 configuration."""
    if key == "dtype":
        return _policy(value)
    if key.endswith("activation"):
        if value is not None and value not in SAME_ACTIVATIONS:
            raise NoTwin(f"its {key} is {value if isinstance(value, str) else 'a function of its own'!r}")
        return value
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    namespace = {"regularizer": tf_keras.regularizers, "constraint": tf_keras.constraints}.get(key.rpartition("_")[2])
    found = getattr(namespace, value["class_name"], None)
    if found is None:
        raise NoTwin(f"its {key} is a {value['class_name']}")
    return found(**value["config"])


def _policy(value):
    """Return the name of a dtype policy."""
    if isinstance(value, dict):
        if value.get("class_name") != "DTypePolicy":
            raise NoTwin(f"its dtype is a {value.get('class_name')}")
        return value["config"]["name"]
    return getattr(value, "name", value)
