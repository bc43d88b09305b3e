"""From a Keras model to the bytes of a .tflite file, through TensorFlow's converter."""

import contextlib
import re
import types

import numpy as np

from keras_nin import files, layers
from keras_nin.errors import InputError
from keras_nin.export.calibration import check_arrays
from keras_nin.export.operators import marked, scope_of
from keras_nin.export.ports import input_ports, output_ports, pack_inputs
from keras_nin.export.quantizer import Quantizer
from keras_nin.quiet import captured

_UNKNOWN_OPERATOR = re.compile(r'"(?P<name>[^"@]*)@[^\n]*\'tf\.(?P<op>\w+)\' op is neither a custom op nor a flex op')
_SAYS_WHY = re.compile(r"(\b\w+Error|\berror): ")
_SAYS_WHERE = ("Exception encountered when calling", "Could not automatically infer", "File ", "in user code:")
_COLOUR = re.compile(r"\x1b\[\d*m")
_LONGEST_REASON = 300


class Source:
    """A model that is traced once, at a static batch, and converted to several schemes.

    One with `LocalResponseNormalization` is traced once more for the schemes that take its integer form.

    Use it as a context: it keeps a SavedModel in a temporary folder. That is also what the converter's own way from a
    model does, but it hides why writing it fails.

    Args:
        model: Functional keras.Model, or Sequential with an Input; its inputs and outputs have the names that
            `keras_nin.export.ports` gives them.
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
        self.inputs, self.outputs = input_ports(model), output_ports(model)
        self._stack = contextlib.ExitStack()
        self._normalizes = any(isinstance(each, layers.LocalResponseNormalization) for each in model._flatten_layers())
        self._traces = {}
        self._quantizers = {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()
        self._traces = {}

    def convert(self, scheme, calibration=None, allow_float=False, tuning=None):
        """Convert the model to the bytes of a .tflite file.

        Args:
            scheme: `Scheme`.
            calibration: what the model takes, where the scheme is calibrated: an array (N, ...), with several inputs
                a dictionary of them by the inputs' names.
            allow_float: let operators that the scheme does not have compute in floating point. Without it an integer
                scheme takes the integer form of `LocalResponseNormalization`.
            tuning: `keras_nin.export.tuning.Tuning`, or None.

        Returns:
            Tuple of the file's bytes, the flags that the converter was given, and the names of the layers by the mark
            that their operators carry (see `keras_nin.export.operators`).

        Raises:
            InputError: no or unfit calibration images, or a network that the converter refuses.
        """
        quantizer = self._quantizer(calibration, tuning) if scheme.calibrated else None
        integer = self._normalizes and scheme.integer_only and not allow_float
        failure = None
        with captured() as output:
            try:
                folder, marks = self._saved_model(integer)
                converter, flags = _converter(folder, scheme, allow_float)
                if quantizer:
                    quantizer.attach(converter, scheme.per_channel)
                data = bytes(converter.convert())
            except Exception as error:  # many kinds, from Keras, TensorFlow and the network's own layers
                failure = error
        if failure is not None:
            reason = _reason(failure, output.text, self._marks)
            raise InputError(f"Expected a network that converts to {scheme.name}. Received: {reason}") from failure
        if integer:
            flags["integer_form"] = ["LocalResponseNormalization"]
        return data, flags, marks

    def _quantizer(self, calibration, tuning):
        key = (id(calibration), tuning)
        if key not in self._quantizers:
            arrays = check_arrays(calibration, self.inputs)
            # The key is good as long as `calibration` lives.
            self._quantizers[key] = calibration, Quantizer(_Samples(arrays, self.batch), tuning)
        return self._quantizers[key][1]

    def _saved_model(self, integer):
        """Return the folder of the SavedModel, with or without integer forms, and the marks of the layers in it."""
        if integer not in self._traces:
            folder = str(self._stack.enter_context(files.temporary_folder()))
            self._traces[integer] = folder, self._write(integer, folder)
        return self._traces[integer]

    def _write(self, integer, folder):
        """Write the SavedModel and return the marks."""
        with marked(self.model) as self._marks, layers.integer_form(integer):
            _write_saved_model(self.model, self.inputs, self.outputs, self.batch, folder)
        return self._marks

    _marks = types.MappingProxyType({})


class _Samples:
    """Calibration arrays as the converter takes them, one batch at a time: a list for one input, else by name."""

    def __init__(self, arrays, batch):
        self.arrays, self.batch = arrays, batch
        self.count = len(next(iter(arrays.values())))

    def __len__(self):
        return -(-self.count // self.batch)

    def __iter__(self):
        for start in range(0, self.count, self.batch):
            # The last batch is filled up with its own samples: repetition moves no range.
            filled = {name: self._batch(array[start : start + self.batch]) for name, array in self.arrays.items()}
            yield filled if len(filled) > 1 else list(filled.values())

    def _batch(self, part):
        return np.resize(part, (self.batch, *part.shape[1:]))


def _write_saved_model(model, inputs, outputs, batch, folder):
    import keras
    import tensorflow as tf

    tensors = [keras.Input(batch_shape=(batch, *port.shape), name=port.name, dtype="float32") for port in inputs]
    results = keras.tree.flatten(model(pack_inputs(model, tensors), training=False))
    static = keras.Model(tensors, results, name="main")

    def serve(*arguments):
        made = keras.tree.flatten(static(list(arguments), training=False))
        return dict(zip((port.name for port in outputs), made, strict=True))

    archive = keras.export.ExportArchive()
    archive.track(static)
    signature = [tf.TensorSpec((batch, *port.shape), tf.float32, name=port.name) for port in inputs]
    archive.add_endpoint("serve", serve, signature)
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
    if scheme.calibrated:  # a network that has learnt its ranges may not be told so
        supported = [_OPERATORS[scheme.activations], *(["TFLITE_BUILTINS"] if allow_float else [])]
        flags["supported_ops"] = supported
        converter.target_spec.supported_ops = [tf.lite.OpsSet[name] for name in supported]
    if scheme.integer_only:
        flags |= dict.fromkeys(("inference_input_type", "inference_output_type"), scheme.io_type)
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
