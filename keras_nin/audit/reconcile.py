"""A Keras model and the .tflite file that was made of it, reconciled row by row."""

from collections import defaultdict

from keras_nin.audit import explain
from keras_nin.audit.comparison import ComparedRow, Comparison, Reason, totals
from keras_nin.audit.matching import owners

_CONSTANTS = "constants of operators that are no weights of a layer"


def reconcile(graph, file, model_audit, file_audit):
    """Return the `Comparison` of a model's `Graph` with the `File` made of it; the two `Audit`s are theirs."""
    kinds = [row.kind for row in model_audit.rows]
    macs = [row.macs for row in model_audit.rows]
    operator_kinds = [row.kind for row in file_audit.rows]
    operator_macs = [row.macs for row in file_audit.rows]
    found = owners(graph.layers, kinds, macs, file, operator_kinds, operator_macs)
    facts = explain.Facts(graph, file, tuple(found))
    rows = [*_model_rows(facts, model_audit, file_audit), *_inserted_rows(facts, file_audit)]
    stored = defaultdict(int)
    for weights in file.weights:
        for dtype, size in weights.stored:
            stored[dtype] += size
    return Comparison(
        kind="conversion",
        a=model_audit.model,
        b=file_audit.model,
        rows=tuple(rows),
        blocks=(),
        totals=totals(model_audit, file_audit),
        reasons=_reasons(facts, file_audit),
        stored=dict(stored),
        problems=tuple(_problems(rows, model_audit, file_audit)),
    )


def _model_rows(facts, model_audit, file_audit):
    for position, (layer, row) in enumerate(zip(facts.graph.layers, model_audit.rows, strict=True)):
        indices = facts.operators_of.get(position, [])
        status, note, into = explain.became(facts, position)
        mine = [file_audit.rows[index] for index in indices]
        yield ComparedRow(
            a=row.name,
            b=tuple(each.name for each in mine),
            status=status,
            note="; ".join(filter(None, [note, *explain.parameters(facts, layer, indices)])),
            params=(row.params, _sum(mine, "params")),
            weight_bytes=(row.weight_bytes, _sum(mine, "weight_bytes")),
            macs=(row.macs, _sum(mine, "macs")),
            block=row.block,
            operators=tuple(each.type for each in mine),
            into=into,
        )


def _inserted_rows(facts, file_audit):
    for index, (position, _) in enumerate(facts.owners):
        if position is None:
            row = file_audit.rows[index]
            status, note = explain.inserted(facts, index)
            yield ComparedRow(
                a=None,
                b=(row.name,),
                status=status,
                note=note,
                params=(None, row.params),
                weight_bytes=(None, row.weight_bytes),
                macs=(None, row.macs),
                operators=(row.type,),
            )


def _sum(rows, field):
    values = [getattr(row, field) for row in rows]
    return None if not values or None in values else sum(values)


def _reasons(facts, file_audit):
    """The difference in parameters by cause; the sum of all is the difference of the totals."""
    changes = defaultdict(list)
    for position, layer in enumerate(facts.graph.layers):
        for cause, params in _changes(facts, position, layer):
            changes[cause].append(params)
    changes[_CONSTANTS] += [
        row.params for row, (position, _) in zip(file_audit.rows, facts.owners, strict=True) if position is None
    ]
    return tuple(
        Reason(cause, sum(1 for each in found if each), sum(found)) for cause, found in changes.items() if any(found)
    )


def _changes(facts, position, layer):
    indices = facts.operators_of.get(position, [])
    if not indices:
        is_folded = explain.became(facts, position)[0] == "folded"
        yield ("BatchNormalization folded" if is_folded else "layers without an operator"), -layer.params
        return
    stored = sum(facts.file.weights[index].params for index in indices)
    if not stored and not layer.params:  # also a later use of a layer, on both sides
        return
    held = sum(facts.held_params(index) for index in indices)
    bias = explain.bias_change(layer, facts, indices)
    yield ("biases that the layers have none of" if bias > 0 else "biases that the file leaves out"), bias
    yield _CONSTANTS, held - layer.params - bias
    yield "equal values that are stored once", stored - held


def _problems(rows, model_audit, file_audit):
    ours, theirs = model_audit.total.macs, file_audit.total.macs
    if ours != theirs:
        yield f"MACs in total: {ours:,} in {model_audit.model}, {theirs:,} in {file_audit.model}"
    for row in rows:
        counted = [value for value in row.macs if value]
        if row.status == "matched" and row.macs[0] is not None and row.macs[0] != (row.macs[1] or 0):
            found = "unknown" if row.macs[1] is None else f"{row.macs[1]:,}"
            yield f"MACs of {row.a}: {row.macs[0]:,} in the model, {found} in the file"
        elif row.status == "unexplained" and counted:
            where = f"layer {row.a}" if row.a else f"operator {row.b[0]}"
            yield f"MACs of {where}: {counted[0]:,} on one side, nothing on the other"
