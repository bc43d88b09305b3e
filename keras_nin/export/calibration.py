"""The inputs and outputs of a model, by the names that they get in a file's signature."""

import dataclasses
import re
from typing import Any

import numpy as np

from keras_nin.data import split_image_shape
from keras_nin.errors import InputError

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_]")
_FUNCTIONAL_HINT = (
    "Make it functional: inputs = keras.Input((height, width, channels)); "
    "model = keras.Model(inputs, model.call(inputs))"
)


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model: its name in a signature, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


def input_specs(model):
    """Return the `Port` of every input, in the model's order.

    Raises:
        InputError: a model that is no graph of layers, or an input of an open size or of integers.
    """
    _check_functional(model)
    ports = _tensor_specs(model.inputs, [tensor.name for tensor in model.inputs])
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


def output_specs(model):
    """Return the `Port` of every output, in the model's order."""
    _check_functional(model)
    return _tensor_specs(model.outputs, [tensor._keras_history.operation.name for tensor in model.outputs])


def _check_functional(model):
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        kind = "Sequential without an Input" if type(model).__name__ == "Sequential" else "a subclassed model"
        how = "Give it a keras.Input first" if kind.startswith("Sequential") else _FUNCTIONAL_HINT
        raise InputError(
            f"Expected a Functional model, or a Sequential with an Input. Received: {model.name!r}, {kind}. {how}"
        )


def _tensor_specs(tensors, names):
    """Return the ports of Keras tensors: names that a signature takes, each once."""
    ports, seen = [], set()
    for tensor, name in zip(tensors, names, strict=True):
        clean = unique = _OTHER_CHARACTERS.sub("_", name)
        number = 1
        while unique in seen:
            unique, number = f"{clean}_{number}", number + 1
        seen.add(unique)
        ports.append(TensorSpec(unique, tuple(tensor.shape)[1:]))
    return tuple(ports)


def pack_inputs(model, arrays):
    """Return what a model takes, in the structure that it was built with.

    Args:
        model: a model with `input_ports`.
        arrays: array of its only input, or a dictionary of arrays by the names of the ports, or a list in their order.
    """
    import keras

    if isinstance(arrays, dict):
        arrays = [arrays[port.name] for port in input_specs(model)]
    elif not isinstance(arrays, list):
        return arrays
    structure = getattr(model, "_inputs_struct", None)
    if structure is None or len(arrays) == 1:
        return arrays[0] if len(arrays) == 1 else arrays
    return keras.tree.pack_sequence_as(structure, arrays)


def image_input_shape(model):
    """Return the (H, W, C) of a model with one input, which is an image.

    Raises:
        InputError: as `input_ports`, or several inputs, or one that is no image.
    """
    ports = input_specs(model)
    if len(ports) != 1 or len(ports[0].shape) != 3:
        received = ", ".join(f"{port.name!r} {port.shape}" for port in ports)
        raise InputError(
            f"Expected a model on images of a known (height, width, channels). Received: {model.name!r} with {received}"
        )
    return ports[0].shape


# MERGED Representative images: which, from where, and their identity.


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The images that set the ranges of a quantised network.

    Attributes:
        source: dataset name, folder or file that they come from.
        images: float32 (N, H, W, C), as the network takes them; of several inputs a dictionary of arrays (N, ...).
        preprocessing: how they were made from pixels, as a dictionary.
        seed: of the choice among the images of the calibration split.
        sha256: over the original pixels, in order.
        names: what each image is called in its source: a path, or its number.
        noise: whether they are random numbers: good to measure the time that a file takes, and nothing else.
    """

    source: str
    images: Any = dataclasses.field(repr=False)
    preprocessing: dict
    seed: int
    sha256: str
    names: tuple = dataclasses.field(default=(), repr=False)
    noise: bool = False

    @property
    def count(self):
        """How many images."""
        return len(next(iter(self.images.values())) if isinstance(self.images, dict) else self.images)

    def to_json(self):
        """Return the record without the images."""
        return {
            "source": self.source,
            "count": self.count,
            "sha256": self.sha256,
            "seed": self.seed,
            "preprocessing": self.preprocessing,
            "latency_only": self.noise,
            "images": list(self.names),
        }


def load_calibration(dataset, input_shape, *, count=100, seed=0, preprocessing=None):
    """Take calibration images from the calibration split of a dataset.

    Args:
        dataset: `keras_nin.data.Dataset`.
        input_shape: the network's (H, W, C), or the shapes of its inputs by name.
        count: how many; all of the split where it has fewer.
        seed: of the choice.
        preprocessing: `keras_nin.data.Preprocessing`; None takes the dataset's own.

    Returns:
        `Calibration`.

    Raises:
        InputError: the split is empty, `count` is below 1, or an image cannot be read.
    """
    preprocessing = preprocessing or dataset.preprocessing
    indices = dataset.select("calibration", count, seed)
    return Calibration(
        source=dataset.name,
        images=dataset.load(indices, *split_image_shape(input_shape), preprocessing),
        preprocessing=preprocessing.to_json() if preprocessing else None,
        seed=seed,
        sha256=dataset.digest(indices),
        names=tuple(dataset.names_of(indices)),
        noise=dataset.noise,
    )


def check_samples(samples, ports):
    """Return calibration samples as a dictionary from input name to float32 (N, ...).

    Args:
        samples: array-like (N, ...) for a model with one input, or a dictionary of them by input name.
        ports: `keras_nin.export.calibration.TensorSpec` of every input.

    Raises:
        InputError: none, other names, different numbers of samples, another shape, or not all finite numbers.
    """
    if not isinstance(samples, dict):
        if len(ports) > 1:
            names = ", ".join(repr(port.name) for port in ports)
            raise InputError(f"Expected calibration arrays by the names of the inputs ({names}). Received: one array")
        samples = {ports[0].name: samples}
    names = [port.name for port in ports]
    if set(samples) != set(names):
        raise InputError(f"Expected calibration arrays for the inputs {names}. Received: {list(samples)}")
    arrays = {port.name: _check_sample_array(samples[port.name], port) for port in ports}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"Expected as many calibration samples for each input. Received: {counts}")
    return arrays


def _check_sample_array(array, port):
    kind = "images" if len(port.shape) == 3 else f"samples of {port.name!r}"
    expected = f"calibration {kind} ({', '.join(map(str, ('N', *port.shape)))})"
    if array is None:
        raise InputError(f"Expected {expected}. Received: none")
    try:
        array = np.asarray(array, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"Expected {expected}. Received: {type(array).__name__} of other things") from None
    if array.ndim != 1 + len(port.shape) or len(array) == 0 or array.shape[1:] != port.shape:
        raise InputError(f"Expected {expected}. Received: shape {array.shape}")
    damaged = int((~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))).sum())
    if damaged:
        raise InputError(f"Expected {expected} of finite numbers. Received: NaN or infinity in {damaged} of them")
    return array
