"""Weights between a Keras 3 model and its twin, in both directions."""

import collections

from keras_nin.errors import InputError
from keras_nin.export.twin.steps import flatten

# The same weights under other names in tf_keras.
_ALIASES = {"depthwise_kernel": "kernel", "kernel": "pointwise_kernel"}
_PREFIXES = ("", "quant_")
_UNSTRIPPED = {"PruneLowMagnitude": "strip_pruning", "ClusterWeights": "strip_clustering"}


def base_name(variable):
    """Return the last part of a tf_keras variable's name: ``conv1/kernel:0`` is the kernel."""
    return variable.name.split(":")[0].rpartition("/")[2]


def carries_weights(operation):
    """Return whether a layer has weights in the twin too; a Normalization has only constants there."""
    return bool(getattr(operation, "weights", None)) and type(operation).__name__ != "Normalization"


def pairs(layer, variables):
    """Return (Keras 3 variable, tf_keras variable) of a layer and its counterpart, seeds of random numbers left out.

    Args:
        layer: keras.Layer.
        variables: the counterpart's variables; more than the layer's are left out where the names say which.

    Raises:
        InputError: they do not fit.
    """
    wanted = list(layer.weights)
    names = [variable.name for variable in wanted]
    found = [(_named(base_name(variable), names), variable) for variable in variables]
    by_name = dict(found)
    if len(set(names)) == len(names) and set(names) <= set(by_name) and _unique(found, names):
        chosen = [by_name[name] for name in names]
    else:
        chosen = list(variables)  # parts of the same name, as in a Bidirectional: they come in the same order
    shapes = [tuple(variable.shape) for variable in wanted]
    received = [tuple(variable.shape) for variable in chosen]
    if shapes != received:
        raise InputError(
            f"Expected weights of shapes {shapes} for {layer.name!r} ({type(layer).__name__}). Received: {received}"
        )
    return list(zip(wanted, chosen, strict=True))


def _named(name, names):
    return _ALIASES[name] if name not in names and _ALIASES.get(name) in names else name


def _unique(found, names):
    counts = collections.Counter(name for name, _ in found)
    return all(counts[name] == 1 for name in names)


def from_tf_keras(trained, model):
    """Copy the weights of a twin back into the Keras 3 model that it was made from.

    Args:
        trained: tf_keras.Model that `to_tf_keras` made, trained or not; also what `quantize_model` made of it, and
            what was pruned or clustered and then stripped (tfmot's `strip_pruning`, `strip_clustering`).
        model: the keras.Model; its weights are replaced in place.

    Returns:
        `model`.

    Raises:
        InputError: `trained` is no twin of `model`, or is not stripped.
    """
    layers = {layer.name: layer for layer in trained.layers}
    for layer in trained.layers:
        if type(layer).__name__ in _UNSTRIPPED:
            strip = _UNSTRIPPED[type(layer).__name__]
            raise InputError(f"Expected a model without wrappers. Received: {layer.name!r}. Use tfmot's {strip} first")
    plan = flatten(model)
    found = []
    for operation, path in plan.operations():
        if carries_weights(operation):
            names = [plan.name(operation)]
            if type(operation).__name__ == "SeparableConv2D":
                names.insert(0, plan.name(operation, "depthwise"))
            found += pairs(operation, _variables(layers, names, "/".join(path)))
    for target, source in found:
        target.assign(source.numpy())
    return model


def _variables(layers, names, path):
    """Return the variables of the layers called `names`, quantised or not."""
    variables = {}
    for name in names:
        layer = next((layers[prefix + name] for prefix in _PREFIXES if prefix + name in layers), None)
        if layer is None:
            raise InputError(f"Expected the twin of a model with the layer {path!r}. Received: none called {name!r}")
        for each in (*getattr(layer, "layer", layer).weights, *layer.weights):
            variables.setdefault(id(each), each)
    return list(variables.values())
