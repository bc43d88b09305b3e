"""Weight files as named tensors: legacy Keras .h5, .npz, .safetensors, and PyTorch's .pt and .pth.

Only tensors are read: nothing in a file is executed, and, except in .npz, an array is read when its values are asked
for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from keras_nin.errors import InputError

if TYPE_CHECKING:
    import h5py

# The last part of a tensor's name tells the convention.
PYTORCH_VARIABLES = frozenset({"weight", "running_mean", "running_var", "num_batches_tracked"})
KERAS_VARIABLES = frozenset(
    {"kernel", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance", "weights", "biases"}
)
# What torch puts before the names of a network that it wraps: DataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# Where training scripts keep the state dictionary in a checkpoint.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Keras 1's ending of an array's name. Its `running_std` holds a variance.
_KERAS_1_VARIABLES = frozenset({"W", "b", "gamma", "beta", "running_mean", "running_std"})
# Keras keeps the optimizer's state in this group, beside the layers.
_OPTIMIZER_GROUP = "optimizer_weights"
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
    """An opened file: its tensors, and how its writer orders their values.

    Attributes:
        convention: "Keras", "Keras 1" or "PyTorch".
        tensors: all of them.
        kernels: "HWIO" or "OIHW"; None where the file does not say.
        vectors: order of a flattened map, "HWC" or "CHW"; None where the file does not say. In Keras 1 it is that of
            the kernels.
        flipped: whether kernels are stored turned by 180 degrees, as Theano does.
        notes: what the reader of a report should know.
    """

    convention: str
    tensors: tuple[StoredTensor, ...]
    kernels: str | None = "HWIO"
    vectors: str | None = "HWC"
    flipped: bool = False
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of an .npz file of arrays ``<layer>/kernel``, ``<layer>/bias``, ... (HWIO)."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"Expected {str(path)!r} to hold weights. Received: not an .npz archive", path=path)
    with np.load(path, allow_pickle=False) as file:
        yield WeightSource("Keras", tuple(_array_tensor(name, file[name]) for name in file.files))


def _array_tensor(name: str, array: npt.NDArray[Any]) -> StoredTensor:
    return StoredTensor(name, *_split_name(name), array.shape, str(array.dtype), lambda: array.astype(np.float32))


@contextlib.contextmanager
def open_safetensors(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of a .safetensors file, named as PyTorch or as Keras does."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = []
        for name in file.keys():  # noqa: SIM118 - the handle is no mapping
            part = file.get_slice(name)
            dtype = str(part.get_dtype())
            tensors.append(
                StoredTensor(
                    name,
                    "",
                    "",
                    tuple(part.get_shape()),
                    _SAFETENSORS_TYPES.get(dtype, dtype),
                    lambda name=name: file.get_tensor(name).astype(np.float32),
                )
            )
        yield _identify_convention(path, tensors)


@contextlib.contextmanager
def open_pytorch(path: pathlib.Path) -> Iterator[WeightSource]:
    """Yield the `WeightSource` of a state dictionary that torch.save wrote, alone or in a checkpoint.

    A pickle that would execute code is an `InputError`, and is not executed.
    """
    yield _identify_convention(path, [_torch_tensor(path, *item) for item in _read_state_dict(path).items()])


def _read_state_dict(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"Expected PyTorch to be installed to read {path.name!r}. Received: none. "
            "Use: pip install 'keras-nin[torch]'",
            path=path,
        ) from None
    _check_uncompressed(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        received = "a damaged file, or one of another kind"
        if any(word in str(error) for word in ("GLOBAL", "Unsupported", "unsupported")):
            received = (
                "a pickle of more than tensors, which could execute code; none was. Save model.state_dict() alone"
            )
        raise InputError(
            f"Expected {str(path)!r} to be a PyTorch state dictionary. Received: {received}", path=path
        ) from None
    for key in _STATE_DICT_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise InputError(
            f"Expected {path.name!r} to hold a dictionary of named tensors. Received: {type(state).__name__}. "
            "Save model.state_dict()",
            path=path,
        )
    others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not torch.is_tensor(value)]
    if others:
        raise InputError(f"Expected {path.name!r} to hold only tensors. Received: {', '.join(others)}", path=path)
    return state


def _check_uncompressed(path: pathlib.Path) -> None:
    """Raise `InputError` for a compressed archive: torch.save writes none, and a small one can hold any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(
                    f"Expected {path.name!r} as torch.save writes it. Received: a compressed archive", path=path
                )


def _torch_tensor(path: pathlib.Path, name: str, value: Any) -> StoredTensor:
    import torch  # pyright: ignore[reportMissingImports]

    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise InputError(
            f"Expected plain tensors in {path.name!r}. Received: {name} (sparse, quantized or without values)",
            path=path,
        )
    dtype = str(value.dtype).removeprefix("torch.")
    return StoredTensor(name, "", "", tuple(value.shape), dtype, lambda: value.detach().to(torch.float32).numpy())


def _identify_convention(path: pathlib.Path, tensors: Sequence[StoredTensor]) -> WeightSource:
    """Return the `WeightSource` of tensors whose names are not split yet, by the convention of the names."""
    prefix = next((text for text in _WRAPPERS if tensors and all(t.name.startswith(text) for t in tensors)), "")
    split = []
    for tensor in tensors:
        layer, variable = _split_name(tensor.name.removeprefix(prefix))
        split.append(dataclasses.replace(tensor, layer=layer, variable=variable))
    variables = {tensor.variable for tensor in split}
    is_pytorch, is_keras = bool(variables & PYTORCH_VARIABLES), bool(variables & KERAS_VARIABLES)
    if is_pytorch == is_keras:
        names = ", ".join(sorted(tensor.name for tensor in tensors)) or "no tensors"
        raise InputError(
            f"Expected {path.name!r} to name tensors as PyTorch ({', '.join(sorted(PYTORCH_VARIABLES))}) or as Keras "
            f"({', '.join(sorted(KERAS_VARIABLES))}). Received: {'both' if is_pytorch else f'neither, {names}'}",
            path=path,
        )
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
    ``<layer>/kernel:0`` and ``<layer>/kernel``. An array that is not in the file itself is an `InputError`.
    """
    import h5py

    with h5py.File(path, "r") as file:
        root = _legacy_root(file)
        if root is None:
            raise InputError(
                f"Expected {path.name!r} to hold weights as Keras 1 and 2 store them (attribute layer_names). "
                "Received: another HDF5 file. Weights as Keras 3 stores them have the ending .weights.h5",
                path=path,
            )
        yield _read_legacy(path, file, root)


def _legacy_root(file: h5py.File) -> h5py.Group | None:
    """Return the group that lists the layers."""
    import h5py

    link = file.get("model_weights", getlink=True)
    groups = [file, file["model_weights"] if isinstance(link, h5py.HardLink) else None]
    named = [group for group in groups if isinstance(group, h5py.Group) and _lists_layers(group)]
    return named[0] if named else None


def _lists_layers(group: h5py.Group) -> bool:
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def _read_legacy(path: pathlib.Path, file: h5py.File, root: h5py.Group) -> WeightSource:
    datasets: list[tuple[h5py.Dataset, StoredTensor]] = []
    for layer in [*_read_strings(root, "layer_names"), "top_level_model_weights"]:
        if layer != "top_level_model_weights" or layer in root:
            datasets += _read_layer(path, root, layer)
    datasets += _undeclared_tensors(root, {str(dataset.name) for dataset, _ in datasets})
    tensors = tuple(tensor for _, tensor in datasets)
    # Whole models say how they order their axes, weights alone do not.
    config = _read_text(file, "model_config")
    backend = _read_text(root, "backend") or _read_text(file, "backend")
    flipped = backend == "theano"
    if not any(tensor.variable in ("W", "running_std") for tensor in tensors):
        vectors = None if re.search(r'"data_format":\s*"channels_first"', config) else "HWC"
        return WeightSource("Keras", tensors, vectors=vectors, flipped=flipped)
    orders = set(re.findall(r'"dim_ordering":\s*"(th|tf)"', config))
    kernels = {("th",): "OIHW", ("tf",): "HWIO"}.get(tuple(orders))
    notes = () if backend else ("the file does not name its backend: if Theano wrote it, its kernels are flipped",)
    return WeightSource("Keras 1", tensors, kernels=kernels, vectors=None, flipped=flipped, notes=notes)


def _read_layer(path: pathlib.Path, root: h5py.Group, layer: str) -> list[tuple[h5py.Dataset, StoredTensor]]:
    """Return every array that a layer's group lists."""
    import h5py

    group = _h5_member(path, root, layer)
    names = _read_strings(group, "weight_names")
    stems = [re.sub(r":\d+$", "", name) for name in names]
    variables = [_legacy_variable(layer, stem) for stem in stems]
    nested = len(set(variables)) < len(variables)  # a network in the network: its layers are in the arrays' names
    tensors = []
    for name, stem, variable in zip(names, stems, variables, strict=True):
        owner = stem.split("/")[-2] if nested and "/" in stem else layer
        dataset = _h5_member(path, group, name)
        if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise InputError(
                f"Expected {path.name!r} to hold the array {name!r} itself. Received: something else there", path=path
            )
        tensors.append((dataset, _h5_tensor(dataset, owner, variable)))
    return tensors


def _legacy_variable(layer: str, name: str) -> str:
    ending = name.removeprefix(f"{layer}_")
    return ending if ending in _KERAS_1_VARIABLES and ending != name else name.rsplit("/", 1)[-1]


def _h5_tensor(dataset: h5py.Dataset, layer: str, variable: str) -> StoredTensor:
    name = str(dataset.name).removeprefix("/model_weights").lstrip("/")
    return StoredTensor(
        name, layer, variable, dataset.shape, str(dataset.dtype), lambda: dataset[()].astype(np.float32)
    )


def _undeclared_tensors(root: h5py.Group, declared: set[str]) -> list[tuple[h5py.Dataset, StoredTensor]]:
    """Return the arrays that no list names, so that nothing in a file is silently ignored."""
    import h5py

    tensors = []

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.name not in declared and not name.startswith(_OPTIMIZER_GROUP + "/"):
            tensors.append((item, _h5_tensor(item, name, "")))

    root.visititems(collect)
    return tensors


def _h5_member(path: pathlib.Path, group: h5py.Group, name: str) -> Any:
    """Return what `name` leads to inside the file; a link that leads elsewhere is refused."""
    import h5py

    member: Any = group
    for part in filter(None, name.split("/")):
        link = member.get(part, getlink=True) if isinstance(member, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            received = "nothing there" if link is None else "a link that leads elsewhere"
            raise InputError(
                f"Expected {path.name!r} to hold {name!r}, which it lists. Received: {received}", path=path
            )
        member = member[part]
    return member


def _read_strings(group: h5py.Group, name: str) -> list[str]:
    """Return a list of strings that Keras stored as an attribute, in several where it is long."""
    if name in group.attrs:
        return [_decode(text) for text in np.atleast_1d(_read_attribute(group, name))]
    strings, chunk = [], 0
    while f"{name}{chunk}" in group.attrs:
        strings += [_decode(text) for text in np.atleast_1d(_read_attribute(group, f"{name}{chunk}"))]
        chunk += 1
    return strings


def _read_text(group: h5py.Group, name: str) -> str:
    return "".join(_read_strings(group, name))


def _read_attribute(group: h5py.Group, name: str) -> Any:
    stored = group.attrs.get_id(name)
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > _MAX_ATTRIBUTE_BYTES:
        raise InputError(f"Expected attribute {name!r} of at most {_MAX_ATTRIBUTE_BYTES:,} bytes. Received: {size:,}")
    return group.attrs[name]


def _decode(text: str | bytes) -> str:
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)


# By the ending of the file; each yields the `WeightSource` of a path.
READERS: Mapping[str, Callable[[pathlib.Path], contextlib.AbstractContextManager[WeightSource]]] = {
    ".npz": open_npz,
    ".h5": open_legacy_h5,
    ".safetensors": open_safetensors,
    ".pt": open_pytorch,
    ".pth": open_pytorch,
}
