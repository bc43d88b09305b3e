"""Which Keras layer each operator of a converted file computes, read from the names that the converter keeps."""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from keras_nin import keras_graph
from keras_nin.export.parity import CAST_OPERATORS
from keras_nin.tflite.layer_names import KERNEL_OPERATORS

if TYPE_CHECKING:
    import keras

    from keras_nin.tflite.records import TFLiteModel, TFLiteSubgraph

# Names of the layers around a layer, from the outside in, and its own.
Scope = tuple[str, ...]

_MARK = re.compile(r"(?P<mark>.+\.)(_\d+)?")
_NUMBER = re.compile(r"_\d+$")
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.-]")
# A name scope that TensorFlow accepts; variables are saved under names of the same form.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
# Layers that leave nothing behind at inference, and layers that may be fused into the next operator or dropped.
_INFERENCE_IDENTITIES = frozenset(
    ("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "Identity", "InputLayer")
    + ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
)
_AFFINE = ("BatchNormalization", "Normalization", "Rescaling")
_RESHAPING = ("Flatten", "Permute", "Reshape", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


@dataclasses.dataclass(frozen=True)
class OperatorLayers:
    """The layers of each operator of a file's main subgraph, by their paths ("outer/inner" in a nested model).

    Attributes:
        layers: the layer that the operator computes: of several fused layers (padding, convolution,
            BatchNormalization, ReLU) the one with a kernel, else the first one that computes. None for an operator of
            no layer, such as one of keras.ops.
        output_layers: the last layer fused into the operator, whose output is the operator's; None where unknown.
    """

    layers: tuple[str | None, ...]
    output_layers: tuple[str | None, ...]


def map_operators(model: "keras.Model", tflite: "TFLiteModel") -> OperatorLayers:
    """Return the Keras layers of each operator of a file.

    The operators carry the marks of `mark_layers`. In a file that another tool converted, the output layers are found
    by the names that TensorFlow gives: those of the layers, or with a number behind.
    """
    index, main, marks = LayerIndex(model), tflite.main, layer_marks(model)
    names = {name for scope in index.by_scope for name in scope}
    readers: tuple[Callable[[str], Scope], ...] = (
        lambda name: read_scope(name, marks),
        lambda name: tuple(part for part in name.split("/") if part in names),
        lambda name: tuple(part for part in (_NUMBER.sub("", part) for part in name.split("/")) if part in names),
    )
    closing = _closing_operators(index, tflite)
    readings = [_operator_scopes(index, main, closing, reader) for reader in readers]
    layers = tuple(
        _choose_layer(index, scopes, operator.op in KERNEL_OPERATORS)
        for operator, scopes in zip(main.operators, readings[0], strict=True)
    )
    return OperatorLayers(layers, _output_layers(index, main, readings))


# Marks in the names


@contextlib.contextmanager
def mark_layers(model: "keras.Model") -> Iterator[None]:
    """Rename every layer while the block runs, so that its operators can be told by their names.

    The converter keeps TensorFlow's name scopes, which number repeated names: a layer "conv1" becomes "conv1_1", and
    a layer really called "conv1_1" something else. A name that ends in a dot stays recognizable: "conv1." becomes
    "conv1._1". What TensorFlow does not accept in a name (a space, an accented letter) becomes "_".
    """
    from keras_nin._compat.keras import renamed_variables, variable_graph_names

    names = [(layer, layer.name) for layer in keras_graph.iterate_layers(model)]
    marks = {name: mark for mark, name in layer_marks(model).items()}
    graph_names = enumerate(variable_graph_names(model))
    refused = {position: f"variable_{position}" for position, name in graph_names if not _SCOPE.fullmatch(name)}
    try:
        for layer, name in names:
            layer.name = marks[name] if layer is not model else legal_name(name).replace(".", "_")
        with renamed_variables(refused, model):
            yield
    finally:
        for layer, name in names:
            layer.name = name


def layer_marks(model: "keras.Model") -> dict[str, str]:
    """Return the name of each layer by the mark that `mark_layers` puts in its place; other names, other marks."""
    marks: dict[str, str] = {}
    for layer in keras_graph.iterate_layers(model):
        if layer is not model:
            legal = f"{legal_name(layer.name)}."
            candidates = itertools.chain([legal], (f"{legal}{number}." for number in itertools.count(1)))
            next(mark for mark in candidates if marks.setdefault(mark, layer.name) == layer.name)
    return marks


def legal_name(name: str) -> str:
    """Return `name` with the characters replaced that TensorFlow refuses in a name scope."""
    legal = _OTHER_CHARACTERS.sub("_", name)
    return legal if re.match("[A-Za-z0-9]", legal) else f"L{legal}"


def read_scope(name: str, marks: dict[str, str]) -> Scope:
    """Return the names of the marked layers in a TensorFlow name such as "main/net/outer._1/inner./Relu", in order."""
    matches = [_MARK.fullmatch(part) for part in name.split("/")]
    return tuple(marks[match["mark"]] for match in matches if match and match["mark"] in marks)


# The layers of a model


@dataclasses.dataclass(frozen=True)
class LayerPosition:
    """A layer in a model: its path, itself, and its position in the order of the model."""

    path: str
    layer: "keras.Layer"
    position: int


class LayerIndex:
    """The layers of a Functional model, nested models and blocks opened.

    Attributes:
        by_scope: `LayerPosition` by the scope that TensorFlow names the layer's operators with.
        by_path: the same by path.
    """

    def __init__(self, model: "keras.Model") -> None:
        self.model = model
        self.by_scope: dict[Scope, LayerPosition] = {}
        self._add_children(model, (), ())
        self.by_path = {position.path: position for position in self.by_scope.values()}

    def _add_children(self, layer: "keras.Layer", scope: Scope, path: Scope) -> None:
        for child in keras_graph.child_layers(layer):
            inner = (*scope, child.name)
            if child is getattr(layer, "inner", None):  # the graph of a block is no layer of its own
                self._add_children(child, inner, path)
                continue
            self.by_scope[inner] = LayerPosition("/".join((*path, child.name)), child, len(self.by_scope))
            self._add_children(child, inner, (*path, child.name))

    @functools.cached_property
    def trace(self) -> keras_graph.GraphTrace:
        """The calls of the model."""
        return keras_graph.trace_functional(self.model)

    @functools.cached_property
    def consumers(self) -> dict[str, list[LayerPosition | None]]:
        """What takes the output of a layer, by the layer's path; None stands for a merge or an operation."""
        by_layer = {id(position.layer): position for position in self.by_scope.values()}
        consumers = defaultdict(list)
        for call in self.trace.calls:
            consumer = by_layer.get(id(call.operation)) if len(call.inputs) == 1 else None
            for producer in map(self.trace.producers.get, call.inputs):
                if producer is not None and id(producer.operation) in by_layer:
                    consumers[by_layer[id(producer.operation)].path].append(consumer)
        return consumers

    def next_layer(self, path: str) -> LayerPosition | None:
        """Return the only layer that takes the output of a layer; None where there are several, or none."""
        consumers = self.consumers[path]
        return consumers[0] if len(consumers) == 1 else None

    def last_fused_layer(self, position: LayerPosition, taken: set[str]) -> str:
        """Return the path of the last layer behind `position` with no operator in `taken`: it was fused or dropped."""
        last, following = position, self.next_layer(position.path)
        while following and following.path not in taken and type(following.layer).__name__ not in _RESHAPING:
            if type(following.layer).__name__ in _AFFINE and not absorbs_scale(last.layer):
                break  # it is folded into the layer behind it
            last = last if is_inference_identity(following.layer) else following
            following = self.next_layer(following.path)
        return last.path

    def scopes_behind_output(self, output: keras_graph.TensorSlot, named: set[Scope]) -> list[Scope]:
        """Return the scopes of the layers from an output back to the first one in `named`, or to a merge."""
        chain, call = [], self.trace.producers.get(output)
        while call is not None:
            if call.scope in self.by_scope and not is_inference_identity(self.by_scope[call.scope].layer):
                chain.append(call.scope)
            call = self.trace.producers.get(call.inputs[0]) if len(call.inputs) == 1 else None
        return list(itertools.takewhile(lambda scope: scope not in named, chain)) or chain[:1]


def is_inference_identity(layer: "keras.Layer") -> bool:
    """Whether a layer leaves nothing behind at inference."""
    kind = type(layer).__name__
    is_linear = kind == "Activation" and getattr(layer.activation, "__name__", "") == "linear"
    return kind in _INFERENCE_IDENTITIES or is_linear


def absorbs_scale(layer: "keras.Layer") -> bool:
    """Whether a scale behind a layer can be folded into its weights: it has some, and no activation follows them."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    has_kernel = any(len(weight.shape) > 1 for weight in layer.weights) and type(layer).__name__ != "PReLU"
    return activation == "linear" and (has_kernel or type(layer).__name__ in _AFFINE)


# From scopes to layers


def _operator_scopes(
    index: LayerIndex, main: "TFLiteSubgraph", closing: dict[int, keras_graph.TensorSlot], read: Callable[[str], Scope]
) -> list[list[Scope]]:
    """Return the scopes of the layers in the name of each operator; the converter joins fused names with ";"."""
    names = [main.tensors[operator.outputs[0]].name if operator.outputs else "" for operator in main.operators]
    scopes = [[scope for scope in map(read, name.split(";")) if scope] for name in names]
    for operator, output in closing.items():
        if not scopes[operator]:  # the converter names an output after the signature, whatever computes it
            scopes[operator] = index.scopes_behind_output(output, set(itertools.chain(*scopes)))
    return scopes


def _closing_operators(index: LayerIndex, tflite: "TFLiteModel") -> dict[int, keras_graph.TensorSlot]:
    """Return the operators that compute the outputs of a file, with what they stand for in the model."""
    main, names = tflite.main, [spec.name for spec in keras_graph.output_specs(index.model)]
    named = dict(tflite.signatures[0].outputs) if tflite.signatures else {}
    tensors = [named.get(name) for name in names] if set(named) == set(names) else main.outputs
    pairs = zip(tensors, index.trace.outputs, strict=False)  # a file of another network may have fewer
    closing = ((find_closing_operator(main, tensor), output) for tensor, output in pairs if tensor is not None)
    return {operator: output for operator, output in closing if operator is not None}


def find_closing_operator(main: "TFLiteSubgraph", tensor: int | None = None) -> int | None:
    """Return the index of the operator that computes an output (the first one by default), before casts.

    None where the output is an input.
    """
    operator = main.producers.get(main.outputs[0] if tensor is None else tensor)
    while operator is not None and operator.op in CAST_OPERATORS and operator.inputs[0] in main.producers:
        operator = main.producers[operator.inputs[0]]
    return None if operator is None else operator.index


def _choose_layer(index: LayerIndex, scopes: list[Scope], is_product: bool) -> str | None:
    """Return the path of the layer that stands for all of `scopes`; None without scopes.

    An operator that is a product computes the layer with a kernel. Any other has that layer's name by chance, such as
    what scales the output of a Conv1D after its activation.
    """

    def precedence(position: LayerPosition) -> tuple[bool, bool, int]:
        has_kernel = any(len(weight.shape) > 1 for weight in position.layer.weights)
        return has_kernel != is_product, type(position.layer).__name__ in _RESHAPING, position.position

    known = [index.by_scope[scope] for scope in scopes if scope in index.by_scope]
    return min(known, key=precedence).path if known else "/".join(scopes[0]) if scopes else None


def _output_layers(
    index: LayerIndex, main: "TFLiteSubgraph", readings: list[list[list[Scope]]]
) -> tuple[str | None, ...]:
    """Return the path of the last layer fused into each operator, by the reading that names most operators."""
    known = (
        [[index.by_scope[scope] for scope in scopes if scope in index.by_scope] for scopes in reading]
        for reading in readings
    )
    named = max(known, key=lambda reading: sum(map(bool, reading)))
    taken = {position.path for positions in named for position in positions}
    last = [max(positions, key=lambda position: position.position, default=None) for positions in named]
    # An operator without a name may compute the next layer itself: what feeds it is not followed any further.
    operators = list(zip(main.operators, last, strict=True))
    unnamed = {tensor for operator, position in operators if position is None for tensor in operator.inputs}
    return tuple(
        position
        and (index.last_fused_layer(position, taken) if unnamed.isdisjoint(operator.outputs) else position.path)
        for operator, position in operators
    )
