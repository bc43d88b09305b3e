"""From a quantisation-aware trained tf_keras network to a .tflite file."""

import contextlib
import types

from keras_nin.export import conversion, convert, operators
from keras_nin.export.record import Export
from keras_nin.export.twin.steps import flatten
from keras_nin.tflite import graph as tflite_graph

_PREFIX = "quant_"  # of the layers of a quantised network
_PARTS = ("activation", "clip", "depthwise", "scale", "shift")  # that one layer may become


def export(model, network, scheme, *, allow_float=False, batch=1, weights=None, preprocessing=None, name=None, **given):
    """Return the `Export` of a network that `quantize_model` made and that was trained.

    Args:
        model: the keras.Model with the trained weights.
        network: the trained tf_keras.Model.
        scheme: `Scheme` whose ranges are trained.
        allow_float, batch, weights, preprocessing, name: as in `keras_nin.export.export_all`.
        **given: further attributes of the `Export`.

    Raises:
        InputError: a network that does not convert, or operators left that compute in floating point.
    """
    from keras_nin.models import weights_digest

    conversion.check_weights(model)
    with QuantizedSource(network, model, batch) as source:
        data, flags, marks = source.convert(scheme, allow_float=allow_float)
    graph = tflite_graph.read(data)
    layers = layers_of_operators(graph, marks, network, model)
    return Export(
        model=name or model.name,
        scheme=scheme,
        data=data,
        weights=weights or "as given",
        weights_sha256=weights_digest(model),
        calibration=None,
        preprocessing=preprocessing.to_json() if preprocessing else None,
        flags=flags,
        layers=layers,
        float_operators=conversion.check_operators(graph, layers, scheme, allow_float),
        batch=batch,
        **given,
    )


class QuantizedSource(convert.Source):
    """As `keras_nin.export.convert.Source`, of a trained tf_keras network.

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
        with _marked(self.network) as marks:
            _write_saved_model(self.network, self.inputs[0], self.outputs[0], self.batch, folder)
        return marks


def _write_saved_model(network, source, target, batch, folder):
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
def _marked(network):
    """Rename the layers as `keras_nin.export.operators.marked` does; yields the layer's own name by the mark.

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


def layers_of_operators(graph, marks, network, model):
    """Return for each operator of the file's main graph the path of the Keras 3 layer that it computes, or None."""
    places = _places(network, model)
    scopes = [_known(operator, graph.main, marks, places) for operator in graph.main.operators]
    found = [min(each)[-1] if each else None for each in scopes]
    last = operators.closing(graph.main)
    if last is not None and found[last] is None:
        # The converter names the graph's output after the signature, whatever computes it.
        found[last] = _closing(places, {place for each in scopes for place in each})
    return tuple(found)


def _known(operator, main, marks, places):
    names = [operators.scope_of(part, marks) for part in main.tensors[operator.outputs[0]].name.split(";")]
    return [places[name[-1]] for name in names if name and name[-1] in places]


def _places(network, model):
    """Return (whether it has no kernel, its position, its path in the Keras 3 model) of each layer by its name."""
    plan = flatten(model)
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


def _closing(places, named):
    """Return the path of the layer behind the output: the first after the last that another operator names."""
    last = max((position for _, position, _ in named), default=-1)
    behind = sorted((kernel, position, path) for kernel, position, path in places.values() if position > last)
    return behind[0][-1] if behind else None
