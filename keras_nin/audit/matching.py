"""Which operators of a .tflite file compute which rows of a Keras model's audit."""

import re
from collections import defaultdict, deque

from keras_nin.audit import tflite_names

_NUMBERED = re.compile(r"_\d+$")
# These change how values are written, not which values they are: no layer stands behind one.
CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})


def owners(layers, kinds, macs, file, operator_kinds, operator_macs):
    """Return for each operator the position of the row that it computes, or None, and whether it stands for that row.

    The record of the export decides where there is one, else the names in the file do where shapes and MACs agree, else
    the order of equal shapes and MACs.

    Args:
        layers: the model's `LayerInfo`s; `kinds` and `macs` are theirs.
        file: `keras_nin.audit.tflite_reader.File`; `operator_kinds` and `operator_macs` are those of its layers.

    Returns:
        List of (position or None, is main). A row has at most one main operator; others are parts of what it became.
    """
    rows = [_signature(*row) for row in zip(layers, kinds, macs, strict=True)]
    wanted = [_signature(*row) for row in zip(file.graph.layers, operator_kinds, operator_macs, strict=True)]
    hints = _hints(layers, file)
    free = [operator.op not in CASTS for operator in file.operators]
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
            position = _activated(index, found, layers, file)
            if position is not None:
                found[index] = (position, False)
    return [found.get(index, (None, False)) for index in range(len(wanted))]


def _activated(index, found, layers, file):
    """The row whose own activation the operator computes, behind the linear operator that stands for the row."""
    entering = {tensor.index for tensor in file.graph.layers[index].inputs}
    for feeder, (position, is_main) in found.items():
        before = file.graph.layers[feeder]
        feeds = len(entering) == 1 and entering == {tensor.index for tensor in before.outputs}
        if feeds and is_main and before.is_linear and layers[position].activation not in (None, "linear"):
            return position
    return None


def _signature(layer, kind, macs):
    """What a row and the operator that computes it have in common."""
    shapes = tuple(tensor.shape for tensor in layer.outputs)
    return (macs, layer.output_elements) if macs else (0, kind, shapes)


def base_path(layer):
    """The path of the layer that a row is of: without the half of a separable convolution and the number of a use."""
    name = layer.name.split("/")[0].split(" (")[0]
    return f"{layer.scope}/{name}" if layer.scope else name


def _hints(layers, file):
    """For each operator the positions of the rows that its record or its name speaks of."""
    positions = defaultdict(list)
    for position, layer in enumerate(layers):
        positions[base_path(layer)].append(position)
    if file.layers is not None:
        return [positions.get(layer, []) for layer in file.layers]
    by_last = defaultdict(list)
    for path in positions:
        by_last[path.rpartition("/")[2]].append(path)
    return [_positions_in(name, positions, by_last) for name in file.tensor_names]


def _positions_in(tensor_name, positions, by_last):
    found = {}
    for scopes in tflite_names.parts(tensor_name):
        known = {*scopes, *(_NUMBERED.sub("", scope) for scope in scopes)}
        for scope in (*scopes, *(_NUMBERED.sub("", each) for each in scopes)):
            for path in by_last.get(scope, ()):
                if known.issuperset(path.split("/")):
                    found |= dict.fromkeys(positions[path])
    return list(found)
