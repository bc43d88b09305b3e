"""Users' own code in a model: classes to import, subclassed models and layers that hold other layers, as graphs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import keras_graph
from keras_nin.errors import InputError, first_line, input_error

if TYPE_CHECKING:
    import keras

_FRAMEWORKS = ("keras", "keras_nin", "tensorflow", "numpy", "builtins")
_MISSING = re.compile(r"(?:Could not locate (?:class|function)|Unknown [a-z ]+:) '(?P<name>[^']+)'")
_HOW_TO = "Make it Functional: inputs = keras.Input(shape); model = keras.Model(inputs, model.call(inputs))"
_TOLERANCE = 1e-4  # of the largest output: the same float32 operations, perhaps in another order


def import_objects(sources: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Import modules, which runs their code, and return the classes and functions that they define, by name.

    Args:
        sources: names of modules, which may lie in the working directory, or paths of .py files.

    Raises:
        InputError: code that is not there or that fails.
    """
    objects: dict[str, Any] = {}
    for source in [os.fspath(source) for source in sources]:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the caller's results
                module = _import_file(pathlib.Path(source)) if source.endswith(".py") else _import_module(source)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"Expected `imports` to name Python code that can be imported. Received: {source!r} "
                f"({type(error).__name__}: {first_line(error)})",
                argument="imports",
                path=source,
            ) from error
        for name, value in vars(module).items():
            is_code = inspect.isclass(value) or inspect.isfunction(value)
            if is_code and value.__module__.split(".")[0] not in _FRAMEWORKS:
                objects[name] = value
    return objects


def _import_module(name: str) -> types.ModuleType:
    _extend_path(os.getcwd())
    return importlib.import_module(name)


def _import_file(path: pathlib.Path) -> types.ModuleType:
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and os.path.realpath(getattr(known, "__file__", None) or "") == os.path.realpath(path):
        return known
    if known is not None or importlib.util.find_spec(name) is not None:  # a file called keras.py is not Keras
        name = f"keras_nin_import_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _extend_path(str(path.parent.resolve()))  # for the files beside it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _extend_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def find_missing_name(error: BaseException) -> str | None:
    """Return the class or function that a saved model needs and Keras does not know, from what Keras says."""
    match = _MISSING.search(str(error))
    return match["name"].rpartition(">")[2] if match else None


def find_code(model: keras.Model) -> dict[str, Any]:
    """Return the user's own classes and functions that the layers of a model are made of, by name.

    Raises:
        InputError: two of one name.
    """
    objects: dict[str, Any] = {}
    for layer in keras_graph.iterate_layers(model):
        # Keras keeps wrapped methods in a layer.
        held = [
            value for name, value in vars(layer).items() if not inspect.isfunction(getattr(type(layer), name, None))
        ]
        for value in (layer, *held):
            code: Any = value if inspect.isfunction(value) else type(value)
            is_code = inspect.isfunction(code) or hasattr(code, "get_config")
            if not is_code or code.__module__.split(".")[0] in _FRAMEWORKS:
                continue
            if objects.setdefault(code.__name__, code) is not code:
                expected = "custom classes and functions of different names"
                raise input_error(expected, f"two of the name {code.__name__!r} in {model.name!r}", argument="model")
    return objects


def make_functional(model: keras.Model, input_shape: Sequence[int] | None = None) -> keras.Model:
    """Return a model as a graph in which every layer is seen, with the same weights; itself where it is one.

    A subclassed model is traced by calling it on symbolic tensors; a custom layer that holds other layers becomes a
    nested model of its name. A custom layer with weights of its own stays as it is.

    Args:
        model: a keras.Model.
        input_shape: of a subclassed model that was not built, without the batch.

    Raises:
        InputError: a subclassed model that is not built, that cannot be traced, or whose graph computes something else.
    """
    import keras

    graph = model if keras_graph.graph_of(model) is not None else _trace_subclassed(model, input_shape)
    layers = [layer for layer in keras_graph.iterate_layers(graph) if layer is not graph]
    if any(map(_is_composite, layers)):
        graph = _open_composites(graph)
    if graph is not model and not isinstance(model, keras.Sequential):
        _check_same_outputs(model, graph)
    return graph


def _trace_subclassed(model: keras.Model, input_shape: Sequence[int] | None) -> keras.Model:
    import keras

    kind = f"a subclassed model ({type(model).__name__})"
    shape: Any = model.get_build_config() if model.built else None
    shape = shape["input_shape"] if shape and shape.get("input_shape") else None
    if input_shape is not None:
        shape = (1, *input_shape)
    if isinstance(model, keras.Sequential) and input_shape is not None:
        model.build((None, *input_shape))
        return model
    if shape is None:
        problem = f"{kind} that is not built. Pass `input_shape`, or call it on an array before it is saved"
        raise _not_traced(model, problem)
    try:
        inputs = keras.tree.map_shape_structure(lambda sizes: keras.Input(tuple(sizes)[1:]), shape)
        arguments = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        outputs = model.call(inputs, **arguments)
        graph = keras.Model(inputs, outputs, name=model.name)
    except Exception as error:  # whatever the user's code raises
        hint = "Use keras.ops in place of TensorFlow and NumPy functions in its call"
        raise _not_traced(
            model, f"{kind} whose call fails on symbolic tensors ({first_line(error)}). {hint}"
        ) from error
    own = [weight.path for weight in _own_weights(model)]
    if own:
        hint = "Put it into a layer"
        raise _not_traced(model, f"{kind} with a weight that belongs to no layer ({own[0]!r}). {hint}")
    return graph


def _not_traced(model: keras.Model, problem: str) -> InputError:
    expected = "Expected a Functional model, a Sequential model with an Input, or a subclassed model that can be traced"
    return InputError(f"{expected}. Received: {model.name!r}, {problem}. {_HOW_TO}", argument="model")


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Return the weights of a layer that no layer in it has."""
    inside = {id(weight) for child in keras_graph.child_layers(layer) for weight in child.weights}
    return [weight for weight in layer.weights if id(weight) not in inside]


def _is_composite(layer: keras.Layer) -> bool:
    """Whether a layer is of the user's own class, and only holds other layers."""
    is_custom = type(layer).__module__.split(".")[0] not in _FRAMEWORKS and keras_graph.graph_of(layer) is None
    return is_custom and bool(keras_graph.child_layers(layer)) and not _own_weights(layer)


def _open_composites(model: keras.Model) -> keras.Model:
    """Return a graph with a nested model in place of each composite layer that can be traced."""
    import keras

    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    opened: dict[Any, Any] = {}

    def call(operation: Any, *arguments: Any, **options: Any) -> Any:
        if keras_graph.graph_of(operation) is not None:
            if operation not in opened:
                has_composites = any(_is_composite(layer) for layer in keras_graph.iterate_layers(operation))
                opened[operation] = _open_composites(operation) if has_composites else operation
            return opened[operation](*arguments, **options)
        if not isinstance(operation, keras.Layer) or not _is_composite(operation):
            return operation(*arguments, **options)
        options.pop("training", None)
        tensors = [value for value in keras.tree.flatten((arguments, options)) if isinstance(value, keras.KerasTensor)]
        key = operation, *(tensor.shape for tensor in tensors)
        if key not in opened:
            opened[key] = _trace_layer(operation, arguments, options)
        nested = opened[key]
        return operation(*arguments, **options) if nested is None else nested(tensors)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _trace_layer(layer: keras.Layer, arguments: Any, options: dict[str, Any]) -> keras.Model | None:
    """Return a composite layer as a model of the tensors among its arguments; None where it cannot be traced."""
    import keras

    inputs: list[Any] = []

    def replace(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            inputs.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
            return inputs[-1]
        return value

    traced: Any = keras.tree.map_structure(replace, (arguments, options))
    arguments, options = traced
    if "training" in inspect.signature(layer.call).parameters:
        options["training"] = False
    try:
        model = keras.Model(inputs, layer.call(*arguments, **options), name=layer.name)
    except Exception:  # whatever the user's code raises; the layer stays closed
        return None
    return _open_composites(model) if any(map(_is_composite, keras_graph.child_layers(model))) else model


def _check_same_outputs(model: keras.Model, graph: keras.Model) -> None:
    """Raise `InputError` where a traced graph computes something else than its model, on one noise input."""
    import keras

    if any(None in tensor.shape[1:] for tensor in graph.inputs):
        return  # no command takes open sizes
    random = np.random.RandomState(0)
    arrays = keras.tree.map_structure(
        lambda tensor: random.random_sample((1, *tensor.shape[1:])).astype(tensor.dtype), graph.input
    )
    results: list[Any] = [keras.tree.flatten(network(arrays, training=False)) for network in (model, graph)]
    for expected, received in zip(*(map(np.asarray, tensors) for tensors in results), strict=True):
        if not np.allclose(expected, received, atol=_TOLERANCE * max(float(np.abs(expected).max()), 1e-6)):
            raise _not_traced(model, f"a model ({type(model).__name__}) whose graph computes other outputs")
