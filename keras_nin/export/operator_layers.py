"""Which Keras layer each operator of a converted file computes, read off the names that the converter keeps."""

import contextlib
import dataclasses
import itertools
import re
from collections import defaultdict
from typing import Any

_MARK = re.compile(r"(?P<mark>.+\.)(_\d+)?")
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")
# A name scope that TensorFlow accepts; variables are saved under names of the same form.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_CASTS = ("QUANTIZE", "DEQUANTIZE")
# Layers that leave nothing behind at inference, and layers that may be fused into the next operator or dropped.
_INFERENCE_IDENTITIES = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
)
_INFERENCE_IDENTITIES += ("InputLayer", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
_RESHAPING = ("Flatten", "Permute", "Reshape", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


@contextlib.contextmanager
def mark_layers(model):
    """Rename every layer for the time of the conversion so that a layer's name can be read off its operators.

    The converter keeps TensorFlow's name scopes, which number repeated names: a layer "conv1" becomes "conv1_1", and
    a layer really called "conv1_1" something else. A name that ends in a dot stays recognisable: "conv1." becomes
    "conv1._1". What TensorFlow does not accept in a name (a space, a letter with an accent) becomes "_". Yields a
    dictionary from the mark to the layer's name.
    """
    layers = list(model._flatten_layers())
    names = [layer.name for layer in layers]
    variables = [variable.value for variable in model.variables]
    handles = [variable._handle_name for variable in variables]
    marks = {}
    try:
        for layer, name in zip(layers, names, strict=True):
            if layer is not model:
                layer.name = _add_mark(name, marks)
        model.name = _legal_scope(model.name).replace(".", "_")
        for position, (variable, handle) in enumerate(zip(variables, handles, strict=True)):
            if not _SCOPE.fullmatch(handle.rpartition(":")[0]):
                variable._handle_name = f"variable_{position}:0"
        yield marks
    finally:
        for layer, name in zip(layers, names, strict=True):
            layer.name = name
        for variable, handle in zip(variables, handles, strict=True):
            variable._handle_name = handle


def layer_marks(model):
    """Return the marks that `marked` gives the layers of a model, as it yields them."""
    marks = {}
    for layer in model._flatten_layers():
        if layer is not model:
            _add_mark(layer.name, marks)
    return marks


def _add_mark(name, marks):
    """Return the mark of the layers called `name` and note it in `marks`; other names have other marks."""
    mark = clean = f"{_legal_scope(name)}."
    number = 0
    while marks.setdefault(mark, name) != name:
        number += 1
        mark = f"{clean}{number}."
    return mark


def _legal_scope(name):
    """Return `name` with what TensorFlow refuses in the name of a scope replaced."""
    clean = _OTHER_CHARACTERS.sub("_", name)
    return clean if re.match("[A-Za-z0-9]", clean) else f"L{clean}"


def read_scope(name, marks):
    """Return the names of the marked layers in a TensorFlow name such as "main/net/outer._1/inner./Relu", in order."""
    matches = [_MARK.fullmatch(part) for part in name.split("/")]
    return tuple(marks[match["mark"]] for match in matches if match and match["mark"] in marks)


def map_operators(model, graph, marks):
    """Return for each operator of the file's main graph the name of the Keras layer that it computes, or None.

    Args:
        model: the keras.Model.
        graph: the file, as `keras_nin.tflite.reader.read_model` gives it.
        marks: as `marked` yielded them.

    Returns:
        Tuple of names; a layer of a nested model has the path "outer/inner". Where the converter fused several layers
        into one operator (padding, convolution, BatchNormalization, ReLU) it is the one with a kernel, else the first
        that computes. None for an operator of no layer, such as one of keras.ops.
    """
    places = layer_positions(model)
    scopes = operator_scopes(model, graph.main, places, lambda name: read_scope(name, marks))
    return tuple(_choose_layer(places, each) for each in scopes)


def operator_scopes(model, main, places, read):
    """Return for each operator the scopes of the layers in its name, as `read` finds them in a part of it.

    The converter joins the names of fused operators with ";".
    """
    names = [main.tensors[operator.outputs[0]].name if operator.outputs else "" for operator in main.operators]
    scopes = [[scope for scope in map(read, name.split(";")) if scope] for name in names]
    last = find_closing_operator(main)
    if last is not None and not scopes[last]:
        # The converter names the graph's output after the signature, whatever computes it.
        scopes[last] = _closing_scopes(model, places, set(itertools.chain(*scopes)))
    return scopes


@dataclasses.dataclass(frozen=True)
class LayerPosition:
    """A layer in the model: its path, itself, and its position in the order of the model."""

    path: str
    layer: Any
    position: int


def layer_positions(model):
    """Return the `Place` of every layer by its scope, the names of the layers around it and its own."""
    found = {}

    def visit(layer, scope, path):
        for child in _children(layer):
            inner = (*scope, child.name)
            if child is getattr(layer, "inner", None):  # the graph that a block holds is no layer of its own
                visit(child, inner, path)
                continue
            found[inner] = LayerPosition("/".join((*path, child.name)), child, len(found))
            visit(child, inner, (*path, child.name))

    visit(model, (), ())
    return found


def _children(layer):
    import keras

    if isinstance(layer, keras.Model):
        return layer.layers
    return layer._flatten_layers(include_self=False, recursive=False)


def _choose_layer(places, scopes):
    """Return the path of the layer that stands for all of `scopes`, None where there is none."""
    known = [places[scope] for scope in scopes if scope in places]
    if known:
        return min(known, key=lambda each: (not _has_kernel(each.layer), _reshapes(each.layer), each.position)).path
    return "/".join(scopes[0]) if scopes else None


def _has_kernel(layer):
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _reshapes(layer):
    return type(layer).__name__ in _RESHAPING


def find_closing_operator(main):
    """Return the index of the operator that computes the output, before casts; None where the output is an input."""
    producers = {tensor: operator for operator in main.operators for tensor in operator.outputs}
    operator = producers.get(main.outputs[0])
    while operator is not None and operator.op in _CASTS and operator.inputs[0] in producers:
        operator = producers[operator.inputs[0]]
    return None if operator is None else operator.index


def _closing_scopes(model, places, named):
    """Return the scopes of the layers behind the output: those back to the first that another operator names."""
    chain = [
        scope for scope in _from_output(model) if scope in places and not is_inference_identity(places[scope].layer)
    ]
    return list(itertools.takewhile(lambda scope: scope not in named, chain)) or chain[:1]


def _from_output(model, scope=()):
    """Yield the scopes of the layers from the model's output back to the first that joins several tensors."""
    tensor = model.outputs[0]
    while True:
        history = tensor._keras_history
        arguments = history.operation._inbound_nodes[history.node_index].input_tensors
        if not arguments:  # an input
            return
        here = (*scope, history.operation.name)
        inside = inner_graph(history.operation)
        if inside is None:
            yield here
        else:
            yield from _from_output(inside, here if inside is history.operation else (*here, inside.name))
        if len(arguments) != 1:
            return
        tensor = arguments[0]


def inner_graph(layer):
    """Return the model whose graph `layer` runs: a nested model, or what a block holds; None for other layers."""
    import keras

    graph = layer if isinstance(layer, keras.Model) else getattr(layer, "inner", None)
    return graph if isinstance(graph, keras.Model) and getattr(graph, "outputs", None) else None


def is_inference_identity(layer):
    """Whether a layer leaves nothing behind at inference."""
    kind = type(layer).__name__
    return kind in _INFERENCE_IDENTITIES or (
        kind == "Activation" and getattr(layer.activation, "__name__", "") == "linear"
    )


# MERGED Which Keras layer gives what an operator gives: the last of those that were fused into it.

_NUMBER = re.compile(r"_\d+$")
_RESHAPING_LAYERS = ("Flatten", "Permute", "Reshape", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


def map_output_layers(model, graph):
    """Return for each operator of the file's main graph the Keras layer that gives what the operator gives, or None.

    Of a convolution, its BatchNormalization and its ReLU in one operator that is the ReLU. Files without the marks of
    our export are read by the names that TensorFlow gives, which are those of the layers, or those with a number
    behind.

    Args:
        model: the keras.Model.
        graph: the file, as `keras_nin.tflite.reader.read_model` gives it.

    Returns:
        Tuple of paths as in `keras_nin.export.operator_layers.map_operators`.
    """
    places = layer_positions(model)
    read = (operator_scopes(model, graph.main, places, reading) for reading in _scope_readers(model, places))
    known = ([[places[scope] for scope in scopes if scope in places] for scopes in found] for found in read)
    named = max(known, key=lambda found: sum(map(bool, found)))
    taken = {place.path for each in named for place in each}
    last = [max(each, key=lambda place: place.position, default=None) for each in named]
    following = _consumers(model, places)
    may_go_on = _feeds_named_only(graph.main, last)
    return tuple(
        place and (_last_fused_layer(place, following, taken) if free else place.path)
        for place, free in zip(last, may_go_on, strict=True)
    )


def layer_chains(model):
    """Return a function from two paths to the layers from the one to the other, each the only one behind the other.

    The function returns a list of layers, or None where the one does not lead to the other.
    """
    places = layer_positions(model)
    following = _consumers(model, places)
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
    return {place.path: place.layer for place in layer_positions(model).values()}


def _scope_readers(model, places):
    """Return ways to find the scope of a layer in a part of a tensor's name."""
    marks = layer_marks(model)
    known = {name for scope in places for name in scope}
    return (
        lambda name: read_scope(name, marks),
        lambda name: tuple(part for part in name.split("/") if part in known),
        lambda name: tuple(part for part in (_NUMBER.sub("", each) for each in name.split("/")) if part in known),
    )


def _feeds_named_only(main, layers):
    """Return for each operator whether all that read its output have a layer: one without may be the next layer's."""
    unnamed = {
        index for operator, layer in zip(main.operators, layers, strict=True) if not layer for index in operator.inputs
    }
    return [unnamed.isdisjoint(operator.outputs) for operator in main.operators]


def _last_fused_layer(place, following, taken):
    """Return the path of the last layer behind `place` that no operator names: the converter fused or dropped those."""
    end = place
    while True:
        after = following[place.path]
        if len(after) != 1 or after[0] is None or after[0].path in taken:
            return end.path
        place = after[0]
        if type(place.layer).__name__ in _RESHAPING_LAYERS:
            return end.path
        if not is_inference_identity(place.layer):
            end = place


def _consumers(model, places):
    """Return the `Place`s that take a layer's output, by the path of the layer; None stands for what is no layer."""
    by_layer = {id(place.layer): place for place in places.values()}
    found = defaultdict(list)

    def connect(graph, entering):
        depths = (getattr(graph, "_functional", None) or graph)._nodes_by_depth
        for node in itertools.chain(*depths.values()):
            inside = inner_graph(node.operation)
            sources = [_producer_id(tensor, entering) for tensor in node.input_tensors]
            if inside is not None and sources:
                connect(inside, dict(zip(map(id, inside.inputs), sources, strict=True)))
                continue
            for source in sources:
                if source in by_layer:
                    place = by_layer.get(id(node.operation))
                    found[by_layer[source].path].append(place if len(sources) == 1 else None)

    connect(model, {})
    return found


def _producer_id(tensor, entering):
    """Return the id of the layer, of nested models and blocks the innermost, that gives a tensor; None for an input."""
    while id(tensor) not in entering:
        history = tensor._keras_history
        inside = inner_graph(history.operation)
        if not history.operation._inbound_nodes[history.node_index].input_tensors:
            return None
        if inside is None:
            return id(history.operation)
        tensor = inside.outputs[history.tensor_index]
    return entering[id(tensor)]
