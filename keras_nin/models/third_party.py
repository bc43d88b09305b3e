"""Third-party weights by name into a built model: legacy Keras .h5, .npz, .safetensors and PyTorch files.

A model declares one table of third-party layer names. Its values are the name of the model's layer, None for a layer
that the model does not have or need (such as auxiliary classifiers, which only training uses), or a tuple of the
model's layers for a key like "conv2d", which Keras numbers: conv2d_1, conv2d_2, ..., starting anywhere. The names of a
model's own layers always stand for themselves.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_nin import keras_graph
from keras_nin.errors import WeightsMismatchError, input_error
from keras_nin.models.third_party_files import READERS, StoredTensor, WeightSource

if TYPE_CHECKING:
    import keras


# From a third-party layer name to ours.
LayerNames: TypeAlias = Mapping[str, str | tuple[str, ...] | None]
# By layer and variable of a weight, e.g. ("conv1", "kernel").
Arrays: TypeAlias = dict[tuple[str, str], npt.NDArray[np.float32]]

# BatchNormalization's epsilon in PyTorch, unless set otherwise.
_PYTORCH_EPSILON = 1e-5
# Tensors that are no weights.
_COUNTERS = frozenset({"num_batches_tracked"})
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_KERAS = {"weights": "kernel", "biases": "bias", "depthwise_kernel": "kernel"}
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_PYTORCH = {"running_mean": "moving_mean", "running_var": "moving_variance"}
# Layers that let a flattened map through element by element.
_ELEMENTWISE = ("Dropout", "Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "GaussianNoise")


@dataclasses.dataclass(frozen=True)
class TensorPlacement:
    """Where a file's tensor went, and what was done with its values; no layer where the model's table leaves it out."""

    tensor: str
    shape: tuple[int, ...]
    layer: str | None
    variable: str | None
    change: str


@dataclasses.dataclass(frozen=True)
class WeightImport:
    """How a file was read: its convention ("Keras", "Keras 1" or "PyTorch"), each tensor, and what one should know."""

    convention: str
    rows: tuple[TensorPlacement, ...]
    notes: tuple[str, ...] = ()


def load_by_name(
    model: keras.Model, path: pathlib.Path, layer_names: LayerNames | None = None, partial: bool = False
) -> WeightImport:
    """Set every weight of `model` from a file of named tensors, all checked before any is changed.

    The `WeightsMismatchError` for a file that does not fit lists all weights without a tensor, tensors without a layer,
    and tensors of another shape. With `partial` the file may hold more than the model has.
    """
    network = _describe_network(model)
    with READERS[path.suffix](path) as source:
        placed = _place_tensors(source, network, layer_names or {})
        unplaced = [] if partial else placed.unplaced
        kinds = ((placed.missing, "missing"), (placed.mismatched, "mismatched"), (unplaced, "without a layer"))
        problems = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for names, what in kinds if names)
        if problems:
            expected = f"{path.name!r} ({source.convention}, {len(source.tensors)} tensors) to hold the weights of"
            raise WeightsMismatchError(f"Expected {expected} {model.name}. Received: {problems}", path=path)
        if path.suffix == ".h5":
            _check_order(path, source, network, layer_names or {})
        weights = placed.tensors.items()
        arrays: Arrays = {name: np.ascontiguousarray(change(tensor.read())) for name, (tensor, change) in weights}
    _fold_into_batch_norm(arrays, network)
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(arrays[layer.name, weight.name])
    return WeightImport(source.convention, tuple(placed.rows), source.notes + _epsilon_note(source, placed, network))


@dataclasses.dataclass(frozen=True)
class _Network:
    """A model as the placement of tensors sees it, by the names of its layers.

    Attributes:
        shapes: of every weight, by layer and variable.
        flattened: (H, W, C) of the map behind every Dense that takes a flattened one.
        convolutions: of a BatchNormalization, the linear convolution without bias whose output it alone takes.
        epsilons: of every BatchNormalization.
    """

    shapes: dict[str, dict[str, tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    flattened: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    convolutions: dict[str, str] = dataclasses.field(default_factory=dict)
    epsilons: dict[str, float] = dataclasses.field(default_factory=dict)

    def has(self, layer: str | None, variable: str) -> bool:
        return variable in self.shapes.get(layer or "", {})


def _describe_network(model: keras.Model) -> _Network:
    import keras

    network = _Network()
    for layer in model.layers:
        if not layer.weights:
            continue
        shapes = {weight.name: tuple(weight.shape) for weight in layer.weights}
        if len(shapes) < len(layer.weights) or hasattr(layer, "layers"):
            received = f"{model.name}, whose layer {layer.name!r} holds layers. Use .weights.h5 or .keras"
            raise input_error("a network of plain layers for weights by name", received)
        network.shapes[layer.name] = shapes
        size = _flattened_size(layer)
        if size is not None:
            network.flattened[layer.name] = size
        if type(layer).__name__ == "BatchNormalization":
            network.epsilons[layer.name] = layer.epsilon
            convolution = _producing_layer(layer)
            if (  # the normalization can take up what the linear layer before it lacks
                type(convolution).__name__ in ("Conv2D", "Dense")
                and convolution.activation is keras.activations.linear
                and not convolution.use_bias
                and keras_graph.count_uses(convolution) == 1
                and layer.axis in (-1, len(layer.input.shape) - 1)
            ):
                network.convolutions[layer.name] = convolution.name
    return network


def _producing_layer(layer: keras.Layer) -> Any:
    """Return the layer whose output `layer` takes; None where there are several, or none."""
    tensor = layer.input
    return None if isinstance(tensor, list | tuple | dict) else keras_graph.producer_of(tensor)


def _flattened_size(layer: keras.Layer) -> tuple[int, ...] | None:
    producer = _producing_layer(layer)
    while type(producer).__name__ in _ELEMENTWISE:
        producer = _producing_layer(producer)
    if type(producer).__name__ != "Flatten" or len(producer.input.shape) != 4 or producer.input.shape[1:3] == (1, 1):
        return None
    if type(layer).__name__ != "Dense":
        received = f"{type(layer).__name__} {layer.name!r}"
        raise input_error("only Dense on a flattened map for weights by name", received)
    return tuple(producer.input.shape[1:])


def match_layers(table: LayerNames, layers: Iterable[str], own: Collection[str]) -> dict[str, str | None]:
    """Return {third-party layer: the model's layer, or None} for those of a file's `layers` that have one."""
    layers = list(layers)
    names = {layer: ours for layer in layers if not isinstance(ours := table.get(layer, ()), tuple)}
    names |= {layer: layer for layer in layers if layer in own}
    for key, numbered in table.items():
        if isinstance(numbered, tuple):
            theirs = {layer for layer in layers if re.fullmatch(rf"{key}(_\d+)?", layer) and layer not in names}
            if len(theirs) == len(numbered):
                in_order = sorted(theirs, key=lambda layer: int(layer[len(key) + 1 :] or 0))
                names |= dict(zip(in_order, numbered, strict=True))
    return names


def _check_order(path: pathlib.Path, source: WeightSource, network: _Network, table: LayerNames) -> None:
    """Raise `WeightsMismatchError` where the numbers in layer names contradict the order of the layers in the file.

    Keras lists layers in the order of the graph, and reads them so; the numbers count layers as they were made. Where
    both do not lead to the same layers of the network, the file is one of another network, whatever its shapes.
    """
    layers = list(dict.fromkeys(tensor.layer for tensor in source.tensors))
    names = match_layers(table, layers, network.shapes)
    numbered = [layer for layer in layers if isinstance(table.get(re.sub(r"_\d+$", "", layer)), tuple)]
    in_file = [names[layer] for layer in numbered if layer in names]
    if in_file != [layer for layer in network.shapes if layer in in_file]:
        expected = f"{path.name!r} to list its numbered layers in the order of the network's"
        raise WeightsMismatchError(f"Expected {expected}. Received: another order", path=path)


@dataclasses.dataclass
class _Placement:
    """What a file's tensors become in a network: the tensor and the change of axes of each weight, and what is left."""

    tensors: dict[tuple[str, str], tuple[StoredTensor, _AxisChange]] = dataclasses.field(default_factory=dict)
    rows: list[TensorPlacement] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    mismatched: list[str] = dataclasses.field(default_factory=list)
    unplaced: list[str] = dataclasses.field(default_factory=list)


def _place_tensors(source: WeightSource, network: _Network, table: LayerNames) -> _Placement:
    """Return the `_Placement` of a file's tensors in a network; no values are read."""
    names = match_layers(table, [tensor.layer for tensor in source.tensors], network.shapes)
    targets = [(tensor, *_target_variable(tensor, source, names, network)) for tensor in source.tensors]
    order = source.kernels or _infer_kernel_order(targets, network)
    placement = _Placement()
    for tensor, layer, variable in targets:
        if tensor.layer in names and (layer is None or tensor.variable in _COUNTERS):
            reason = "a counter of training steps" if tensor.variable in _COUNTERS else "used only in training"
            placement.rows.append(TensorPlacement(tensor.name, tensor.shape, None, None, f"left out: {reason}"))
            continue
        batch_norm = None if network.has(layer, variable) else _folding_layer(layer, variable, network)
        if layer is None or (batch_norm is None and not network.has(layer, variable)):
            placement.unplaced.append(f"{tensor.name} {tensor.shape}")
            continue
        if (layer, variable) in placement.tensors:
            placement.mismatched.append(f"{tensor.name}, a second tensor for {layer}/{variable}")
            continue
        shape = network.shapes[batch_norm]["moving_mean"] if batch_norm else network.shapes[layer][variable]
        flattened = network.flattened.get(layer) if variable == "kernel" else None
        change = _plan_change(source, order, len(shape), flattened)
        problem = _describe_mismatch(tensor, shape, change)
        if problem:
            placement.mismatched.append(f"{tensor.name} for {layer}/{variable}, {problem}")
        placement.tensors[layer, variable] = tensor, change
        description = _describe_change(variable, batch_norm, tensor, change)
        placement.rows.append(TensorPlacement(tensor.name, tensor.shape, layer, variable, description))
    for layer, shapes in network.shapes.items():
        unset = ((variable, shape) for variable, shape in shapes.items() if (layer, variable) not in placement.tensors)
        placement.missing += [f"{layer}/{variable} {shape}" for variable, shape in unset]
    return placement


def _target_variable(
    tensor: StoredTensor, source: WeightSource, names: Mapping[str, str | None], network: _Network
) -> tuple[str | None, str]:
    """Return layer and variable of the model for a tensor's name; the layer is None where there is none."""
    layer = names.get(tensor.layer)
    if layer is None:
        return None, tensor.variable
    variables = {"PyTorch": _PYTORCH, "Keras 1": _KERAS_1, "Keras": _KERAS}[source.convention]
    if source.convention == "PyTorch":
        weight, bias = ("kernel", "bias") if network.has(layer, "kernel") else ("gamma", "beta")
        variables = variables | {"weight": weight, "bias": bias}
    return layer, variables.get(tensor.variable, tensor.variable)


def _infer_kernel_order(targets: Iterable[tuple[StoredTensor, str | None, str]], network: _Network) -> str:
    """Return the order of a file that does not say: the one in which its kernels have the network's shapes."""
    pairs = [
        (tensor.shape, network.shapes[layer]["kernel"])
        for tensor, layer, variable in targets
        if layer and variable == "kernel" and len(tensor.shape) == 4 and network.has(layer, "kernel")
    ]
    fits = {order: all(_stored_shape(ours, order) == theirs for theirs, ours in pairs) for order in ("HWIO", "OIHW")}
    return "OIHW" if fits["OIHW"] and not fits["HWIO"] else "HWIO"


@dataclasses.dataclass(frozen=True)
class _AxisChange:
    """How the values of one tensor of a `rank` change: from the file's order of axes to the network's."""

    rank: int
    transposes: bool
    flips: bool
    flattened: tuple[int, ...] | None
    vectors: str | None  # the file's order of a flattened map; None where it is not known

    def __call__(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.transposes:
            array = np.transpose(array, (*range(2, array.ndim), 1, 0))
        if self.flips:
            array = array[::-1, ::-1]
        if self.vectors == "CHW" and self.flattened:
            height, width, channels = self.flattened
            array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
        return array


def _plan_change(source: WeightSource, order: str, rank: int, flattened: tuple[int, ...] | None) -> _AxisChange:
    transposes = order == "OIHW" if rank > 2 else rank == 2 and source.convention == "PyTorch"
    vectors = {"OIHW": "CHW", "HWIO": "HWC"}[order] if source.convention == "Keras 1" else source.vectors
    return _AxisChange(rank, transposes, rank > 2 and source.flipped, flattened, vectors if flattened else "HWC")


def _stored_shape(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    """Return the shape of a kernel (H, W, I, O) or (I, O) in a file of that order."""
    return (*shape[:-3:-1], *shape[:-2]) if order == "OIHW" else shape


def _describe_mismatch(tensor: StoredTensor, shape: tuple[int, ...], change: _AxisChange) -> str | None:
    """Return what keeps a tensor from becoming a weight of `shape`, or None."""
    if tensor.dtype not in _FLOATS:
        return f"expected floating point, received {tensor.dtype}"
    if change.vectors is None:
        return "expected a file that says how it flattens a map, received a network with channels first"
    expected = _stored_shape(shape, "OIHW" if change.transposes else "HWIO")
    if tensor.shape == expected:
        return None
    transposed = _stored_shape(shape, "HWIO" if change.transposes else "OIHW")
    other = {2: ("(in, out)", "(out, in)"), 4: ("HWIO", "OIHW")}.get(len(shape), ("", ""))[not change.transposes]
    hint = f", looks like {other}" if len(shape) > 1 and tensor.shape == transposed else ""
    return f"expected {expected}, received {tensor.shape}{hint}"


def _describe_change(variable: str, batch_norm: str | None, tensor: StoredTensor, change: _AxisChange) -> str:
    steps = []
    if batch_norm:
        folded = "multiplied into kernel and moving_mean"
        steps.append(folded if variable == "gamma" else "subtracted from the moving_mean")
    if change.transposes:
        steps.append("OIHW to HWIO" if change.rank > 2 else "(out, in) to (in, out)")
    if change.flips:
        steps.append("flipped")
    if change.vectors == "CHW":
        steps.append("C,H,W to H,W,C")
    if tensor.dtype != "float32":
        steps.append(f"from {tensor.dtype}")
    return ", ".join(steps) or "unchanged"


def _folding_layer(layer: str | None, variable: str, network: _Network) -> str | None:
    """Return the BatchNormalization that takes up what the network lacks: a gamma, or the bias before it; or None."""
    if variable == "gamma" and layer in network.convolutions:
        return layer
    if variable == "bias":
        return next((norm for norm, convolution in network.convolutions.items() if convolution == layer), None)
    return None


def _fold_into_batch_norm(arrays: Arrays, network: _Network) -> None:
    """Take up, in place, what the network has no variable for; the outputs in inference are the same.

    A bias before a normalization shifts its mean: moving_mean - bias. A gamma after it scales what comes in:
    gamma (x - mean) / s = (gamma x - gamma mean) / s, so kernel * gamma and moving_mean * gamma with s as it is.
    """
    for norm, convolution in network.convolutions.items():
        kernel, mean = (convolution, "kernel"), (norm, "moving_mean")
        if (convolution, "bias") in arrays:
            arrays[mean] = arrays[mean] - arrays.pop((convolution, "bias"))
        if (norm, "gamma") in arrays and "gamma" not in network.shapes[norm]:
            gamma = arrays.pop((norm, "gamma"))
            arrays[kernel] = arrays[kernel] * gamma
            arrays[mean] = arrays[mean] * gamma


def _epsilon_note(source: WeightSource, placement: _Placement, network: _Network) -> tuple[str, ...]:
    """Return a note for a PyTorch file with the model's own names for normalizations: their epsilon is not in it."""
    own = {row.layer for row in placement.rows if row.layer and row.tensor.rpartition(".")[0].endswith(row.layer)}
    others = {network.epsilons[layer] for layer in own & set(network.epsilons)} - {_PYTORCH_EPSILON}
    if source.convention != "PyTorch" or not others:
        return ()
    here = ", ".join(f"{epsilon:g}" for epsilon in sorted(others))
    return (f"the file does not hold BatchNormalization's epsilon: {here} here, by default {_PYTORCH_EPSILON:g} there",)
