"""The translation: from a foreign file's names and orders of axes to those of a network's layers.

A model declares one table of foreign layer names. Its values are the name of the model's layer, None for a layer that
has no place here and needs none (as auxiliary classifiers, which serve training alone), or a tuple of the model's
layers for a key like "conv2d", which Keras numbers: conv2d_1, conv2d_2, ..., starting anywhere. The names of a model's
own layers always stand for themselves.
"""

import dataclasses
import re

import numpy as np

# Tensors that are declared to be no weights.
COUNTERS = frozenset({"num_batches_tracked"})
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_KERAS = {"weights": "kernel", "biases": "bias", "depthwise_kernel": "kernel"}
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_PYTORCH = {"running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclasses.dataclass(frozen=True)
class Placed:
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
class Problems:
    """What does not fit, each a list of descriptions."""

    missing: list = dataclasses.field(default_factory=list)
    unplaced: list = dataclasses.field(default_factory=list)
    unfit: list = dataclasses.field(default_factory=list)

    def __bool__(self):
        return bool(self.missing or self.unplaced or self.unfit)

    def __str__(self):
        kinds = ((self.missing, "missing"), (self.unfit, "unfit"), (self.unplaced, "without a place"))
        return "; ".join(f"{len(found)} {what}: {', '.join(found)}" for found, what in kinds if found)


def resolve(table, layers, own):
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


def translate(source, network, table):
    """Return what a file's tensors become in a network.

    Args:
        source: `foreign_files.Source`.
        network: `foreign_graph.Network`.
        table: the model's table; see the head of this file.

    Returns:
        ({(layer, variable): function that returns the array}, list of `Placed`, `Problems`). With problems, the first
        is incomplete; no values have been read.
    """
    names = resolve(table, [tensor.layer for tensor in source.tensors], network.shapes)
    targets = [(tensor, *_target(tensor, source, names, network)) for tensor in source.tensors]
    order = source.kernels or _order(targets, network)
    readers, rows, problems = {}, [], Problems()
    for tensor, layer, variable in targets:
        if tensor.layer in names and (layer is None or tensor.variable in COUNTERS):
            why = "a counter of training steps" if tensor.variable in COUNTERS else "used in training alone"
            rows.append(Placed(tensor.name, tensor.shape, None, None, f"left out: {why}"))
            continue
        fold = None if variable in network.shapes.get(layer, ()) else _fold(layer, variable, network)
        if layer is None or (variable not in network.shapes.get(layer, ()) and fold is None):
            problems.unplaced.append(f"{tensor.name} {tensor.shape}")
        elif (layer, variable) in readers:
            problems.unfit.append(f"{tensor.name}, a second tensor for {layer}/{variable}")
        else:
            wanted = network.shapes[layer][variable] if fold is None else network.shapes[fold]["moving_mean"]
            step = _Step(source, order, network.flattened.get(layer) if variable == "kernel" else None, len(wanted))
            problem = _unfit(tensor, wanted, step)
            if problem:
                problems.unfit.append(f"{tensor.name} for {layer}/{variable}, {problem}")
            readers[layer, variable] = _reading(tensor, step)
            rows.append(Placed(tensor.name, tensor.shape, layer, variable, _change(variable, fold, tensor, step)))
    wanted = {(layer, variable): shape for layer, held in network.shapes.items() for variable, shape in held.items()}
    problems.missing = [f"{'/'.join(name)} {shape}" for name, shape in wanted.items() if name not in readers]
    return readers, rows, problems


def _target(tensor, source, names, network):
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


def _order(targets, network):
    """Return the order of a file that does not say: the one in which its kernels have the network's shapes."""
    pairs = [
        (tensor.shape, network.shapes[layer]["kernel"])
        for tensor, layer, variable in targets
        if variable == "kernel" and len(tensor.shape) == 4 and "kernel" in network.shapes.get(layer, ())
    ]
    fits = {order: all(_stored(wanted, order) == shape for shape, wanted in pairs) for order in ("HWIO", "OIHW")}
    return "OIHW" if fits["OIHW"] and not fits["HWIO"] else "HWIO"


@dataclasses.dataclass(frozen=True)
class _Step:
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


def _stored(shape, order):
    """Return how a file of that order has a kernel of `shape`, (H, W, I, O) or (I, O)."""
    return (*shape[:-3:-1], *shape[:-2]) if order == "OIHW" else shape


def _unfit(tensor, wanted, step):
    """Return what keeps a tensor from its place, or None."""
    if tensor.dtype not in FLOATS:
        return f"expected floating point, received {tensor.dtype}"
    if step.vectors is None:
        return "expected a file that says how it flattens a map, received a network with channels first"
    stored = _stored(wanted, "OIHW" if step.transposes else "HWIO")
    if tensor.shape == stored:
        return None
    turned = _stored(wanted, "HWIO" if step.transposes else "OIHW")
    other = {2: ("(in, out)", "(out, in)"), 4: ("HWIO", "OIHW")}.get(len(wanted), ("", ""))[not step.transposes]
    hint = f", looks like {other}" if len(wanted) > 1 and tensor.shape == turned else ""
    return f"expected {stored}, received {tensor.shape}{hint}"


def _reading(tensor, step):
    return lambda: step(tensor.read())


def _change(variable, fold, tensor, step):
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


def _fold(layer, variable, network):
    """Return the BatchNormalization that takes up what the network lacks: a gamma, or the bias before it; or None."""
    if variable == "gamma" and layer in network.convolutions:
        return layer
    if variable == "bias":
        return next((norm for norm, convolution in network.convolutions.items() if convolution == layer), None)
    return None


def fold(arrays, network):
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
