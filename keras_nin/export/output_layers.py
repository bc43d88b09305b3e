"""Which Keras layer gives what an operator gives: the last of those that were fused into it."""

import itertools
import re
from collections import defaultdict

from keras_nin.export import operators

_NUMBER = re.compile(r"_\d+$")
_RESHAPING = ("Flatten", "Permute", "Reshape", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


def output_layers_of_operators(model, graph):
    """Return for each operator of the file's main graph the Keras layer that gives what the operator gives, or None.

    Of a convolution, its BatchNormalization and its ReLU in one operator that is the ReLU. Files without the marks of
    our export are read by the names that TensorFlow gives, which are those of the layers, or those with a number
    behind.

    Args:
        model: the keras.Model.
        graph: the file, as `keras_nin.tflite.graph.read` gives it.

    Returns:
        Tuple of paths as in `keras_nin.export.operators.layers_of_operators`.
    """
    places = operators.places_of(model)
    read = (operators.scopes_of_operators(model, graph.main, places, reading) for reading in _readings(model, places))
    known = ([[places[scope] for scope in scopes if scope in places] for scopes in found] for found in read)
    named = max(known, key=lambda found: sum(map(bool, found)))
    taken = {place.path for each in named for place in each}
    last = [max(each, key=lambda place: place.position, default=None) for each in named]
    following = _following(model, places)
    may_go_on = _before_named(graph.main, last)
    return tuple(
        place and (_end(place, following, taken) if free else place.path)
        for place, free in zip(last, may_go_on, strict=True)
    )


def chains_of(model):
    """Return a function from two paths to the layers from the one to the other, each the only one behind the other.

    The function returns a list of layers, or None where the one does not lead to the other.
    """
    places = operators.places_of(model)
    following = _following(model, places)
    by_path = {place.path: place for place in places.values()}

    def between(first, last):
        found = [by_path[first]]
        while found[-1].path != last:
            after = following[found[-1].path]
            if len(after) != 1 or after[0] is None:
                return None
            found.append(after[0])
        return [place.layer for place in found]

    return between


def layers_by_path(model):
    """Return the layers of a model by their paths, "outer/inner" in a nested model or a block."""
    return {place.path: place.layer for place in operators.places_of(model).values()}


def _readings(model, places):
    """Return ways to find the scope of a layer in a part of a tensor's name."""
    marks = operators.marks_of(model)
    known = {name for scope in places for name in scope}
    return (
        lambda name: operators.scope_of(name, marks),
        lambda name: tuple(part for part in name.split("/") if part in known),
        lambda name: tuple(part for part in (_NUMBER.sub("", each) for each in name.split("/")) if part in known),
    )


def _before_named(main, layers):
    """Return for each operator whether all that read its output have a layer: one without may be the next layer's."""
    unnamed = {
        index for operator, layer in zip(main.operators, layers, strict=True) if not layer for index in operator.inputs
    }
    return [unnamed.isdisjoint(operator.outputs) for operator in main.operators]


def _end(place, following, taken):
    """Return the path of the last layer behind `place` that no operator names: the converter fused or dropped those."""
    end = place
    while True:
        after = following[place.path]
        if len(after) != 1 or after[0] is None or after[0].path in taken:
            return end.path
        place = after[0]
        if type(place.layer).__name__ in _RESHAPING:
            return end.path
        if not operators.is_idle(place.layer):
            end = place


def _following(model, places):
    """Return the `Place`s that take a layer's output, by the path of the layer; None stands for what is no layer."""
    by_layer = {id(place.layer): place for place in places.values()}
    found = defaultdict(list)

    def connect(graph, entering):
        depths = (getattr(graph, "_functional", None) or graph)._nodes_by_depth
        for node in itertools.chain(*depths.values()):
            inside = operators.graph_of(node.operation)
            sources = [_source(tensor, entering) for tensor in node.input_tensors]
            if inside is not None and sources:
                connect(inside, dict(zip(map(id, inside.inputs), sources, strict=True)))
                continue
            for source in sources:
                if source in by_layer:
                    place = by_layer.get(id(node.operation))
                    found[by_layer[source].path].append(place if len(sources) == 1 else None)

    connect(model, {})
    return found


def _source(tensor, entering):
    """Return the id of the layer, of nested models and blocks the innermost, that gives a tensor; None for an input."""
    while id(tensor) not in entering:
        history = tensor._keras_history
        inside = operators.graph_of(history.operation)
        if not history.operation._inbound_nodes[history.node_index].input_tensors:
            return None
        if inside is None:
            return id(history.operation)
        tensor = inside.outputs[history.tensor_index]
    return entering[id(tensor)]
