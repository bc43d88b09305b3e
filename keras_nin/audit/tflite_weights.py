"""Which constants of a .tflite file are weights, and which operator they belong to."""

from dataclasses import dataclass

# What passes constants on, changed in form only: the weights belong to the operator that computes with them.
_PASSES_ON = frozenset({"CAST", "DENSIFY", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE"})
_HAVE_BIAS = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "SVDF", "LSTM"})
_WHOLE = frozenset({"int32", "uint32", "int64", "uint64", "bool", "string"})
# Positions of inputs that say where or how much (shapes, axes, paddings, indices) and hold no weights.
_SETTINGS = {
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "BROADCAST_TO", "CUMSUM", "EXPAND_DIMS", "GATHER", "GATHER_ND"), {1}),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"), {1}),
    **dict.fromkeys(("MIRROR_PAD", "PAD", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE"), {1}),
    **dict.fromkeys(("REVERSE_SEQUENCE", "REVERSE_V2", "TILE", "TOPK_V2"), {1}),
    **dict.fromkeys(("BATCH_TO_SPACE_ND", "PADV2", "SLICE", "SPACE_TO_BATCH_ND", "SPLIT_V"), {1, 2}),
    **dict.fromkeys(("FILL", "SPLIT", "TRANSPOSE_CONV"), {0}),
    **dict.fromkeys(("RANGE", "SCATTER_ND"), {0, 1, 2}),
    "STRIDED_SLICE": {1, 2, 3},
    "ONE_HOT": {0, 1, 2, 3},
    "DYNAMIC_UPDATE_SLICE": {2},
    "SEGMENT_SUM": {1},
}


@dataclass(frozen=True)
class Weights:
    """What an operator brings: elements, bytes as stored, and elements that an earlier operator has brought already.

    `stored` is the bytes by data type: ((dtype, bytes), ...).
    """

    params: int = 0
    weight_bytes: int = 0
    shared_params: int = 0
    stored: tuple[tuple[str, int], ...] = ()


class Constants:
    """The constants of a file's main subgraph. A buffer counts at its first use, however many tensors share it."""

    def __init__(self, file):
        self._file = file
        self._passed_on = _passed_on(file.main)
        self._counted = set()
        self._opened = {0}

    def holds(self, index):
        """Whether the main subgraph's tensor `index` is a constant, or one in another form."""
        return index in self._passed_on or _is_constant(self._file.main, index)

    def passes_on(self, operator):
        """Whether all that `operator` gives is a constant in another form."""
        return bool(operator.outputs) and operator.outputs[0] in self._passed_on

    def take(self, operator):
        """Return the `Weights` that `operator` brings, those of the subgraphs that it calls included."""
        if self.passes_on(operator):
            return Weights()
        tensors = self._used(operator)
        unique = {tensor.buffer: tensor for tensor in tensors}
        new = {buffer: tensor for buffer, tensor in unique.items() if buffer not in self._counted}
        self._counted.update(new)
        return Weights(
            params=sum(tensor.elements for tensor in new.values()),
            weight_bytes=sum(tensor.buffer_bytes for tensor in new.values()),
            shared_params=sum(tensor.elements for buffer, tensor in unique.items() if buffer not in new),
            stored=tuple((tensor.dtype, tensor.buffer_bytes) for tensor in new.values()),
        )

    def _used(self, operator):
        """The constants that `operator` computes with, and those of the subgraphs it calls, each opened once."""
        tensors = _direct(self._file.main, operator, self._passed_on)
        waiting = _called(operator)
        while waiting:
            number = waiting.pop()
            if number in self._opened:
                continue
            self._opened.add(number)
            subgraph = self._file.subgraphs[number]
            passed_on = _passed_on(subgraph)
            for inner in subgraph.operators:
                if not (inner.outputs and inner.outputs[0] in passed_on):
                    tensors += _direct(subgraph, inner, passed_on)
                waiting += _called(inner)
        return tensors


def _called(operator):
    return [value for option, value in operator.options.items() if option.endswith("subgraph_index")]


def _is_constant(subgraph, index):
    return subgraph.tensors[index].is_constant and index not in subgraph.inputs


def _passed_on(subgraph):
    """Index of a tensor that is a constant in another form -> that constant."""
    found = {}
    for operator in subgraph.operators:
        if operator.op in _PASSES_ON and not operator.is_custom and operator.inputs:
            index = operator.inputs[0]
            source = found.get(index) or (index >= 0 and _is_constant(subgraph, index) and subgraph.tensors[index])
            if source:
                found |= dict.fromkeys(operator.outputs, source)
    return found


def _direct(subgraph, operator, passed_on):
    settings = () if operator.is_custom else _SETTINGS.get(operator.op, ())
    used = [
        passed_on.get(index) or subgraph.tensors[index]
        for position, index in enumerate(operator.inputs)
        if index >= 0 and position not in settings and (index in passed_on or _is_constant(subgraph, index))
    ]
    return [tensor for tensor in used if operator.op in _HAVE_BIAS or _is_value(tensor)]


def _is_value(tensor):
    """Whether a constant stands for real numbers; plain integers elsewhere than in a bias are sizes and positions."""
    return tensor.quantization is not None or tensor.dtype not in _WHOLE
