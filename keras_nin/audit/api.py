"""From a network to its audit."""

import dataclasses
import os

from keras_nin.audit import arithmetic, classification, conversion, findings
from keras_nin.audit.arithmetic import compute_receptive_fields
from keras_nin.audit.classification import find_blocks
from keras_nin.audit.comparison import ComparedRow, ModelComparison, pair_totals
from keras_nin.audit.records import Audit, AuditRow, AuditTotal, sum_rows
from keras_nin.audit.tflite_reader import TFLiteNetwork, read_tflite_network


def audit_model(model_or_path, *, name=None):
    """Return the `Audit` of a network: parameters, MACs and activation memory per layer and in total.

    Args:
        model_or_path: a built Functional or Sequential `keras.Model` with a fixed input size, or what
            `keras_nin.models.load_model` accepts; the batch counts as 1, whatever the model says. Or the path of a .tflite
            file, which is read without Keras; see `keras_nin.audit.tflite_reader.read_tflite_graph`.
        name: what to call the network; None takes the model's own name, or the file's.

    Raises:
        InputError: not such a model, not built, an input axis is open, a layer keeps channels first, or the file
            cannot be read or is no valid .tflite file.
    """
    if isinstance(model_or_path, (str, os.PathLike)):
        if os.fspath(model_or_path).endswith(".tflite"):
            from keras_nin.audit import tflite_reader

            return audit_graph(tflite_reader.read_tflite_graph(model_or_path, name=name))
        from keras_nin import models

        loaded = models.load_model(os.fspath(model_or_path))
        model_or_path, name = loaded.model, name or loaded.name
    from keras_nin.audit import keras_reader

    graph = keras_reader.read_keras_graph(model_or_path)
    return audit_graph(dataclasses.replace(graph, name=name) if name else graph)


def audit_graph(graph):
    """Return the `Audit` of a `Graph`, whichever reader it came from."""
    facts = zip(graph.layers, compute_receptive_fields(graph), find_blocks(graph), strict=True)
    rows = tuple(_audit_layer(layer, graph, field, block) for layer, field, block in facts)
    return Audit(graph.name, rows, _total_of_rows(rows, graph), findings.find_findings(graph))


def _audit_layer(layer, graph, receptive_field, block):
    elements = layer.output_elements
    macs = arithmetic.count_macs(layer)
    return AuditRow(
        name=layer.path,
        type=layer.type,
        kind=classification.layer_kind(layer),
        role=classification.pointwise_role(layer, graph),
        kernel=layer.kernel,
        input_shape=_tensor_shapes(layer.inputs),
        output_shape=_tensor_shapes(layer.outputs),
        params=layer.params,
        trainable_params=layer.trainable_params,
        macs=macs,
        weight_bytes=layer.weight_bytes,
        activation_elements=elements,
        activation_bytes=sum(tensor.nbytes for tensor in layer.outputs),
        activation_evaluations=arithmetic.count_activation_evaluations(layer),
        receptive_field=receptive_field,
        block=block,
        arithmetic_intensity=arithmetic.compute_intensity(macs, layer.moved_bytes),
        folds=classification.is_foldable_norm(layer, graph),
        scope=layer.scope,
    )


def _tensor_shapes(tensors):
    shapes = tuple(tensor.shape for tensor in tensors)
    return shapes[0] if len(shapes) == 1 else shapes or None


def _total_of_rows(rows, graph):
    known = all(row.macs is not None for row in rows)
    summed = sum_rows(rows)
    return AuditTotal(
        **summed,
        non_trainable_params=summed["params"] - summed["trainable_params"],
        activation_evaluations=sum(row.activation_evaluations for row in rows),
        peak_activation_bytes=arithmetic.compute_peak_bytes(graph),
        peak_activation_bytes_int8=arithmetic.compute_peak_bytes(graph, bits=8),
        arithmetic_intensity=arithmetic.compute_intensity(summed["macs"], arithmetic.count_moved_bytes(graph))
        if known
        else None,
    )


# MERGED Comparing two networks, or a model with the file that was made of it.


def compare_models(a, b, *, name_a=None, name_b=None):
    """Return the `Comparison` of two networks.

    A Keras model and a .tflite file are reconciled: every layer with the operators that compute it, or with what
    became of it, and every operator with its layer, or with why it is there; `Comparison.holds` says whether the MACs
    agree exactly. The model is `a` then, whichever comes first. Two models, or two files, are put side by side by the
    names of their rows.

    Args:
        a, b: each a built Functional or Sequential `keras.Model`, what `keras_nin.models.load_model` accepts, or the path of
            a .tflite file. Two files are compared without Keras.
        name_a, name_b: what to call them; None takes their own names.

    Raises:
        InputError: as `audit` does.
    """
    first, second = _read_network(a, name_a), _read_network(b, name_b)
    if isinstance(first, TFLiteNetwork) and not isinstance(second, TFLiteNetwork):
        first, second = second, first
    audits = [audit_graph(side.graph if isinstance(side, TFLiteNetwork) else side) for side in (first, second)]
    if isinstance(second, TFLiteNetwork) and not isinstance(first, TFLiteNetwork):
        return conversion.reconcile_conversion(first, second, *audits)
    return _compare_networks(*audits)


def _read_network(source, name):
    is_path = isinstance(source, (str, os.PathLike))
    if is_path and os.fspath(source).endswith(".tflite"):
        return read_tflite_network(source, name=name)
    if is_path:
        from keras_nin import models

        loaded = models.load_model(os.fspath(source))
        source, name = loaded.model, name or loaded.name
    from keras_nin.audit import keras_reader

    graph = keras_reader.read_keras_graph(source)
    return dataclasses.replace(graph, name=name) if name else graph


def _compare_networks(a, b):
    by_name = [{row.name: row for row in audit.rows} for audit in (a, b)]
    names = _merge_names(*([row.name for row in audit.rows] for audit in (a, b)))
    rows = tuple(_compare_rows(name, *(rows.get(name) for rows in by_name)) for name in names)
    return ModelComparison("networks", a.model, b.model, rows, _compare_blocks(a, b), pair_totals(a, b))


def _merge_names(first, second):
    """Return the names of both, each once: those of `second` alone stand behind what precedes them there."""
    known = set(first)
    behind, anchor = {None: []}, None
    for name in dict.fromkeys(second):
        if name in known:
            anchor = name
        else:
            behind.setdefault(anchor, []).append(name)
    return [*behind[None], *(each for name in dict.fromkeys(first) for each in (name, *behind.get(name, ())))]


def _compare_rows(name, left, right):
    pairs = {
        field: tuple(row and getattr(row, field) for row in (left, right))
        for field in ("params", "weight_bytes", "macs", "kernel", "output_shape", "type")
    }
    costs = {field: pairs[field] for field in ("params", "weight_bytes", "macs")}
    block = (left or right).block
    if left is None or right is None:
        status = "only in b" if left is None else "only in a"
        return ComparedRow(left and name, (name,) if right else (), status, "", **costs, block=block)
    changed = [field.replace("_", " ") for field, (one, other) in pairs.items() if one != other]
    status = "changed" if changed else "same"
    return ComparedRow(name, (name,), status, ", ".join(changed), **costs, block=block)


def _compare_blocks(a, b):
    """The sums by block; nothing where one side has no blocks."""
    sums = [_sum_blocks(audit.rows) for audit in (a, b)]
    if not all(sums):
        return ()
    return tuple(_compare_block(name, *(each.get(name) for each in sums)) for name in _merge_names(*map(list, sums)))


def _sum_blocks(rows):
    found = {}
    for row in rows:
        if row.block:
            params, weight_bytes, macs = found.get(row.block, (0, 0, 0))
            macs = None if macs is None or row.macs is None else macs + row.macs
            found[row.block] = (params + row.params, weight_bytes + row.weight_bytes, macs)
    return found


def _compare_block(name, left, right):
    nothing = (None, None, None)
    params, weight_bytes, macs = zip(left or nothing, right or nothing, strict=True)
    status = "only in b" if left is None else "only in a" if right is None else "same" if left == right else "changed"
    return ComparedRow(left and name, (name,) if right else (), status, "", params, weight_bytes, macs, name)
