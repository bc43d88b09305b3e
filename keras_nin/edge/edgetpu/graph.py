"""What the compiler does with the graph: leave repeated operators out, and cut it into parts."""

import collections
import dataclasses

from keras_nin.edge.edgetpu.rules import DATA, Source

REPEATS = Source(
    DATA,
    "of 31 equal decoders, one that reads dequantised tensors and 30 that read those tensors themselves, the first "
    "alone is in the compiled file, in three files of one author; whether the compiler did that is not known",
    learned_from=("google-coral/test_data",),
)


def without_repeats(uses):
    """Return the uses without custom operators that repeat an earlier one on the same data, and those left out.

    Data is the same where it is the same tensor, also through DEQUANTIZE. What read a repeat reads the first instead.

    Args:
        uses: `Use` records in execution order.

    Returns:
        Tuple of the uses that stay, and a dictionary from the index of one left out to that of the first.
    """
    origins, firsts, renamed, repeats, kept = {}, {}, {}, {}, []
    for use in uses:
        operator = use.operator
        if operator.op == "DEQUANTIZE" and operator.inputs:
            origins.update(dict.fromkeys(operator.outputs, origins.get(operator.inputs[0], operator.inputs[0])))
        key = (operator.op, tuple(origins.get(index, index) for index in operator.inputs), len(operator.outputs))
        first = firsts.setdefault(key, operator) if operator.is_custom else operator
        if first is not operator:
            repeats[operator.index] = first.index
            renamed.update(zip(operator.outputs, first.outputs, strict=True))
            continue
        inputs = tuple(renamed.get(index, index) for index in operator.inputs)
        kept.append(dataclasses.replace(use, operator=dataclasses.replace(operator, inputs=inputs)))
    return tuple(kept), repeats


def parts(uses, mappable):
    """Return the parts that a delegate would take, as lists of operator indexes, in order.

    Greedy, as TensorFlow Lite partitions a graph for a delegate: a part takes every operator whose inputs are there and
    that goes to the same side, then the other side has its turn.

    Args:
        uses: `Use` records in execution order.
        mappable: indexes of the operators that could be mapped.
    """
    missing, readers = _dependencies(uses)
    ready = {True: collections.deque(), False: collections.deque()}
    for use in uses:
        if not missing[use.operator.index]:
            ready[use.operator.index in mappable].append(use.operator.index)
    side = bool(ready[True]) and (not ready[False] or ready[True][0] < ready[False][0])
    found = []
    while ready[True] or ready[False]:
        part = []
        while ready[side]:
            index = ready[side].popleft()
            part.append(index)
            for reader in readers[index]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready[reader in mappable].append(reader)
        if side and part:
            found.append(sorted(part))
        side = not side
    return found


def _dependencies(uses):
    """Return how many operators each one waits for, and which wait for it."""
    writers, missing, readers = {}, {}, collections.defaultdict(list)
    for use in uses:
        before = {writers[index] for index in use.operator.inputs if index in writers}
        missing[use.operator.index] = len(before)
        for index in before:
            readers[index].append(use.operator.index)
        writers.update(dict.fromkeys(use.operator.outputs, use.operator.index))
    return missing, readers
