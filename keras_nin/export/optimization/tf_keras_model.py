"""A Keras 3 model in tf_keras, which tensorflow-model-optimization needs, and its weights in both directions."""

import collections
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin._compat.keras import producer_of
from keras_nin.errors import input_error
from keras_nin.export.operator_layers import legal_name
from keras_nin.keras_graph import GraphTrace, TensorSlot, trace_functional

if TYPE_CHECKING:
    import keras
    import tf_keras

TOLERANCE = 1e-5
_OPEN_SIDE = 96  # side of a random input where the model leaves it open
# The same weights under other names in tf_keras.
_ALIASES = {"depthwise_kernel": "kernel", "kernel": "pointwise_kernel"}
_UNSTRIPPED = {"PruneLowMagnitude": "strip_pruning", "ClusterWeights": "strip_clustering"}


def check_tfmot_installed() -> None:
    """Raise `InputError` where tf_keras or tfmot is missing, or Keras does not run on TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise input_error("Keras on the tensorflow backend", repr(keras.backend.backend()))
    try:
        import tensorflow_model_optimization  # noqa: F401
        import tf_keras  # noqa: F401
    except ImportError as error:
        hint = "Use pip install tf_keras tensorflow-model-optimization"
        raise input_error("tf_keras and tensorflow-model-optimization to be installed", f"{error}. {hint}") from None


class FlatModel:
    """A Functional model as a flat list of calls, nested models and blocks opened.

    `names` has a name for each operation by its id, `input_names` those of the inputs: unique, and as TensorFlow
    accepts them.
    """

    def __init__(self, model: "keras.Model") -> None:
        self.model = model
        self.trace: GraphTrace = trace_functional(model)
        self.input_names = [legal_name(producer_of(tensor).name) for tensor in model.inputs]
        self.names = self._operation_names()

    def name(self, operation: "keras.Operation", part: str = "") -> str:
        """Return the name of an operation, or an unused one for a `part` of what it becomes."""
        name = self.names[id(operation)]
        if part:
            taken = {*self.names.values(), *self.input_names}
            name = f"{name}_{part}"
            while name in taken:
                name += "_"
        return name

    def operations(self) -> "list[tuple[keras.Operation, tuple[str, ...]]]":
        """Return the distinct operations with the first path to each, in order of computation."""
        first = {}
        for call in self.trace.calls:
            first.setdefault(id(call.operation), (call.operation, call.path))
        return list(first.values())

    def _operation_names(self) -> dict[int, str]:
        """Return its own name for each operation where no other has it, else its path."""
        paths = {id(operation): path for operation, path in self.operations()}
        uses = collections.Counter(legal_name(path[-1]) for path in paths.values())
        taken = set(self.input_names)
        names = {}
        for key, path in sorted(paths.items(), key=lambda item: len(item[1])):  # the outermost keep their names
            own = legal_name(path[-1])
            name = unique = own if uses[own] == 1 or len(path) == 1 else legal_name("_".join(path))
            number = 1
            while unique in taken:
                number += 1
                unique = f"{name}_{number}"
            taken.add(unique)
            names[key] = unique
        return names


def to_tf_keras(model: "keras.Model", check: bool = True) -> "tf_keras.Model":
    """Return the same network as a flat Functional tf_keras model with the same weights.

    This is what tensorflow-model-optimization takes: its `prune_low_magnitude` and `cluster_weights` as they are, and
    quantization through `keras_nin.export.quantize_model`. `from_tf_keras` brings trained weights back. Nested models
    and the blocks of `keras_nin.layers` are opened; a layer keeps its name where no other has it, and is named by its
    path otherwise. A SeparableConv2D becomes its two convolutions (the first is called ``<name>_depthwise``), an
    activation other than ReLU that a layer applies becomes a layer of its own (``<name>_activation``). Layers and
    keras.ops without weights that tf_keras lacks are computed by Keras 3 inside the model. Initializers are left out.

    Args:
        model: keras.Model, Functional or Sequential with an Input; any number of inputs and outputs, which become lists
            in the same order, or one of each.
        check: compare the outputs of both on random input.

    Raises:
        InputError: layers without a counterpart, all of them named; a model that is no graph of layers; tf_keras or
            tensorflow-model-optimization missing; or (with `check`) outputs that differ by more than 1e-5 of their
            size.
    """
    check_tfmot_installed()
    flat = FlatModel(model)
    layers = _convert_layers(flat)
    try:
        converted = _connect_layers(flat, layers)
    except RecursionError:
        received = f"{model.name!r} with {len(flat.trace.calls)} calls of layers. Raise sys.setrecursionlimit"
        raise input_error("a model whose longest chain of layers tf_keras can follow", received) from None
    for operation, _ in flat.operations():
        if has_tf_keras_weights(operation):
            variables = [variable for layer in layers[id(operation)] for variable in layer.weights]
            for source, target in pair_variables(operation, variables):
                target.assign(source.numpy())
    if check:
        _check_same_outputs(model, converted)
    return converted


def from_tf_keras(trained: "tf_keras.Model", model: "keras.Model") -> "keras.Model":
    """Copy the weights of a tf_keras model back into the Keras 3 model that it was made from.

    Args:
        trained: what `to_tf_keras` made, trained or not; also what `quantize_model` made of it, and what was pruned or
            clustered and then stripped (tfmot's `strip_pruning`, `strip_clustering`).
        model: the keras.Model; its weights are replaced in place, and it is returned.

    Raises:
        InputError: `trained` was not made from `model`, or is not stripped.
    """
    layers = {layer.name: layer for layer in trained.layers}
    for layer in trained.layers:
        if type(layer).__name__ in _UNSTRIPPED:
            strip = _UNSTRIPPED[type(layer).__name__]
            raise input_error("a model without wrappers", f"{layer.name!r}. Use tfmot's {strip} first")
    flat = FlatModel(model)
    variable_pairs = []
    for operation, path in flat.operations():
        if has_tf_keras_weights(operation):
            names = [flat.name(operation)]
            if type(operation).__name__ == "SeparableConv2D":
                names.insert(0, flat.name(operation, "depthwise"))
            variable_pairs += pair_variables(operation, _layer_variables(layers, names, "/".join(path)))
    for target, source in variable_pairs:
        target.assign(source.numpy())
    return model


# Layers


def _convert_layers(flat: FlatModel) -> dict[int, list[Any]]:
    """Return the tf_keras layers of each operation by its id."""
    from keras_nin.export.optimization.tf_keras_layers import UnsupportedLayerError, convert_operation

    calls = collections.defaultdict(list)
    for call in flat.trace.calls:
        calls[id(call.operation)].append(call)
    layers, missing = {}, []
    for operation, path in flat.operations():
        key = id(operation)
        try:
            layers[key] = convert_operation(operation, calls[key], functools.partial(flat.name, operation))
        except UnsupportedLayerError as reason:
            missing.append(f"{'/'.join(path)} ({type(operation).__name__}: {reason})")
    if missing:
        received = f"{len(missing)} without in {flat.model.name!r}: {'; '.join(missing)}"
        raise input_error("layers that have a counterpart in tf_keras", received)
    return layers


def _connect_layers(flat: FlatModel, layers: dict[int, list[Any]]) -> "tf_keras.Model":
    import keras
    import tf_keras

    from keras_nin.export.optimization.tf_keras_layers import is_standard_layer

    values: dict[Any, Any] = {}
    for slot, tensor, name in zip(flat.trace.inputs, flat.model.inputs, flat.input_names, strict=True):
        values[slot] = tf_keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype, name=name)
    for call in flat.trace.calls:
        first, *others = layers[id(call.operation)]
        if is_standard_layer(call.operation):  # called as the original was
            filled: Any = keras.tree.map_structure(
                lambda value: values[value] if isinstance(value, TensorSlot) else value, (call.args, call.kwargs)
            )
            result = first(*filled[0], **filled[1])
        else:  # on all tensors in order
            tensors = [values[slot] for slot in call.inputs]
            result = first(tensors[0] if len(tensors) == 1 else tensors)
        for layer in others:
            result = layer(result)
        results = list(result) if isinstance(result, list | tuple) else [result]
        values.update(zip(call.outputs, results, strict=True))
    inputs, outputs = ([values[slot] for slot in slots] for slots in (flat.trace.inputs, flat.trace.outputs))
    single = [tensors[0] if len(tensors) == 1 else tensors for tensors in (inputs, outputs)]
    return tf_keras.Model(*single, name=legal_name(flat.model.name))


def _check_same_outputs(model: "keras.Model", converted: "tf_keras.Model") -> None:
    """Raise `InputError` where the outputs of both differ on random input."""
    import keras

    rng, arrays = np.random.default_rng(0), []
    for tensor in model.inputs:
        batch, *sides = tensor.shape
        shape = [2 if batch is None else batch, *(_OPEN_SIDE if side is None else side for side in sides)]
        takes_integers = "int" in tensor.dtype or tensor.dtype == "bool"
        values = rng.integers(0, 2, shape) if takes_integers else rng.uniform(0, 1, shape)
        arrays.append(values.astype(tensor.dtype))
    inputs: Any = arrays[0] if len(arrays) == 1 else arrays
    flat = [keras.tree.flatten(network(inputs, training=False)) for network in (model, converted)]
    for tensor, *pair in zip(model.outputs, *flat, strict=True):
        expected, received = (np.asarray(output, np.float64) for output in pair)
        difference, size = float(np.abs(received - expected).max()), float(np.abs(expected).max())
        if not difference <= TOLERANCE * size:
            wanted = f"a tf_keras model with the outputs of {model.name!r} to {TOLERANCE:g} of their size"
            found = f"a largest difference of {difference:.3g} in {tensor.name!r}, whose largest value is {size:.3g}"
            raise input_error(wanted, found)


# Weights


def has_tf_keras_weights(operation: "keras.Operation") -> bool:
    """Return whether a layer has weights in tf_keras too; a Normalization has only constants there."""
    return bool(getattr(operation, "weights", None)) and type(operation).__name__ != "Normalization"


def pair_variables(layer: Any, variables: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return (Keras 3 variable, tf_keras variable) of a layer and its counterpart, without random seeds.

    More variables than the layer has are left out where the names say which; `InputError` where they do not fit.
    """
    own = list(layer.weights)
    names = [variable.name for variable in own]
    by_name = collections.defaultdict(list)
    for variable in variables:
        name = variable.name.split(":")[0].rpartition("/")[2]  # conv1/kernel:0 is the kernel
        alias = _ALIASES.get(name)
        by_name[alias if name not in names and alias in names else name].append(variable)
    chosen = list(variables)  # parts of the same name, as in a Bidirectional, come in the same order
    if len(set(names)) == len(names) and all(len(by_name[name]) == 1 for name in names):
        chosen = [by_name[name][0] for name in names]
    expected = [tuple(variable.shape) for variable in own]
    received = [tuple(variable.shape) for variable in chosen]
    if expected != received:
        raise input_error(f"weights of shapes {expected} for {layer.name!r} ({type(layer).__name__})", received)
    return list(zip(own, chosen, strict=True))


def _layer_variables(layers: dict[str, Any], names: Sequence[str], path: str) -> list[Any]:
    """Return the variables of the layers called `names`, quantized or not."""
    variables = {}
    for name in names:
        layer = layers.get(name) or layers.get(f"quant_{name}")
        if layer is None:
            raise input_error(f"a tf_keras model with the layer {path!r}", f"none called {name!r}")
        for variable in (*getattr(layer, "layer", layer).weights, *layer.weights):
            variables.setdefault(id(variable), variable)
    return list(variables.values())
