"""What a model takes: its inputs and outputs by name, and the samples that calibrate it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin._compat.keras import input_structure, producer_of
from keras_nin.data import split_image_shape
from keras_nin.errors import InputError
from keras_nin.keras_graph import GraphTrace, trace_model

if TYPE_CHECKING:
    import keras
    from numpy.typing import ArrayLike

    from keras_nin.data import Dataset, Preprocessing

    Samples = ArrayLike | Mapping[str, ArrayLike]

_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_]")


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model: its name in a signature, and its shape without the batch."""

    name: str
    shape: tuple[int | None, ...]


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


def output_specs(model: "keras.Model") -> tuple[TensorSpec, ...]:
    """Return the `TensorSpec` of every output, in the model's order."""
    trace_functional(model)
    return _tensor_specs(model.outputs, [producer_of(tensor).name for tensor in model.outputs])


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

    Args:
        model: a Functional model.
        arrays: the array of its only input; or arrays or Keras tensors in a dictionary by the names of `input_specs`,
            or in a list in their order.
    """
    import keras

    if isinstance(arrays, dict):
        arrays = [arrays[spec.name] for spec in input_specs(model)]
    elif not isinstance(arrays, list):
        return arrays
    structure = input_structure(model)
    if structure is None or len(arrays) == 1:
        return arrays[0] if len(arrays) == 1 else arrays
    return keras.tree.pack_sequence_as(structure, arrays)


def image_input_shape(model: "keras.Model") -> tuple[int, int, int]:
    """Return the (H, W, C) of a model whose only input is an image; `InputError` as `input_specs`, or for another."""
    from keras_nin.train.training import get_image_shape

    input_specs(model)
    return get_image_shape(model)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The samples that set the ranges of a quantized network.

    Attributes:
        source: name of the dataset, folder or file that they come from.
        images: float32 (N, H, W, C), as the network takes them; for several inputs a dictionary of arrays (N, ...).
        preprocessing: how they were made from pixels, as a dictionary; None for arrays taken as they are.
        seed: of the choice among the images of the calibration split.
        sha256: over the original pixels, in order.
        names: what each image is called in its source: a path, or its number.
        noise: whether they are random numbers, which are only good for measuring latency.
    """

    source: str
    images: Any = dataclasses.field(repr=False)
    preprocessing: dict[str, Any] | None
    seed: int
    sha256: str
    names: tuple[str | int, ...] = dataclasses.field(default=(), repr=False)
    noise: bool = False

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.images.values())) if isinstance(self.images, dict) else self.images)

    def to_json(self) -> dict[str, Any]:
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


def load_calibration(
    dataset: "Dataset",
    input_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    *,
    count: int = 100,
    seed: int = 0,
    preprocessing: "Preprocessing | None" = None,
) -> Calibration:
    """Load calibration images from the calibration split of a dataset.

    Args:
        dataset: `keras_nin.data.Dataset`.
        input_shape: the network's (H, W, C), or the shapes of its inputs by name.
        count: how many images; all of the split where it has fewer.
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


def check_samples(samples: "Samples | None", specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Return calibration samples as float32 arrays (N, ...) by input name.

    Args:
        samples: array-like (N, ...) for a model with one input, or a dictionary of them by input name.
        specs: the `TensorSpec` of every input.

    Raises:
        InputError: no samples, other names, different numbers of samples, another shape, or NaN or infinity.
    """
    names = [spec.name for spec in specs]
    if len(specs) > 1 and not isinstance(samples, Mapping):
        listed = ", ".join(map(repr, names))
        raise _calibration_error(f"Expected calibration arrays by input name ({listed}). Received: one array")
    by_name: dict[str, Any] = dict(samples) if isinstance(samples, Mapping) else {names[0]: samples}
    if set(by_name) != set(names):
        raise _calibration_error(f"Expected calibration arrays for the inputs {names}. Received: {list(by_name)}")
    arrays = {spec.name: _check_sample_array(by_name[spec.name], spec) for spec in specs}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise _calibration_error(f"Expected the same number of calibration samples for each input. Received: {counts}")
    return arrays


def _check_sample_array(samples: Any, spec: TensorSpec) -> np.ndarray:
    kind = "images" if len(spec.shape) == 3 else f"samples of {spec.name!r}"
    expected = f"Expected calibration {kind} ({', '.join(map(str, ('N', *spec.shape)))})"
    if samples is None:
        raise _calibration_error(f"{expected}. Received: none")
    try:
        array = np.asarray(samples, np.float32)
    except (TypeError, ValueError):
        raise _calibration_error(f"{expected}. Received: {type(samples).__name__} of other things") from None
    if array.ndim != 1 + len(spec.shape) or len(array) == 0 or array.shape[1:] != spec.shape:
        raise _calibration_error(f"{expected}. Received: shape {array.shape}")
    not_finite = int((~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))).sum())
    if not_finite:
        raise _calibration_error(f"{expected} of finite numbers. Received: NaN or infinity in {not_finite} of them")
    return array


def _calibration_error(message: str) -> InputError:
    return InputError(message, argument="calibration")
