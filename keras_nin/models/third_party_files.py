"""Weight files of others as named tensors: what a file holds, and the reading of .safetensors, .pt and .pth.

Only tensors are read: nothing in a file is executed, and an array leaves the file when somebody asks for its values.
"""

import contextlib
import dataclasses
import math
import pickle
import re
import zipfile
from collections.abc import Callable

import numpy as np

from keras_nin.errors import InputError

# The last part of a tensor's name says whose names they are.
PYTORCH_VARIABLES = frozenset({"weight", "running_mean", "running_var", "num_batches_tracked"})
KERAS_VARIABLES = frozenset(
    {"kernel", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance", "weights", "biases"}
)
# What torch puts before the names of a network that it wraps: DataParallel, torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# Where training scripts keep the state dictionary in a checkpoint of more.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        name: as the file has it.
        layer, variable: the parts of the name.
        shape: as stored.
        dtype: name of the type, e.g. "float32", "bfloat16".
        read: returns the values as float32, as stored.
    """

    name: str
    layer: str
    variable: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)


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
def open_safetensors(path):
    """Yield the `Source` of a .safetensors file, named as PyTorch or as Keras does.

    Raises:
        InputError: the names are of neither kind. What the safetensors library refuses is its SafetensorError.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        rows = []
        for name in file.keys():  # noqa: SIM118 - the handle is no mapping
            part = file.get_slice(name)
            kind = part.get_dtype()
            rows.append(
                (name, tuple(part.get_shape()), _SAFETENSORS_TYPES.get(kind, kind), _safetensors_reader(file, name))
            )
        yield _identify_convention(path, rows)


def _safetensors_reader(file, name):
    return lambda: file.get_tensor(name).astype(np.float32)


@contextlib.contextmanager
def open_pytorch(path):
    """Yield the `Source` of a state dictionary that torch.save wrote, alone or in a checkpoint.

    Raises:
        InputError: torch is not installed, the file is damaged, it holds anything that is no tensor, or a pickle in it
            would execute code (which is not executed).
    """
    yield _identify_convention(path, [_torch_row(path, name, value) for name, value in _read_state_dict(path).items()])


def _read_state_dict(path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"Expected PyTorch to be installed to read {path.name!r}. Received: none. "
            "Use: pip install 'keras-nin[torch]'"
        ) from None
    _refuse_compressed(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"Expected {str(path)!r} to be a PyTorch state dictionary. Received: {_explain_unpickling_error(error)}"
        ) from None
    for key in STATE_DICT_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise InputError(
            f"Expected {path.name!r} to hold a dictionary of named tensors. Received: {type(state).__name__}. "
            "Save model.state_dict()"
        )
    others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not torch.is_tensor(value)]
    if others:
        raise InputError(f"Expected {path.name!r} to hold tensors alone. Received: {', '.join(others)}")
    return state


def _explain_unpickling_error(error):
    text = str(error)
    if "GLOBAL" in text or "Unsupported" in text or "unsupported" in text:
        return "a pickle of more than tensors, which could execute code; none was. Save model.state_dict() alone"
    return "a damaged file, or one of another kind"


def _refuse_compressed(path):
    """Raise `InputError` for a compressed archive: torch.save writes none, and a small one can hold any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"Expected {path.name!r} as torch.save writes it. Received: a compressed archive")


def _torch_row(path, name, value):
    import torch

    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise InputError(
            f"Expected plain tensors in {path.name!r}. Received: {name} (sparse, quantized or without values)"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    return name, tuple(value.shape), dtype, lambda: value.detach().to(torch.float32).numpy()


def _identify_convention(path, rows):
    """Return the `Source` of (name, shape, dtype, reader) rows, by whose names they are."""
    prefix = next((wrapper for wrapper in WRAPPERS if rows and all(row[0].startswith(wrapper) for row in rows)), "")
    tensors = tuple(
        StoredTensor(name, *_split_name(name.removeprefix(prefix)), shape, dtype, read)
        for name, shape, dtype, read in rows
    )
    variables = {tensor.variable for tensor in tensors}
    pytorch, keras = variables & PYTORCH_VARIABLES, variables & KERAS_VARIABLES
    if bool(pytorch) == bool(keras):
        found = (
            "both" if pytorch else f"neither, {', '.join(sorted(tensor.name for tensor in tensors)) or 'no tensors'}"
        )
        raise InputError(
            f"Expected {path.name!r} to name tensors as PyTorch ({', '.join(sorted(PYTORCH_VARIABLES))}) or as Keras "
            f"({', '.join(sorted(KERAS_VARIABLES))}). Received: {found}"
        )
    if keras:
        return WeightSource("Keras", tensors)
    notes = (f"the prefix {prefix!r} of every name is taken off",) if prefix else ()
    return WeightSource("PyTorch", tensors, kernels="OIHW", vectors="CHW", notes=notes)


def _split_name(name):
    """Return layer and variable of "layer/variable" or "layer.variable"."""
    layer, _, variable = name.rpartition("/" if "/" in name else ".")
    return layer, variable


# MERGED Legacy Keras HDF5 files: what Keras 1 and 2 wrote, and Keras 3 writes for whole models with the ending .h5.
# MERGED
# MERGED The root (or the group `model_weights` of a whole model) lists its layers in the attribute `layer_names`; the group of
# MERGED each lists its arrays in `weight_names`. Keras 1 called them ``<layer>_W`` and ``<layer>_b``, Keras 2 and 3
# MERGED ``<layer>/kernel:0`` and ``<layer>/kernel``.

# Keras 1's ending of an array's name. Its `running_std` holds a variance.
KERAS_1_VARIABLES = frozenset({"W", "b", "gamma", "beta", "running_mean", "running_std"})
# Beside the layers: the optimizer's state, which is no weight.
OPTIMIZER_GROUP = "optimizer_weights"
MAX_ATTRIBUTE_BYTES = 1 << 24


def is_legacy_h5(path):
    """Return whether the file at `path` has a legacy layout (False for anything that is no HDF5 file)."""
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return _has_layers(file) or _weights_group(file) is not None


@contextlib.contextmanager
def open_legacy_h5(path):
    """Yield the `Source` of a legacy file.

    Raises:
        InputError: another layout, an array that it names and does not have, or links out of the file. What is no HDF5
            file is h5py's OSError.
    """
    import h5py

    with h5py.File(path, "r") as file:
        root = file if _has_layers(file) else _weights_group(file)
        if root is None:
            raise InputError(
                f"Expected {path.name!r} to hold weights as Keras 1 and 2 store them (attribute layer_names). "
                "Received: another HDF5 file. Weights as Keras 3 stores them have the ending .weights.h5"
            )
        yield _read_h5_source(path, file, root)


def _has_layers(group):
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def _weights_group(file):
    import h5py

    link = file.get("model_weights", getlink=True)
    group = file["model_weights"] if isinstance(link, h5py.HardLink) else None
    return group if isinstance(group, h5py.Group) and _has_layers(group) else None


def _read_h5_source(path, file, root):
    tensors = []
    for layer in [*_read_strings(root, "layer_names"), "top_level_model_weights"]:
        if layer != "top_level_model_weights" or layer in root:
            tensors += _layer_tensors(path, root, layer)
    tensors += _undeclared_tensors(root, {dataset.name for dataset, _ in tensors})
    tensors = tuple(tensor for _, tensor in tensors)
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


def _layer_tensors(path, root, layer):
    """Return (dataset, `Tensor`) of every array that a layer's group lists."""
    import h5py

    group = _h5_member(path, root, layer)
    names = _read_strings(group, "weight_names")
    plain = [re.sub(r":\d+$", "", name) for name in names]
    variables = [_variable(layer, name) for name in plain]
    nested = len(set(variables)) < len(variables)  # a network in the network: its layers are in the arrays' names
    found = []
    for name, bare, variable in zip(names, plain, variables, strict=True):
        owner = bare.split("/")[-2] if nested and "/" in bare else layer
        dataset = _h5_member(path, group, name)
        if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise InputError(
                f"Expected {path.name!r} to hold the array {name!r} itself. Received: something else there"
            )
        found.append((dataset, _h5_tensor(dataset, owner, variable)))
    return found


def _variable(layer, name):
    ending = name.removeprefix(f"{layer}_")
    return ending if ending in KERAS_1_VARIABLES and ending != name else name.rsplit("/", 1)[-1]


def _h5_tensor(dataset, layer, variable):
    name = dataset.name.removeprefix("/model_weights").lstrip("/")
    return StoredTensor(
        name, layer, variable, dataset.shape, str(dataset.dtype), lambda: dataset[()].astype(np.float32)
    )


def _undeclared_tensors(root, declared):
    """Return (dataset, `Tensor`) of the arrays that no list names: nothing in a file is passed over in silence."""
    import h5py

    found = []

    def collect(place, item):
        if isinstance(item, h5py.Dataset) and item.name not in declared and not place.startswith(OPTIMIZER_GROUP + "/"):
            found.append((item, _h5_tensor(item, place, "")))

    root.visititems(collect)
    return found


def _h5_member(path, group, name):
    """Return what `name` leads to inside the file; a link that leads elsewhere is refused."""
    import h5py

    for part in filter(None, name.split("/")):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            received = "nothing there" if link is None else "a link that leads elsewhere"
            raise InputError(f"Expected {path.name!r} to hold {name!r}, which it lists. Received: {received}")
        group = group[part]
    return group


def _read_strings(group, name):
    """Return a list of strings that Keras stored as an attribute, in several where it is long."""
    if name in group.attrs:
        return [_decode(text) for text in np.atleast_1d(_read_attribute(group, name))]
    strings, chunk = [], 0
    while f"{name}{chunk}" in group.attrs:
        strings += [_decode(text) for text in np.atleast_1d(_read_attribute(group, f"{name}{chunk}"))]
        chunk += 1
    return strings


def _read_text(group, name):
    return _decode(_read_attribute(group, name)) if name in group.attrs else ""


def _read_attribute(group, name):
    stored = group.attrs.get_id(name)
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > MAX_ATTRIBUTE_BYTES:
        raise InputError(f"Expected attribute {name!r} of at most {MAX_ATTRIBUTE_BYTES:,} bytes. Received: {size:,}")
    return group.attrs[name]


def _decode(text):
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)
