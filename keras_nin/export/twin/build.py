"""From a Keras 3 model to its twin in tf_keras."""

import functools

import numpy as np

from keras_nin.errors import InputError
from keras_nin.export.twin.steps import Slot, clean, flatten, input_names

TOLERANCE = 1e-5
# The side of a random input where the model leaves it open.
_OPEN_SIDE = 96


def check_packages():
    """Raise `InputError` where tf_keras or tensorflow-model-optimization is missing, or Keras is on no TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Expected Keras on the tensorflow backend. Received: {keras.backend.backend()!r}")
    try:
        import tensorflow_model_optimization  # noqa: F401
        import tf_keras  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Expected tf_keras and tensorflow-model-optimization to be installed. Received: {error}. "
            "Use pip install tf_keras tensorflow-model-optimization"
        ) from None


def to_tf_keras(model, check=True):
    """Return the same network as a flat Functional tf_keras model with the same weights.

    That is what tensorflow-model-optimization takes: its `prune_low_magnitude` and `cluster_weights` as they are, and
    quantisation through `keras_nin.export.quantize_model`. `from_tf_keras` brings trained weights back. Nested models
    and the blocks of `keras_nin.layers` are opened; a layer keeps its name where only one has it, and takes the names
    around it otherwise. A SeparableConv2D becomes its two convolutions (the first is called ``<name>_depthwise``), an
    activation other than ReLU that a layer applies becomes a layer of its own (``<name>_activation``). Layers and
    keras.ops without weights that tf_keras lacks are computed by Keras 3 inside the twin. Initialisers are left out.

    Args:
        model: keras.Model, Functional or Sequential with an Input; any number of inputs and outputs.
        check: compare the outputs of both on random input.

    Returns:
        tf_keras.Model with lists of inputs and outputs in the order of the model's, or one of each.

    Raises:
        InputError: layers without a counterpart, all of them named; a model that is no graph of layers; tf_keras or
            tensorflow-model-optimization missing; or (with `check`) outputs that differ by more than 1e-5 of their
            size.
    """
    check_packages()
    plan = flatten(model)
    layers = _make_layers(plan)
    try:
        twin = _connect(plan, layers)
    except RecursionError:
        raise InputError(
            f"Expected a model whose longest chain of layers tf_keras can follow. Received: {model.name!r} with "
            f"{len(plan.steps)} calls of layers. Raise sys.setrecursionlimit"
        ) from None
    _copy_weights(plan, layers)
    if check:
        _check(model, twin)
    return twin


def _make_layers(plan):
    """Return the list of tf_keras layers of each operation by its id."""
    from keras_nin.export.twin.configs import NoTwin
    from keras_nin.export.twin.layers import layers_of

    steps = {}
    for step in plan.steps:
        steps.setdefault(id(step.operation), []).append(step)
    layers, missing = {}, []
    for operation, path in plan.operations():
        try:
            layers[id(operation)] = layers_of(operation, steps[id(operation)], functools.partial(plan.name, operation))
        except NoTwin as reason:
            missing.append(f"{'/'.join(path)} ({type(operation).__name__}: {reason})")
    if missing:
        raise InputError(
            f"Expected layers that have a counterpart in tf_keras. Received: {len(missing)} without in "
            f"{plan.model.name!r}: {'; '.join(missing)}"
        )
    return layers


def _connect(plan, layers):
    import tf_keras

    values = {}
    for slot, tensor, name in zip(plan.inputs, plan.model.inputs, input_names(plan.model), strict=True):
        values[slot] = tf_keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype, name=clean(name))
    for step in plan.steps:
        first, *others = layers[id(step.operation)]
        result = _call(first, step, values)
        for layer in others:
            result = layer(result)
        results = list(result) if isinstance(result, list | tuple) else [result]
        values.update(zip(step.outputs, results, strict=True))
    inputs, outputs = ([values[slot] for slot in slots] for slots in (plan.inputs, plan.outputs))
    single = [each[0] if len(each) == 1 else each for each in (inputs, outputs)]
    return tf_keras.Model(*single, name=clean(plan.model.name))


def _call(layer, step, values):
    """Return what `layer` gives for the tensors of a step: called as the original was, or on all tensors in order."""
    import keras

    from keras_nin.export.twin.configs import is_standard

    def filled(value):
        return values[value] if isinstance(value, Slot) else value

    if is_standard(step.operation):
        args, kwargs = keras.tree.map_structure(filled, (step.args, step.kwargs))
        return layer(*args, **kwargs)
    tensors = [values[each] for each in keras.tree.flatten((step.args, step.kwargs)) if isinstance(each, Slot)]
    return layer(tensors[0] if len(tensors) == 1 else tensors)


def _copy_weights(plan, layers):
    from keras_nin.export.twin.weights import carries_weights, pairs

    for operation, _ in plan.operations():
        if carries_weights(operation):
            variables = [variable for layer in layers[id(operation)] for variable in layer.weights]
            for source, target in pairs(operation, variables):
                target.assign(source.numpy())


def _check(model, twin):
    """Raise `InputError` where the outputs of both differ on random input."""
    rng = np.random.default_rng(0)
    inputs = [_random(tensor, rng) for tensor in model.inputs]
    given = inputs[0] if len(inputs) == 1 else inputs
    expected, received = (_outputs(each, given) for each in (model, twin))
    for tensor, wanted, found in zip(model.outputs, expected, received, strict=True):
        difference, size = float(np.abs(found - wanted).max()), float(np.abs(wanted).max())
        if not difference <= TOLERANCE * size:
            raise InputError(
                f"Expected a twin with the outputs of {model.name!r} to {TOLERANCE:g} of their size. Received: a "
                f"largest difference of {difference:.3g} in {tensor.name!r}, whose largest value is {size:.3g}"
            )


def _random(tensor, rng):
    shape = [2 if tensor.shape[0] is None else tensor.shape[0]]
    shape += [_OPEN_SIDE if side is None else side for side in tensor.shape[1:]]
    if "int" in tensor.dtype or tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(tensor.dtype)
    return rng.uniform(0, 1, shape).astype(tensor.dtype)


def _outputs(model, inputs):
    import keras

    return [np.asarray(each, np.float64) for each in keras.tree.flatten(model(inputs, training=False))]
