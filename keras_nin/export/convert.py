"""From a Keras model to the bytes of a .tflite file, through TensorFlow's converter."""

import contextlib
import re

from keras_nin.errors import InputError
from keras_nin.quiet import captured

_MARK = re.compile(r"^(?P<name>.+\.)(_\d+)?$")
# Layers that leave no operator behind at inference.
_NO_OPERATOR = ("Dropout", "SpatialDropout2D", "GaussianNoise", "Identity", "InputLayer")


def input_shape(model):
    """Return the (H, W, C) of the model's only input.

    Raises:
        InputError: several inputs, an input that is no image, or an open size.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"Expected a model with one input and one output. Received: {model.name!r} with "
            f"{len(model.inputs)} and {len(model.outputs)}"
        )
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or None in shape:
        raise InputError(
            f"Expected a model on images of a known (height, width, channels). Received: {model.name!r} with "
            f"{shape}. Give the size with --input-shape H,W,C"
        )
    return shape


def convert(model, scheme, calibration=None):
    """Convert a model to .tflite with a static batch of 1.

    Args:
        model: keras.Model with one image input (B, H, W, C) and one output.
        scheme: `Scheme`.
        calibration: float32 images (N, H, W, C) as the model takes them, where the scheme is calibrated.

    Returns:
        Tuple of the file's bytes, the flags that the converter was given, and the names of the layers by the mark
        that their operators carry (see `layer_of_operator`).

    Raises:
        InputError: no TensorFlow backend, no or unfit calibration images, or a network that the converter refuses.
    """
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Expected Keras on the tensorflow backend. Received: {keras.backend.backend()!r}")
    shape = input_shape(model)
    with _marked(model) as marks, captured() as output:
        inputs = keras.Input(batch_shape=(1, *shape), name="input", dtype="float32")
        static = keras.Model(inputs, model(inputs, training=False), name="main")
        converter = tf.lite.TFLiteConverter.from_keras_model(static)
        flags = _configure(converter, scheme, calibration, shape)
        try:
            data = converter.convert()
        except Exception as error:  # the converter raises many kinds, with the reason on stderr or in the message
            failure = error
        else:
            failure = None
    if failure is not None:
        raise InputError(
            f"Expected a network that converts to {scheme.name}. Received: {_reason(failure, output.text)}"
        ) from failure
    return data, flags, marks


def _configure(converter, scheme, calibration, shape):
    """Set the converter up for `scheme`; return what was set, by the converter's own names."""
    import tensorflow as tf

    if not scheme.calibrated:
        return {}
    if calibration is None or len(calibration) == 0 or tuple(calibration.shape[1:]) != shape:
        received = "none" if calibration is None else f"shape {tuple(calibration.shape)}"
        raise InputError(f"Expected calibration images (N, {', '.join(map(str, shape))}). Received: {received}")

    def representative_dataset():
        for image in calibration:
            yield [image[None]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(scheme.io_type)
    return {
        "optimizations": ["DEFAULT"],
        "supported_ops": ["TFLITE_BUILTINS_INT8"],
        "inference_input_type": scheme.io_type,
        "inference_output_type": scheme.io_type,
    }


def _reason(error, text):
    """Return the line of the converter's output that says why it failed."""
    lines = [line.strip() for line in [*str(error).splitlines(), *text.splitlines()] if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(error).__name__)


@contextlib.contextmanager
def _marked(model):
    """Rename every layer for the time of the conversion so that a layer's name can be read off its operators.

    The converter keeps TensorFlow's name scopes, which number repeated names: a layer "conv1" becomes "conv1_1", and
    a layer really called "conv1_1" something else. A name that ends in a dot stays recognisable: "conv1." becomes
    "conv1._1". Yields a dictionary from the marked to the real name.
    """
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer is not model]
    names = [layer.name for layer in layers]
    marks = {}
    try:
        for layer, name in zip(layers, names, strict=True):
            mark = re.sub(r"[^A-Za-z0-9_.-]", "_", name) + "."
            mark = mark if re.match("[A-Za-z0-9]", mark) else f"L{mark}"
            layer.name = mark
            marks[mark] = name
        yield marks
    finally:
        for layer, name in zip(layers, names, strict=True):
            layer.name = name


def layers_of_operators(model, graph, marks):
    """Return for each operator of the file's main graph the name of the Keras layer that it computes, or None.

    Args:
        model: the keras.Model.
        graph: the file, as `keras_nin.tflite.graph.read` gives it.
        marks: as `convert` returned them.

    Returns:
        Tuple of names; a layer of a nested model has the path "outer/inner". Where the converter fused several layers
        into one operator (convolution, BatchNormalization, ReLU) it is the first of them in the model.
    """
    main = graph.main
    order = {name: position for position, name in enumerate(_layer_order(model))}
    found = []
    for operator in main.operators:
        scopes = [_layer_path(scope, marks) for scope in main.tensors[operator.outputs[0]].name.split(";")]
        candidates = [path for path in scopes if path]
        found.append(min(candidates, key=lambda path: order.get(path.split("/")[0], len(order)), default=None))
    # The converter names the graph's output after the signature, whatever computes it.
    for position, operator in enumerate(main.operators):
        if found[position] is None and set(operator.outputs) & set(main.outputs) and operator.op != "QUANTIZE":
            found[position] = _output_layer(model)
    return tuple(found)


def _layer_order(model):
    return [layer.name for layer in model.layers]


def _layer_path(scope, marks):
    """Return "outer/inner" for a scope such as "functional/net/outer._1/inner./Relu"; None where no layer is marked."""
    matches = [_MARK.match(part) for part in scope.split("/")]
    names = [marks[match["name"]] for match in matches if match and match["name"] in marks]
    return "/".join(names) or None


def _output_layer(model):
    """Return the name of the layer whose operator gives the model's output."""
    tensor = model.outputs[0]
    while True:
        layer = tensor._keras_history.operation
        linear = type(layer).__name__ == "Activation" and layer.activation.__name__ == "linear"
        if not (linear or type(layer).__name__ in _NO_OPERATOR) or not layer.input:
            return layer.name
        tensor = layer.input
