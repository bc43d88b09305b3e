"""From a model that was trained for a scheme to the .tflite file of that scheme."""

import dataclasses
from typing import TYPE_CHECKING, Any

from keras_nin.export.conversion import ModelConverter, check_finite_weights, convert_schemes
from keras_nin.export.converted_model import Calibration, ConvertedModel, describe_conversion
from keras_nin.export.operator_layers import find_closing_operator, read_scope
from keras_nin.export.optimization.tf_keras_model import FlatModel
from keras_nin.export.quantize_aware_file import convert_quantize_aware
from keras_nin.export.schemes import Scheme, Tuning
from keras_nin.keras_graph import is_quantize_aware
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    import keras
    import tf_keras

    from keras_nin.export.conversion import Samples
    from keras_nin.export.optimization.training import OptimizedModel
    from keras_nin.tflite.records import TFLiteModel

_PREFIX = "quant_"  # of the layers of a quantized network
_PARTS = ("activation", "clip", "depthwise", "scale", "shift")  # that one layer may become


def convert_optimized(
    optimized: "OptimizedModel",
    calibration: "Calibration | Samples | None" = None,
    *,
    original: "keras.Model | None" = None,
    scheme: Scheme | None = None,
    tuning: Tuning | None = None,
    batch: int = 1,
    **details: Any,
) -> ConvertedModel:
    """Convert what `train_for_scheme` made to .tflite.

    Args:
        optimized: `keras_nin.export.OptimizedModel`.
        calibration, tuning: for "qat_keras" what it was trained with, for the record. For "pruned" and "clustered"
            `Calibration`, or float32 images (N, H, W, C), and `Tuning`; None is `Tuning.plain()`, since adaptive
            rounding would give equal weights different values. The scheme "qat" has learned its ranges.
        original: the keras.Model that was trained, whose hash goes into the record; None records that of the trained.
        scheme: `Scheme` with another type of input and output (`Scheme.with_io`); None takes the trained one.
        **details: `batch`, `allow_float`, `weights`, `preprocessing`, `name`, `options`, `classes`, as in
            `keras_nin.export.convert_schemes`.

    Returns:
        `ConvertedModel` with the record of the training; errors are those of `convert_schemes`.
    """
    from keras_nin.models import hash_weights

    scheme, model = scheme or optimized.scheme, optimized.model
    if is_quantize_aware(model):
        (converted,) = convert_quantize_aware(model, [scheme], batch=batch, **details)
        if isinstance(calibration, Calibration):
            converted = dataclasses.replace(converted, calibration=calibration, tuning=tuning or Tuning())
    elif optimized.network is None:
        tuning = tuning or Tuning.plain()
        (converted,) = convert_schemes(model, [scheme], calibration, tuning=tuning, batch=batch, **details)
    else:
        check_finite_weights(model)
        with QATConverter(optimized.network, model, batch) as converter:
            content, flags = converter.convert(scheme, allow_float=details.get("allow_float", False))
        tflite = read_model(content)
        layers = map_qat_operators(tflite, optimized.network, model)
        converted = describe_conversion(model, scheme, tflite, flags, layers, batch=batch, **details)
    digest = hash_weights(original or model)
    return dataclasses.replace(converted, training=optimized.record, weights_sha256=digest)


class QATConverter(ModelConverter):
    """As `ModelConverter`, of a quantized tf_keras network with one input and one output, made from `model`."""

    def __init__(self, network: "tf_keras.Model", model: "keras.Model", batch: int = 1) -> None:
        super().__init__(model, batch)
        self.network = network
        self._has_integer_form = False  # the tf_keras network has its own layer, in floating point

    def _write_saved_model(self, integer_form: bool, folder: str) -> None:
        from keras_nin._compat.tensorflow import renamed_layers

        # Marked as `mark_layers` does it. What tfmot adds at the inputs has names that count from process start: those
        # become the same in every file.
        names = [layer.name for layer in self.network.layers]
        marks = {
            name: f"{name}." if name.startswith(_PREFIX) else f"input_{position}" for position, name in enumerate(names)
        }
        with renamed_layers(marks, self.network):
            self._write_network(folder)

    def _write_network(self, folder: str) -> None:
        """Write the network as a SavedModel with one signature, at a static batch."""
        import tensorflow as tf

        network, source, target = self.network, self.inputs[0], self.outputs[0]

        class Main(tf.Module):
            """Holds the network's variables, and gives its operators a scope."""

            def __init__(self) -> None:
                super().__init__(name="main")
                self.network = network

            @tf.function(input_signature=[tf.TensorSpec((self.batch, *source.shape), tf.float32, name=source.name)])
            def serve(self, x: "tf.Tensor") -> "dict[str, tf.Tensor]":
                return {target.name: self.network(x, training=False)}

        module = Main()
        tf.saved_model.save(module, folder, signatures=module.serve)


def map_qat_operators(tflite: "TFLiteModel", network: "tf_keras.Model", model: "keras.Model") -> tuple[str | None, ...]:
    """Return for each operator of the file's main subgraph the path of the Keras 3 layer that it computes, or None.

    Of several layers that of a kernel stands for the operator, else the first.
    """
    main, flat = tflite.main, FlatModel(model)
    paths = {
        f"{_PREFIX}{flat.name(operation, part)}": "/".join(path)
        for operation, path in flat.operations()
        for part in ("", *_PARTS)
    }
    layers = {  # whether it lacks a kernel, position and path
        layer.name: (not any(len(weight.shape) > 1 for weight in layer.weights), position, paths[layer.name])
        for position, layer in enumerate(network.layers)
        if layer.name in paths
    }
    marks = {f"{name}.": name for name in layers}
    named = []
    for operator in main.operators:
        scopes = [read_scope(part, marks) for part in main.tensors[operator.outputs[0]].name.split(";")]
        named.append([layers[scope[-1]] for scope in scopes if scope])
    mapped = [min(candidates)[2] if candidates else None for candidates in named]
    closing = find_closing_operator(main)
    if closing is not None and mapped[closing] is None:
        # The converter names the output after the signature, whatever computes it: the first layer behind the others.
        last = max((position for candidates in named for _, position, _ in candidates), default=-1)
        behind = [layer for layer in layers.values() if layer[1] > last]
        mapped[closing] = min(behind)[2] if behind else None
    return tuple(mapped)
