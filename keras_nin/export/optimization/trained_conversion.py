"""From a trained model to the file of its scheme."""

import contextlib
import dataclasses
import types

from keras_nin.export import conversion, operator_layers
from keras_nin.export.converted_model import ConvertedModel
from keras_nin.export.optimization.tf_keras_model import flatten_model
from keras_nin.tflite import reader as tflite_graph


def convert_optimized(trained, calibration=None, *, original=None, scheme=None, tuning=None, **options):
    """Convert what `train_scheme` made to .tflite.

    Args:
        trained: `keras_nin.export.OptimizedModel`.
        calibration: `Calibration`, or float32 images (N, H, W, C); for "pruned" and "clustered". A quantisation-aware
            training has learnt its ranges.
        original: the keras.Model that was trained, whose hash goes to the record; None records that of the trained.
        scheme: `Scheme` with another type of input and output (`Scheme.with_io`); None takes the trained one.
        tuning: as in `keras_nin.export.convert_schemes`, for "pruned" and "clustered".
        **options: `allow_float`, `batch`, `weights`, `preprocessing`, `name`, `options`, `classes`: as there.

    Returns:
        `Export` with the record of the training.

    Raises:
        InputError: as `keras_nin.export.convert_schemes`.
    """
    from keras_nin.models import hash_weights

    scheme = scheme or trained.scheme
    if trained.network is not None:
        made = convert_qat_network(trained.model, trained.network, scheme, **options)
    else:
        (made,) = conversion.convert_schemes(trained.model, [scheme], calibration, tuning=tuning, **options)
    digest = hash_weights(original or trained.model)
    return dataclasses.replace(made, training=trained.record, weights_sha256=digest)


# MERGED From a quantisation-aware trained tf_keras network to a .tflite file.

_PREFIX = "quant_"  # of the layers of a quantised network
_PARTS = ("activation", "clip", "depthwise", "scale", "shift")  # that one layer may become


def convert_qat_network(
    model, network, scheme, *, allow_float=False, batch=1, weights=None, preprocessing=None, name=None, **given
):
    """Return the `Export` of a network that `quantize_model` made and that was trained.

    Args:
        model: the keras.Model with the trained weights.
        network: the trained tf_keras.Model.
        scheme: `Scheme` whose ranges are trained.
        allow_float, batch, weights, preprocessing, name: as in `keras_nin.export.convert_schemes`.
        **given: further attributes of the `Export`.

    Raises:
        InputError: a network that does not convert, or operators left that compute in floating point.
    """
    from keras_nin.models import hash_weights

    conversion.check_finite_weights(model)
    with QATConverter(network, model, batch) as source:
        data, flags, marks = source.convert(scheme, allow_float=allow_float)
    graph = tflite_graph.read_model(data)
    layers = map_qat_operators(graph, marks, network, model)
    return ConvertedModel(
        model=name or model.name,
        scheme=scheme,
        data=data,
        weights=weights or "as given",
        weights_sha256=hash_weights(model),
        calibration=None,
        preprocessing=preprocessing.to_json() if preprocessing else None,
        flags=flags,
        layers=layers,
        float_operators=conversion.check_integer_only(graph, layers, scheme, allow_float),
        batch=batch,
        **given,
    )


class QATConverter(conversion.ModelConverter):
    """As `keras_nin.export.conversion.ModelConverter`, of a trained tf_keras network.

    Args:
        network: tf_keras.Model with one image input and one output.
        model: the keras.Model that it was made from.
        batch: the batch size of the file.
    """

    def __init__(self, network, model, batch=1):
        super().__init__(model, batch)
        self.network = network
        self._normalizes = False  # the twin has a layer of its own, in floating point

    def _write(self, integer, folder):
        with _mark_qat_layers(self.network) as marks:
            _write_qat_saved_model(self.network, self.inputs[0], self.outputs[0], self.batch, folder)
        return marks


def _write_qat_saved_model(network, source, target, batch, folder):
    import tensorflow as tf

    class Main(tf.Module):
        """Holds the network's variables, and gives its operators a scope."""

        def __init__(self):
            super().__init__(name="main")
            self.network = network

        @tf.function(input_signature=[tf.TensorSpec((batch, *source.shape), tf.float32, name=source.name)])
        def serve(self, x):
            return {target.name: self.network(x, training=False)}

    module = Main()
    tf.saved_model.save(module, folder, signatures=module.serve)


@contextlib.contextmanager
def _mark_qat_layers(network):
    """Rename the layers as `keras_nin.export.operator_layers.mark_layers` does; yields the layer's own name by the mark.

    What tfmot adds at the inputs has names that count from process start: those become the same in every file.
    """
    layers = network.layers
    names = [layer.name for layer in layers]
    marks = {f"{name}.": name for name in names if name.startswith(_PREFIX)}
    try:
        for position, layer in enumerate(layers):
            layer._name = f"{layer.name}." if layer.name.startswith(_PREFIX) else f"input_{position}"
        yield types.MappingProxyType(marks)
    finally:
        for layer, name in zip(layers, names, strict=True):
            layer._name = name


def map_qat_operators(graph, marks, network, model):
    """Return for each operator of the file's main graph the path of the Keras 3 layer that it computes, or None."""
    places = _layer_positions(network, model)
    scopes = [_operator_positions(operator, graph.main, marks, places) for operator in graph.main.operators]
    found = [min(each)[-1] if each else None for each in scopes]
    last = operator_layers.find_closing_operator(graph.main)
    if last is not None and found[last] is None:
        # The converter names the graph's output after the signature, whatever computes it.
        found[last] = _closing_layer(places, {place for each in scopes for place in each})
    return tuple(found)


def _operator_positions(operator, main, marks, places):
    names = [operator_layers.read_scope(part, marks) for part in main.tensors[operator.outputs[0]].name.split(";")]
    return [places[name[-1]] for name in names if name and name[-1] in places]


def _layer_positions(network, model):
    """Return (whether it has no kernel, its position, its path in the Keras 3 model) of each layer by its name."""
    plan = flatten_model(model)
    paths = {}
    for operation, path in plan.operations():
        for part in ("", *_PARTS):
            paths[f"{_PREFIX}{plan.name(operation, part)}"] = "/".join(path)
    places = {}
    for position, layer in enumerate(network.layers):
        if layer.name in paths:
            kernel = any(len(weight.shape) > 1 for weight in layer.weights)
            places[layer.name] = (not kernel, position, paths[layer.name])
    return places


def _closing_layer(places, named):
    """Return the path of the layer behind the output: the first after the last that another operator names."""
    last = max((position for _, position, _ in named), default=-1)
    behind = sorted((kernel, position, path) for kernel, position, path in places.values() if position > last)
    return behind[0][-1] if behind else None
