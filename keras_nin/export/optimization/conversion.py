"""From a model that was trained for a scheme to the .tflite file of that scheme."""

import dataclasses
from typing import TYPE_CHECKING, Any

from keras_nin.export.calibration import Calibration, TensorSpec
from keras_nin.export.conversion import ModelConverter, check_finite_weights, convert_schemes, describe_conversion
from keras_nin.export.converted_model import ConvertedModel
from keras_nin.export.operator_layers import find_closing_operator, read_scope
from keras_nin.export.optimization.tf_keras_model import FlatModel
from keras_nin.export.schemes import Scheme, Tuning
from keras_nin.tflite.reader import read_model

if TYPE_CHECKING:
    import keras
    import tf_keras

    from keras_nin.export.calibration import Samples
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
        calibration: `Calibration`, or float32 images (N, H, W, C); for "pruned" and "clustered". A quantization-aware
            training has learned its ranges.
        original: the keras.Model that was trained, whose hash goes into the record; None records that of the trained.
        scheme: `Scheme` with another type of input and output (`Scheme.with_io`); None takes the trained one.
        tuning: of "pruned" and "clustered"; None is `Tuning.plain()`, since adaptive rounding would give equal weights
            different values.
        batch: the static batch size of the file.
        **details: `allow_float`, `weights`, `preprocessing`, `name`, `options`, `classes`, as in
            `keras_nin.export.convert_schemes`.

    Returns:
        `ConvertedModel` with the record of the training.

    Raises:
        InputError: as `keras_nin.export.convert_schemes`.
    """
    from keras_nin.models import hash_weights

    scheme, model = scheme or optimized.scheme, optimized.model
    if optimized.network is None:
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
    """As `ModelConverter`, of a quantized tf_keras network.

    Args:
        network: trained tf_keras.Model with one image input and one output.
        model: the keras.Model that it was made from.
        batch: the batch size of the file.
    """

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
            _write_network(self.network, self.inputs[0], self.outputs[0], self.batch, folder)


def _write_network(network: "tf_keras.Model", source: TensorSpec, target: TensorSpec, batch: int, folder: str) -> None:
    """Write a tf_keras network as a SavedModel with one signature, at a static batch, to a folder."""
    import tensorflow as tf

    class Main(tf.Module):
        """Holds the network's variables, and gives its operators a scope."""

        def __init__(self) -> None:
            super().__init__(name="main")
            self.network = network

        @tf.function(input_signature=[tf.TensorSpec((batch, *source.shape), tf.float32, name=source.name)])
        def serve(self, x: "tf.Tensor") -> "dict[str, tf.Tensor]":
            return {target.name: self.network(x, training=False)}

    module = Main()
    tf.saved_model.save(module, folder, signatures=module.serve)


@dataclasses.dataclass(frozen=True, order=True)
class _NetworkLayer:
    """A layer of a quantized network: whether it lacks a kernel, its position, and its path in the Keras 3 model."""

    without_kernel: bool
    position: int
    path: str


def map_qat_operators(tflite: "TFLiteModel", network: "tf_keras.Model", model: "keras.Model") -> tuple[str | None, ...]:
    """Return for each operator of the file's main subgraph the path of the Keras 3 layer that it computes, or None."""
    main, layers = tflite.main, _network_layers(network, model)
    marks = {f"{name}.": name for name in layers}
    named = []
    for operator in main.operators:
        scopes = [read_scope(part, marks) for part in main.tensors[operator.outputs[0]].name.split(";")]
        named.append([layers[scope[-1]] for scope in scopes if scope])
    paths = [min(found).path if found else None for found in named]
    closing = find_closing_operator(main)
    if closing is not None and paths[closing] is None:
        # The converter names the output after the signature, whatever computes it: the first layer behind the others.
        last = max((layer.position for found in named for layer in found), default=-1)
        behind = [layer for layer in layers.values() if layer.position > last]
        paths[closing] = min(behind).path if behind else None
    return tuple(paths)


def _network_layers(network: "tf_keras.Model", model: "keras.Model") -> dict[str, _NetworkLayer]:
    """Return the layers of a quantized network that compute one of the Keras 3 model, by their names."""
    flat = FlatModel(model)
    paths = {
        f"{_PREFIX}{flat.name(operation, part)}": "/".join(path)
        for operation, path in flat.operations()
        for part in ("", *_PARTS)
    }
    return {
        layer.name: _NetworkLayer(
            not any(len(weight.shape) > 1 for weight in layer.weights), position, paths[layer.name]
        )
        for position, layer in enumerate(network.layers)
        if layer.name in paths
    }
