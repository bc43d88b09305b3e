"""The one walker of Keras graphs: a model as the list of its calls, nested models and blocks opened; its inputs.

Recurrent layers are loops in it, which can be unrolled.
"""

import contextlib
import dataclasses
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keras_nin._compat import keras as compat
from keras_nin._compat.keras import count_uses as count_uses
from keras_nin._compat.keras import producer_of as producer_of
from keras_nin.errors import InputError

if TYPE_CHECKING:
    import keras

# The largest number of time steps that is unrolled: the converter takes about 0.1 s and the file about 6 KB for each.
_MAX_UNROLLED_STEPS = 1024
_UNROLL_TOLERANCE = 1e-5  # of the largest output: the steps are the same, but their sums may be in another order
# Layers that leave the range of pixels as it is.
_AUGMENTATIONS = ("Random", "RandAugment", "AugMix", "CutMix", "MixUp")
_KEEP_VALUES = frozenset(
    {"Resizing", "CenterCrop", "Cropping2D", "ZeroPadding2D", "Identity", "Dropout", "GaussianNoise", "Cast"}
)
_UNIT_LIMIT = 1.5  # a mean or deviation of pixels from 0 to 1 is below
_LARGEST_RESCALED = 16.0  # what 255 becomes where a network scales pixels itself; mostly 1 or 2
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_]")  # than a signature accepts
# Layers and operations behind an activation that leave its meaning: they move values, resize a map or do nothing.
_MOVING = frozenset(
    ("ActivityRegularization", "Cast", "Cropping2D", "Dropout", "Flatten", "Identity", "Permute", "Reshape", "Resizing")
    + ("Resize", "Squeeze", "Transpose", "UpSampling2D", "ExpandDims")
)
_ACTIVATIONS = frozenset(("softmax", "sigmoid", "tanh", "relu", "relu6", "softplus", "elu", "leakyrelu", "hardsigmoid"))


class TensorSlot:
    """Stands for one tensor between the calls of a trace."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, eq=False)
class GraphCall:
    """One call of a layer or of an operation of `keras.ops`.

    Attributes:
        path: names of the models and blocks around it, from the outside in, and its own.
        uses: for each name of the path, which call in its model it is: 1 for the first one.
        scope: the path as TensorFlow's name scopes have it: after a block the name of the model that it holds.
        args, kwargs: arguments of the call without `training` and None, with a `TensorSlot` for each tensor.
        inputs: the slots among the arguments.
        outputs: slots of what it returns.
        shapes: shapes of the outputs.
    """

    operation: "keras.Operation"
    path: tuple[str, ...]
    uses: tuple[int, ...]
    scope: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    shapes: tuple[tuple[int | None, ...], ...]

    @property
    def unique_path(self) -> tuple[str, ...]:
        """The path, with ``" (2)"`` behind a name that is called for the second time."""
        return tuple(name if use == 1 else f"{name} ({use})" for name, use in zip(self.path, self.uses, strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class GraphTrace:
    """A whole model; each call comes after those whose outputs it takes."""

    model: "keras.Model"
    inputs: tuple[TensorSlot, ...]
    calls: tuple[GraphCall, ...]
    outputs: tuple[TensorSlot, ...]

    @functools.cached_property
    def producers(self) -> dict[TensorSlot, GraphCall]:
        """The call that computes each slot; inputs of the model have none."""
        return {slot: call for call in self.calls for slot in call.outputs}

    @functools.cached_property
    def consumers(self) -> dict[TensorSlot, list[GraphCall]]:
        """The calls that take each slot, in order; a call that takes it twice is there twice."""
        consumers = defaultdict(list)
        for call in self.calls:
            for slot in call.inputs:
                consumers[slot].append(call)
        return consumers


def trace_model(model: "keras.Model") -> GraphTrace | None:
    """Return the calls of a Functional model, or of a Sequential one with an Input; None for any other model."""
    graph = graph_of(model)
    if graph is None:
        return None
    inputs = tuple(TensorSlot() for _ in graph.inputs)
    calls: list[GraphCall] = []
    outputs = _trace(graph, inputs, _Place(), calls)
    return GraphTrace(model, inputs, tuple(calls), tuple(outputs))


def trace_functional(model: "keras.Model") -> GraphTrace:
    """Return the calls of a model; raise `InputError` where it is no graph of layers."""
    trace = trace_model(model)
    if trace is not None:
        return trace
    if type(model).__name__ == "Sequential":
        problem = "Sequential without an Input. Add a keras.Input first"
    else:
        problem = (
            f"a subclassed model ({type(model).__name__}). Make it Functional: inputs = keras.Input(shape); "
            "model = keras.Model(inputs, model.call(inputs))"
        )
    name = getattr(model, "name", model)
    raise InputError(f"Expected a Functional model, or a Sequential model with an Input. Received: {name!r}, {problem}")


def graph_of(operation: "keras.Operation") -> "keras.Function | None":
    """Return the graph that a model, or a block of `keras_nin.layers`, runs; None for any other operation."""
    import keras

    model = getattr(operation, "inner", None)  # the model that a block holds
    if not isinstance(model, keras.Model):
        model = operation
    if isinstance(model, keras.Sequential):
        return compat.functional_of(model)
    return model if isinstance(model, keras.Function) else None


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in the nest of models a graph is traced."""

    path: tuple[str, ...] = ()
    uses: tuple[int, ...] = ()
    scope: tuple[str, ...] = ()


def _trace(
    graph: "keras.Function", inputs: tuple[TensorSlot, ...], place: _Place, calls: list[GraphCall]
) -> list[TensorSlot]:
    """Append the calls of `graph` on the slots `inputs`; return the slots of its outputs.

    Recursion follows the nesting of models only: chains of layers may be as long as Keras lets them be.
    """
    import keras

    slots = {id(tensor): slot for tensor, slot in zip(graph.inputs, inputs, strict=True)}
    uses: Counter[int] = Counter()
    for node in compat.nodes_in_order(graph):
        if node.is_input or any(id(tensor) not in slots for tensor in node.input_tensors):
            continue
        operation = node.operation
        uses[id(operation)] += 1
        here = _Place((*place.path, operation.name), (*place.uses, uses[id(operation)]), (*place.scope, operation.name))
        args, kwargs = node.arguments.fill_in(slots)
        kwargs.pop("training", None)  # which Keras 3 always takes from the call of the whole model
        taken = tuple(value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, TensorSlot))
        inside = graph_of(operation)
        if inside is None:
            outputs = [TensorSlot() for _ in node.outputs]
            kwargs = {key: value for key, value in kwargs.items() if value is not None}
            shapes = tuple(tuple(tensor.shape) for tensor in node.outputs)
            arguments = (args, kwargs, taken, tuple(outputs))
            calls.append(GraphCall(operation, here.path, here.uses, here.scope, *arguments, shapes))
        else:
            if getattr(operation, "inner", None) is not None:
                here = dataclasses.replace(here, scope=(*here.scope, inside.name))
            outputs = _trace(inside, taken, here, calls)
        slots.update(zip(map(id, node.outputs), outputs, strict=True))
    return [slots[id(tensor)] for tensor in graph.outputs]


def child_layers(layer: "keras.Layer") -> list["keras.Layer"]:
    """Return the layers directly in a model or layer, in the model's order."""
    import keras

    if isinstance(layer, keras.Model):
        return layer.layers
    return compat.flatten_layers(layer, include_self=False, recursive=False)


def iterate_layers(model: "keras.Model") -> Iterator["keras.Layer"]:
    """Yield the model itself, its layers, and the layers in those."""
    yield from compat.flatten_layers(model)


# What a model takes and gives


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model: its name in a signature, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


def is_quantize_aware(model: "keras.Model") -> bool:
    """Whether a model was built by `keras_nin.quantize_aware`."""
    return any(type(layer).__name__ == "ActivationRanges" for layer in getattr(model, "layers", ()))


def input_specs(model: "keras.Model") -> tuple[TensorSpec, ...]:
    """Return the `TensorSpec` of every input, in the model's order.

    Raises:
        InputError: the model is not Functional, an input has an open size, or an input takes integers.
    """
    trace_functional(model)
    specs = _tensor_specs(model.inputs, [tensor.name for tensor in model.inputs])
    for spec, tensor in zip(specs, model.inputs, strict=True):
        received = f"Received: {model.name!r} with input {spec.name!r}"
        if None in spec.shape or not spec.shape:
            hint = ". Pass `input_shape`" if len(spec.shape) == 3 else ""
            raise InputError(
                f"Expected a model whose input shapes are known. {received} {spec.shape}{hint}", received=spec.shape
            )
        if "float" not in str(tensor.dtype):
            raise InputError(f"Expected a model with floating-point inputs. {received} of {tensor.dtype}")
    return specs


@dataclasses.dataclass(frozen=True)
class InputScaling:
    """A layer at the start of a model that scales pixels: what it is, and the preset of the pixels that it expects."""

    layer: str
    preset: str


def find_input_scaling(model: "keras.Model") -> InputScaling | None:
    """Return the Rescaling or Normalization, or the division, that is the first to compute with an image.

    Augmentation and layers that only move values may come before it. Its constants say which pixels it expects: a
    Rescaling of 1/255 or a Normalization around 120 those from 0 to 255, a Rescaling of 2 those from 0 to 1. None where
    there is no such layer or its constants are of neither.
    """
    trace = trace_model(model)
    if trace is None or len(trace.inputs) != 1 or len(model.inputs[0].shape) != 4:
        return None
    slot = trace.inputs[0]
    while len(calls := trace.consumers[slot]) == 1 and len(calls[0].outputs) == 1:
        name = type(calls[0].operation).__name__
        if not name.startswith(_AUGMENTATIONS) and name not in _KEEP_VALUES:
            preset = _expected_pixels(calls[0])
            return InputScaling(f"{name} {'/'.join(calls[0].path)!r}", preset) if preset else None
        slot = calls[0].outputs[0]
    return None


def _expected_pixels(call: GraphCall) -> str | None:
    """Return "raw" where a call scales pixels from 0 to 255, "unit" where from 0 to 1, None where it says neither."""
    import numpy as np

    operation: Any = call.operation
    name = type(operation).__name__
    if name == "Normalization" and not operation.invert and operation.mean is not None:
        mean, variance = (np.asarray(value) for value in (operation.mean, operation.variance))
        if mean.max() > _UNIT_LIMIT or variance.max() > _UNIT_LIMIT**2:
            return "raw"
        return "unit" if 0 < mean.min() <= mean.max() < 1 else None
    constant = next((value for value in call.args if isinstance(value, int | float)), None)
    if name == "Rescaling":
        factor = float(np.max(np.abs(operation.scale)))
    elif name == "Multiply" and constant:
        factor = abs(constant)
    elif name in ("TrueDivide", "Divide") and constant and isinstance(call.args[0], TensorSlot):
        factor = abs(1 / constant)
    else:
        return None
    if factor > 1:
        return "unit"
    return "raw" if 255 * factor <= _LARGEST_RESCALED else None


def output_specs(model: "keras.Model") -> tuple[TensorSpec, ...]:
    """Return the `TensorSpec` of every output, in the model's order."""
    trace_functional(model)
    return _tensor_specs(model.outputs, [producer_of(tensor).name for tensor in model.outputs])


def describe_outputs(model: "keras.Model") -> tuple[tuple[str, tuple[int | None, ...], str | None], ...]:
    """Return (name, shape without the batch, activation) of each output, as `keras_nin.heads.make_heads` takes them.

    The activation closes the output, in lower case such as "softmax"; None where there is none. Layers that only move
    values, or resize a map, are passed over. Integers are "argmax", with the shape of the scores that they choose from:
    (..., classes), None for an unknown number.
    """
    described = []
    for spec, call, is_index in zip(output_specs(model), _closing_calls(model), _is_index(model), strict=True):
        if is_index:
            described.append((spec.name, (*without_last_one(spec.shape), _count_choices(call)), "argmax"))
        else:
            described.append((spec.name, spec.shape, None if call is None else _activation_of(call.operation)))
    return tuple(described)


@dataclasses.dataclass(frozen=True, eq=False)
class ClosingChoice:
    """An operation that computes an output of integers, such as an argmax, and the activation before it, or None."""

    operation: "keras.Operation"
    activation: str | None


def closing_choices(model: "keras.Model") -> tuple[ClosingChoice | None, ...]:
    """Return what computes each output of integers; None for other outputs."""
    trace, choices = trace_functional(model), []
    for call, is_index in zip(_closing_calls(model), _is_index(model), strict=True):
        before = _computing_call(trace, call.inputs[0]) if call is not None and call.inputs else None
        activation = None if before is None else _activation_of(before.operation)
        choices.append(ClosingChoice(call.operation, activation) if call is not None and is_index else None)
    return tuple(choices)


def _is_index(model: "keras.Model") -> list[bool]:
    return ["float" not in str(tensor.dtype) for tensor in model.outputs]


def _closing_calls(model: "keras.Model") -> list[GraphCall | None]:
    """Return the call that computes each output, behind those that only move or cast values; None for an input."""
    trace = trace_functional(model)
    return [_computing_call(trace, slot) for slot in trace.outputs]


def _computing_call(trace: GraphTrace, slot: TensorSlot) -> GraphCall | None:
    call = trace.producers.get(slot)
    while call is not None and type(call.operation).__name__ in _MOVING and call.inputs:
        call = trace.producers.get(call.inputs[0])
    return call


def _count_choices(call: GraphCall | None) -> int | None:
    """Return from how many values an argmax over the last axis chooses; None for any other operation."""
    operation: Any = None if call is None else call.operation
    scores = getattr(operation, "input", None)  # an operation that is called twice has none
    if type(operation).__name__ != "Argmax" or scores is None:
        return None
    return scores.shape[-1] if operation.axis in (-1, len(scores.shape) - 1) else None


def without_last_one(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return a shape without a last axis of length 1."""
    return shape[:-1] if shape[-1:] == (1,) else shape


def _activation_of(operation: "keras.Operation") -> str | None:
    kind = type(operation).__name__.lower()
    if kind in _ACTIVATIONS:
        return kind
    name = getattr(getattr(operation, "activation", None), "__name__", "linear")
    return None if name == "linear" else name


def _tensor_specs(tensors: "Sequence[keras.KerasTensor]", names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Return the specs of Keras tensors, under names that a signature accepts, each once."""
    specs: dict[str, TensorSpec] = {}
    for tensor, name in zip(tensors, names, strict=True):
        legal = unique = _OTHER_CHARACTERS.sub("_", name)
        number = 1
        while unique in specs:
            unique, number = f"{legal}_{number}", number + 1
        specs[unique] = TensorSpec(unique, tuple(tensor.shape)[1:])
    return tuple(specs.values())


def pack_inputs(model: "keras.Model", arrays: Any) -> Any:
    """Return what a model takes, in the structure that it was built with.

    `arrays` is that of its only input; or arrays or Keras tensors in a dictionary by the names of `input_specs`, or in
    a list in their order.
    """
    import keras

    if isinstance(arrays, dict):
        arrays = [arrays[spec.name] for spec in input_specs(model)]
    elif not isinstance(arrays, list):
        return arrays
    structure = compat.input_structure(model)
    if structure is None or len(arrays) == 1:
        return arrays[0] if len(arrays) == 1 else arrays
    return keras.tree.pack_sequence_as(structure, arrays)


# Recurrent layers


def find_loops(model: "keras.Model") -> "tuple[keras.layers.RNN, ...]":
    """Return the recurrent layers of a model that are loops and can be unrolled: their number of steps is known."""
    import keras

    layers: list[Any] = [layer for layer in iterate_layers(model) if isinstance(layer, keras.layers.RNN)]
    loops = [layer for layer in layers if layer.built and not layer.unroll]
    configs = [layer.get_build_config() for layer in loops]
    shapes = [config.get("input_shape") or config["shapes_dict"]["sequences_shape"] for config in configs]
    steps = [shape[1] for shape in shapes]
    fits = None not in steps and sum(filter(None, steps)) <= _MAX_UNROLLED_STEPS
    return tuple(loops) if fits else ()


@contextlib.contextmanager
def unroll_loops(model: "keras.Model", loops: "Sequence[keras.layers.RNN]") -> Iterator[None]:
    """Let recurrent layers of a model compute step after step instead of in a loop while the block runs.

    Raises:
        RuntimeError: the outputs on random input are not the same, which is an error of this function.
    """
    import keras
    import numpy as np

    if not loops:
        yield
        return
    generator = np.random.default_rng(0)
    shapes: list[Any] = [(2, *spec.shape) for spec in input_specs(model)]
    arrays = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]

    def outputs() -> list[Any]:
        return [np.asarray(value) for value in keras.tree.flatten(model(pack_inputs(model, arrays), training=False))]

    expected = outputs()
    for layer in loops:
        layer.unroll = True
    try:
        for before, after in zip(expected, outputs(), strict=True):
            if not np.abs(after - before).max() <= _UNROLL_TOLERANCE * np.abs(before).max():
                raise RuntimeError(
                    f"The unrolled {model.name!r} has other outputs. This is an error, please report it."
                )
        yield
    finally:
        for layer in loops:
            layer.unroll = False
