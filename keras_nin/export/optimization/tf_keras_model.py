"""A Keras 3 model as a flat list of calls: nested models and blocks opened, in the order of computation."""

import collections
import dataclasses
import functools
import re
from typing import Any

import numpy as np

from keras_nin.errors import InputError

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")


class TensorSlot:
    """Stands for one tensor between the calls."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer or of an operation of keras.ops.

    Attributes:
        operation: the keras.Operation.
        path: names of the models and blocks around it, from the outside in, and its own.
        args, kwargs: of the call, with a `Slot` for each tensor.
        outputs: tuple of `Slot`.
    """

    operation: Any
    path: tuple[str, ...]
    args: tuple
    kwargs: dict
    outputs: tuple[TensorSlot, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FlatModel:
    """A whole model.

    Attributes:
        model: the keras.Model.
        inputs, outputs: a `Slot` for each, in the model's order.
        steps: tuple of `Step`, each after those that it needs.
        names: a name for each operation by its id: unique, and one that TensorFlow accepts.
    """

    model: Any
    inputs: tuple[TensorSlot, ...]
    steps: tuple[LayerCall, ...]
    outputs: tuple[TensorSlot, ...]
    names: dict[int, str]

    def name(self, operation, part=""):
        """Return the name of an operation, or a free one of a `part` of what it becomes."""
        name = self.names[id(operation)]
        if part:
            taken = {*self.names.values(), *map(legal_name, input_names(self.model))}
            name = f"{name}_{part}"
            while name in taken:
                name += "_"
        return name

    def operations(self):
        """Return the distinct operations with the first path to each, in order."""
        found = {}
        for step in self.steps:
            found.setdefault(id(step.operation), (step.operation, step.path))
        return list(found.values())


def flatten_model(model):
    """Return the `Plan` of a keras.Model.

    Raises:
        InputError: it is no graph of layers.
    """
    import keras

    if not isinstance(model, keras.Model) or running_graph(model) is None:
        kind = type(model).__name__
        raise InputError(
            "Expected a Functional Keras 3 model, or a Sequential one with an Input. "
            f"Received: {getattr(model, 'name', model)!r} ({kind}). Call its layers on a keras.Input and build "
            "keras.Model(inputs, outputs) of the result"
        )
    inputs = tuple(TensorSlot() for _ in model.inputs)
    steps = []
    outputs = _trace_calls(running_graph(model), inputs, (), steps)
    return FlatModel(model, inputs, tuple(steps), tuple(outputs), _operation_names(model, steps))


def running_graph(operation):
    """Return the graph that a model, or a block of `keras_nin.layers`, runs; None for any other operation."""
    import keras

    inner = getattr(operation, "inner", None)
    model = inner if isinstance(inner, keras.Model) else operation
    if not isinstance(model, keras.Model):
        return None
    graph = getattr(model, "_functional", model)  # what a Sequential builds once it knows its input
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _trace_calls(graph, inputs, path, steps):
    """Append the steps of `graph` on the slots `inputs` and return those of its outputs.

    Recursion follows the nesting of models only: chains of layers may be as long as Keras lets them be.
    """
    import keras

    slots = {id(tensor): slot for tensor, slot in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or any(id(tensor) not in slots for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(slots)
            kwargs.pop("training", None)  # which Keras 3 always takes from the call of the whole model
            here = (*path, node.operation.name)
            inside = running_graph(node.operation)
            if inside is None:
                outputs = tuple(TensorSlot() for _ in node.outputs)
                kwargs = {key: value for key, value in kwargs.items() if value is not None}
                steps.append(LayerCall(node.operation, here, args, kwargs, outputs))
            else:
                given = [each for each in keras.tree.flatten((args, kwargs)) if isinstance(each, TensorSlot)]
                outputs = _trace_calls(inside, given, here, steps)
            slots.update(zip(map(id, node.outputs), outputs, strict=True))
    return [slots[id(tensor)] for tensor in graph.outputs]


def _operation_names(model, steps):
    """Return a unique legal name of each operation: its own where no other has it, else its path."""
    paths = {id(step.operation): step.path for step in reversed(steps)}
    paths = {id(step.operation): paths[id(step.operation)] for step in steps}
    taken = {legal_name(name) for name in input_names(model)}
    owners = {}
    for key, path in paths.items():
        owners.setdefault(legal_name(path[-1]), []).append(key)
    names = {}
    for key, path in sorted(paths.items(), key=lambda item: len(item[1])):  # the outermost keep their names
        own = legal_name(path[-1])
        name = own if len(owners[own]) == 1 or len(path) == 1 else legal_name("_".join(path))
        number = 1
        unique = name
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        names[key] = unique
    return names


def input_names(model):
    """Return the names of the model's inputs."""
    return [tensor._keras_history.operation.name for tensor in model.inputs]


def legal_name(name):
    """Return `name` with what TensorFlow refuses in the name of a scope replaced."""
    name = _OTHER_CHARACTERS.sub("_", name)
    return name if re.match("[A-Za-z0-9]", name) else f"L{name}"


# MERGED Weights between a Keras 3 model and its twin, in both directions.

# The same weights under other names in tf_keras.
_ALIASES = {"depthwise_kernel": "kernel", "kernel": "pointwise_kernel"}
_PREFIXES = ("", "quant_")
_UNSTRIPPED = {"PruneLowMagnitude": "strip_pruning", "ClusterWeights": "strip_clustering"}


def variable_name(variable):
    """Return the last part of a tf_keras variable's name: ``conv1/kernel:0`` is the kernel."""
    return variable.name.split(":")[0].rpartition("/")[2]


def has_tf_keras_weights(operation):
    """Return whether a layer has weights in the twin too; a Normalization has only constants there."""
    return bool(getattr(operation, "weights", None)) and type(operation).__name__ != "Normalization"


def pair_variables(layer, variables):
    """Return (Keras 3 variable, tf_keras variable) of a layer and its counterpart, seeds of random numbers left out.

    Args:
        layer: keras.Layer.
        variables: the counterpart's variables; more than the layer's are left out where the names say which.

    Raises:
        InputError: they do not fit.
    """
    wanted = list(layer.weights)
    names = [variable.name for variable in wanted]
    found = [(_aliased(variable_name(variable), names), variable) for variable in variables]
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


def _aliased(name, names):
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
    plan = flatten_model(model)
    found = []
    for operation, path in plan.operations():
        if has_tf_keras_weights(operation):
            names = [plan.name(operation)]
            if type(operation).__name__ == "SeparableConv2D":
                names.insert(0, plan.name(operation, "depthwise"))
            found += pair_variables(operation, _variables(layers, names, "/".join(path)))
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


# MERGED From a Keras 3 model to its twin in tf_keras.

TOLERANCE = 1e-5
# The side of a random input where the model leaves it open.
_OPEN_SIDE = 96


def check_tfmot_installed():
    """Raise `InputError` where tf_keras or tensorflow-model-optimization is missing, or Keras is on no TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Expected Keras on the tensorflow backend. Received: {keras.backend.backend()!r}")
    try:
        import tensorflow_model_optimization  # noqa: F401
        import tf_keras  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Expected tf_keras and tensorflow-model-optimization to be installed. Received: {error}. "
            "Use pip install tf_keras tensorflow-model-optimization"
        ) from None


def to_tf_keras(model, check=True):
    """Return the same network as a flat Functional tf_keras model with the same weights.

    That is what tensorflow-model-optimization takes: its `prune_low_magnitude` and `cluster_weights` as they are, and
    quantisation through `keras_nin.export.quantize_model`. `from_tf_keras` brings trained weights back. Nested models
    and the blocks of `keras_nin.layers` are opened; a layer keeps its name where only one has it, and takes the names
    around it otherwise. A SeparableConv2D becomes its two convolutions (the first is called ``<name>_depthwise``), an
    activation other than ReLU that a layer applies becomes a layer of its own (``<name>_activation``). Layers and
    keras.ops without weights that tf_keras lacks are computed by Keras 3 inside the twin. Initialisers are left out.

    Args:
        model: keras.Model, Functional or Sequential with an Input; any number of inputs and outputs.
        check: compare the outputs of both on random input.

    Returns:
        tf_keras.Model with lists of inputs and outputs in the order of the model's, or one of each.

    Raises:
        InputError: layers without a counterpart, all of them named; a model that is no graph of layers; tf_keras or
            tensorflow-model-optimization missing; or (with `check`) outputs that differ by more than 1e-5 of their
            size.
    """
    check_tfmot_installed()
    plan = flatten_model(model)
    layers = _make_layers(plan)
    try:
        twin = _connect_layers(plan, layers)
    except RecursionError:
        raise InputError(
            f"Expected a model whose longest chain of layers tf_keras can follow. Received: {model.name!r} with "
            f"{len(plan.steps)} calls of layers. Raise sys.setrecursionlimit"
        ) from None
    _copy_weights(plan, layers)
    if check:
        _check_same_outputs(model, twin)
    return twin


def _make_layers(plan):
    """Return the list of tf_keras layers of each operation by its id."""
    from keras_nin.export.optimization.tf_keras_layers import UnsupportedLayer, convert_operation

    steps = {}
    for step in plan.steps:
        steps.setdefault(id(step.operation), []).append(step)
    layers, missing = {}, []
    for operation, path in plan.operations():
        try:
            layers[id(operation)] = convert_operation(
                operation, steps[id(operation)], functools.partial(plan.name, operation)
            )
        except UnsupportedLayer as reason:
            missing.append(f"{'/'.join(path)} ({type(operation).__name__}: {reason})")
    if missing:
        raise InputError(
            f"Expected layers that have a counterpart in tf_keras. Received: {len(missing)} without in "
            f"{plan.model.name!r}: {'; '.join(missing)}"
        )
    return layers


def _connect_layers(plan, layers):
    import tf_keras

    values = {}
    for slot, tensor, name in zip(plan.inputs, plan.model.inputs, input_names(plan.model), strict=True):
        values[slot] = tf_keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype, name=legal_name(name))
    for step in plan.steps:
        first, *others = layers[id(step.operation)]
        result = _call_layer(first, step, values)
        for layer in others:
            result = layer(result)
        results = list(result) if isinstance(result, list | tuple) else [result]
        values.update(zip(step.outputs, results, strict=True))
    inputs, outputs = ([values[slot] for slot in slots] for slots in (plan.inputs, plan.outputs))
    single = [each[0] if len(each) == 1 else each for each in (inputs, outputs)]
    return tf_keras.Model(*single, name=legal_name(plan.model.name))


def _call_layer(layer, step, values):
    """Return what `layer` gives for the tensors of a step: called as the original was, or on all tensors in order."""
    import keras

    from keras_nin.export.optimization.tf_keras_layers import is_standard_layer

    def filled(value):
        return values[value] if isinstance(value, TensorSlot) else value

    if is_standard_layer(step.operation):
        args, kwargs = keras.tree.map_structure(filled, (step.args, step.kwargs))
        return layer(*args, **kwargs)
    tensors = [values[each] for each in keras.tree.flatten((step.args, step.kwargs)) if isinstance(each, TensorSlot)]
    return layer(tensors[0] if len(tensors) == 1 else tensors)


def _copy_weights(plan, layers):

    for operation, _ in plan.operations():
        if has_tf_keras_weights(operation):
            variables = [variable for layer in layers[id(operation)] for variable in layer.weights]
            for source, target in pair_variables(operation, variables):
                target.assign(source.numpy())


def _check_same_outputs(model, twin):
    """Raise `InputError` where the outputs of both differ on random input."""
    rng = np.random.default_rng(0)
    inputs = [_random_input(tensor, rng) for tensor in model.inputs]
    given = inputs[0] if len(inputs) == 1 else inputs
    expected, received = (_model_outputs(each, given) for each in (model, twin))
    for tensor, wanted, found in zip(model.outputs, expected, received, strict=True):
        difference, size = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
        if not difference <= TOLERANCE * size:
            raise InputError(
                f"Expected a twin with the outputs of {model.name!r} to {TOLERANCE:g} of their size. Received: a "
                f"largest difference of {difference:.3g} in {tensor.name!r}, whose largest value is {size:.3g}"
            )


def _random_input(tensor, rng):
    shape = [2 if tensor.shape[0] is None else tensor.shape[0]]
    shape += [_OPEN_SIDE if side is None else side for side in tensor.shape[1:]]
    if "int" in tensor.dtype or tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(tensor.dtype)
    return rng.uniform(0, 1, shape).astype(tensor.dtype)


def _model_outputs(model, inputs):
    import keras

    return [np.asarray(each, np.float64) for each in keras.tree.flatten(model(inputs, training=False))]
