"""Legacy Keras HDF5 files: what Keras 1 and 2 wrote, and Keras 3 writes for whole models with the ending .h5.

The root (or the group `model_weights` of a whole model) lists its layers in the attribute `layer_names`; the group of
each lists its arrays in `weight_names`. Keras 1 called them ``<layer>_W`` and ``<layer>_b``, Keras 2 and 3
``<layer>/kernel:0`` and ``<layer>/kernel``.
"""

import contextlib
import math
import re

import numpy as np

from keras_nin.errors import InputError
from keras_nin.models.foreign_files import Source, Tensor

# Keras 1's ending of an array's name. Its `running_std` holds a variance.
KERAS_1_VARIABLES = frozenset({"W", "b", "gamma", "beta", "running_mean", "running_std"})
# Beside the layers: the optimizer's state, which is no weight.
OPTIMIZER = "optimizer_weights"
ATTRIBUTE_BYTES = 1 << 24


def is_legacy(path):
    """Return whether the file at `path` has a legacy layout (False for anything that is no HDF5 file)."""
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return _has_layers(file) or _weights_group(file) is not None


@contextlib.contextmanager
def open_h5(path):
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
        yield _source(path, file, root)


def _has_layers(group):
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def _weights_group(file):
    import h5py

    link = file.get("model_weights", getlink=True)
    group = file["model_weights"] if isinstance(link, h5py.HardLink) else None
    return group if isinstance(group, h5py.Group) and _has_layers(group) else None


def _source(path, file, root):
    tensors = []
    for layer in [*_strings(root, "layer_names"), "top_level_model_weights"]:
        if layer != "top_level_model_weights" or layer in root:
            tensors += _layer_tensors(path, root, layer)
    tensors += _undeclared(root, {dataset.name for dataset, _ in tensors})
    tensors = tuple(tensor for _, tensor in tensors)
    # Whole models say how they order their axes, weights alone do not.
    config = _text(file, "model_config")
    backend = _text(root, "backend") or _text(file, "backend")
    flipped = backend == "theano"
    if not any(tensor.variable in ("W", "running_std") for tensor in tensors):
        vectors = None if re.search(r'"data_format":\s*"channels_first"', config) else "HWC"
        return Source("Keras", tensors, vectors=vectors, flipped=flipped)
    orders = set(re.findall(r'"dim_ordering":\s*"(th|tf)"', config))
    kernels = {("th",): "OIHW", ("tf",): "HWIO"}.get(tuple(orders))
    notes = () if backend else ("the file does not name its backend: if Theano wrote it, its kernels are flipped",)
    return Source("Keras 1", tensors, kernels=kernels, vectors=None, flipped=flipped, notes=notes)


def _layer_tensors(path, root, layer):
    """Return (dataset, `Tensor`) of every array that a layer's group lists."""
    import h5py

    group = _member(path, root, layer)
    names = _strings(group, "weight_names")
    plain = [re.sub(r":\d+$", "", name) for name in names]
    variables = [_variable(layer, name) for name in plain]
    nested = len(set(variables)) < len(variables)  # a network in the network: its layers are in the arrays' names
    found = []
    for name, bare, variable in zip(names, plain, variables, strict=True):
        owner = bare.split("/")[-2] if nested and "/" in bare else layer
        dataset = _member(path, group, name)
        if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise InputError(
                f"Expected {path.name!r} to hold the array {name!r} itself. Received: something else there"
            )
        found.append((dataset, _tensor(dataset, owner, variable)))
    return found


def _variable(layer, name):
    ending = name.removeprefix(f"{layer}_")
    return ending if ending in KERAS_1_VARIABLES and ending != name else name.rsplit("/", 1)[-1]


def _tensor(dataset, layer, variable):
    name = dataset.name.removeprefix("/model_weights").lstrip("/")
    return Tensor(name, layer, variable, dataset.shape, str(dataset.dtype), lambda: dataset[()].astype(np.float32))


def _undeclared(root, declared):
    """Return (dataset, `Tensor`) of the arrays that no list names: nothing in a file is passed over in silence."""
    import h5py

    found = []

    def collect(place, item):
        if isinstance(item, h5py.Dataset) and item.name not in declared and not place.startswith(OPTIMIZER + "/"):
            found.append((item, _tensor(item, place, "")))

    root.visititems(collect)
    return found


def _member(path, group, name):
    """Return what `name` leads to inside the file; a link that leads elsewhere is refused."""
    import h5py

    for part in filter(None, name.split("/")):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            received = "nothing there" if link is None else "a link that leads elsewhere"
            raise InputError(f"Expected {path.name!r} to hold {name!r}, which it lists. Received: {received}")
        group = group[part]
    return group


def _strings(group, name):
    """Return a list of strings that Keras stored as an attribute, in several where it is long."""
    if name in group.attrs:
        return [_decoded(text) for text in np.atleast_1d(_attribute(group, name))]
    strings, chunk = [], 0
    while f"{name}{chunk}" in group.attrs:
        strings += [_decoded(text) for text in np.atleast_1d(_attribute(group, f"{name}{chunk}"))]
        chunk += 1
    return strings


def _text(group, name):
    return _decoded(_attribute(group, name)) if name in group.attrs else ""


def _attribute(group, name):
    stored = group.attrs.get_id(name)
    size = math.prod(stored.shape) * stored.dtype.itemsize
    if size > ATTRIBUTE_BYTES:
        raise InputError(f"Expected attribute {name!r} of at most {ATTRIBUTE_BYTES:,} bytes. Received: {size:,}")
    return group.attrs[name]


def _decoded(text):
    return text.decode("utf-8") if isinstance(text, bytes) else str(text)
