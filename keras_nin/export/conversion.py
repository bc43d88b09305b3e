"""From a Keras model to `Export` records: convert to each scheme, and check what came out."""

import contextlib
import functools
import re
import types

import numpy as np

from keras_nin import files, layers
from keras_nin.errors import InputError, check_choice
from keras_nin.export import operator_layers
from keras_nin.export.calibration import Calibration, check_samples, input_specs, output_specs, pack_inputs
from keras_nin.export.converted_model import ConvertedModel
from keras_nin.export.operator_layers import map_output_layers, mark_layers, read_scope
from keras_nin.export.schemes import SCHEMES, Scheme, Tuning
from keras_nin.output_capture import capture_output
from keras_nin.tflite import reader as tflite_graph
from keras_nin.tflite.records import float_operators


def convert_model(model, scheme="int8", calibration=None, **options):
    """Convert a Keras model to .tflite.

    Args:
        model: Functional keras.Model, or Sequential with an Input.
        scheme: name of a scheme, or `Scheme`.
        calibration: `Calibration`, or float32 images (N, H, W, C) as the model takes them, where the scheme is
            calibrated.
        **options: those of `export_all`.

    Returns:
        `Export`; `verify` compares it with the model, `save` writes it.

    Raises:
        InputError: as `export_all`.
    """
    return convert_schemes(model, [scheme], calibration, **options)[0]


def convert_schemes(
    model,
    schemes,
    calibration=None,
    *,
    allow_float=False,
    batch=1,
    tuning=None,
    weights=None,
    preprocessing=None,
    name=None,
    options=None,
    classes=(),
):
    """Convert a Keras model to several schemes, tracing and calibrating it once.

    Args:
        model: Functional keras.Model, or Sequential with an Input.
        schemes: names of schemes, or `Scheme` records; those that train are made by
            `keras_nin.export.convert_optimized`.
        calibration: `Calibration`, or float32 images (N, H, W, C) as the model takes them; for calibrated schemes.
        allow_float: let operators that a scheme does not have compute in floating point; `Export.float_operators`
            names them.
        batch: the static batch size of the files.
        tuning: `keras_nin.export.schemes.Tuning` of the calibrated 8-bit schemes; None is the converter's own way.
        weights: what the weights are, for the record.
        preprocessing: `keras_nin.data.Preprocessing` that the network expects, for the record.
        name: the model's name for files; the default is its own.
        options: dictionary of JSON values that says what else decided the content, for the record.
        classes: a name for each class of the output, where they are known.

    Returns:
        List of `Export`.

    Raises:
        InputError: unknown scheme, unfit calibration images, a network that does not convert or whose weights are not
            finite, or operators left that compute in floating point where the scheme allows none.
    """
    from keras_nin.models import hash_weights

    schemes = [_resolve_scheme(each) for each in schemes]
    if calibration is not None and not isinstance(calibration, Calibration):
        arrays = check_samples(calibration, input_specs(model))
        digest = files.sha256(b"".join(array.tobytes() for array in arrays.values()))
        calibration = Calibration("array", arrays, {}, 0, digest)
    check_finite_weights(model)
    digest = hash_weights(model)
    made = []
    with ModelConverter(model, batch) as source:
        for scheme in schemes:
            used = calibration if scheme.calibrated else None
            data, flags, marks = source.convert(scheme, used.images if used else None, allow_float, tuning)
            layers, left = _read_back(model, data, scheme, marks, allow_float)
            made.append(
                ConvertedModel(
                    model=name or model.name,
                    scheme=scheme,
                    data=data,
                    weights=weights or "as given",
                    weights_sha256=digest,
                    calibration=used,
                    preprocessing=preprocessing.to_json() if preprocessing else None,
                    flags=flags,
                    layers=layers,
                    float_operators=left,
                    batch=batch,
                    tuning=(tuning or Tuning()).to_json() if scheme.calibrated else None,
                    options=options,
                    classes=tuple(classes),
                    output_layers=map_output_layers(model, tflite_graph.read_model(data)),
                )
            )
    return made


def _resolve_scheme(scheme):
    return scheme if isinstance(scheme, Scheme) else SCHEMES[check_choice("scheme", scheme, tuple(SCHEMES))]


def _read_back(model, data, scheme, marks, allow_float):
    """Return the layer of each operator of a converted file, and the operators that compute in floating point."""
    graph = tflite_graph.read_model(data)
    layers = operator_layers.map_operators(model, graph, marks)
    return layers, check_integer_only(graph, layers, scheme, allow_float)


def check_integer_only(graph, layers, scheme, allow_float=False):
    """Return the operators of a converted file that compute in floating point although `scheme` is integer, as text.

    Args:
        graph: the file, as `keras_nin.tflite.reader.read_model` gives it.
        layers: for each operator the Keras layer that it computes, or None.
        scheme: `Scheme`.
        allow_float: whether there may be any.

    Raises:
        InputError: there are such operators and `allow_float` is not set, or the file's ends are of another type.
    """
    left = _float_operators(graph, layers, scheme) if scheme.integer_only else ()
    if left and not allow_float:
        raise InputError(
            f"Expected a network whose operators all exist in {scheme.name}. Received: operators that compute in "
            f"floating point ({', '.join(left)}). Allow them with --allow-float"
        )
    _check_io_types(graph, scheme)
    return left


def check_finite_weights(model):
    """Raise `InputError` where a weight of a keras.Model is not finite."""
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise InputError(f"Expected finite weights. Received: NaN or infinity in {weight.path!r}")


def _float_operators(graph, layers, scheme):
    """Return the operators that compute in floating point, each kind once a layer, as text."""
    named = dict(zip(((0, operator.index) for operator in graph.main.operators), layers, strict=True))
    left = float_operators(graph)
    # The casts around an operator that does not quantise say nothing of it, and float32 ends need casts.
    others = [operator for operator in left if operator.op not in ("QUANTIZE", "DEQUANTIZE")]
    left = others if others or scheme.io_type == "float32" else left
    found = dict.fromkeys((operator.op, named.get((operator.subgraph, operator.index))) for operator in left)
    return tuple(f"{op} of layer {layer!r}" if layer else op for op, layer in found)


def _check_io_types(graph, scheme):
    """Raise `InputError` where an integer-only scheme left the input or the output in floating point."""
    main = graph.main
    for index in (*main.inputs, *main.outputs) if scheme.integer_only else ():
        if main.tensors[index].dtype != scheme.io_type:
            raise InputError(
                f"Expected a network that computes something, so that its input and output become {scheme.io_type}. "
                f"Received: {main.tensors[index].dtype} and {len(main.operators)} operators"
            )


# MERGED From a Keras model to the bytes of a .tflite file, through TensorFlow's converter.

_UNKNOWN_OPERATOR = re.compile(r'"(?P<name>[^"@]*)@[^\n]*\'tf\.(?P<op>\w+)\' op is neither a custom op nor a flex op')
_SAYS_WHY = re.compile(r"(\b\w+Error|\berror): ")
_SAYS_WHERE = ("Exception encountered when calling", "Could not automatically infer", "File ", "in user code:")
_COLOUR = re.compile(r"\x1b\[\d*m")
_LONGEST_REASON = 300


class ModelConverter:
    """A model that is traced once, at a static batch, and converted to several schemes.

    One with `LocalResponseNormalization` is traced once more for the schemes that take its integer form.

    Use it as a context: it keeps a SavedModel in a temporary folder. That is also what the converter's own way from a
    model does, but it hides why writing it fails.

    Args:
        model: Functional keras.Model, or Sequential with an Input; its inputs and outputs have the names that
            `keras_nin.export.calibration` gives them.
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
        self.inputs, self.outputs = input_specs(model), output_specs(model)
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
            tuning: `keras_nin.export.schemes.Tuning`, or None.

        Returns:
            Tuple of the file's bytes, the flags that the converter was given, and the names of the layers by the mark
            that their operators carry (see `keras_nin.export.operator_layers`).

        Raises:
            InputError: no or unfit calibration images, or a network that the converter refuses.
        """
        quantizer = self._quantizer(calibration, tuning) if scheme.calibrated else None
        integer = self._normalizes and scheme.integer_only and not allow_float
        failure = None
        with capture_output() as output:
            try:
                folder, marks = self._saved_model(integer)
                converter, flags = _tflite_converter(folder, scheme, allow_float)
                if quantizer:
                    quantizer.attach(converter, scheme.per_channel)
                data = bytes(converter.convert())
            except Exception as error:  # many kinds, from Keras, TensorFlow and the network's own layers
                failure = error
        if failure is not None:
            reason = _failure_reason(failure, output.text, self._marks)
            raise InputError(f"Expected a network that converts to {scheme.name}. Received: {reason}") from failure
        if integer:
            flags["integer_form"] = ["LocalResponseNormalization"]
        return data, flags, marks

    def _quantizer(self, calibration, tuning):
        key = (id(calibration), tuning)
        if key not in self._quantizers:
            arrays = check_samples(calibration, self.inputs)
            # The key is good as long as `calibration` lives.
            self._quantizers[key] = calibration, Quantizer(_RepresentativeDataset(arrays, self.batch), tuning)
        return self._quantizers[key][1]

    def _saved_model(self, integer):
        """Return the folder of the SavedModel, with or without integer forms, and the marks of the layers in it."""
        if integer not in self._traces:
            folder = str(self._stack.enter_context(files.temporary_folder()))
            self._traces[integer] = folder, self._write(integer, folder)
        return self._traces[integer]

    def _write(self, integer, folder):
        """Write the SavedModel and return the marks."""
        with mark_layers(self.model) as self._marks, layers.use_integer_form(integer):
            _write_saved_model(self.model, self.inputs, self.outputs, self.batch, folder)
        return self._marks

    _marks = types.MappingProxyType({})


class _RepresentativeDataset:
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


_OPS_SETS = {"int8": "TFLITE_BUILTINS_INT8", "int16": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"}


def _tflite_converter(folder, scheme, allow_float):
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
        supported = [_OPS_SETS[scheme.activations], *(["TFLITE_BUILTINS"] if allow_float else [])]
        flags["supported_ops"] = supported
        converter.target_spec.supported_ops = [tf.lite.OpsSet[name] for name in supported]
    if scheme.integer_only:
        flags |= dict.fromkeys(("inference_input_type", "inference_output_type"), scheme.io_type)
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(scheme.io_type)
    return converter, flags


def _failure_reason(error, text, marks):
    """Return in one line why the conversion failed: the operators without a counterpart, else what the error says."""
    unknown = _UNKNOWN_OPERATOR.finditer(str(error))
    found = {(match["op"], "/".join(read_scope(match["name"], marks))) for match in unknown}
    if found:
        listed = ", ".join(f"{op} of layer {layer!r}" if layer else op for op, layer in sorted(found))
        return f"TensorFlow operators that have no counterpart in TFLite ({listed})"
    lines = [line.strip() for line in _COLOUR.sub("", f"{error}\n{text}").splitlines()]
    lines = [line for line in lines if line and not line.startswith(_SAYS_WHERE)]
    line = next(filter(_SAYS_WHY.search, lines), lines[0] if lines else type(error).__name__)
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


# MERGED The converter's step from a float file to integers, with one calibration for all schemes and a place to tune it.


class Quantizer:
    """Calibrates a float file once and quantises it as often as asked.

    It takes the place of one step inside TensorFlow's converter, so that everything around that step (types of input
    and output, shared buffers, metadata) stays the converter's own: without tuning the bytes are the bare converter's.

    Args:
        samples: iterable, again and again, of lists of float32 inputs, each with its batch, in the file's order; or of
            dictionaries by the names of the signature's inputs.
        tuning: `keras_nin.export.schemes.Tuning`; None is the converter's own least and largest values.
    """

    def __init__(self, samples, tuning=None):
        self.samples = samples
        self.tuning = tuning or Tuning()
        self._calibrators = {}

    def attach(self, converter, per_channel=True):
        """Quantise in the place of `converter` (tf.lite.TFLiteConverter), 8-bit weights with a scale a channel or one.

        Args:
            converter: tf.lite.TFLiteConverter.
            per_channel: whether each output channel of a weight tensor has a scale of its own.
        """
        converter.representative_dataset = lambda: iter(self.samples)
        converter._quantize = functools.partial(self._quantize, converter, per_channel)

    def _quantize(
        self, converter, per_channel, content, input_type, output_type, activations, bias, allow_float, variables, debug
    ):
        """Return the quantised file; the arguments from `content` on are those of TFLiteConverter._quantize."""
        import tensorflow as tf
        from tensorflow.lite.python.convert import mlir_quantize

        calibrator, calibrated = self._calibrate(bytes(content))
        if activations == tf.int16:  # which the new quantiser does not know
            types = (input_type, output_type, allow_float, activations, bias)
            numbers = [kind if isinstance(kind, bool) else kind.as_numpy_dtype().dtype.num for kind in types]
            return calibrator._calibrator.QuantizeModel(*numbers, False, False)
        return mlir_quantize(
            self.tuning.apply(calibrated, self.samples),
            disable_per_channel=not per_channel,
            input_data_type=input_type,
            output_data_type=output_type,
            enable_variable_quantization=variables,
            debug_options_str=debug.SerializeToString(),
        )

    def _calibrate(self, content):
        """Return the calibrator that has seen all samples, and the float file with the ranges that it saw."""
        from tensorflow.lite.python.optimize import calibrator

        if content not in self._calibrators:
            tool = calibrator.Calibrator(calibrator.add_intermediate_tensors(content))
            calibrated = tool.calibrate(lambda: iter(self.samples))
            self._calibrators[content] = tool, calibrated
        return self._calibrators[content]
