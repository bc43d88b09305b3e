"""Weight files as others write them, made of a model's own weights."""

import io
import itertools
import json
import pickle
import sys
import types
import zipfile
from unittest import mock

import h5py
import numpy as np
from safetensors.numpy import save_file

from keras_nin.models import get_spec

KERAS_1 = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
PYTORCH = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def weights(model):
    """Yield (layer, variable, array, is behind a flattened map) of every weight."""
    before = None
    for layer in model.layers:
        for weight in layer.weights:
            flattened = before if weight.name == "kernel" else None
            yield layer.name, weight.name, weight.numpy(), flattened
        if type(layer).__name__ == "Flatten":
            before = layer.input.shape[1:]
        elif layer.weights:
            before = None


def channels_first(array, flattened, transpose_dense):
    """Return an array as a network with channels first has it."""
    if flattened is not None:
        array = array.reshape(*flattened, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 and transpose_dense else array


def pytorch_arrays(model, names=None):
    """Return {name: array} as a state dictionary of the same network has them."""
    names = names or {}
    return {
        f"{names.get(layer, layer)}.{PYTORCH.get(variable, variable)}": np.ascontiguousarray(
            channels_first(array, flattened, True)
        )
        for layer, variable, array, flattened in weights(model)
    }


def keras_arrays(model, separator="/"):
    return {f"{layer}{separator}{variable}": array for layer, variable, array, _ in weights(model)}


def safetensors(path, arrays):
    save_file(arrays, path)
    return path


def keras_2(model, path, names=None, whole=False, attributes=None):
    """Write Keras 2's layout: weights alone, or as the part of a whole model."""
    names = names or {}
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole else file
        if whole:
            file.attrs["model_config"] = json.dumps({"data_format": "channels_last"})
            file.create_group("optimizer_weights")["Adam/iterations:0"] = 5
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.4.3"
        _write(root, model, names, lambda layer, variable, array, _: (f"{layer}/{variable}:0", array))
        for key, value in (attributes or {}).items():
            file.attrs[key] = value
    return path


def keras_1(model, path, ordering="tf", backend=None, said=False, suffix=""):
    """Write Keras 1's layout, with channels first ("th") or last ("tf"), flipped where Theano writes."""

    def named(layer, variable, array, flattened):
        if ordering == "th":
            array = channels_first(array, flattened, False)
        if backend == "theano" and array.ndim == 4:
            array = array[:, :, ::-1, ::-1] if ordering == "th" else array[::-1, ::-1]
        return f"{layer}_{KERAS_1.get(variable, variable)}{suffix}", array

    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        if backend:
            file.attrs["backend"] = backend.encode()
        if said:
            file.attrs["model_config"] = json.dumps({"layers": [{"config": {"dim_ordering": ordering}}]}).encode()
        _write(file, model, {}, named)
    return path


def _write(root, model, names, named):
    arrays = {}
    for layer, variable, array, flattened in weights(model):
        theirs = names.get(layer, layer)
        name, array = named(theirs, variable, array, flattened)
        arrays.setdefault(theirs, {})[name] = array
    layers = [names.get(layer.name, layer.name) for layer in model.layers]
    root.attrs["layer_names"] = [layer.encode() for layer in layers]
    for layer in layers:
        group = root.create_group(layer)
        group.attrs["weight_names"] = [name.encode() for name in arrays.get(layer, {})]
        for name, array in arrays.get(layer, {}).items():
            group[name] = array


class _TorchPickler(pickle._Pickler):
    """Pickles NumPy arrays as PyTorch pickles its tensors, with the names of PyTorch's types and functions."""

    def __init__(self, file, legacy, function):
        super().__init__(file, protocol=2)
        self.legacy, self.function, self.arrays = legacy, function, {}

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        key = self.arrays.setdefault(id(obj.array), (str(len(self.arrays)), obj.array))[0]
        view = (None,) if self.legacy else ()
        return ("storage", _torch_name("torch", _STORAGES[obj.array.dtype.name]), key, "cpu", obj.array.size, *view)

    def reducer_override(self, obj):
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        base = obj if obj.base is None else obj.base
        strides = tuple(step // obj.itemsize for step in obj.strides)
        offset = (obj.ctypes.data - base.ctypes.data) // obj.itemsize
        arguments = (_Storage(base), offset, obj.shape, strides, False, {})
        return _torch_name("torch._utils", self.function), arguments


class _Storage:
    def __init__(self, array):
        self.array = array


_STORAGES = {
    **{"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"},
    **{"int64": "LongStorage", "bool": "BoolStorage"},
}


def _torch_name(module, name):
    """Return an object that pickle writes as a name of PyTorch."""
    return getattr(sys.modules[module], name)


def _modules():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, name in [
        *zip(itertools.repeat(torch), _STORAGES.values()),
        (utils, "_rebuild_tensor"),
        (utils, "_rebuild_tensor_v2"),
        (utils, "_rebuild_sparse_tensor"),
    ]:
        setattr(module, name, type(name, (), {"__module__": module.__name__}))
    return {"torch": torch, "torch._utils": utils}


def pytorch(path, state, legacy=False, function="_rebuild_tensor_v2"):
    """Write `state`, whose tensors are NumPy arrays, as torch.save does, up to PyTorch 1.5 or since."""
    file = io.BytesIO()
    pickler = _TorchPickler(file, legacy, function)
    with mock.patch.dict(sys.modules, _modules()):
        if legacy:
            for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
                pickle.dump(header, file, protocol=2)
        pickler.dump(state)
    stored = sorted(pickler.arrays.values(), key=lambda item: int(item[0]))
    if legacy:
        pickle.dump([key for key, _ in stored], file, protocol=2)
        for _, array in stored:
            file.write(array.size.to_bytes(8, "little") + array.tobytes())
        path.write_bytes(file.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in stored:
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def torchvision(path, model):
    """Write a zoo model's weights as torchvision publishes them."""
    table = get_spec(model.name).layer_names
    theirs = {ours: name for name, ours in table.items() if isinstance(ours, str) and ("." in name or name == "fc")}
    arrays = pytorch_arrays(model, theirs)
    assert all("." in name for name in arrays)
    return pytorch(path, arrays)
