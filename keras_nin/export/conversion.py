"""From a Keras model to `Export` records: convert to each scheme, and check what came out."""

import numpy as np

from keras_nin import files
from keras_nin.errors import InputError, one_of
from keras_nin.export import convert as converter
from keras_nin.export import operators
from keras_nin.export.calibration import Calibration, check_arrays
from keras_nin.export.output_layers import output_layers_of_operators
from keras_nin.export.ports import input_ports
from keras_nin.export.record import Export
from keras_nin.export.schemes import SCHEMES, Scheme
from keras_nin.export.tuning import Tuning
from keras_nin.tflite import graph as tflite_graph


def export(model, scheme="int8", calibration=None, **options):
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
    return export_all(model, [scheme], calibration, **options)[0]


def export_all(
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
            `keras_nin.export.export_trained`.
        calibration: `Calibration`, or float32 images (N, H, W, C) as the model takes them; for calibrated schemes.
        allow_float: let operators that a scheme does not have compute in floating point; `Export.float_operators`
            names them.
        batch: the static batch size of the files.
        tuning: `keras_nin.export.tuning.Tuning` of the calibrated 8-bit schemes; None is the converter's own way.
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
    from keras_nin.models import weights_digest

    schemes = [_scheme(each) for each in schemes]
    if calibration is not None and not isinstance(calibration, Calibration):
        arrays = check_arrays(calibration, input_ports(model))
        digest = files.sha256(b"".join(array.tobytes() for array in arrays.values()))
        calibration = Calibration("array", arrays, {}, 0, digest)
    check_weights(model)
    digest = weights_digest(model)
    made = []
    with converter.Source(model, batch) as source:
        for scheme in schemes:
            used = calibration if scheme.calibrated else None
            data, flags, marks = source.convert(scheme, used.images if used else None, allow_float, tuning)
            layers, left = _read_back(model, data, scheme, marks, allow_float)
            made.append(
                Export(
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
                    output_layers=output_layers_of_operators(model, tflite_graph.read(data)),
                )
            )
    return made


def _scheme(scheme):
    return scheme if isinstance(scheme, Scheme) else SCHEMES[one_of("scheme", scheme, tuple(SCHEMES))]


def _read_back(model, data, scheme, marks, allow_float):
    """Return the layer of each operator of a converted file, and the operators that compute in floating point."""
    graph = tflite_graph.read(data)
    layers = operators.layers_of_operators(model, graph, marks)
    return layers, check_operators(graph, layers, scheme, allow_float)


def check_operators(graph, layers, scheme, allow_float=False):
    """Return the operators of a converted file that compute in floating point although `scheme` is integer, as text.

    Args:
        graph: the file, as `keras_nin.tflite.graph.read` gives it.
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
    _check_ends(graph, scheme)
    return left


def check_weights(model):
    """Raise `InputError` where a weight of a keras.Model is not finite."""
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise InputError(f"Expected finite weights. Received: NaN or infinity in {weight.path!r}")


def _float_operators(graph, layers, scheme):
    """Return the operators that compute in floating point, each kind once a layer, as text."""
    named = dict(zip(((0, operator.index) for operator in graph.main.operators), layers, strict=True))
    left = tflite_graph.float_operators(graph)
    # The casts around an operator that does not quantise say nothing of it, and float32 ends need casts.
    others = [operator for operator in left if operator.op not in ("QUANTIZE", "DEQUANTIZE")]
    left = others if others or scheme.io_type == "float32" else left
    found = dict.fromkeys((operator.op, named.get((operator.subgraph, operator.index))) for operator in left)
    return tuple(f"{op} of layer {layer!r}" if layer else op for op, layer in found)


def _check_ends(graph, scheme):
    """Raise `InputError` where an integer-only scheme left the input or the output in floating point."""
    main = graph.main
    for index in (*main.inputs, *main.outputs) if scheme.integer_only else ():
        if main.tensors[index].dtype != scheme.io_type:
            raise InputError(
                f"Expected a network that computes something, so that its input and output become {scheme.io_type}. "
                f"Received: {main.tensors[index].dtype} and {len(main.operators)} operators"
            )
