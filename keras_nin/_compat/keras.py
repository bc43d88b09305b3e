"""Private attributes of Keras. Verified on Keras 3.15.0 and 3.15.1 with the TensorFlow backend."""

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

# What `import keras` imports where it is installed, for its wrappers and data adapters: a third of its time.
_OPTIONAL_PACKAGES = ("jax", "matplotlib", "pandas", "sklearn", "torch")
# What Keras on NumPy imports for convolutions, FFTs and linear algebra, which are run by none of its layers' shapes.
_NUMPY_KERNELS = ("jax", "jax.lax", "keras.src.backend.jax", "keras.src.backend.jax.math", "scipy", "scipy.linalg")


def functional_of(model: "keras.Sequential") -> "keras.Function | None":
    """Return the graph that a Sequential model runs; None until it knows its input shape."""
    return model._functional


def nodes_in_order(graph: "keras.Function") -> Iterator[Any]:
    """Yield the calls of a graph in execution order, as Keras's own `Function._run_through_graph` walks them.

    A node has `operation`, `arguments` (with `fill_in(values by id of the tensor)`), `input_tensors`, `outputs` and
    `is_input`. Keras has no public walk over calls: `Function.operations` has a layer that is called twice only once.
    """
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from graph._nodes_by_depth[depth]


def producer_of(tensor: "keras.KerasTensor") -> "keras.Operation":
    """Return the operation that computed a symbolic tensor; an InputLayer for an input."""
    return tensor._keras_history.operation  # pyright: ignore[reportAttributeAccessIssue]


def count_uses(operation: "keras.Operation") -> int:
    """Return how often outputs of an operation were passed to other operations, in all graphs that it is part of."""
    return len(operation._outbound_nodes)


def flatten_layers(layer: "keras.Layer", *, include_self: bool = True, recursive: bool = True) -> list["keras.Layer"]:
    """Return the layers that a layer tracks: nested models, blocks and what is in them."""
    return list(layer._flatten_layers(include_self=include_self, recursive=recursive))


def input_structure(model: "keras.Model") -> Any:
    """Return the structure (list, dictionary, ...) in which a Functional model takes its inputs; None for others."""
    return getattr(model, "_inputs_struct", None)


def build_input_shape(layer: "keras.Layer") -> tuple[int | None, ...]:
    """Return the input shape that a layer was built for."""
    return layer._build_input_shape


def fit_on_several_hosts(model: "keras.Model") -> None:
    """Let `fit` of a model run under `tf.distribute.MultiWorkerMirroredStrategy`, which Keras 3 does not support.

    It fails in two places. A model that has a strategy of its own is built from the average of a batch over the hosts,
    which is not computed; without one, `fit` takes the strategy around it and builds in the first step. And the metrics
    of a step are averaged over their first axis, which numbers do not have.
    """

    def with_axis(step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        return lambda data: {name: value[None] for name, value in step(data).items()}

    model._distribute_strategy = None
    model.train_step, model.test_step = with_axis(model.train_step), with_axis(model.test_step)


@contextlib.contextmanager
def renamed_variables(names: dict[int, str], model: "keras.Model") -> Iterator[None]:
    """Give variables of a model other names in the graphs that TensorFlow traces while the block runs.

    `names` has them by the variable's position in ``model.variables``; the other variables keep theirs.
    """
    variables = {position: model.variables[position].value for position in names}
    handles = {position: variable._handle_name for position, variable in variables.items()}
    try:
        for position, variable in variables.items():
            variable._handle_name = f"{names[position]}:0"
        yield
    finally:
        for position, variable in variables.items():
            variable._handle_name = handles[position]


@contextlib.contextmanager
def plain_argmax() -> Iterator[None]:
    """Let `keras.ops.argmax` and `argmin` be TensorFlow's in the graphs that are traced while the block runs.

    Keras's own order -0.0 below 0.0 by bitwise operations, for which TFLite has no operators.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as backend

    def choose(function: Callable[..., Any], x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        x = tf.convert_to_tensor(x)
        chosen = function(tf.reshape(x, [-1]) if axis is None else x, axis=axis, output_type="int32")
        return backend._keepdims(x, chosen, axis) if keepdims else chosen

    own = backend.argmax, backend.argmin
    backend.argmax, backend.argmin = functools.partial(choose, tf.argmax), functools.partial(choose, tf.argmin)
    try:
        yield
    finally:
        backend.argmax, backend.argmin = own


def variable_graph_names(model: "keras.Model") -> list[str]:
    """Return the names that the variables of a model have in a graph that TensorFlow traces; none with another."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return []
    return [variable.value._handle_name.rpartition(":")[0] for variable in model.variables]


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Keep Keras on another backend from importing TensorFlow, which it does to seed it and to compare types."""
    from keras.src.utils import module_utils

    module = module_utils.tensorflow
    before = module._available
    if "tensorflow" not in sys.modules:
        module._available = False
    try:
        yield
    finally:
        module._available = before


class _NotImported(types.ModuleType):
    """A module that is not imported, or a name in one: whatever calls it fails."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _NotImported(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{self.__name__} is not imported")


@contextlib.contextmanager
def lean_import(backend: str) -> Iterator[None]:
    """Let `import keras` leave out the packages that neither Keras nor a backend needs while the block runs.

    Keras's wrappers of scikit-learn lack their base classes then. On NumPy, convolutions, FFTs and linear algebra raise
    `NotImplementedError`: their kernels are JAX's and SciPy's.
    """
    modules: dict[str, Any] = dict.fromkeys(name for name in _OPTIONAL_PACKAGES if name != backend)
    if backend == "numpy":
        modules |= {"tensorflow": None} | {name: _NotImported(name) for name in _NUMPY_KERNELS}
    modules = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextlib.contextmanager
def structure_only() -> Iterator[None]:
    """Keep Keras on NumPy from importing TensorFlow, and from running layers to find the shapes of their outputs.

    What NumPy computes may have other shapes than TensorFlow's, so that it raises `NotImplementedError`. The outputs of
    `LayerScale`, of ConvNeXt, have the shape of its inputs. Integers, such as the count of `Normalization`, have 64
    bits, as on TensorFlow.
    """
    from keras.src import backend
    from keras.src.applications.convnext import LayerScale
    from keras.src.backend.common import dtypes

    def refuse(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        layer = getattr(function, "__self__", None)
        if isinstance(layer, LayerScale):
            return backend.KerasTensor(arguments[0].shape, layer.compute_dtype)
        raise NotImplementedError("Keras on NumPy runs no layers")

    own, own_types = backend.compute_output_spec, dict(dtypes.PYTHON_DTYPES_MAP)
    backend.compute_output_spec = refuse
    dtypes.PYTHON_DTYPES_MAP |= dict.fromkeys((int, "int"), "int64")
    try:
        with without_tensorflow():
            yield
    finally:
        backend.compute_output_spec = own
        dtypes.PYTHON_DTYPES_MAP.update(own_types)


@contextlib.contextmanager
def variables_without_values() -> Iterator[None]:
    """Let models that are built while the block runs have the shapes of their weights alone, which takes no time."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        yield
