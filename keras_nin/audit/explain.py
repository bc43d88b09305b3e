"""What became of a layer in a converted file, and why an operator is there that no layer asked for."""

import functools
from dataclasses import dataclass

from keras_nin.audit import classify
from keras_nin.audit.matching import CASTS

_KERNEL_OPS = classify.CONVOLUTIONS | classify.DEPTHWISE | classify.TRANSPOSED | {"Dense"}
_UNEXPLAINED = ("unexplained", "no operator of the file computes it", None)
_PADDINGS = frozenset({"ZeroPadding1D", "ZeroPadding2D"})


@dataclass(frozen=True)
class Facts:
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


def became(facts, position):
    """Return (status, note, operator that took it over or None) of a row of the model."""
    layer = facts.graph.layers[position]
    indices = facts.operators_of.get(position)
    if indices:
        types = [facts.file.graph.layers[index].type for index in sorted(indices)]
        return "matched", f"became {len(types)} operators: {', '.join(types)}" if len(types) > 1 else "", None
    if layer.op in classify.PASS_THROUGH or (layer.op == "Activation" and layer.activation == "linear"):
        return "removed", "does nothing when the network runs", None
    if layer.op in classify.FOLDABLE_NORMS:
        return _folded(layer, facts.feeder(layer), facts.reader(layer))
    return _fused(layer, facts.feeder(layer), facts.reader(layer)) or _absorbed(layer)


def _folded(layer, feeder, reader):
    for operator in (feeder, reader):
        if operator is not None and operator.op in _KERNEL_OPS and operator.use_bias:
            channels = operator.outputs[0].channels
            note = f"{layer.params:,} values became part of its weights and its bias of {channels:,}"
            return "folded", note, operator.path
    return _UNEXPLAINED


def _fused(layer, feeder, reader):
    if classify.kind_of(layer) == "activation" and feeder is not None and not feeder.is_linear:
        return "fused", f"computed as its activation, {feeder.activation}", feeder.path
    if layer.op in _PADDINGS and reader is not None and reader.padding == "same":
        return "fused", "done by its own padding", reader.path
    return None


def _absorbed(layer):
    keeps = layer.inputs and layer.inputs[0].elements == layer.output_elements
    if keeps and classify.kind_of(layer) == "reshape":
        return "absorbed", "the same values in the same order need no operator", None
    if keeps and classify.kind_of(layer) == "pool":
        return "absorbed", "its window covers one position", None
    return _UNEXPLAINED


def inserted(facts, index):
    """Return (status, note) of an operator that is of no row."""
    operator, layer = facts.file.operators[index], facts.file.graph.layers[index]
    if operator.op in CASTS and not layer.outputs:
        return "inserted", "weights that are stored in fewer bits, widened when the network runs"
    if operator.op in CASTS:
        ends = {tensor.index for tensor in facts.file.graph.inputs} & {tensor.index for tensor in layer.inputs}
        starts = facts.file.graph.output_indices & {tensor.index for tensor in layer.outputs}
        if ends or starts:
            return "inserted", f"turns the network's {'input' if ends else 'output'} into another number format"
        return "inserted", "brings values to another scale or number format, as a reader of them needs"
    kind = classify.kind_of(layer)
    if kind == "reshape" and sum(tensor.elements for tensor in layer.inputs) == layer.output_elements:
        return "inserted", "gives the same values another shape"
    if operator.op in ("PAD", "PADV2"):
        return "inserted", "padding that the operator behind it cannot do itself"
    return "unexplained", "no layer of the model asks for it"


def bias_change(layer, facts, indices):
    """Values of the bias that the operator of a row has and its layer has not; negative where it is the other way."""
    main = facts.file.graph.layers[indices[0]]
    if layer.op not in _KERNEL_OPS or main.op not in _KERNEL_OPS:
        return 0
    return (main.use_bias - layer.use_bias) * main.outputs[0].channels


def parameters(facts, layer, indices):
    """Yield what changed in the parameters of a row with operators."""
    if not indices:
        return
    held = sum(facts.held_params(index) for index in indices)
    shared = sum(facts.file.weights[index].shared_params for index in indices)
    bias = bias_change(layer, facts, indices)
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
