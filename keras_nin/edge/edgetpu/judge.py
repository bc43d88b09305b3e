"""From a .tflite file to the verdict."""

import dataclasses
import functools
import os

from keras_nin.audit import tflite_names
from keras_nin.audit.tflite_operators import KERNELS
from keras_nin.edge.edgetpu import status
from keras_nin.edge.edgetpu.failures import failure
from keras_nin.edge.edgetpu.graph import REPEATS, parts, without_repeats
from keras_nin.edge.edgetpu.memory import parameters
from keras_nin.edge.edgetpu.records import Failure, OperatorVerdict, Verdict
from keras_nin.edge.edgetpu.table import first_refusal, fix_of
from keras_nin.edge.edgetpu.use import EIGHT_BITS, shown, uses
from keras_nin.errors import InputError
from keras_nin.tflite import graph as tflite_graph

COMPILED = "edgetpu-custom-op"
# Elements of the largest that were seen mapped, of operators that are known to stay on the CPU where they are larger.
SEEN = {"RESHAPE": 16_384, "TRANSPOSE": 1_024}


def judge(path, *, multiple_subgraphs=False, without=None):
    """Return the `Verdict` of the last Edge TPU compiler on a file, as the rules predict it.

    Args:
        path: of the .tflite file; the sidecar that an export wrote beside it gives the layers their names.
        multiple_subgraphs: whether several parts may be mapped, as the compiler's option ``-a`` allows.
        without: a repository whose files are taken as unseen: what they alone taught is left out.

    Raises:
        InputError: the file cannot be read, is no valid .tflite file, has no operators, or is compiled already.
    """
    graph = tflite_graph.read(path)
    found = uses(graph)
    _check(path, found)
    kept, repeats = without_repeats(found) if REPEATS.holds(without) else (found, {})
    refusals = {use.operator.index: first_refusal(use, without) for use in kept}
    refused = failure(kept)
    chosen = () if refused else parts(kept, {index for index, refusal in refusals.items() if refusal is None})
    chosen = chosen if multiple_subgraphs else chosen[:1]
    mapped = frozenset(index for part in chosen for index in part)
    writer = _Writer(_names(path, graph), repeats, refusals, mapped, refused)
    return Verdict(
        model=os.fspath(path),
        multiple_subgraphs=multiple_subgraphs,
        failure=refused,
        operators=tuple(writer.verdict(use) for use in found),
        subgraphs=len(chosen),
        memory=parameters(kept, mapped),
        notes=_notes(graph),
    )


def _check(path, found):
    if not found:
        raise InputError(f"Expected a .tflite file with operators. Received: {os.fspath(path)!r}, which has none")
    if any(use.op == COMPILED for use in found):
        raise InputError(
            f"Expected a file before it was compiled for the Edge TPU. Received: {os.fspath(path)!r}, which holds "
            f"{COMPILED}. Give the file that went into the compiler"
        )


def _names(path, graph):
    paths = tflite_names.paths_of(graph, tflite_names.layers_of(path, graph), KERNELS)
    return ["/".join(filter(None, pair)) for pair in paths]


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Puts into words what was found.

    Attributes:
        names: layer of each operator.
        repeats: index of the first by the index of a repeated operator.
        refusals: (rule, why) or None by index.
        mapped: indexes.
        failure: `Failure` or None.
    """

    names: list
    repeats: dict
    refusals: dict
    mapped: frozenset
    failure: Failure | None

    def verdict(self, use):
        """Return the `OperatorVerdict` of one operator."""
        index = use.operator.index
        if index in self.repeats:
            why = f"it repeats operator {self.repeats[index]} on the same data: the compiled file does without it"
            return self._of(use, None, why, rule="repeated")
        if index in self.mapped:
            return self._of(use, status.MAPPED)
        refusal = self.refusals[index]
        why, fix = (refusal[1], fix_of(refusal[0], use)) if refusal else (None, None)
        if self.failure:
            why, fix = why or "the compiler refuses the file", fix or self.failure.fix
            return self._of(use, self.failure.message, why, fix, self.failure.rule)
        if refusal:
            return self._of(use, refusal[0].status, why, fix, refusal[0].name)
        return self._of(use, status.SECOND_SUBGRAPH, self._after_cut, "map what comes before it", "one-part")

    @functools.cached_property
    def _after_cut(self):
        first = min(self.mapped, default=0)
        end = next((index for index, refusal in self.refusals.items() if refusal and index > first), None)
        return "one part of the graph is mapped, and this comes after the cut" + (
            "" if end is None else f" at operator {end}"
        )

    def _of(self, use, words, why=None, fix=None, rule=None):
        return OperatorVerdict(
            index=use.operator.index,
            op=use.op,
            layer=self.names[use.operator.index],
            mapped=words == status.MAPPED,
            status=words,
            why=why,
            fix=fix,
            rule=rule,
            is_custom=use.operator.is_custom,
        )


def _notes(graph):
    """Return what the verdict rests on and cannot decide."""
    found = []
    tensors = graph.main.tensors
    for index in graph.main.inputs:
        tensor = tensors[index]
        signature = tensor.shape_signature or ()
        if any(size < 0 for size in signature[1:]):
            found.append(
                f"the input {tflite_names.printable(tensor.name)!r} is open beside the batch; judged at "
                f"{shown(tensor.shape)}, as the compiler takes it"
            )
    return (*found, *_large(graph))


def _large(graph):
    """Yield a note on operators larger than any of their kind that was seen mapped."""
    tensors = graph.main.tensors
    for op, seen in SEEN.items():
        outputs = {
            each.index: tensors[each.outputs[0]] for each in graph.main.operators if each.op == op and each.outputs
        }
        sizes = {index: each.elements for index, each in outputs.items() if each.dtype in EIGHT_BITS}
        large = {index: size for index, size in sizes.items() if size > seen}
        if large:
            yield (
                f"{op} of up to {max(large.values()):,} elements at {', '.join(map(str, large))}: the most seen mapped "
                f"is {seen:,}, and large ones may stay on the CPU"
            )
