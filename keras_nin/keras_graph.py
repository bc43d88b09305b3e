"""The one walker of Keras graphs: a model as the list of its calls, nested models and blocks opened."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_nin._compat import keras as compat
from keras_nin._compat.keras import count_uses as count_uses
from keras_nin._compat.keras import producer_of as producer_of

if TYPE_CHECKING:
    import keras


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
    """

    operation: "keras.Operation"
    path: tuple[str, ...]
    uses: tuple[int, ...]
    scope: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]

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
            calls.append(GraphCall(operation, here.path, here.uses, here.scope, args, kwargs, taken, tuple(outputs)))
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
