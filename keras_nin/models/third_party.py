"""What the translation of foreign weights asks of a network: its variables, flattened maps, and what is normalised."""

import dataclasses
import re

import numpy as np

from keras_nin.errors import InputError
from keras_nin.models import third_party_files
from keras_nin.models.weight_files import WeightsMismatchError

# Layers that let a flattened map through element by element.
_ELEMENTWISE = ("Dropout", "Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "GaussianNoise")


@dataclasses.dataclass(frozen=True)
class TargetNetwork:
    """A model as the translation sees it.

    Attributes:
        name: the model's.
        shapes: of every weight, by layer and variable.
        flattened: (H, W, C) of the map behind every Dense that takes a flattened one, by the layer's name.
        convolutions: by the name of a BatchNormalization, that of the linear convolution without bias whose output it
            alone takes.
        epsilons: of every BatchNormalization, by the layer's name.
    """

    name: str
    shapes: dict
    flattened: dict
    convolutions: dict
    epsilons: dict


def describe_network(model):
    """Return the `Network` of a model of plain layers.

    Raises:
        InputError: layers in layers, or a layer with weights other than Dense on a flattened map.
    """
    shapes, flattened, convolutions, epsilons = {}, {}, {}, {}
    for layer in model.layers:
        if not layer.weights:
            continue
        shapes[layer.name] = {weight.name: tuple(weight.shape) for weight in layer.weights}
        if len(shapes[layer.name]) < len(layer.weights) or hasattr(layer, "layers"):
            raise InputError(
                f"Expected a network of plain layers for weights by name. Received: {model.name}, whose layer "
                f"{layer.name!r} holds layers. Use .weights.h5 or .keras"
            )
        size = _flattened_size(layer)
        if size is not None:
            flattened[layer.name] = size
        if type(layer).__name__ == "BatchNormalization":
            epsilons[layer.name] = layer.epsilon
            convolution = _producing_layer(layer)
            if _is_foldable(layer, convolution):
                convolutions[layer.name] = convolution.name
    return TargetNetwork(model.name, shapes, flattened, convolutions, epsilons)


def _producing_layer(layer):
    """Return the layer whose output `layer` takes; None where there are several, or none."""
    tensor = layer.input
    return None if isinstance(tensor, list | tuple | dict) else tensor._keras_history.operation


def _flattened_size(layer):
    before = _producing_layer(layer)
    while type(before).__name__ in _ELEMENTWISE:
        before = _producing_layer(before)
    if type(before).__name__ != "Flatten" or len(before.input.shape) != 4 or before.input.shape[1:3] == (1, 1):
        return None
    if type(layer).__name__ != "Dense":
        raise InputError(
            f"Expected only Dense on a flattened map for weights of others. Received: {type(layer).__name__} "
            f"{layer.name!r}"
        )
    return tuple(before.input.shape[1:])


def _is_foldable(layer, convolution):
    """Return whether a normalisation can take the place of what a linear layer before it lacks."""
    import keras

    return (
        type(convolution).__name__ in ("Conv2D", "Dense")
        and convolution.activation is keras.activations.linear
        and not convolution.use_bias
        and len(convolution._outbound_nodes) == 1
        and layer.axis in (-1, len(layer.input.shape) - 1)
    )


# MERGED The translation: from a foreign file's names and orders of axes to those of a network's layers.
# MERGED
# MERGED A model declares one table of foreign layer names. Its values are the name of the model's layer, None for a layer that
# MERGED has no place here and needs none (as auxiliary classifiers, which serve training alone), or a tuple of the model's
# MERGED layers for a key like "conv2d", which Keras numbers: conv2d_1, conv2d_2, ..., starting anywhere. The names of a model's
# MERGED own layers always stand for themselves.

# Tensors that are declared to be no weights.
COUNTERS = frozenset({"num_batches_tracked"})
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_KERAS = {"weights": "kernel", "biases": "bias", "depthwise_kernel": "kernel"}
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_PYTORCH = {"running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclasses.dataclass(frozen=True)
class TensorPlacement:
    """Where a file's tensor went.

    Attributes:
        tensor, shape: name and shape in the file.
        layer, variable: of the model; None for a tensor that was declared to be left out.
        change: what was done with the values.
    """

    tensor: str
    shape: tuple[int, ...]
    layer: str | None
    variable: str | None
    change: str


@dataclasses.dataclass
class PlacementProblems:
    """What does not fit, each a list of descriptions."""

    missing: list = dataclasses.field(default_factory=list)
    unplaced: list = dataclasses.field(default_factory=list)
    unfit: list = dataclasses.field(default_factory=list)

    def __bool__(self):
        return bool(self.missing or self.unplaced or self.unfit)

    def __str__(self):
        kinds = ((self.missing, "missing"), (self.unfit, "unfit"), (self.unplaced, "without a place"))
        return "; ".join(f"{len(found)} {what}: {', '.join(found)}" for found, what in kinds if found)


def match_layers(table, layers, own):
    """Return {foreign layer: the model's layer, or None} for those of `layers` that have one.

    Args:
        table: the model's table; see the head of this file.
        layers: iterable of the file's layer names.
        own: the names of the model's layers.
    """
    names = {layer: layer for layer in layers if layer in own}
    names |= {layer: table[layer] for layer in layers if layer in table and layer not in names}
    numbered = {key: value for key, value in table.items() if isinstance(value, tuple)}
    names = {layer: ours for layer, ours in names.items() if not isinstance(ours, tuple)}
    for key, ours in numbered.items():
        found = [layer for layer in layers if re.fullmatch(rf"{key}(_\d+)?", layer) and layer not in names]
        found = sorted(set(found), key=lambda layer: int(layer[len(key) + 1 :] or 0))
        if len(found) == len(ours):
            names |= dict(zip(found, ours, strict=True))
    return names


def place_tensors(source, network, table):
    """Return what a file's tensors become in a network.

    Args:
        source: `foreign_files.Source`.
        network: `foreign_graph.Network`.
        table: the model's table; see the head of this file.

    Returns:
        ({(layer, variable): function that returns the array}, list of `Placed`, `Problems`). With problems, the first
        is incomplete; no values have been read.
    """
    names = match_layers(table, [tensor.layer for tensor in source.tensors], network.shapes)
    targets = [(tensor, *_target_variable(tensor, source, names, network)) for tensor in source.tensors]
    order = source.kernels or _infer_kernel_order(targets, network)
    readers, rows, problems = {}, [], PlacementProblems()
    for tensor, layer, variable in targets:
        if tensor.layer in names and (layer is None or tensor.variable in COUNTERS):
            why = "a counter of training steps" if tensor.variable in COUNTERS else "used in training alone"
            rows.append(TensorPlacement(tensor.name, tensor.shape, None, None, f"left out: {why}"))
            continue
        fold = None if variable in network.shapes.get(layer, ()) else _folding_layer(layer, variable, network)
        if layer is None or (variable not in network.shapes.get(layer, ()) and fold is None):
            problems.unplaced.append(f"{tensor.name} {tensor.shape}")
        elif (layer, variable) in readers:
            problems.unfit.append(f"{tensor.name}, a second tensor for {layer}/{variable}")
        else:
            wanted = network.shapes[layer][variable] if fold is None else network.shapes[fold]["moving_mean"]
            step = _AxisChange(
                source, order, network.flattened.get(layer) if variable == "kernel" else None, len(wanted)
            )
            problem = _describe_misfit(tensor, wanted, step)
            if problem:
                problems.unfit.append(f"{tensor.name} for {layer}/{variable}, {problem}")
            readers[layer, variable] = _make_reader(tensor, step)
            rows.append(
                TensorPlacement(
                    tensor.name, tensor.shape, layer, variable, _describe_change(variable, fold, tensor, step)
                )
            )
    wanted = {(layer, variable): shape for layer, held in network.shapes.items() for variable, shape in held.items()}
    problems.missing = [f"{'/'.join(name)} {shape}" for name, shape in wanted.items() if name not in readers]
    return readers, rows, problems


def _target_variable(tensor, source, names, network):
    """Return layer and variable of the model that a tensor's name means; (None, None) where it means none."""
    layer = names.get(tensor.layer)
    if layer is None:
        return None, None
    held = network.shapes.get(layer, {})
    if source.convention == "PyTorch":
        normalises = "kernel" not in held
        by_name = {"weight": "gamma" if normalises else "kernel", "bias": "beta" if normalises else "bias"} | _PYTORCH
    else:
        by_name = _KERAS_1 if source.convention == "Keras 1" else _KERAS
    return layer, by_name.get(tensor.variable, tensor.variable)


def _infer_kernel_order(targets, network):
    """Return the order of a file that does not say: the one in which its kernels have the network's shapes."""
    pairs = [
        (tensor.shape, network.shapes[layer]["kernel"])
        for tensor, layer, variable in targets
        if variable == "kernel" and len(tensor.shape) == 4 and "kernel" in network.shapes.get(layer, ())
    ]
    fits = {order: all(_stored_shape(wanted, order) == shape for shape, wanted in pairs) for order in ("HWIO", "OIHW")}
    return "OIHW" if fits["OIHW"] and not fits["HWIO"] else "HWIO"


@dataclasses.dataclass(frozen=True)
class _AxisChange:
    """How the values of one tensor change: from the file's order of axes to the network's."""

    source: object
    order: str
    flattened: tuple | None
    rank: int

    @property
    def transposes(self):
        is_torch = self.source.convention == "PyTorch"
        return (self.rank > 2 and self.order == "OIHW") or (self.rank == 2 and is_torch)

    @property
    def flips(self):
        return self.rank > 2 and self.source.flipped

    @property
    def vectors(self):
        known = {"OIHW": "CHW", "HWIO": "HWC"}[self.order] if self.source.convention == "Keras 1" else None
        return (known or self.source.vectors) if self.flattened else "HWC"

    def __call__(self, array):
        """Return the array in the network's order."""
        if self.transposes:
            array = np.transpose(array, (*range(2, array.ndim), 1, 0))
        if self.flips:
            array = array[::-1, ::-1]
        if self.vectors == "CHW":
            height, width, channels = self.flattened
            array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
        return array


def _stored_shape(shape, order):
    """Return how a file of that order has a kernel of `shape`, (H, W, I, O) or (I, O)."""
    return (*shape[:-3:-1], *shape[:-2]) if order == "OIHW" else shape


def _describe_misfit(tensor, wanted, step):
    """Return what keeps a tensor from its place, or None."""
    if tensor.dtype not in FLOATS:
        return f"expected floating point, received {tensor.dtype}"
    if step.vectors is None:
        return "expected a file that says how it flattens a map, received a network with channels first"
    stored = _stored_shape(wanted, "OIHW" if step.transposes else "HWIO")
    if tensor.shape == stored:
        return None
    turned = _stored_shape(wanted, "HWIO" if step.transposes else "OIHW")
    other = {2: ("(in, out)", "(out, in)"), 4: ("HWIO", "OIHW")}.get(len(wanted), ("", ""))[not step.transposes]
    hint = f", looks like {other}" if len(wanted) > 1 and tensor.shape == turned else ""
    return f"expected {stored}, received {tensor.shape}{hint}"


def _make_reader(tensor, step):
    return lambda: step(tensor.read())


def _describe_change(variable, fold, tensor, step):
    steps = []
    if fold:
        steps.append("multiplied into kernel and moving_mean" if variable == "gamma" else "taken off the moving_mean")
    if step.transposes:
        steps.append("OIHW to HWIO" if step.rank > 2 else "(out, in) to (in, out)")
    if step.flips:
        steps.append("flipped")
    if step.vectors == "CHW":
        steps.append("C,H,W to H,W,C")
    if tensor.dtype != "float32":
        steps.append(f"from {tensor.dtype}")
    return ", ".join(steps) or "as it is"


def _folding_layer(layer, variable, network):
    """Return the BatchNormalization that takes up what the network lacks: a gamma, or the bias before it; or None."""
    if variable == "gamma" and layer in network.convolutions:
        return layer
    if variable == "bias":
        return next((norm for norm, convolution in network.convolutions.items() if convolution == layer), None)
    return None


def fold_into_batch_norm(arrays, network):
    """Take up, in place, what the network has no variable for; the outputs in inference are the same.

    A bias before a normalisation shifts its mean: moving_mean - bias. A gamma after it scales what comes in:
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


# MERGED Weights of others by path: legacy Keras .h5, .safetensors and PyTorch state dictionaries into a built model.

READERS = {
    ".h5": third_party_files.open_legacy_h5,
    ".safetensors": third_party_files.open_safetensors,
    ".pt": third_party_files.open_pytorch,
    ".pth": third_party_files.open_pytorch,
}
# BatchNormalization's epsilon in PyTorch, where nobody chose another.
PYTORCH_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class WeightImport:
    """What became of a foreign file: whose convention it has, where each tensor went, and what to know about it."""

    convention: str
    rows: tuple[TensorPlacement, ...]
    notes: tuple[str, ...] = ()


def load_third_party_weights(model, path, layer_names=None, partial=False):
    """Set every weight of `model` from a foreign file, all checked before any is changed.

    Args:
        model: a built keras.Model of plain layers.
        path: pathlib.Path of the file; its ending says how it is read.
        layer_names: the model's table of foreign layer names; see `foreign_names`.
        partial: let the file hold more than the model has, as for a network without its top.

    Returns:
        `Import`.

    Raises:
        InputError: an unreadable file. A file that does not fit is a `Misfit` whose message names everything: weights
            without a tensor, tensors without a place, and those of another shape.
    """
    network, table = describe_network(model), layer_names or {}
    with READERS[path.suffix](path) as source:
        readers, rows, problems = place_tensors(source, network, table)
        if partial:
            problems.unplaced = []
        if problems:
            raise WeightsMismatchError(
                f"Expected {path.name!r} ({source.convention}, {len(source.tensors)} tensors) to hold the weights of "
                f"{model.name}. Received: {problems}"
            )
        arrays = {name: np.ascontiguousarray(read()) for name, read in readers.items()}
    fold_into_batch_norm(arrays, network)
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(arrays[layer.name, weight.name])
    return WeightImport(source.convention, tuple(rows), source.notes + _epsilon_note(source, rows, network))


def _epsilon_note(source, rows, network):
    """Return what to know where a PyTorch file of one's own has normalisations: their epsilon is not in it."""
    own = {row.layer for row in rows if row.layer and row.tensor.rpartition(".")[0].endswith(row.layer)}
    others = {network.epsilons[layer] for layer in own & set(network.epsilons)} - {PYTORCH_EPSILON}
    if source.convention != "PyTorch" or not others:
        return ()
    here = ", ".join(f"{epsilon:g}" for epsilon in sorted(others))
    return (f"the file does not hold BatchNormalization's epsilon: {here} here, by default {PYTORCH_EPSILON:g} there",)
