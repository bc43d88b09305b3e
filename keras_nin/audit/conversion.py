"""A Keras model and the .tflite file that was made of it, reconciled row by row."""

import functools
import re
from collections import defaultdict, deque
from dataclasses import dataclass

from keras_nin.audit import classification, tflite_reader
from keras_nin.audit.comparison import ComparedRow, ModelComparison, ParameterChange, pair_totals

_OTHER_CONSTANTS = "constants of operators that are no weights of a layer"


def reconcile_conversion(graph, file, model_audit, file_audit):
    """Return the `Comparison` of a model's `Graph` with the `File` made of it; the two `Audit`s are theirs."""
    kinds = [row.kind for row in model_audit.rows]
    macs = [row.macs for row in model_audit.rows]
    operator_kinds = [row.kind for row in file_audit.rows]
    operator_macs = [row.macs for row in file_audit.rows]
    found = assign_operators(graph.layers, kinds, macs, file, operator_kinds, operator_macs)
    facts = ConversionMap(graph, file, tuple(found))
    rows = [*_layer_rows(facts, model_audit, file_audit), *_inserted_operator_rows(facts, file_audit)]
    stored = defaultdict(int)
    for weights in file.weights:
        for dtype, size in weights.stored:
            stored[dtype] += size
    return ModelComparison(
        kind="conversion",
        a=model_audit.model,
        b=file_audit.model,
        rows=tuple(rows),
        blocks=(),
        totals=pair_totals(model_audit, file_audit),
        reasons=_parameter_changes(facts, file_audit),
        stored=dict(stored),
        problems=tuple(_mac_problems(rows, model_audit, file_audit)),
    )


def _layer_rows(facts, model_audit, file_audit):
    for position, (layer, row) in enumerate(zip(facts.graph.layers, model_audit.rows, strict=True)):
        indices = facts.operators_of.get(position, [])
        status, note, into = explain_layer(facts, position)
        mine = [file_audit.rows[index] for index in indices]
        yield ComparedRow(
            a=row.name,
            b=tuple(each.name for each in mine),
            status=status,
            note="; ".join(filter(None, [note, *explain_parameters(facts, layer, indices)])),
            params=(row.params, _sum_known(mine, "params")),
            weight_bytes=(row.weight_bytes, _sum_known(mine, "weight_bytes")),
            macs=(row.macs, _sum_known(mine, "macs")),
            block=row.block,
            operators=tuple(each.type for each in mine),
            into=into,
        )


def _inserted_operator_rows(facts, file_audit):
    for index, (position, _) in enumerate(facts.owners):
        if position is None:
            row = file_audit.rows[index]
            status, note = explain_inserted_operator(facts, index)
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


def _sum_known(rows, field):
    values = [getattr(row, field) for row in rows]
    return None if not values or None in values else sum(values)


def _parameter_changes(facts, file_audit):
    """The difference in parameters by cause; the sum of all is the difference of the totals."""
    changes = defaultdict(list)
    for position, layer in enumerate(facts.graph.layers):
        for cause, params in _layer_parameter_changes(facts, position, layer):
            changes[cause].append(params)
    changes[_OTHER_CONSTANTS] += [
        row.params for row, (position, _) in zip(file_audit.rows, facts.owners, strict=True) if position is None
    ]
    return tuple(
        ParameterChange(cause, sum(1 for each in found if each), sum(found))
        for cause, found in changes.items()
        if any(found)
    )


def _layer_parameter_changes(facts, position, layer):
    indices = facts.operators_of.get(position, [])
    if not indices:
        is_folded = explain_layer(facts, position)[0] == "folded"
        yield ("BatchNormalization folded" if is_folded else "layers without an operator"), -layer.params
        return
    stored = sum(facts.file.weights[index].params for index in indices)
    if not stored and not layer.params:  # also a later use of a layer, on both sides
        return
    held = sum(facts.held_params(index) for index in indices)
    bias = count_bias_change(layer, facts, indices)
    yield ("biases that the layers have none of" if bias > 0 else "biases that the file leaves out"), bias
    yield _OTHER_CONSTANTS, held - layer.params - bias
    yield "equal values that are stored once", stored - held


def _mac_problems(rows, model_audit, file_audit):
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


# MERGED What became of a layer in a converted file, and why an operator is there that no layer asked for.

_KERNEL_OPS = classification.CONVOLUTIONS | classification.DEPTHWISE | classification.TRANSPOSED | {"Dense"}
_UNEXPLAINED = ("unexplained", "no operator of the file computes it", None)
_PADDINGS = frozenset({"ZeroPadding1D", "ZeroPadding2D"})


@dataclass(frozen=True)
class ConversionMap:
    """A model's `Graph`, a `File`, and of each operator (position of its row or None, whether it stands for it)."""

    graph: object
    file: object
    owners: tuple

    @functools.cached_property
    def operators_of(self):
        """Position of a row -> indices of its operators, that which stands for it first."""
        found = {}
        for index, (position, is_main) in enumerate(self.owners):
            if position is not None:
                found.setdefault(position, []).append((not is_main, index))
        return {position: [index for _, index in sorted(indices)] for position, indices in found.items()}

    @functools.cached_property
    def producers(self):
        """Index of a tensor of the model -> position of the row that gives it."""
        return {tensor.index: at for at, layer in enumerate(self.graph.layers) for tensor in layer.outputs}

    @functools.cached_property
    def positions(self):
        """Identity of a layer's record -> its position."""
        return {id(layer): at for at, layer in enumerate(self.graph.layers)}

    @functools.cached_property
    def _anchors(self):
        """For each row the operator whose output is the row's, or None; one without an operator takes its feeder's."""
        anchors = []
        for position, layer in enumerate(self.graph.layers):
            indices = self.operators_of.get(position)
            if indices:
                anchors.append(max(indices))
            else:
                feeder = self.producers.get(layer.inputs[0].index) if len(layer.inputs) == 1 else None
                anchors.append(None if feeder is None else anchors[feeder])
        return anchors

    def feeder(self, layer):
        """The operator that computes the input of `layer`, through layers without one; None where there is none."""
        position = self.producers.get(layer.inputs[0].index) if layer.inputs else None
        index = None if position is None else self._anchors[position]
        return None if index is None else self.file.graph.layers[index]

    def reader(self, layer):
        """The operator with a kernel that reads the output of `layer`, which nothing else reads; None otherwise."""
        readers = self.graph.readers(layer)
        while len(readers) == 1:
            indices = self.operators_of.get(self.positions[id(readers[0])])
            if indices:
                found = self.file.graph.layers[indices[0]]
                return found if found.kernel or found.op == "Dense" else None
            readers = self.graph.readers(readers[0])
        return None

    def held_params(self, index):
        """Weights that the operator computes with, those that it shares with earlier ones included."""
        weights = self.file.weights[index]
        return weights.params + weights.shared_params


def explain_layer(facts, position):
    """Return (status, note, operator that took it over or None) of a row of the model."""
    layer = facts.graph.layers[position]
    indices = facts.operators_of.get(position)
    if indices:
        types = [facts.file.graph.layers[index].type for index in sorted(indices)]
        return "matched", f"became {len(types)} operators: {', '.join(types)}" if len(types) > 1 else "", None
    if layer.op in classification.PASS_THROUGH or (layer.op == "Activation" and layer.activation == "linear"):
        return "removed", "does nothing when the network runs", None
    if layer.op in classification.FOLDABLE_NORMS:
        return _explain_folded(layer, facts.feeder(layer), facts.reader(layer))
    return _explain_fused(layer, facts.feeder(layer), facts.reader(layer)) or _explain_absorbed(layer)


def _explain_folded(layer, feeder, reader):
    for operator in (feeder, reader):
        if operator is not None and operator.op in _KERNEL_OPS and operator.use_bias:
            channels = operator.outputs[0].channels
            note = f"{layer.params:,} values became part of its weights and its bias of {channels:,}"
            return "folded", note, operator.path
    return _UNEXPLAINED


def _explain_fused(layer, feeder, reader):
    if classification.layer_kind(layer) == "activation" and feeder is not None and not feeder.is_linear:
        return "fused", f"computed as its activation, {feeder.activation}", feeder.path
    if layer.op in _PADDINGS and reader is not None and reader.padding == "same":
        return "fused", "done by its own padding", reader.path
    return None


def _explain_absorbed(layer):
    keeps = layer.inputs and layer.inputs[0].elements == layer.output_elements
    if keeps and classification.layer_kind(layer) == "reshape":
        return "absorbed", "the same values in the same order need no operator", None
    if keeps and classification.layer_kind(layer) == "pool":
        return "absorbed", "its window covers one position", None
    return _UNEXPLAINED


def explain_inserted_operator(facts, index):
    """Return (status, note) of an operator that is of no row."""
    operator, layer = facts.file.operators[index], facts.file.graph.layers[index]
    if operator.op in FORMAT_CHANGES and not layer.outputs:
        return "inserted", "weights that are stored in fewer bits, widened when the network runs"
    if operator.op in FORMAT_CHANGES:
        ends = {tensor.index for tensor in facts.file.graph.inputs} & {tensor.index for tensor in layer.inputs}
        starts = facts.file.graph.output_indices & {tensor.index for tensor in layer.outputs}
        if ends or starts:
            return "inserted", f"turns the network's {'input' if ends else 'output'} into another number format"
        return "inserted", "brings values to another scale or number format, as a reader of them needs"
    kind = classification.layer_kind(layer)
    if kind == "reshape" and sum(tensor.elements for tensor in layer.inputs) == layer.output_elements:
        return "inserted", "gives the same values another shape"
    if operator.op in ("PAD", "PADV2"):
        return "inserted", "padding that the operator behind it cannot do itself"
    return "unexplained", "no layer of the model asks for it"


def count_bias_change(layer, facts, indices):
    """Values of the bias that the operator of a row has and its layer has not; negative where it is the other way."""
    main = facts.file.graph.layers[indices[0]]
    if layer.op not in _KERNEL_OPS or main.op not in _KERNEL_OPS:
        return 0
    return (main.use_bias - layer.use_bias) * main.outputs[0].channels


def explain_parameters(facts, layer, indices):
    """Yield what changed in the parameters of a row with operators."""
    if not indices:
        return
    held = sum(facts.held_params(index) for index in indices)
    shared = sum(facts.file.weights[index].shared_params for index in indices)
    bias = count_bias_change(layer, facts, indices)
    if not layer.params and shared and held == shared:
        yield f"computes with the {shared:,} values of an earlier operator"
        return
    if bias:
        yield f"bias of {abs(bias):,} {'added' if bias > 0 else 'left out'}"
    other = held - bias - layer.params
    if other:
        yield f"{abs(other):,} values {'more' if other > 0 else 'fewer'} than the layer"
    if shared:
        yield f"{shared:,} values stored once with equal ones of an earlier operator"
    main = facts.file.graph.layers[indices[0]]
    if not main.is_linear and layer.activation in (None, "linear"):
        yield f"{main.activation} fused"


# MERGED Which operators of a .tflite file compute which rows of a Keras model's audit.

_NUMBER_SUFFIX = re.compile(r"_\d+$")
# These change how values are written, not which values they are: no layer stands behind one.
FORMAT_CHANGES = frozenset({"QUANTIZE", "DEQUANTIZE"})


def assign_operators(layers, kinds, macs, file, operator_kinds, operator_macs):
    """Return for each operator the position of the row that it computes, or None, and whether it stands for that row.

    The record of the export decides where there is one, else the names in the file do where shapes and MACs agree, else
    the order of equal shapes and MACs.

    Args:
        layers: the model's `LayerInfo`s; `kinds` and `macs` are theirs.
        file: `keras_nin.audit.tflite_reader.TFLiteNetwork`; `operator_kinds` and `operator_macs` are those of its layers.

    Returns:
        List of (position or None, is main). A row has at most one main operator; others are parts of what it became.
    """
    rows = [_cost_signature(*row) for row in zip(layers, kinds, macs, strict=True)]
    wanted = [_cost_signature(*row) for row in zip(file.graph.layers, operator_kinds, operator_macs, strict=True)]
    hints = _candidate_layers(layers, file)
    free = [operator.op not in FORMAT_CHANGES for operator in file.operators]
    found, taken = {}, set()

    def give(index, position):
        found[index] = (position, True)
        taken.add(position)

    for index, candidates in enumerate(hints):
        fitting = (each for each in candidates if each not in taken and rows[each] == wanted[index])
        position = next(fitting, None) if free[index] else None
        if position is not None:
            give(index, position)
    waiting = defaultdict(deque)
    for position, signature in enumerate(rows):
        if position not in taken:
            waiting[signature].append(position)
    for index, signature in enumerate(wanted):
        is_recorded = file.layers is not None and file.layers[index] is not None
        if index not in found and free[index] and not is_recorded and waiting[signature]:
            give(index, waiting[signature].popleft())
    for index, candidates in enumerate(hints):
        if index in found or not free[index] or not candidates:
            continue
        computes = operator_macs[index] != 0
        untaken = [each for each in candidates if each not in taken and (macs[each] != 0) == computes]
        if computes and untaken:
            give(index, untaken[0])
        else:
            found[index] = (candidates[0], False)
    for index in range(len(wanted)):
        if index not in found and operator_kinds[index] == "activation":
            position = _find_activated_layer(index, found, layers, file)
            if position is not None:
                found[index] = (position, False)
    return [found.get(index, (None, False)) for index in range(len(wanted))]


def _find_activated_layer(index, found, layers, file):
    """The row whose own activation the operator computes, behind the linear operator that stands for the row."""
    entering = {tensor.index for tensor in file.graph.layers[index].inputs}
    for feeder, (position, is_main) in found.items():
        before = file.graph.layers[feeder]
        feeds = len(entering) == 1 and entering == {tensor.index for tensor in before.outputs}
        if feeds and is_main and before.is_linear and layers[position].activation not in (None, "linear"):
            return position
    return None


def _cost_signature(layer, kind, macs):
    """What a row and the operator that computes it have in common."""
    shapes = tuple(tensor.shape for tensor in layer.outputs)
    return (macs, layer.output_elements) if macs else (0, kind, shapes)


def base_path(layer):
    """The path of the layer that a row is of: without the half of a separable convolution and the number of a use."""
    name = layer.name.split("/")[0].split(" (")[0]
    return f"{layer.scope}/{name}" if layer.scope else name


def _candidate_layers(layers, file):
    """For each operator the positions of the rows that its record or its name speaks of."""
    positions = defaultdict(list)
    for position, layer in enumerate(layers):
        positions[base_path(layer)].append(position)
    if file.layers is not None:
        return [positions.get(layer, []) for layer in file.layers]
    by_last = defaultdict(list)
    for path in positions:
        by_last[path.rpartition("/")[2]].append(path)
    return [_layers_named_in(name, positions, by_last) for name in file.tensor_names]


def _layers_named_in(tensor_name, positions, by_last):
    found = {}
    for scopes in tflite_reader.split_tensor_name(tensor_name):
        known = {*scopes, *(_NUMBER_SUFFIX.sub("", scope) for scope in scopes)}
        for scope in (*scopes, *(_NUMBER_SUFFIX.sub("", each) for each in scopes)):
            for path in by_last.get(scope, ()):
                if known.issuperset(path.split("/")):
                    found |= dict.fromkeys(positions[path])
    return list(found)
