"""From a Keras model to the bytes of a .tflite file, through TensorFlow's converter."""

import contextlib
import functools
import re
import types

import numpy as np

from keras_nin import files
from keras_nin.errors import InputError
from keras_nin.export.calibration import check_images
from keras_nin.export.operators import marked, scope_of
from keras_nin.export.quantizer import Quantizer
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


class Source:
    """A model that is traced once, at a static batch, and converted to several schemes.

    Use it as a context: it keeps a SavedModel in a temporary folder. That is also what the converter's own way from a
    model does, but it hides why writing it fails.

    Args:
        model: keras.Model with one image input (B, H, W, C) and one output.
        batch: the batch size of the files.

    Raises:
        InputError: no TensorFlow backend, a batch below 1, or a model that is none such.
    """

    def __init__(self, model, batch=1):
        import keras

        if keras.backend.backend() != "tensorflow":
            raise InputError(f"Expected Keras on the tensorflow backend. Received: {keras.backend.backend()!r}")
        if not isinstance(batch, int) or batch < 1:
            raise InputError(f"Expected `batch` to be a whole number of at least 1. Received: {batch!r}")
        self.model, self.batch = model, batch
        self.shape = input_shape(model)
        self._stack = contextlib.ExitStack()
        self._folder = None
        self._quantizers = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()
        self._folder = None

    def convert(self, scheme, calibration=None, allow_float=False, tuning=None):
        """Convert the model to the bytes of a .tflite file.

        Args:
            scheme: `Scheme`.
            calibration: images (N, H, W, C) as the model takes them, where the scheme is calibrated.
            allow_float: let operators that the scheme does not have compute in floating point.
            tuning: `keras_nin.export.tuning.Tuning`, or None.

        Returns:
            Tuple of the file's bytes, the flags that the converter was given, and the names of the layers by the mark
            that their operators carry (see `keras_nin.export.operators`).

        Raises:
            InputError: no or unfit calibration images, or a network that the converter refuses.
        """
        quantizer = self._quantizer(calibration, tuning) if scheme.calibrated else None
        failure = None
        with captured() as output:
            try:
                folder, marks = self._saved_model()
                converter, flags = _converter(folder, scheme, allow_float)
                if quantizer:
                    quantizer.attach(converter)
                data = bytes(converter.convert())
            except Exception as error:  # many kinds, from Keras, TensorFlow and the network's own layers
                failure = error
        if failure is not None:
            reason = _reason(failure, output.text, self._marks)
            raise InputError(f"Expected a network that converts to {scheme.name}. Received: {reason}") from failure
        return data, flags, marks

    def _quantizer(self, calibration, tuning):
        key = (id(calibration), tuning)
        if key not in self._quantizers:
            images = check_images(calibration, self.shape)
            # The key is good as long as `calibration` lives.
            self._quantizers[key] = calibration, Quantizer(_Samples(images, self.batch), tuning)
        return self._quantizers[key][1]

    def _saved_model(self):
        """Return the folder of the SavedModel and the marks of the layers in it."""
        if self._folder is None:
            folder = str(self._stack.enter_context(files.temporary_folder()))
            with marked(self.model) as self._marks:
                _write_saved_model(self.model, self.shape, self.batch, folder)
            self._folder = folder
        return self._folder, self._marks

    _marks = types.MappingProxyType({})


class _Samples:
    """Calibration images as the converter takes them: one batch at a time, in a list of inputs."""

    def __init__(self, images, batch):
        self.images, self.batch = images, batch

    def __len__(self):
        return -(-len(self.images) // self.batch)

    def __iter__(self):
        for start in range(0, len(self.images), self.batch):
            part = self.images[start : start + self.batch]
            # The last batch is filled up with its own images: repetition moves no range.
            yield [np.resize(part, (self.batch, *part.shape[1:]))]


def _write_saved_model(model, shape, batch, folder):
    import keras
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(batch, *shape), name="input", dtype="float32")
    static = keras.Model(inputs, model(inputs, training=False), name="main")
    archive = keras.export.ExportArchive()
    archive.track(static)
    signature = [tf.TensorSpec((batch, *shape), tf.float32, name="input")]
    archive.add_endpoint("serve", functools.partial(static.__call__, training=False), signature)
    archive.write_out(folder)


_OPERATORS = {"int8": "TFLITE_BUILTINS_INT8", "int16": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"}


def _converter(folder, scheme, allow_float):
    """Return TensorFlow's converter of a SavedModel, set up for `scheme`, and what was set, by its own names."""
    import tensorflow as tf
    from tensorflow.lite.python import lite

    # What tf.lite.TFLiteConverter.from_saved_model does, but for loading the model once more to find the signature.
    lite.TFLiteConverterBase._set_original_model_type(lite.conversion_metadata_fb.ModelType.TF_SAVED_MODEL)
    converter = lite.TFLiteSavedModelConverterV2(folder, {"serve"}, ["serving_default"])
    flags = {}
    if scheme.weights != "float32":
        flags["optimizations"] = ["DEFAULT"]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme.weights == "float16":
        flags["supported_types"] = ["float16"]
        converter.target_spec.supported_types = [tf.float16]
    if scheme.integer_only:
        supported = [_OPERATORS[scheme.activations], *(["TFLITE_BUILTINS"] if allow_float else [])]
        flags |= {"supported_ops": supported}
        flags |= dict.fromkeys(("inference_input_type", "inference_output_type"), scheme.io_type)
        converter.target_spec.supported_ops = [tf.lite.OpsSet[name] for name in supported]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(scheme.io_type)
    return converter, flags


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
