"""The inputs and outputs of a model, by the names that they get in a file's signature."""

import dataclasses
import re

from keras_nin.errors import InputError

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_]")
_HOW_TO = (
    "Make it functional: inputs = keras.Input((height, width, channels)); "
    "model = keras.Model(inputs, model.call(inputs))"
)


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a model: its name in a signature, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


def input_ports(model):
    """Return the `Port` of every input, in the model's order.

    Raises:
        InputError: a model that is no graph of layers, or an input of an open size or of integers.
    """
    _check_functional(model)
    ports = _ports(model.inputs, [tensor.name for tensor in model.inputs])
    for port, tensor in zip(ports, model.inputs, strict=True):
        if None in port.shape or not port.shape:
            hint = ". Give the size with --input-shape H,W,C" if len(port.shape) == 3 else ""
            raise InputError(
                f"Expected a model on inputs of a known shape. Received: {model.name!r} with input {port.name!r} "
                f"{port.shape}{hint}"
            )
        if "float" not in str(tensor.dtype):
            raise InputError(
                f"Expected a model on floating-point inputs. Received: {model.name!r} with input {port.name!r} of "
                f"{tensor.dtype}"
            )
    return ports


def output_ports(model):
    """Return the `Port` of every output, in the model's order."""
    _check_functional(model)
    return _ports(model.outputs, [tensor._keras_history.operation.name for tensor in model.outputs])


def _check_functional(model):
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        kind = "Sequential without an Input" if type(model).__name__ == "Sequential" else "a subclassed model"
        how = "Give it a keras.Input first" if kind.startswith("Sequential") else _HOW_TO
        raise InputError(
            f"Expected a Functional model, or a Sequential with an Input. Received: {model.name!r}, {kind}. {how}"
        )


def _ports(tensors, names):
    """Return the ports of Keras tensors: names that a signature takes, each once."""
    ports, seen = [], set()
    for tensor, name in zip(tensors, names, strict=True):
        clean = unique = _OTHER_CHARACTERS.sub("_", name)
        number = 1
        while unique in seen:
            unique, number = f"{clean}_{number}", number + 1
        seen.add(unique)
        ports.append(Port(unique, tuple(tensor.shape)[1:]))
    return tuple(ports)


def pack_inputs(model, arrays):
    """Return what a model takes, in the structure that it was built with.

    Args:
        model: a model with `input_ports`.
        arrays: array of its only input, or a dictionary of arrays by the names of the ports, or a list in their order.
    """
    import keras

    if isinstance(arrays, dict):
        arrays = [arrays[port.name] for port in input_ports(model)]
    elif not isinstance(arrays, list):
        return arrays
    structure = getattr(model, "_inputs_struct", None)
    if structure is None or len(arrays) == 1:
        return arrays[0] if len(arrays) == 1 else arrays
    return keras.tree.pack_sequence_as(structure, arrays)


def image_shape(model):
    """Return the (H, W, C) of a model with one input, which is an image.

    Raises:
        InputError: as `input_ports`, or several inputs, or one that is no image.
    """
    ports = input_ports(model)
    if len(ports) != 1 or len(ports[0].shape) != 3:
        received = ", ".join(f"{port.name!r} {port.shape}" for port in ports)
        raise InputError(
            f"Expected a model on images of a known (height, width, channels). Received: {model.name!r} with {received}"
        )
    return ports[0].shape
