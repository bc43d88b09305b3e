"""From a Keras model to .tflite: the samples that calibrate it, and TensorFlow's converter for each scheme."""

import contextlib
import dataclasses
import functools
import math
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_nin import files
from keras_nin._compat.keras import plain_argmax
from keras_nin.data import split_image_shape
from keras_nin.errors import InputError, check_whole_number, expected_error, input_error
from keras_nin.export.converted_model import (
    Calibration,
    ConvertedModel,
    check_integer_operators,
    describe_conversion,
    describe_operator,
)
from keras_nin.export.mixed_precision import MixedNetwork
from keras_nin.export.operator_layers import layer_marks, map_operators, mark_layers, read_scope
from keras_nin.export.schemes import Scheme, Tuning, get_scheme
from keras_nin.export.tuning import tune_file
from keras_nin.export.weight_comparison import map_fused_layers
from keras_nin.formatting import format_names
from keras_nin.keras_graph import (
    TensorSpec,
    find_loops,
    input_specs,
    output_specs,
    pack_inputs,
    trace_functional,
    unroll_loops,
)
from keras_nin.output_capture import capture_output
from keras_nin.tflite.layer_names import operator_paths
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from numpy.typing import ArrayLike

    from keras_nin.data import Dataset, Preprocessing
    from keras_nin.data.dataset import IndexSequence
    from keras_nin.tflite.records import TFLiteModel

    Samples = ArrayLike | Mapping[str, ArrayLike]
    # Changes a calibrated float file: (content, samples) -> content.
    TuneFile = Callable[[bytes, Iterable[Any]], bytes]
    # Chooses the operators that stay in float.
    ChooseFloat = Callable[[MixedNetwork], Collection[str]]
    # Gives the Keras layer of each operator of a file.
    NameLayers = Callable[[TFLiteModel], Sequence[str | None]]

_OPS_SETS = {"int8": "TFLITE_BUILTINS_INT8", "int16": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"}
# Operators that TensorFlow's converter is known to quantize to int8; whether it quantizes another one is tried out. See
# https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec
_INT8_OPERATORS = frozenset(
    ("ADD", "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE")
    + ("FULLY_CONNECTED", "GATHER", "GELU", "HARD_SWISH", "L2_NORMALIZATION", "LEAKY_RELU", "LOGISTIC", "LOG_SOFTMAX")
    + ("MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "PACK", "PAD", "PADV2", "PRELU", "RELU")
    + ("RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SHAPE", "SLICE", "SOFTMAX")
    + ("SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM")
    + ("TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK")
)
_REWRITTEN_OPERATORS = frozenset(("NEG", "SPLIT", "SQUARE"))
_CALIBRATION_SECONDS = 600.0
_MAX_CALIBRATION_BYTES = 2**28  # of calibration images in memory; more lie in a file
_LOADED = 32  # of them at a time
_LOOP_OPERATORS = ("WHILE", "IF", "CALL_ONCE")
# What TensorFlow 2.21 says when a conversion fails.
_UNKNOWN_OPERATOR = re.compile(r'"(?P<name>[^"@]*)@[^\n]*\'tf\.(?P<op>\w+)\' op is neither a custom op nor a flex op')
_REASON_LINE = re.compile(r"(\b\w+Error|\berror): ")
_LOCATION_LINES = ("Exception encountered when calling", "Could not automatically infer", "File ", "in user code:")
_COLOR = re.compile(r"\x1b\[\d*m")
_MAX_REASON = 300


def convert_model(
    model: "keras.Model",
    scheme: str | Scheme = "int8",
    calibration: "Calibration | Samples | None" = None,
    **options: Any,
) -> ConvertedModel:
    """Convert a Keras model to one scheme; arguments and errors as those of `convert_schemes`."""
    return convert_schemes(model, [scheme], calibration, **options)[0]


def convert_schemes(
    model: "keras.Model",
    schemes: Sequence[str | Scheme],
    calibration: "Calibration | Samples | None" = None,
    *,
    allow_float: bool = False,
    batch: int = 1,
    tuning: Tuning | None = None,
    weights: str | None = None,
    preprocessing: "Preprocessing | None" = None,
    name: str | None = None,
    options: dict[str, Any] | None = None,
    classes: Sequence[str] = (),
    float_operators: "Collection[str] | ChooseFloat | None" = None,
) -> list[ConvertedModel]:
    """Convert a Keras model to several schemes, tracing and calibrating it once.

    Args:
        model: Functional keras.Model, or Sequential with an Input.
        schemes: names or `Scheme` records; for those that train see `keras_nin.export.convert_optimized`.
        calibration: `Calibration`, or float32 images (N, H, W, C) as the model takes them; for calibrated schemes.
        allow_float: let operators that a scheme lacks compute in floating point; `ConvertedModel.float_operators` has
            their names.
        batch: the static batch size of the files.
        tuning: of calibrated 8-bit schemes; None is `Tuning()`, and `Tuning.plain()` the converter's own way.
        name: the model's name for files; the default is its own.
        weights, preprocessing, options, classes: for the record: what the weights are, `keras_nin.data.Preprocessing`
            that the network expects, JSON values that say what else decided the content, and a name for each class of
            the output.
        float_operators: names of the operators that the scheme mixed leaves in float32, or a function that returns them
            for a `keras_nin.export.mixed_precision.MixedNetwork`.

    Returns:
        A `ConvertedModel` per scheme; `keras_nin.export.verify_files` compares it with the model, `save` writes it.

    Raises:
        InputError: unknown scheme, unfit calibration images, a network that does not convert or whose weights are not
            finite, or operators that compute in floating point where the scheme allows none.
    """
    if calibration is not None and not isinstance(calibration, Calibration):
        arrays = check_samples(calibration, input_specs(model))
        digest = files.sha256(b"".join(array.tobytes() for array in arrays.values()))
        calibration = Calibration("array", arrays, None, 0, digest)
    check_finite_weights(model)
    tuning = tuning or Tuning()
    details: dict[str, Any] = {"allow_float": allow_float, "weights": weights, "preprocessing": preprocessing}
    details |= {"name": name, "options": options, "classes": classes, "batch": batch}
    converted = []
    with ModelConverter(model, batch) as converter:
        for scheme in map(get_scheme, schemes):
            used = calibration if scheme.calibrated else None
            arguments = scheme, used.images if used else None, allow_float, tuning
            chosen = _choose_float(converter, arguments, float_operators) if scheme.mixed else ()
            content, flags = converter.convert(*arguments, chosen)
            if scheme.mixed:
                flags["float_operators"] = list(chosen)
            tflite = read_model(content)
            mapped = map_fused_layers(model, tflite)
            details["allow_float"] = allow_float or scheme.mixed
            record = describe_conversion(model, scheme, tflite, flags, mapped.layers, **details)
            tuned = tuning if scheme.tunable else None
            converted.append(
                dataclasses.replace(record, calibration=used, output_layers=mapped.output_layers, tuning=tuned)
            )
    return converted


def _choose_float(
    converter: "ModelConverter", arguments: tuple[Any, ...], float_operators: "Collection[str] | ChooseFloat | None"
) -> tuple[str, ...]:
    """Return the names of the operators that stay in float."""
    if float_operators is None:
        raise expected_error("float_operators", "to name what scheme mixed leaves in float, or to choose it", None)
    if not callable(float_operators):
        return tuple(float_operators)
    return tuple(float_operators(converter.tune(*arguments)))


def check_finite_weights(model: "keras.Model") -> None:
    """Raise `InputError` where a weight of a keras.Model is not finite."""
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise input_error("finite weights", f"NaN or infinity in {weight.path!r}")


# Samples that calibrate


def image_input_shape(model: "keras.Model") -> tuple[int, int, int]:
    """Return the (H, W, C) of a model whose only input is an image; `InputError` as `input_specs`, or for another."""
    from keras_nin.train.training import get_image_shape

    input_specs(model)
    return get_image_shape(model)


def load_calibration(
    dataset: "Dataset",
    input_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    *,
    count: int = 100,
    seed: int = 0,
    preprocessing: "Preprocessing | None" = None,
) -> Calibration:
    """Load calibration images from the calibration split of a dataset.

    Args:
        dataset: `keras_nin.data.Dataset`.
        input_shape: the network's (H, W, C), or the shapes of its inputs by name.
        count, seed: how many images, and of their choice; all of the split where it has fewer.
        preprocessing: `keras_nin.data.Preprocessing`; None takes the dataset's own.

    Raises:
        InputError: the split is empty, `count` is below 1, or an image cannot be read.
    """
    preprocessing = preprocessing or dataset.preprocessing
    indices = dataset.select("calibration", count, seed)
    return Calibration(
        source=dataset.name,
        images=_load_images(dataset, indices, input_shape, preprocessing),
        preprocessing=preprocessing.to_json() if preprocessing else None,
        seed=seed,
        sha256=dataset.digest(indices),
        names=tuple(dataset.names_of(indices)),
        noise=dataset.noise,
    )


def _load_images(
    dataset: "Dataset",
    indices: "IndexSequence",
    input_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    preprocessing: "Preprocessing | None",
) -> Any:
    """Return images as `Dataset.load` does; many of them in a temporary file, which the array maps."""
    size, channels = split_image_shape(input_shape)
    shape = (len(indices), *(size or ()), channels or 0)
    if 4 * math.prod(shape) <= _MAX_CALIBRATION_BYTES:
        return dataset.load(indices, size, channels, preprocessing)
    with tempfile.TemporaryFile() as file:  # the mapping keeps its content
        images = np.memmap(file, np.float32, shape=shape)
    for start in range(0, len(indices), _LOADED):
        part = slice(start, start + _LOADED)
        images[part] = np.asarray(dataset.load(indices[part], size, channels, preprocessing))
    return images


def check_samples(samples: "Samples | None", specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """Return calibration samples (N, ...), a dictionary of them for several inputs, as float32 by input name.

    Raises:
        InputError: no samples, other names, different numbers of samples, another shape, or NaN or infinity.
    """
    names = [spec.name for spec in specs]
    if len(specs) > 1 and not isinstance(samples, Mapping):
        raise _calibration_error(f"arrays by input name ({', '.join(map(repr, names))})", "one array")
    by_name: dict[str, Any] = dict(samples) if isinstance(samples, Mapping) else {names[0]: samples}
    if set(by_name) != set(names):
        raise _calibration_error(f"arrays for the inputs {names}", list(by_name))
    arrays = {spec.name: _check_sample_array(by_name[spec.name], spec) for spec in specs}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise input_error("the same number of calibration samples for each input", counts, argument="calibration")
    return arrays


def _check_sample_array(samples: Any, spec: TensorSpec) -> np.ndarray:
    kind = "images" if len(spec.shape) == 3 else f"samples of {spec.name!r}"
    expected = f"{kind} ({', '.join(map(str, ('N', *spec.shape)))})"
    if samples is None:
        raise _calibration_error(expected, "none")
    try:
        array = np.asarray(samples, np.float32)
    except (TypeError, ValueError):
        raise _calibration_error(expected, f"{type(samples).__name__} of other things") from None
    if array.ndim != 1 + len(spec.shape) or len(array) == 0 or array.shape[1:] != spec.shape:
        raise _calibration_error(expected, f"shape {array.shape}")
    not_finite = sum(not np.isfinite(sample).all() for sample in array)
    if not_finite:
        raise _calibration_error(f"{expected} of finite numbers", f"NaN or infinity in {not_finite} of them")
    return array


def _calibration_error(expected: str, received: object) -> InputError:
    return input_error(f"calibration {expected}", received, argument="calibration")


# TensorFlow's converter


class ModelConverter:
    """A model that is traced once, at a static batch, and converted to several schemes; a context manager.

    Inputs and outputs get the names of `input_specs` and `output_specs`. A model with `LocalResponseNormalization` is
    traced once more for the schemes that take its integer form, one with recurrent layers for those that calibrate,
    with the layers unrolled: TensorFlow's calibrator crashes on their loops. A SavedModel is kept in a temporary
    folder: that is what TensorFlow's converter does with a model too, but it hides why writing it fails.
    """

    def __init__(self, model: "keras.Model", batch: int = 1) -> None:
        import keras

        from keras_nin.layers import LocalResponseNormalization

        if keras.backend.backend() != "tensorflow":
            raise input_error("Keras on the tensorflow backend", repr(keras.backend.backend()))
        check_whole_number("batch", batch)
        self.model, self.batch = model, batch
        self.inputs, self.outputs = input_specs(model), output_specs(model)
        self._has_integer_form = any(
            isinstance(call.operation, LocalResponseNormalization) for call in trace_functional(model).calls
        )
        self._loops = find_loops(model)
        self._stack = contextlib.ExitStack()
        self._folders: dict[tuple[bool, bool], str] = {}
        self._quantizers: dict[tuple[int, Any], tuple[Any, Quantizer]] = {}

    def __enter__(self) -> "ModelConverter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._folders = {}

    def convert(
        self,
        scheme: Scheme,
        calibration: "Samples | None" = None,
        allow_float: bool = False,
        tuning: "Tuning | TuneFile | None" = None,
        float_operators: Collection[str] = (),
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the bytes of a .tflite file and the flags that the converter was given.

        Without `allow_float` an integer scheme takes the integer form of `LocalResponseNormalization`. The calibration
        has samples for `check_samples`; the tuning may be a function that changes a calibrated float file. The scheme
        mixed leaves `float_operators` in float32.

        Raises:
            InputError: no or unfit calibration samples, an unknown operator, or a network that the converter refuses.
        """
        quantizer = self._quantizer(calibration, tuning or Tuning()) if scheme.calibrated else None
        integer_form = self._has_integer_form and scheme.integer_only and not allow_float
        unrolled, falls_back = bool(self._loops) and scheme.calibrated, allow_float or scheme.mixed
        content, flags, failure = b"", {}, None
        with capture_output() as output:
            try:
                converter, flags = configure_converter(self._saved_model(integer_form, unrolled), scheme, falls_back)
                if quantizer:
                    quantizer.attach(converter, scheme, falls_back, float_operators)
                content = bytes(converter.convert())
            except Exception as error:  # many types, from Keras, TensorFlow and the network's own layers
                failure = error
        if isinstance(failure, InputError):
            raise failure
        if failure is not None:
            reason = failure_reason(failure, output.text, layer_marks(self.model))
            raise input_error(f"a network that converts to {scheme.name}", reason) from failure
        if integer_form:
            flags["integer_form"] = ["LocalResponseNormalization"]
        if quantizer and quantizer.replaced:
            flags["rewritten"] = quantizer.replaced
        if unrolled:
            flags["unrolled"] = [layer.name for layer in self._loops]
        return content, flags

    def tune(
        self,
        scheme: Scheme,
        calibration: "Samples | None" = None,
        allow_float: bool = False,
        tuning: "Tuning | TuneFile | None" = None,
    ) -> MixedNetwork:
        """Return the calibrated and tuned network of the scheme mixed; arguments and errors as those of `convert`."""
        self.convert(scheme, calibration, allow_float, tuning)
        network = self._quantizer(calibration, tuning or Tuning()).mixed
        assert network is not None
        return network

    def _quantizer(self, calibration: "Samples | None", tuning: "Tuning | TuneFile") -> "Quantizer":
        key = (id(calibration), tuning)
        if key not in self._quantizers:
            samples = split_samples(check_samples(calibration, self.inputs), self.batch)
            tune = functools.partial(tune_file, tuning=tuning) if isinstance(tuning, Tuning) else tuning
            # The key is valid as long as `calibration` lives.
            self._quantizers[key] = calibration, Quantizer(samples, tune, self._name_layers)
        return self._quantizers[key][1]

    def _name_layers(self, tflite: "TFLiteModel") -> Sequence[str | None]:
        return map_operators(self.model, tflite).layers

    def _saved_model(self, integer_form: bool, unrolled: bool) -> str:
        """Return the folder of the SavedModel, with or without integer forms and loops."""
        key = integer_form, unrolled
        if key not in self._folders:
            folder = str(self._stack.enter_context(files.temporary_folder()))
            with unroll_loops(self.model, self._loops if unrolled else ()):
                self._write_saved_model(integer_form, folder)
            self._folders[key] = folder
        return self._folders[key]

    def _write_saved_model(self, integer_form: bool, folder: str) -> None:
        from keras_nin import layers

        with mark_layers(self.model), layers.use_integer_form(integer_form), plain_argmax():
            write_saved_model(self.model, self.inputs, self.outputs, self.batch, folder)


def split_samples(arrays: Mapping[str, np.ndarray], batch: int) -> list[Any]:
    """Return calibration arrays as the converter takes them, one batch at a time: lists for one input, else by name."""
    batches = []
    for start in range(0, len(next(iter(arrays.values()))), batch):
        # The last batch is filled up with its own samples: repetition changes no range.
        parts = {name: array[start : start + batch] for name, array in arrays.items()}
        filled = {name: np.resize(part, (batch, *part.shape[1:])) for name, part in parts.items()}
        batches.append(filled if len(filled) > 1 else list(filled.values()))
    return batches


class Quantizer:
    """Calibrates a float file once, and tunes and quantizes it as often as asked.

    It takes the place of one step inside TensorFlow's converter, so that everything around that step (types of input
    and output, shared buffers, metadata) stays the converter's own: with `Tuning.plain()` the bytes are the bare
    converter's. The samples are those of `split_samples`.
    """

    def __init__(self, samples: Sequence[Any], tune: "TuneFile", name_layers: "NameLayers") -> None:
        self.samples, self.tune, self.name_layers = samples, tune, name_layers
        self.replaced: dict[str, str] = {}  # by `rewrite_for_integers` in the last file
        self.mixed: MixedNetwork | None = None  # the last one
        self._calibrators: dict[bytes, Any] = {}
        self._tuned: dict[bytes, bytes] = {}

    def attach(
        self,
        converter: "tf.lite.TFLiteConverter",
        scheme: Scheme,
        allow_float: bool,
        float_operators: Collection[str] = (),
    ) -> None:
        """Quantize in the place of `converter`; leave the operators with these names in float."""
        from keras_nin._compat.tensorflow import replace_quantize_step

        converter.representative_dataset = lambda: iter(self.samples)
        replace_quantize_step(converter, functools.partial(self._quantize, scheme, allow_float, float_operators))

    def _quantize(
        self, scheme: Scheme, allow_float: bool, float_operators: Collection[str], content: bytes, *arguments: Any
    ) -> bytes:
        """Return the quantized file; the arguments from `content` on are those of TFLiteConverter._quantize."""
        import tensorflow as tf

        from keras_nin._compat import tensorflow as compat

        input_type, output_type, activations, bias, float_fallback, *_ = arguments
        quantize = functools.partial(quantize_calibrated, scheme, arguments=arguments)
        content, self.replaced = bytes(content), {}
        if not _REWRITTEN_OPERATORS.isdisjoint(operator.op for operator in read_model(content).main.operators):
            from keras_nin.export.float_rewrites import rewrite_for_integers

            content, self.replaced = rewrite_for_integers(content)

        if content not in self._calibrators:
            model = read_model(content)
            if len(model.subgraphs) > 1:
                self._check_calibration(model)
            unknown = {operator.op for operator in model.main.operators} - _INT8_OPERATORS
            if not allow_float and activations != tf.int16 and unknown:
                # Tuning takes minutes: whether everything can be an integer is tried out on one sample before.
                trial = read_model(quantize(compat.Calibrator(content, self.samples[:1]).calibrated))
                check_integer_operators(trial, self.name_layers(trial), scheme)
            self._calibrators[content] = compat.Calibrator(content, self.samples)
        calibrator = self._calibrators[content]
        if activations == tf.int16:
            return calibrator.quantize_to_int16(input_type, output_type, float_fallback, activations, bias)
        if content not in self._tuned:
            self._tuned[content] = self.tune(calibrator.calibrated, self.samples)
        tuned = self._tuned[content]
        if scheme.mixed:
            model = read_model(tuned)
            names = operator_paths(model, self.name_layers(model))
            self.mixed = MixedNetwork(calibrator.calibrated, tuned, names, quantize)
            return self.mixed.build(self.mixed.indexes(float_operators))
        return quantize(tuned)

    def _check_calibration(self, model: "TFLiteModel") -> None:
        """Raise `InputError` where TensorFlow's calibrator crashes on a file with loops, tried out in a process."""
        from keras_nin._compat import tensorflow as compat
        from keras_nin.child_process import describe_status, python_command, run_process

        with files.temporary_folder() as folder:
            compat.write_calibration_job(folder, model.content, self.samples[0])
            command, environment = python_command(compat.__name__)
            result = run_process([*command, str(folder)], timeout=_CALIBRATION_SECONDS, environment=environment)
        if result.status == 0:
            return
        layers = zip(model.main.operators, self.name_layers(model), strict=True)
        loops = [describe_operator(operator.op, layer) for operator, layer in layers if operator.op in _LOOP_OPERATORS]
        ended = "timed out" if result.status is None else f"was {describe_status(result.status)}"
        received = f"{format_names(loops) or 'several subgraphs'}, on which TensorFlow's calibrator {ended}"
        raise InputError(
            f"Expected a network that can be calibrated. Received: {received}. Build recurrent layers with unroll=True",
            status=result.status,
        )


def quantize_calibrated(
    scheme: Scheme, calibrated: bytes, float_tensors: Collection[str] = (), *, arguments: Sequence[Any]
) -> bytes:
    """Return the integer file of a calibrated float file; the operators of `float_tensors`, by name, stay in float.

    The arguments are those of TFLiteConverter._quantize behind the content, for which this stands.
    """
    from keras_nin._compat import tensorflow as compat

    input_type, output_type, _, _, _, variables, debug = arguments
    return compat.mlir_quantize(
        calibrated,
        disable_per_channel=not scheme.per_channel,
        denylisted_nodes=set(float_tensors) or None,
        input_data_type=input_type,
        output_data_type=output_type,
        enable_variable_quantization=variables,
        debug_options_str=debug.SerializeToString(),
    )


def write_saved_model(
    model: "keras.Model", inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch: int, folder: str
) -> None:
    """Write a model as a SavedModel with one signature, at a static batch, to a folder."""
    import keras
    import tensorflow as tf

    tensors = [keras.Input(batch_shape=(batch, *spec.shape), name=spec.name, dtype="float32") for spec in inputs]
    results = keras.tree.flatten(model(pack_inputs(model, tensors), training=False))
    static = keras.Model(tensors, results, name="main")

    def serve(*arguments: Any) -> dict[str, Any]:
        values = keras.tree.flatten(static(list(arguments), training=False))
        return dict(zip((spec.name for spec in outputs), values, strict=True))

    archive: Any = keras.export.ExportArchive()
    signature = [tf.TensorSpec((batch, *spec.shape), tf.float32, name=spec.name) for spec in inputs]
    archive.add_endpoint("serve", serve, signature)  # not `track`, which stores all layers: twice the time
    archive.write_out(folder, verbose=False)


def configure_converter(
    folder: str, scheme: Scheme, allow_float: bool
) -> "tuple[tf.lite.TFLiteConverter, dict[str, Any]]":
    """Return TensorFlow's converter of a SavedModel, set up for `scheme`, and what was set, by its own names."""
    import tensorflow as tf

    from keras_nin._compat.tensorflow import saved_model_converter

    converter: Any = saved_model_converter(folder)
    flags: dict[str, Any] = {}
    if scheme.weights != "float32":
        flags["optimizations"] = ["DEFAULT"]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme.weights == "float16":
        flags["supported_types"] = ["float16"]
        converter.target_spec.supported_types = [tf.float16]
    if scheme.calibrated:  # the converter refuses this for a network that has learned its ranges
        flags["supported_ops"] = [_OPS_SETS[scheme.activations], *(["TFLITE_BUILTINS"] if allow_float else [])]
        converter.target_spec.supported_ops = [tf.lite.OpsSet[name] for name in flags["supported_ops"]]
    if scheme.integer_only:
        flags |= dict.fromkeys(("inference_input_type", "inference_output_type"), scheme.io_type)
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(scheme.io_type)
    return converter, flags


def failure_reason(error: Exception, text: str, marks: dict[str, str]) -> str:
    """Return in one line why the conversion failed: the operators without a counterpart, else what the error says."""
    unknown = {
        (match["op"], "/".join(read_scope(match["name"], marks))) for match in _UNKNOWN_OPERATOR.finditer(str(error))
    }
    if unknown:
        listed = format_names([describe_operator(op, layer) for op, layer in sorted(unknown)])
        return f"TensorFlow operators that have no counterpart in TFLite ({listed})"
    lines = [line.strip() for line in _COLOR.sub("", f"{error}\n{text}").splitlines()]
    lines = [line for line in lines if line and not line.startswith(_LOCATION_LINES)]
    line = next(filter(_REASON_LINE.search, lines), lines[0] if lines else type(error).__name__)
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."
