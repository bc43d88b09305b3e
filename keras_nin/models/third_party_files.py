"""Weight files as named tensors: legacy Keras .h5, .npz, .safetensors, and PyTorch's .pt and .pth.

Only tensors are read: nothing in a file is executed, and, except in .npz, an array is read on demand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.errors import input_error
from keras_nin.models.pytorch_files import open_state_dict

if TYPE_CHECKING:
    import h5py

# The last part of a tensor's name tells the convention.
_PYTORCH_VARIABLES = frozenset({"weight", "running_mean", "running_var", "num_batches_tracked"})
_KERAS_VARIABLES = frozenset(
    {"kernel", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance", "weights", "biases"}
)
# What torch puts before the names of a network that it wraps: DataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Keras 1's ending of an array's name. Its `running_std` holds a variance.
_KERAS_1_VARIABLES = frozenset({"W", "b", "gamma", "beta", "running_mean", "running_std"})
# Keras keeps the optimizer's state in this group, beside the layers.
_OPTIMIZER_GROUP = "optimizer_weights/"
_MAX_ATTRIBUTE_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its name, the name's parts, shape and type as stored, and its values, read as float32."""

    name: str
    layer: str
    variable: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[np.float32]] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """An opened file: its tensors, and how its writer orders their values, None where the file does not say."""

    convention: str  # "Keras", "Keras 1" or "PyTorch"
    tensors: tuple[StoredTensor, ...]
    kernels: str | None = "HWIO"  # or "OIHW"
    vectors: str | None = "HWC"  # of a flattened map, or "CHW"; in Keras 1 as the kernels
    flipped: bool = False  # whether kernels are stored turned by 180 degrees, as Theano does
    notes: tuple[str, ...] = ()  # what the reader of a report should know


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of an .npz file of arrays ``<layer>/kernel``, ``<layer>/bias``, ... (HWIO)."""
    if not zipfile.is_zipfile(path):
        raise input_error(f"{str(path)!r} to hold weights", "not an .npz archive", path=path)
    tensors = []
    with np.load(path, allow_pickle=False) as file:
        for name, array in file.items():
            read = functools.partial(array.astype, np.float32)
            tensors.append(StoredTensor(name, *_split_name(name), array.shape, str(array.dtype), read))
        yield WeightSource("Keras", tuple(tensors))


@contextlib.contextmanager
def open_safetensors(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of a .safetensors file, named as PyTorch or as Keras does."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = []
        for name in file.keys():  # noqa: SIM118 - the handle is no mapping
            part = file.get_slice(name)
            dtype = _SAFETENSORS_TYPES.get(str(part.get_dtype()), str(part.get_dtype()))
            read = functools.partial(lambda name: file.get_tensor(name).astype(np.float32), name)
            tensors.append(StoredTensor(name, "", "", tuple(part.get_shape()), dtype, read))
        yield _identify_convention(path, tensors)


@contextlib.contextmanager
def open_pytorch(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of a state dictionary that torch.save wrote, alone or in a checkpoint.

    A pickle that would execute code is an `InputError`, and is not executed.
    """
    with open_state_dict(path) as tensors:
        yield _identify_convention(path, [StoredTensor(t.name, "", "", t.shape, t.dtype, t.read) for t in tensors])


def _identify_convention(path: pathlib.Path, tensors: Sequence[StoredTensor]) -> WeightSource:
    """Return the `WeightSource` of tensors whose names are not split yet, by the convention of the names."""
    prefix = next((text for text in _WRAPPERS if tensors and all(t.name.startswith(text) for t in tensors)), "")
    split = []
    for tensor in tensors:
        layer, variable = _split_name(tensor.name.removeprefix(prefix))
        split.append(dataclasses.replace(tensor, layer=layer, variable=variable))
    variables = {tensor.variable for tensor in split}
    is_pytorch, is_keras = bool(variables & _PYTORCH_VARIABLES), bool(variables & _KERAS_VARIABLES)
    if is_pytorch == is_keras:
        names = ", ".join(sorted(tensor.name for tensor in tensors)) or "no tensors"
        pytorch, keras = (", ".join(sorted(known)) for known in (_PYTORCH_VARIABLES, _KERAS_VARIABLES))
        expected = f"{path.name!r} to name tensors as PyTorch ({pytorch}) or as Keras ({keras})"
        raise input_error(expected, "both" if is_pytorch else f"neither, {names}", path=path)
    if is_keras:
        return WeightSource("Keras", tuple(split))
    notes = (f"the prefix {prefix!r} of every name is removed",) if prefix else ()
    return WeightSource("PyTorch", tuple(split), kernels="OIHW", vectors="CHW", notes=notes)


def _split_name(name: str) -> tuple[str, str]:
    """Return layer and variable of "layer/variable" or "layer.variable"."""
    layer, _, variable = name.rpartition("/" if "/" in name else ".")
    return layer, variable


def is_legacy_h5(path: pathlib.Path) -> bool:
    """Return whether the file at `path` has the layout of `open_legacy_h5` (False for anything that is no HDF5)."""
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return _legacy_root(file) is not None


@contextlib.contextmanager
def open_legacy_h5(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of an HDF5 file as Keras 1 and 2 wrote it, and Keras 3 writes whole models as .h5.

    The root (or the group `model_weights` of a whole model) lists its layers in the attribute `layer_names`; the group
    of each lists its arrays in `weight_names`. Keras 1 called them ``<layer>_W`` and ``<layer>_b``, Keras 2 and 3
    ``<layer>/kernel:0`` and ``<layer>/kernel``.
    """
    import h5py

    with h5py.File(path, "r") as file:
        root = _legacy_root(file)
        if root is None:
            expected = f"{path.name!r} to hold weights as Keras 1 and 2 store them (attribute layer_names)"
            received = "another HDF5 file. Weights as Keras 3 stores them have the ending .weights.h5"
            raise input_error(expected, received, path=path)
        yield _read_legacy(path, file, root)


def _legacy_root(file: h5py.File) -> h5py.Group | None:
    """Return the group that lists the layers."""
    import h5py

    groups = [file, file.get("model_weights")]
    names = ("layer_names", "layer_names0")
    listing = (group for group in groups if isinstance(group, h5py.Group) and any(n in group.attrs for n in names))
    return next(listing, None)


def _read_legacy(path: pathlib.Path, file: h5py.File, root: h5py.Group) -> WeightSource:
    import h5py

    tensors: list[StoredTensor] = []
    for layer in [*_read_strings(root, "layer_names"), "top_level_model_weights"]:
        if layer != "top_level_model_weights" or layer in root:
            tensors += _read_layer(path, root, layer)
    listed = {tensor.name for tensor in tensors}

    def collect_unlisted(name: str, item: object) -> None:  # so that nothing in a file is silently ignored
        if isinstance(item, h5py.Dataset) and not name.startswith(_OPTIMIZER_GROUP):
            tensor = _h5_tensor(item, name, "")
            tensors.extend([tensor] if tensor.name not in listed else [])

    root.visititems(collect_unlisted)
    # Whole models say how they order their axes, weights alone do not.
    config = "".join(_read_strings(file, "model_config"))
    backend = "".join(_read_strings(root, "backend") or _read_strings(file, "backend"))
    flipped = backend == "theano"
    if not any(tensor.variable in ("W", "running_std") for tensor in tensors):
        vectors = None if re.search(r'"data_format":\s*"channels_first"', config) else "HWC"
        return WeightSource("Keras", tuple(tensors), vectors=vectors, flipped=flipped)
    orders = set(re.findall(r'"dim_ordering":\s*"(th|tf)"', config))
    kernels = {("th",): "OIHW", ("tf",): "HWIO"}.get(tuple(orders))
    notes = () if backend else ("the file does not name its backend: if Theano wrote it, its kernels are flipped",)
    return WeightSource("Keras 1", tuple(tensors), kernels=kernels, vectors=None, flipped=flipped, notes=notes)


def _read_layer(path: pathlib.Path, root: h5py.Group, layer: str) -> list[StoredTensor]:
    """Return every array that a layer's group lists."""
    import h5py

    group = _h5_member(path, root, layer)
    names = _read_strings(group, "weight_names")
    stems = [re.sub(r":\d+$", "", name) for name in names]
    endings = [stem.removeprefix(f"{layer}_") for stem in stems]
    variables = [
        ending if ending in _KERAS_1_VARIABLES and ending != stem else stem.rsplit("/", 1)[-1]
        for stem, ending in zip(stems, endings, strict=True)
    ]
    nested = len(set(variables)) < len(variables)  # a network in the network: its layers are in the arrays' names
    tensors = []
    for name, stem, variable in zip(names, stems, variables, strict=True):
        owner = stem.split("/")[-2] if nested and "/" in stem else layer
        dataset = _h5_member(path, group, name)
        if not isinstance(dataset, h5py.Dataset):
            raise input_error(f"{path.name!r} to hold the array {name!r}", "something else there", path=path)
        tensors.append(_h5_tensor(dataset, owner, variable))
    return tensors


def _h5_tensor(dataset: h5py.Dataset, layer: str, variable: str) -> StoredTensor:
    name = str(dataset.name).removeprefix("/model_weights").lstrip("/")
    dtype = str(dataset.dtype)
    return StoredTensor(name, layer, variable, dataset.shape, dtype, lambda: dataset[()].astype(np.float32))


def _h5_member(path: pathlib.Path, group: h5py.Group, name: str) -> Any:
    member = group.get(name)
    if member is None:
        raise input_error(f"{path.name!r} to hold {name!r}, which it lists", "nothing there", path=path)
    return member


def _read_strings(group: h5py.Group, name: str) -> list[str]:
    """Return a list of strings that Keras stored as an attribute, in several where it is long."""
    attributes = [name] if name in group.attrs else []
    while f"{name}{len(attributes)}" in group.attrs and name not in attributes:
        attributes.append(f"{name}{len(attributes)}")
    strings: list[Any] = [text for part in attributes for text in np.atleast_1d(_read_attribute(group, part))]
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in strings]


def _read_attribute(group: h5py.Group, name: str) -> Any:
    stored = group.attrs.get_id(name)
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > _MAX_ATTRIBUTE_BYTES:
        raise input_error(f"attribute {name!r} of at most {_MAX_ATTRIBUTE_BYTES:,} bytes", f"{size:,}")
    return group.attrs[name]


# By the ending of the file; each yields the `WeightSource` of a path.
READERS: Mapping[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[WeightSource]]] = {
    ".npz": open_npz,
    ".h5": open_legacy_h5,
    ".safetensors": open_safetensors,
    ".pt": open_pytorch,
    ".pth": open_pytorch,
}
