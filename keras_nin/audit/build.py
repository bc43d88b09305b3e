"""From a network to its audit."""

import dataclasses
import os

from keras_nin.audit import classify, count, findings, memory
from keras_nin.audit.blocks import blocks_of
from keras_nin.audit.receptive_field import receptive_fields
from keras_nin.audit.records import Audit, Row, Total, sums


def audit(model_or_path, *, name=None):
    """Return the `Audit` of a network: parameters, MACs and activation memory per layer and in total.

    Args:
        model_or_path: a built Functional or Sequential `keras.Model` with a fixed input size, or what
            `keras_nin.models.load` accepts; the batch counts as 1, whatever the model says. Or the path of a .tflite
            file, which is read without Keras; see `keras_nin.audit.tflite_reader.read`.
        name: what to call the network; None takes the model's own name, or the file's.

    Raises:
        InputError: not such a model, not built, an input axis is open, a layer keeps channels first, or the file
            cannot be read or is no valid .tflite file.
    """
    if isinstance(model_or_path, (str, os.PathLike)):
        if os.fspath(model_or_path).endswith(".tflite"):
            from keras_nin.audit import tflite_reader

            return audit_graph(tflite_reader.read(model_or_path, name=name))
        from keras_nin import models

        loaded = models.load(os.fspath(model_or_path))
        model_or_path, name = loaded.model, name or loaded.name
    from keras_nin.audit import keras_reader

    graph = keras_reader.read(model_or_path)
    return audit_graph(dataclasses.replace(graph, name=name) if name else graph)


def audit_graph(graph):
    """Return the `Audit` of a `Graph`, whichever reader it came from."""
    facts = zip(graph.layers, receptive_fields(graph), blocks_of(graph), strict=True)
    rows = tuple(_row(layer, graph, field, block) for layer, field, block in facts)
    return Audit(graph.name, rows, _total(rows, graph), findings.find(graph))


def _row(layer, graph, receptive_field, block):
    elements = layer.output_elements
    macs = count.macs(layer)
    return Row(
        name=layer.path,
        type=layer.type,
        kind=classify.kind_of(layer),
        role=classify.role_of(layer, graph),
        kernel=layer.kernel,
        input_shape=_shapes(layer.inputs),
        output_shape=_shapes(layer.outputs),
        params=layer.params,
        trainable_params=layer.trainable_params,
        macs=macs,
        weight_bytes=layer.weight_bytes,
        activation_elements=elements,
        activation_bytes=sum(tensor.nbytes for tensor in layer.outputs),
        activation_evaluations=count.activation_evaluations(layer),
        receptive_field=receptive_field,
        block=block,
        arithmetic_intensity=count.arithmetic_intensity(macs, layer.moved_bytes),
        folds=classify.folds(layer, graph),
        scope=layer.scope,
    )


def _shapes(tensors):
    shapes = tuple(tensor.shape for tensor in tensors)
    return shapes[0] if len(shapes) == 1 else shapes or None


def _total(rows, graph):
    known = all(row.macs is not None for row in rows)
    summed = sums(rows)
    return Total(
        **summed,
        non_trainable_params=summed["params"] - summed["trainable_params"],
        activation_evaluations=sum(row.activation_evaluations for row in rows),
        peak_activation_bytes=memory.peak_activation_bytes(graph),
        peak_activation_bytes_int8=memory.peak_activation_bytes(graph, bits=8),
        arithmetic_intensity=count.arithmetic_intensity(summed["macs"], memory.moved_bytes(graph)) if known else None,
    )
