"""A Keras 3 model as a flat list of calls: nested models and blocks opened, in the order of computation."""

import dataclasses
import re
from typing import Any

from keras_nin.errors import InputError

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")


class Slot:
    """Stands for one tensor between the calls."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
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
    outputs: tuple[Slot, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A whole model.

    Attributes:
        model: the keras.Model.
        inputs, outputs: a `Slot` for each, in the model's order.
        steps: tuple of `Step`, each after those that it needs.
        names: a name for each operation by its id: unique, and one that TensorFlow accepts.
    """

    model: Any
    inputs: tuple[Slot, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Slot, ...]
    names: dict[int, str]

    def name(self, operation, part=""):
        """Return the name of an operation, or a free one of a `part` of what it becomes."""
        name = self.names[id(operation)]
        if part:
            taken = {*self.names.values(), *map(clean, input_names(self.model))}
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


def flatten(model):
    """Return the `Plan` of a keras.Model.

    Raises:
        InputError: it is no graph of layers.
    """
    import keras

    if not isinstance(model, keras.Model) or graph_of(model) is None:
        kind = type(model).__name__
        raise InputError(
            "Expected a Functional Keras 3 model, or a Sequential one with an Input. "
            f"Received: {getattr(model, 'name', model)!r} ({kind}). Call its layers on a keras.Input and build "
            "keras.Model(inputs, outputs) of the result"
        )
    inputs = tuple(Slot() for _ in model.inputs)
    steps = []
    outputs = _trace(graph_of(model), inputs, (), steps)
    return Plan(model, inputs, tuple(steps), tuple(outputs), _names(model, steps))


def graph_of(operation):
    """Return the graph that a model, or a block of `keras_nin.layers`, runs; None for any other operation."""
    import keras

    inner = getattr(operation, "inner", None)
    model = inner if isinstance(inner, keras.Model) else operation
    if not isinstance(model, keras.Model):
        return None
    graph = getattr(model, "_functional", model)  # what a Sequential builds once it knows its input
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _trace(graph, inputs, path, steps):
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
            inside = graph_of(node.operation)
            if inside is None:
                outputs = tuple(Slot() for _ in node.outputs)
                kwargs = {key: value for key, value in kwargs.items() if value is not None}
                steps.append(Step(node.operation, here, args, kwargs, outputs))
            else:
                given = [each for each in keras.tree.flatten((args, kwargs)) if isinstance(each, Slot)]
                outputs = _trace(inside, given, here, steps)
            slots.update(zip(map(id, node.outputs), outputs, strict=True))
    return [slots[id(tensor)] for tensor in graph.outputs]


def _names(model, steps):
    """Return a unique legal name of each operation: its own where no other has it, else its path."""
    paths = {id(step.operation): step.path for step in reversed(steps)}
    paths = {id(step.operation): paths[id(step.operation)] for step in steps}
    taken = {clean(name) for name in input_names(model)}
    owners = {}
    for key, path in paths.items():
        owners.setdefault(clean(path[-1]), []).append(key)
    names = {}
    for key, path in sorted(paths.items(), key=lambda item: len(item[1])):  # the outermost keep their names
        own = clean(path[-1])
        name = own if len(owners[own]) == 1 or len(path) == 1 else clean("_".join(path))
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


def clean(name):
    """Return `name` with what TensorFlow refuses in the name of a scope replaced."""
    name = _OTHER_CHARACTERS.sub("_", name)
    return name if re.match("[A-Za-z0-9]", name) else f"L{name}"
