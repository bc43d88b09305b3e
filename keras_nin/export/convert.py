"""From a Keras model to the bytes of a .tflite file, through TensorFlow's converter."""

import contextlib
import functools
import re
import tempfile

from keras_nin.errors import InputError
from keras_nin.export.calibration import check_images
from keras_nin.export.operators import marked, scope_of
from keras_nin.quiet import captured

_UNKNOWN_OPERATOR = re.compile(r'"(?P<name>[^"@]*)@[^\n]*\'tf\.(?P<op>\w+)\' op is neither a custom op nor a flex op')
_SAYS_WHY = re.compile(r"(\b\w+Error|\berror): ")
_SAYS_WHERE = ("Exception encountered when calling", "Could not automatically infer", "File ", "in user code:")
_COLOUR = re.compile(r"\x1b\[\d*m")
_LONGEST_REASON = 300


def input_shape(model):
    """Return the (H, W, C) of the model's only input.

    Raises:
        InputError: no or several inputs or outputs, an input that is no image, or an open size.
    """
    try:
        inputs, outputs = len(model.inputs), len(model.outputs)
    except AttributeError:  # a Sequential model without an input shape, or a model that is no graph of layers
        inputs = outputs = 0
    if (inputs, outputs) != (1, 1):
        received = f"{inputs} and {outputs}" if inputs else "none: pass a Functional model, or Sequential with an Input"
        raise InputError(f"Expected a model with one input and one output. Received: {model.name!r} with {received}")
    shape = tuple(model.inputs[0].shape)[1:]
    if len(shape) != 3 or None in shape:
        hint = ". Give the size with --input-shape H,W,C" if len(shape) == 3 else ""
        raise InputError(
            f"Expected a model on images of a known (height, width, channels). Received: {model.name!r} with input "
            f"{shape}{hint}"
        )
    return shape


def convert(model, scheme, calibration=None, allow_float=False):
    """Convert a model to .tflite with a static batch of 1.

    Args:
        model: keras.Model with one image input (B, H, W, C) and one output.
        scheme: `Scheme`.
        calibration: images (N, H, W, C) as the model takes them, where the scheme is calibrated.
        allow_float: let operators that the scheme does not have compute in floating point.

    Returns:
        Tuple of the file's bytes, the flags that the converter was given, and the names of the layers by the mark
        that their operators carry (see `keras_nin.export.operators`).

    Raises:
        InputError: no TensorFlow backend, no or unfit calibration images, or a network that the converter refuses.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Expected Keras on the tensorflow backend. Received: {keras.backend.backend()!r}")
    shape = input_shape(model)
    images = check_images(calibration, shape) if scheme.calibrated else None
    failure = None
    with marked(model) as marks, captured() as output:
        try:
            with _converter(model, shape) as converter:
                flags = _configure(converter, scheme, images, allow_float)
                data = converter.convert()
        except Exception as error:  # many kinds, from Keras, TensorFlow and the network's own layers
            failure = error
    if failure is not None:
        reason = _reason(failure, output.text, marks)
        raise InputError(f"Expected a network that converts to {scheme.name}. Received: {reason}") from failure
    return data, flags, marks


@contextlib.contextmanager
def _converter(model, shape):
    """Yield TensorFlow's converter for the model at batch 1.

    By way of a SavedModel that is written here: `from_keras_model` writes one too, but hides why that fails.
    """
    import keras
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(1, *shape), name="input", dtype="float32")
    static = keras.Model(inputs, model(inputs, training=False), name="main")
    archive = keras.export.ExportArchive()
    archive.track(static)
    signature = [tf.TensorSpec((1, *shape), tf.float32, name="input")]
    archive.add_endpoint("serve", functools.partial(static.__call__, training=False), signature)
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder)
        yield tf.lite.TFLiteConverter.from_saved_model(folder)


def _configure(converter, scheme, images, allow_float):
    """Set the converter up for `scheme`; return what was set, by the converter's own names."""
    import tensorflow as tf

    if not scheme.calibrated:
        return {}

    def representative_dataset():
        for image in images:
            yield [image[None]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    supported = ["TFLITE_BUILTINS_INT8", "TFLITE_BUILTINS"] if allow_float else ["TFLITE_BUILTINS_INT8"]
    converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, name) for name in supported]
    converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(scheme.io_type)
    return {
        "optimizations": ["DEFAULT"],
        "supported_ops": supported,
        "inference_input_type": scheme.io_type,
        "inference_output_type": scheme.io_type,
    }


def _reason(error, text, marks):
    """Return in one line why the conversion failed: the operators without a counterpart, else what the error says."""
    unknown = _UNKNOWN_OPERATOR.finditer(str(error))
    found = {(match["op"], "/".join(scope_of(match["name"], marks))) for match in unknown}
    if found:
        listed = ", ".join(f"{op} of layer {layer!r}" if layer else op for op, layer in sorted(found))
        return f"TensorFlow operators that have no counterpart in TFLite ({listed})"
    lines = [line.strip() for line in _COLOUR.sub("", f"{error}\n{text}").splitlines()]
    lines = [line for line in lines if line and not line.startswith(_SAYS_WHERE)]
    line = next(filter(_SAYS_WHY.search, lines), lines[0] if lines else type(error).__name__)
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
