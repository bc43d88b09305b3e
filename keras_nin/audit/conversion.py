"""A Keras model and the .tflite file that was converted from it, reconciled row by row."""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_nin.audit import operations as ops
from keras_nin.audit.classification import is_foldable_norm
from keras_nin.audit.comparison import (
    ComparedRow,
    ModelComparison,
    ParameterChange,
    join_types,
    pair_totals,
    sum_known,
)
from keras_nin.audit.graph import LayerGraph, LayerInfo
from keras_nin.audit.records import AuditRow
from keras_nin.audit.tflite_reader import TFLiteNetwork
from keras_nin.tflite.layer_names import FORMAT_CHANGES, KERNEL_OPERATORS, split_tensor_name

if TYPE_CHECKING:
    from keras_nin.audit.api import Audit

_OTHER_CONSTANTS = "constants that are not weights of a layer"


def reconcile_conversion(
    graph: LayerGraph, network: TFLiteNetwork, model_audit: "Audit", file_audit: "Audit"
) -> ModelComparison:
    """Return the `ModelComparison` of a model's `graph` with the file converted from it; the audits are theirs."""
    assignments = assign_operators(graph, network, model_audit.rows, file_audit.rows)
    conversion = ConversionMap(graph, network, assignments)
    rows, changes = [], defaultdict(list)
    for layer, row in zip(graph.layers, model_audit.rows, strict=True):
        operators = [file_audit.rows[index] for index in conversion.operators_of.get(layer.path, ())]
        outcome, notes = explain_layer(conversion, layer), []
        for note, cause, params in _explain_parameters(conversion, layer, outcome.status):
            notes.append(note)
            changes[cause] += [params] if params else []
        if _leaves_out_state(layer, row.macs, sum_known(operator.macs for operator in operators)):
            notes.append(f"without the {layer.state_macs:,} MACs of its first state, which is zeros")
        rows.append(_compare_row(row, operators, outcome, "; ".join(filter(None, [outcome.note, *notes]))))
    for index, row in enumerate(file_audit.rows):
        if assignments[index].layer is None:
            outcome = explain_inserted_operator(conversion, index)
            rows.append(_compare_row(None, [row], outcome, outcome.note))
            changes[_OTHER_CONSTANTS] += [row.params] if row.params else []
    stored = Counter()
    for dtype, size in (item for weights in network.weights for item in weights.stored):
        stored[dtype] += size
    parameter_changes = (
        ParameterChange(cause, len(params), sum(params)) for cause, params in changes.items() if params
    )
    return ModelComparison(
        kind="conversion",
        a=model_audit.model,
        b=file_audit.model,
        rows=tuple(rows),
        blocks=(),
        totals=pair_totals(model_audit, file_audit),
        parameter_changes=tuple(parameter_changes),
        stored=dict(stored),
        problems=tuple(_mac_problems(rows, model_audit, file_audit, {layer.path: layer for layer in graph.layers})),
        batch=(model_audit.batch, file_audit.batch),
    )


def _compare_row(row: AuditRow | None, operators: Sequence[AuditRow], outcome: "Outcome", note: str) -> ComparedRow:
    params, weight_bytes, macs = (
        (row and getattr(row, field), sum_known(getattr(operator, field) for operator in operators))
        for field in ("params", "weight_bytes", "macs")
    )
    names, types = (tuple(getattr(operator, field) for operator in operators) for field in ("name", "type"))
    sides = row and row.name, names, outcome.status, note, params, weight_bytes, macs
    return ComparedRow(*sides, row and row.block, types, outcome.into)


def _mac_problems(
    rows: Sequence[ComparedRow], model_audit: "Audit", file_audit: "Audit", layers: Mapping[str, LayerInfo]
) -> Iterator[str]:
    model_macs, file_macs = model_audit.total.macs, file_audit.total.macs
    left_out = {
        row.a: layers[row.a].state_macs for row in rows if row.a and _leaves_out_state(layers[row.a], *row.macs)
    }
    model_macs -= sum(left_out.values())
    if model_macs != file_macs and not (model_audit.unknown or file_audit.unknown):
        yield f"MACs in total: {model_macs:,} in {model_audit.model}, {file_macs:,} in {file_audit.model}"
    for row in rows:
        in_model, in_file = row.macs
        if row.a in left_out:
            continue
        if row.status == "matched" and in_model is not None and in_model != (in_file or 0):
            received = "unknown" if in_file is None else f"{in_file:,}"
            yield f"MACs of {row.a}: {in_model:,} in the model, {received} in the file"
        elif row.status == "unexplained" and (in_model or in_file):
            side = "layer" if row.a else "operator"
            yield f"MACs of {side} {row.name}: {in_model or in_file:,} on one side, nothing on the other"


def _leaves_out_state(layer: LayerInfo, in_model: int | None, in_file: int | None) -> bool:
    """Return whether the converter left out the products of the first state of a recurrent layer, which is zeros."""
    return bool(layer.state_macs and in_model and in_file and in_model - in_file == layer.state_macs)


# Explanations


@dataclass(frozen=True)
class OperatorAssignment:
    """The layer that an operator computes, None for no layer, and whether it represents that layer."""

    layer: LayerInfo | None = None
    is_main: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a layer, or why an operator is there; `into` is the layer whose operator took over its work."""

    status: str
    note: str = ""
    into: str | None = None


_ABSORBED = {
    "reshape": "the same values in the same order need no operator",
    "pool": "its window covers one position",
}


@dataclass(frozen=True)
class ConversionMap:
    """A model's graph, the file's, and the assignment of each operator of the file."""

    graph: LayerGraph
    network: TFLiteNetwork
    assignments: tuple[OperatorAssignment, ...]

    @functools.cached_property
    def operators_of(self) -> dict[str, list[int]]:
        """Path of a layer -> indices of its operators, the main one first."""
        operators = defaultdict(list)
        for index, assignment in sorted(enumerate(self.assignments), key=lambda item: not item[1].is_main):
            if assignment.layer is not None:
                operators[assignment.layer.path].append(index)
        return dict(operators)

    def operator_before(self, layer: LayerInfo) -> LayerInfo | None:
        """Return the operator that computes the input of `layer`, through layers without one; None if there is none."""
        producer = self.graph.producers.get(layer.inputs[0].index) if layer.inputs else None
        while producer is not None:
            if indices := self.operators_of.get(producer.path):
                return self.network.graph.layers[max(indices)]
            producer = self.graph.producers.get(producer.inputs[0].index) if len(producer.inputs) == 1 else None
        return None

    def operator_after(self, layer: LayerInfo) -> LayerInfo | None:
        """Return the operator with a kernel that is the only reader of the output of `layer`; None otherwise."""
        readers = self.graph.readers(layer)
        while len(readers) == 1:
            if indices := self.operators_of.get(readers[0].path):
                operator = self.network.graph.layers[indices[0]]
                return operator if operator.kernel or operator.op == "Dense" else None
            readers = self.graph.readers(readers[0])
        return None

    def layer_of(self, operator: LayerInfo) -> str:
        """Return the path of the layer that an operator computes; the operator's own where it computes none."""
        layer = self.assignments[self.network.graph.layers.index(operator)].layer
        return operator.path if layer is None else layer.path

    def count_weights(self, layer: LayerInfo) -> tuple[int, int, int]:
        """Return the weights of a layer's operators, those of them that earlier ones have, and the added biases."""
        indices = self.operators_of[layer.path]
        shared = sum(self.network.weights[index].shared_params for index in indices)
        held = shared + sum(self.network.weights[index].params for index in indices)
        operator = self.network.graph.layers[indices[0]]
        is_linear = layer.op in ops.LINEAR and operator.op in ops.LINEAR
        return held, shared, (operator.use_bias - layer.use_bias) * operator.output_channels if is_linear else 0


def explain_layer(conversion: ConversionMap, layer: LayerInfo) -> Outcome:
    """Return what became of `layer`."""
    if indices := conversion.operators_of.get(layer.path):
        types = [conversion.network.graph.layers[index].type for index in sorted(indices)]
        note = f"maps to {len(types)} operators: {join_types(types, ', ')}" if len(types) > 1 else ""
        return Outcome("matched", note)
    if layer.is_identity:
        return Outcome("removed", "does nothing at inference")
    before, after = conversion.operator_before(layer), conversion.operator_after(layer)
    if layer.op in ops.FOLDABLE_NORMS:
        # What follows a nonlinearity cannot be folded into the layer before that.
        for operator in (before if is_foldable_norm(layer, conversion.graph) is not False else None, after):
            if operator is not None and operator.op in ops.LINEAR and operator.use_bias:
                channels = operator.output_channels
                note = f"{layer.params:,} values folded into its weights and its bias of {channels:,}"
                return Outcome("folded", note, conversion.layer_of(operator))
    elif layer.kind == "activation" and before is not None and not before.is_linear:
        return Outcome("fused", f"computed as its activation, {before.activation}", conversion.layer_of(before))
    elif layer.op in ops.PADDING and after is not None and after.padding == "same":
        return Outcome("fused", "done by its own padding", conversion.layer_of(after))
    elif layer.inputs and layer.inputs[0].elements == layer.output_elements and layer.kind in _ABSORBED:
        return Outcome("absorbed", _ABSORBED[layer.kind])
    return Outcome("unexplained", "no operator of the file computes it")


def explain_inserted_operator(conversion: ConversionMap, index: int) -> Outcome:
    """Return why an operator is there that computes no layer."""
    graph, op = conversion.network.graph, conversion.network.operators[index].op
    layer = graph.layers[index]
    if op in FORMAT_CHANGES:
        note = "converts values to the scale or number format that a reader needs"
        if not layer.outputs:
            note = "weights that are stored in fewer bits, widened at inference"
        elif not {tensor.index for tensor in graph.inputs}.isdisjoint(tensor.index for tensor in layer.inputs):
            note = "converts the network's input to another number format"
        elif graph.is_output(layer):
            note = "converts the network's output to another number format"
        return Outcome("inserted", note)
    if layer.kind == "reshape" and sum(tensor.elements for tensor in layer.inputs) == layer.output_elements:
        return Outcome("inserted", "gives the same values another shape")
    if op in ("PAD", "PADV2"):
        return Outcome("inserted", "padding that the next operator cannot do itself")
    return Outcome("unexplained", "no layer of the model corresponds to it")


def _explain_parameters(conversion: ConversionMap, layer: LayerInfo, status: str) -> Iterator[tuple[str, str, int]]:
    """Yield what changed in the parameters of a layer: a note or "", the cause, and how many more the file has.

    Over all layers, and operators without one, the changes sum up to the difference of the totals.
    """
    if layer.path not in conversion.operators_of:
        yield "", "BatchNormalization folded" if status == "folded" else "layers without an operator", -layer.params
        return
    held, shared, bias = conversion.count_weights(layer)
    if not layer.params and held and (held == shared or _path_of_calls(layer.path) != layer.path):
        note = f"computes with the {shared:,} values of an earlier operator"
        if held != shared:
            note = f"{held - shared:,} of {held:,} values stored again: the scales of a shared layer differ by call"
        yield note, "weights of shared layers stored again", held - shared
        return
    if layer.op == "BatchNormalization":
        note = f"a scale and a shift of {held:,} values"
        yield note, "BatchNormalization reduced to a scale and a shift", held - shared - layer.params
        return
    if layer.params or held != shared:
        end = "added" if bias > 0 else "left out"
        yield f"bias of {abs(bias):,} {end}" if bias else "", f"biases {end} by the conversion", bias
        other = held - bias - layer.params
        difference = f"{abs(other):,} values {'more' if other > 0 else 'fewer'} than the layer"
        yield difference if other else "", _OTHER_CONSTANTS, other
        equal = f"{shared:,} values stored once with equal ones of an earlier operator"
        yield equal if shared else "", "equal constants stored once", -shared
    operator = conversion.network.graph.layers[conversion.operators_of[layer.path][0]]
    if not operator.is_linear and layer.is_linear:
        yield f"{operator.activation} fused", "", 0


# Assignment


def assign_operators(
    graph: LayerGraph, network: TFLiteNetwork, rows: Sequence[AuditRow], operator_rows: Sequence[AuditRow]
) -> tuple[OperatorAssignment, ...]:
    """Return the assignment of each operator of the file to a layer of the model, which has at most one main operator.

    The export record decides if there is one, else the names in the file if shapes and MACs match, else their order.
    """
    operators = network.graph.layers
    signatures = [_cost_signature(*pair) for pair in zip(graph.layers, rows, strict=True)]
    targets = [_cost_signature(*pair) for pair in zip(operators, operator_rows, strict=True)]
    candidates = _candidate_layers(graph.layers, network)
    assignable = [index for index, operator in enumerate(network.operators) if operator.op not in FORMAT_CHANGES]
    assignments: dict[int, OperatorAssignment] = {}
    producers = {tensor.index: index for index, operator in enumerate(operators) for tensor in operator.outputs}
    ancestors = functools.cache(lambda position: _ancestor_paths(graph, graph.layers[position]))
    free = set(range(len(rows)))  # positions of the layers without a main operator

    def find_sources(index: int) -> set[str]:
        """Return the layers of the operators before an operator, through those that have none yet."""
        pending, sources = [index], set()
        for current in pending:  # which grows meanwhile
            for before in (producers.get(tensor.index) for tensor in operators[current].inputs):
                layer = assignments[before].layer if before in assignments else None
                if layer is not None:
                    sources.add(layer.path)
                elif before is not None and before not in pending:
                    pending.append(before)
        return sources

    def choose_call(index: int, positions: Iterable[int]) -> int | None:
        """Return the first of `positions` that depends on the layers before an operator, else the first."""
        positions = list(positions)
        if len(positions) > 1:  # such as the calls of a shared layer
            sources = find_sources(index)
            positions.sort(key=lambda position: not sources <= ancestors(position))
        return positions[0] if positions else None

    def assign_main(index: int, positions: Iterable[int]) -> None:
        position = choose_call(index, (position for position in positions if position in free))
        if position is not None:
            assignments[index] = OperatorAssignment(graph.layers[position], is_main=True)
            free.remove(position)

    for index in assignable:  # by the record or by name, where shapes and MACs match
        assign_main(index, (position for position in candidates[index] if signatures[position] == targets[index]))
    by_signature = defaultdict(list)
    for position, signature in enumerate(signatures):
        by_signature[signature].append(position)
    recorded = network.recorded_layers or [None] * len(operators)
    for index in assignable:  # in the order of equal shapes and MACs
        if index not in assignments and recorded[index] is None:
            assign_main(index, by_signature[targets[index]])
    for index in assignable:  # the rest by the record or by name alone
        if index not in assignments and candidates[index]:
            if operator_rows[index].macs != 0:
                assign_main(index, (position for position in candidates[index] if rows[position].macs != 0))
            position = choose_call(index, candidates[index])
            assignments.setdefault(index, OperatorAssignment(None if position is None else graph.layers[position]))
    for index, operator in enumerate(operators):  # an activation after the linear main operator of its layer
        inputs = {tensor.index for tensor in operator.inputs}
        if index not in assignments and operator_rows[index].kind == "activation" and len(inputs) == 1:
            before = producers.get(inputs.pop(), -1)
            main = assignments.get(before, OperatorAssignment())
            is_split = main.is_main and operators[before].is_linear and main.layer and not main.layer.is_linear
            assignments[index] = OperatorAssignment(main.layer if is_split else None)
    return tuple(assignments.get(index, OperatorAssignment()) for index in range(len(operators)))


def _cost_signature(layer: LayerInfo, row: AuditRow) -> tuple[object, ...]:
    """Return what a layer and the operator that computes it have in common, for one sample."""
    if row.macs:
        return row.macs, layer.output_elements // layer.batch
    shapes = (tensor.shape for tensor in layer.outputs)
    return 0, row.kind, *((max(1, shape[0] // layer.batch), *shape[1:]) if shape else () for shape in shapes)


def _ancestor_paths(graph: LayerGraph, layer: LayerInfo) -> set[str]:
    """Return the paths of a layer and of all layers that it depends on."""
    pending, paths = [layer], {layer.path}
    for current in pending:  # which grows meanwhile
        for producer in filter(None, (graph.producers.get(tensor.index) for tensor in current.inputs)):
            if producer.path not in paths:
                paths.add(producer.path)
                pending.append(producer)
    return paths


def _known_path(path: str, known: Container[str]) -> str:
    """Return a path, or that of the layer around it which the graph has: a cell or a projection is a part of one."""
    while path and path not in known:
        path = path.rpartition("/")[0]
    return path


def _path_of_calls(path: str) -> str:
    """Return the path that all calls of a layer have in common: without the numbers behind names."""
    return re.sub(r" \(\d+\)(?=/|$)", "", path)


def _candidate_layers(layers: Sequence[LayerInfo], network: TFLiteNetwork) -> list[list[int]]:
    """Return for each operator the positions of the layers that its record or its name mentions."""
    positions = defaultdict(list)
    for position, layer in enumerate(layers):
        path = f"{layer.scope}/{layer.base_name}" if layer.scope else layer.base_name
        positions[_path_of_calls(path)].append(position)
    if network.recorded_layers is not None:
        return [positions.get(_known_path(layer or "", positions), []) for layer in network.recorded_layers]
    paths_by_name = defaultdict(list)
    for path in positions:
        paths_by_name[path.rpartition("/")[2]].append(path)
    candidates = []
    for operator, tensor_name in zip(network.operators, network.tensor_names, strict=True):
        paths: list[str] = []
        for scopes in split_tensor_name(tensor_name):
            names = (*scopes, *(re.sub(r"_\d+$", "", scope) for scope in scopes))
            named = (path for name in names for path in paths_by_name.get(name, ()))
            paths += [path for path in named if set(names).issuperset(path.split("/"))]
        named_positions = [position for path in dict.fromkeys(paths) for position in positions[path]]
        # Of what is fused, the layer with a kernel is computed by the operator with one.
        has_kernel = operator.op in KERNEL_OPERATORS
        candidates.append(
            sorted(named_positions, key=lambda at, kernel=has_kernel: (layers[at].op in ops.LINEAR) != kernel)
        )
    return candidates
